//! The last fifty calls of an endpoint, in one word.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many calls are remembered.
pub(super) const LENGTH: u32 = 50;

/// One bit a call, the last one lowest, below a bit that says how many there are. An update that is lost between two
/// threads is a call that was not remembered.
#[derive(Debug)]
pub(super) struct History(AtomicU64);

/// How many calls are remembered, and how many of them failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Recent {
    pub(crate) calls: u32,
    pub(crate) failures: u32,
}

impl Recent {
    pub(crate) fn and(self, other: Self) -> Self {
        Self { calls: self.calls.saturating_add(other.calls), failures: self.failures.saturating_add(other.failures) }
    }

    /// The same with calls that wait for an answer, which have not failed.
    pub(crate) fn beside(self, waiting: u32) -> Self {
        Self { calls: self.calls.saturating_add(waiting), ..self }
    }

    /// The share of failures, if there were any calls.
    pub(crate) fn share(self) -> Option<f64> {
        (self.calls > 0).then(|| f64::from(self.failures) / f64::from(self.calls))
    }
}

impl Default for History {
    fn default() -> Self {
        Self(AtomicU64::new(1))
    }
}

impl History {
    #[inline]
    pub(super) fn push(&self, failed: bool) {
        let next = self.0.load(Relaxed) << 1 | u64::from(failed);
        let full = 1 << LENGTH;
        let next = if next >= full << 1 { next & (full - 1) | full } else { next };
        self.0.store(next, Relaxed);
    }

    /// The last calls, at most `most`.
    pub(super) fn read(&self, most: u32) -> Recent {
        let bits = self.0.load(Relaxed).max(1);
        let calls = (63 - bits.leading_zeros()).min(most);
        let failures = (bits & ((1 << calls) - 1)).count_ones();
        Recent { calls, failures }
    }

    pub(super) fn clear(&self) {
        self.0.store(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_fifty_calls_are_remembered() {
        let history = History::default();
        assert_eq!(history.read(LENGTH), Recent::default());
        for n in 1..=50u32 {
            history.push(n % 2 == 0);
            assert_eq!(history.read(LENGTH), Recent { calls: n, failures: n / 2 });
        }
        for n in 1..=50u32 {
            history.push(true);
            assert_eq!(history.read(LENGTH), Recent { calls: 50, failures: 25 + n.div_ceil(2) });
        }
        for _ in 0..1_000 {
            history.push(false);
        }
        assert_eq!(history.read(LENGTH), Recent { calls: 50, failures: 0 });
        history.push(true);
        assert_eq!(history.read(10), Recent { calls: 10, failures: 1 });
        history.clear();
        assert_eq!(history.read(LENGTH).share(), None);
    }
}
