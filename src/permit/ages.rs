//! How long permits have been held, without a clock on the way of a call.
//!
//! A permit remembers the epoch in which it was taken: a number that stands beside the count, in the same word, so taking
//! and returning cost what they cost without it. A sweep closes the epoch from time to time. What is still held of an
//! epoch that closed long enough ago may then be counted elsewhere, although nobody knows where those permits are.

use std::{collections::VecDeque, time::Duration};

use super::Permit;
use crate::rt::Instant;

/// A count and the epoch it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Young {
    pub(super) epoch: u32,
    pub(super) count: u32,
}

impl Young {
    pub(super) fn from_bits(bits: u64) -> Self {
        Self { epoch: (bits >> 32) as u32, count: bits as u32 }
    }

    pub(super) fn bits(self) -> u64 {
        u64::from(self.epoch) << 32 | u64::from(self.count)
    }

    pub(super) fn plus_one(self) -> Self {
        Self { count: self.count + 1, ..self }
    }

    pub(super) fn minus_one(self) -> Self {
        Self { count: self.count - 1, ..self }
    }

    pub(super) fn next(self) -> Self {
        Self { epoch: self.epoch.wrapping_add(1), count: 0 }
    }
}

/// Permits of closed epochs.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// Epochs that closed a short while ago, oldest first: as many as there were sweeps in that while.
    closed: VecDeque<Closed>,
    /// Permits of all epochs before those, as far as they are still counted here.
    old: u32,
    /// One for each of them that is counted elsewhere.
    elsewhere: Vec<Permit>,
}

#[derive(Debug)]
struct Closed {
    epoch: u32,
    at: Instant,
    count: u32,
}

/// Whose count a permit of a closed epoch is returned to.
pub(super) enum Returned {
    Here,
    Elsewhere(Permit),
    /// Counted nowhere; only a permit that is returned twice could say so.
    Nowhere,
}

impl Ages {
    pub(super) fn close(&mut self, epoch: Young, at: Instant) {
        self.closed.push_back(Closed { epoch: epoch.epoch, at, count: epoch.count });
    }

    /// Permits that are counted here and were taken at least `age` ago.
    pub(super) fn old(&mut self, now: Instant, age: Duration) -> u32 {
        while let Some(first) = self.closed.front().filter(|first| now.saturating_duration_since(first.at) >= age) {
            self.old += first.count;
            self.closed.pop_front();
        }
        self.old
    }

    /// One old permit is counted by `permit` from now on.
    pub(super) fn moved(&mut self, permit: Permit) {
        self.old -= 1;
        self.elsewhere.push(permit);
    }

    pub(super) fn give_back(&mut self, epoch: u32) -> Returned {
        if let Some(closed) = self.closed.iter_mut().find(|closed| closed.epoch == epoch) {
            closed.count -= 1;
            return Returned::Here;
        }
        // Old permits are all alike: those that are counted here return first, which makes room for new calls.
        if self.old > 0 {
            self.old -= 1;
            return Returned::Here;
        }
        match self.elsewhere.pop() {
            Some(permit) => Returned::Elsewhere(permit),
            None => Returned::Nowhere,
        }
    }
}
