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

/// A moment that others are counted from.
#[derive(Clone, Copy, Debug)]
pub struct Epoch(Instant);

impl Epoch {
    pub fn new(at: Instant) -> Self {
        Self(at)
    }

    pub fn nanos(self, now: Instant) -> u64 {
        now.saturating_duration_since(self.0).as_nanos() as u64
    }
}

/// Time stands still: what is tried is every order, not every moment.
pub fn now() -> Instant {
    Instant::at(Duration::ZERO)
}

pub mod sync {
    use std::sync::Arc;

    pub use loom::sync::{Mutex, MutexGuard};

    /// What is read is whole: what is tried is when it is read, not how it is kept.
    #[derive(Debug)]
    pub struct ArcSwap<T>(Mutex<Arc<T>>);

    impl<T> ArcSwap<T> {
        pub fn from_pointee(value: T) -> Self {
            Self(Mutex::new(Arc::new(value)))
        }

        pub fn load(&self) -> Arc<T> {
            Arc::clone(&self.0.lock().unwrap())
        }

        pub fn store(&self, value: Arc<T>) {
            *self.0.lock().unwrap() = value;
        }
    }

    pub mod atomic {
        pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    }
}
