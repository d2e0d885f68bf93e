//! How many connections a cluster may hold.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::permit::{Limit, Permit};

/// `max_connections` of a cluster, shared by the pools of its endpoints. Every endpoint may always hold one, or an
/// endpoint beyond the limit could never be used.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    limit: Arc<Limit>,
}

/// One connection's share of the limit, counted with its pool too.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    open: Arc<AtomicU32>,
    _permit: Option<Permit>,
}

impl ConnectionLimit {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { limit: Limit::new(max) })
    }

    pub(crate) fn set_max(&self, max: u32) {
        self.limit.set_max(max);
    }

    /// A permit for one more connection of a pool that has `open`.
    pub(super) fn acquire(&self, open: &Arc<AtomicU32>) -> Option<ConnectionPermit> {
        let permit = self.limit.try_acquire();
        match permit {
            Some(_) => _ = open.fetch_add(1, Relaxed),
            // Beyond the limit: only the first of a pool.
            None => _ = open.compare_exchange(0, 1, Relaxed, Relaxed).ok()?,
        }
        Some(ConnectionPermit { open: Arc::clone(open), _permit: permit })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_every_pool_has_one_connection() {
        let limit = ConnectionLimit::new(1);
        let (a, b) = (Arc::default(), Arc::default());
        let first = limit.acquire(&a);
        assert!(first.is_some() && limit.acquire(&a).is_none());
        let other = limit.acquire(&b);
        assert!(other.is_some() && limit.acquire(&b).is_none());
        drop(first);
        assert!(limit.acquire(&b).is_some());
    }
}
