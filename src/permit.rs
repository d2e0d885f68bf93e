//! A counter with a ceiling that is never passed and never leaks.
//!
//! `fetch_sub` with an undo would let a burst see a limit that is not reached; a compare-and-swap admits exactly. The
//! count belongs to the backend: a policy edit moves the ceiling and keeps the count, so 37 stays 37 across reloads.

use std::sync::{
    Arc,
    atomic::{
        AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

use tokio::sync::Notify;

/// An exact limit, shared by clones.
#[derive(Debug)]
pub struct Limit {
    used: AtomicU32,
    max: AtomicU32,
    /// Callers in [`acquire`](Limit::acquire), woken one by one, first come first served.
    waiting: AtomicU32,
    returned: Notify,
}

impl Limit {
    /// A limit of `max` at the same time; 0 admits nothing.
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU32::new(0),
            max: AtomicU32::new(max),
            waiting: AtomicU32::new(0),
            returned: Notify::new(),
        })
    }

    /// Takes one, unless `max` are taken. Returned when the permit is dropped.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max.load(Relaxed);
        self.used
            // After `waiting` was raised a returned permit is seen here, or whoever returned it sees `waiting`.
            .fetch_update(SeqCst, SeqCst, |used| (used < max).then(|| used + 1))
            .ok()
            .map(|_| Permit { limit: Arc::clone(self) })
    }

    /// Takes one as soon as one is free. Dropping the future gives up the place in the queue.
    pub async fn acquire(self: &Arc<Self>) -> Permit {
        struct Waiting<'a>(&'a Limit);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.waiting.fetch_sub(1, SeqCst);
            }
        }
        self.waiting.fetch_add(1, SeqCst);
        let _waiting = Waiting(self);
        loop {
            let returned = self.returned.notified();
            if let Some(permit) = self.try_acquire() {
                return permit;
            }
            returned.await;
        }
    }

    /// Moves the ceiling. What is taken stays taken: below a lowered ceiling nothing is admitted until enough returned.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, SeqCst);
        self.returned.notify_waiters();
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
        self.limit.used.fetch_sub(1, SeqCst);
        if self.limit.waiting.load(SeqCst) > 0 {
            self.limit.returned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

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
                            most.fetch_max(limit.used(), Relaxed);
                        }
                    }
                });
            }
        });
        assert!(most.load(Relaxed) <= 37);
        assert_eq!(limit.used(), 0);
    }

    #[tokio::test]
    async fn waiting_calls_are_admitted_as_permits_return_and_may_give_up() {
        let limit = Limit::new(1);
        let held = limit.try_acquire();
        let mut first = tokio_test::task::spawn(limit.acquire());
        let mut second = tokio_test::task::spawn(limit.acquire());
        assert!(first.poll().is_pending() && second.poll().is_pending());
        drop(first);
        drop(held);
        assert!(second.is_woken() && second.poll().is_ready());
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
