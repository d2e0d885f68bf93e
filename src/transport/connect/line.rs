//! Which connection a request goes over, where that says who answers it: behind one address there may be many.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::h2::H2Connection;
use crate::health::Sent;

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

/// An HTTP/2 connection, as whoever judges it by its answers sees it. HTTP/1.1 needs none: a connection carries one
/// request, and ends when that is given up.
pub(crate) struct ConnectionLine(pub(super) Arc<H2Connection>);

impl ConnectionLine {
    /// A request is sent.
    pub(crate) fn sent(&self, at: Sent) {
        self.0.line.sent(at);
    }

    /// It was answered.
    pub(crate) fn answered(&self, at: Sent, now: Sent) {
        self.0.line.answered(at, now);
    }

    /// It failed, or was given up.
    pub(crate) fn over(&self, at: Sent) {
        self.0.line.over(at);
    }

    /// What was given up was so late that its silence tells, unless others were answered: the connection is replaced.
    pub(crate) fn given_up(&self, at: Sent) {
        if self.0.line.silent_since(at)
            && let Some(pool) = self.0.pool()
        {
            pool.replace(vec![Arc::clone(&self.0)]);
        }
    }
}
