//! What calls to a service that does well look at, so that they need no lock.
//!
//! Nearly every call finds its circuit closed and does well, and all that follows is that one more is counted. So the
//! circuit says here whether it lets calls through, and successes are counted here until somebody looks at the circuit.

use crate::rt::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};

/// One more success.
const ONE: u64 = 1;
/// One turn more: whoever read the word before fails to count.
const TURN: u64 = 1 << 32;

#[derive(Debug)]
pub(crate) struct Gate {
    /// Twice the circuit's era, and one more while it is closed.
    closed: AtomicU64,
    /// Successes in the lower half, and in the upper how often they were taken.
    well: AtomicU64,
    /// Until when they belong to the same part of the window, in nanoseconds.
    until: AtomicU64,
    /// From how long on a call is slow, in nanoseconds.
    slow: AtomicU64,
}

impl Gate {
    /// Nothing passes before it is set.
    pub(crate) fn new() -> Self {
        Self {
            closed: AtomicU64::new(0),
            well: AtomicU64::new(0),
            until: AtomicU64::new(0),
            slow: AtomicU64::new(u64::MAX),
        }
    }

    /// The era that a call belongs to, if it may pass without asking the circuit.
    #[inline]
    pub(crate) fn era(&self) -> Option<u64> {
        let closed = self.closed.load(Acquire);
        (closed & 1 == 1).then_some(closed >> 1)
    }

    /// Whether a call that took so many nanoseconds is slow.
    #[inline]
    pub(crate) fn is_slow(&self, took: u64) -> bool {
        took >= self.slow.load(Acquire)
    }

    /// Counts a success of an era. False if the circuit has to: it is not closed any more, or that part of the window is over.
    #[inline]
    pub(crate) fn succeeded(&self, era: u64, now: u64) -> bool {
        // Read before the era: what is taken after the era has changed fails the exchange.
        let mut seen = self.well.load(Acquire);
        loop {
            if self.era() != Some(era) || now >= self.until.load(Acquire) {
                return false;
            }
            match self.well.compare_exchange_weak(seen, seen + ONE, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(changed) => seen = changed,
            }
        }
    }

    /// Takes what was counted. As everything below under the circuit's lock.
    pub(crate) fn take(&self) -> u32 {
        let mut seen = self.well.load(Acquire);
        loop {
            let next = (seen >> 32 << 32).wrapping_add(TURN);
            match self.well.compare_exchange_weak(seen, next, AcqRel, Acquire) {
                Ok(_) => return seen as u32,
                Err(changed) => seen = changed,
            }
        }
    }

    /// What is counted from now on belongs together until then.
    pub(crate) fn count_until(&self, until: u64) {
        self.until.store(until, Release);
    }

    /// What the circuit does now.
    pub(crate) fn set(&self, era: u64, closed: bool, slow: u64) {
        self.slow.store(slow, Release);
        self.closed.store(era << 1 | u64::from(closed), Release);
    }
}
