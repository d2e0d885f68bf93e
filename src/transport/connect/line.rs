//! Which connection a request goes over, where that says who answers it: behind one address there may be many.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A connection of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    /// One that no other has.
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}
