//! What the files take from the crate's `rt`: loom's in place of std's and tokio's.

use std::{ops::Add, time::Duration};

/// A moment, as long after some beginning as it says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Instant(Duration);

impl Instant {
    pub fn at(after: Duration) -> Self {
        Self(after)
    }

    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

/// Time stands still: what is tried is every order, not every moment.
pub fn now() -> Instant {
    Instant::at(Duration::ZERO)
}

pub mod sync {
    pub use loom::sync::{Mutex, MutexGuard};

    pub mod atomic {
        pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    }
}
