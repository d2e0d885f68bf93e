//! How many connections a cluster may hold.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use super::pool::Pool;
use crate::permit::{Limit, Permit};

/// `max_connections` of a cluster, shared by the pools of its endpoints. Every endpoint may always hold one, or an
/// endpoint beyond the limit could never be used.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    limit: Arc<Limit>,
}

/// One connection's share of the limit, counted with its pool too. Returned, it wakes who waits for it.
pub(super) struct ConnectionPermit {
    open: Arc<AtomicU32>,
    permit: Option<Permit>,
    pool: Weak<Pool>,
}

impl ConnectionLimit {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { limit: Limit::new(max) })
    }

    pub(crate) fn set_max(&self, max: u32) {
        self.limit.set_max(max);
    }

    /// Connections of all pools, beyond the limit or not.
    #[cfg(test)]
    pub(super) fn open(&self) -> u32 {
        self.limit.used()
    }

    /// A permit for one more connection of a pool that has `open`.
    pub(super) fn acquire(&self, open: &Arc<AtomicU32>, pool: Weak<Pool>) -> Option<ConnectionPermit> {
        let permit = self.limit.try_acquire();
        match permit {
            Some(_) => _ = open.fetch_add(1, SeqCst),
            // Beyond the limit: only the first of a pool.
            None => _ = open.compare_exchange(0, 1, SeqCst, SeqCst).ok()?,
        }
        Some(ConnectionPermit { open: Arc::clone(open), permit, pool })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
        self.permit = None;
        if let Some(pool) = self.pool.upgrade() {
            pool.connection_ended();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_every_pool_has_one_connection() {
        let limit = ConnectionLimit::new(1);
        let (a, b) = (Arc::default(), Arc::default());
        let first = limit.acquire(&a, Weak::new());
        assert!(first.is_some() && limit.acquire(&a, Weak::new()).is_none());
        let other = limit.acquire(&b, Weak::new());
        assert!(other.is_some() && limit.acquire(&b, Weak::new()).is_none());
        drop(first);
        assert!(limit.acquire(&b, Weak::new()).is_some());
    }
}
