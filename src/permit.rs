//! A counter with a ceiling that is never passed and never leaks.
//!
//! `fetch_sub` with an undo would let a burst see a limit that is not reached; a compare-and-swap admits exactly. The
//! count belongs to the backend: a policy edit moves the ceiling and keeps the count, so 37 stays 37 across reloads.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// An exact limit, shared by clones.
#[derive(Debug)]
pub struct Limit {
    used: AtomicU32,
    max: AtomicU32,
}

impl Limit {
    /// A limit of `max` at the same time; 0 admits nothing.
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { used: AtomicU32::new(0), max: AtomicU32::new(max) })
    }

    /// Takes one, unless `max` are taken. Returned when the permit is dropped.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max.load(Relaxed);
        self.used
            .fetch_update(Relaxed, Relaxed, |used| (used < max).then(|| used + 1))
            .ok()
            .map(|_| Permit { limit: Arc::clone(self) })
    }

    /// Moves the ceiling. What is taken stays taken: below a lowered ceiling nothing is admitted until enough returned.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Relaxed);
    }

    /// How many are taken.
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// The ceiling.
    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }
}

/// One taken from a [`Limit`].
#[derive(Debug)]
pub struct Permit {
    limit: Arc<Limit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.used.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, thread};

    use super::*;

    #[test]
    fn never_more_than_the_limit_across_threads_and_edits() {
        let limit = Limit::new(37);
        let most = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..5_000 {
                        if round % 250 == 0 {
                            limit.set_max(37);
                        }
                        if let Some(_permit) = limit.try_acquire() {
                            most.fetch_max(limit.used(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(most.load(Ordering::Relaxed) <= 37);
        assert_eq!(limit.used(), 0);
    }

    #[test]
    fn a_lowered_ceiling_admits_nothing_until_enough_returned() {
        let limit = Limit::new(3);
        let mut held: Vec<_> = (0..3).filter_map(|_| limit.try_acquire()).collect();
        limit.set_max(1);
        held.pop();
        held.pop();
        assert!(limit.try_acquire().is_none());
        held.pop();
        assert!(limit.try_acquire().is_some());
        assert!(Limit::new(0).try_acquire().is_none());
    }
}
