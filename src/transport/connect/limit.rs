//! How many connections a cluster may hold.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{
        AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

use super::pool::Pool;

/// `max_connections` of a cluster, shared by the pools of its endpoints. Every endpoint may always hold one, or an
/// endpoint beyond the limit could never be used. At the limit a connection that idles elsewhere makes room; never the
/// only one of an endpoint, which would be the next to need it.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    open: AtomicU32,
    max: AtomicU32,
    pools: Mutex<Pools>,
}

/// Where to look for connections that idle.
#[derive(Debug, Default)]
struct Pools {
    all: Vec<Weak<Pool>>,
    /// Where the next look begins, so that not always the same pool gives up what it has.
    next: usize,
    /// Those that are gone are taken out when there are so many.
    tidy_at: usize,
}

/// One connection's share of the limit, counted with its pool too. Returned, it wakes who waits for it.
pub(super) struct ConnectionPermit {
    limit: Arc<ConnectionLimit>,
    open: Arc<AtomicU32>,
    pool: Weak<Pool>,
}

impl ConnectionLimit {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { open: AtomicU32::new(0), max: AtomicU32::new(max), pools: Mutex::default() })
    }

    pub(crate) fn set_max(&self, max: u32) {
        self.max.store(max, Relaxed);
    }

    /// Connections of all pools.
    #[cfg(test)]
    pub(super) fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// A pool whose connections count here.
    pub(super) fn register(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.all.len() >= pools.tidy_at {
            pools.all.retain(|pool| pool.strong_count() > 0);
            pools.tidy_at = (2 * pools.all.len()).max(64);
        }
        pools.all.push(Arc::downgrade(pool));
    }

    /// A permit for one more connection of a pool that has `open` and may have `most`, at least 1. The pool's own state must
    /// not be locked.
    pub(super) fn acquire(
        self: &Arc<Self>,
        open: &Arc<AtomicU32>,
        most: u32,
        pool: Weak<Pool>,
    ) -> Option<ConnectionPermit> {
        // Nothing is closed elsewhere in vain.
        if open.load(SeqCst) >= most {
            return None;
        }
        while !self.count() {
            if !self.close_idle(&pool) {
                // Beyond the limit: only the first of a pool.
                open.compare_exchange(0, 1, SeqCst, SeqCst).ok()?;
                self.open.fetch_add(1, SeqCst);
                return Some(ConnectionPermit { limit: Arc::clone(self), open: Arc::clone(open), pool });
            }
        }
        if open.fetch_update(SeqCst, SeqCst, |open| (open < most).then(|| open + 1)).is_err() {
            // Another one was faster.
            self.open.fetch_sub(1, SeqCst);
            return None;
        }
        Some(ConnectionPermit { limit: Arc::clone(self), open: Arc::clone(open), pool })
    }

    /// A permit whatever the limit, for a connection that takes the place of another.
    pub(super) fn beyond(self: &Arc<Self>, open: &Arc<AtomicU32>, pool: Weak<Pool>) -> ConnectionPermit {
        open.fetch_add(1, SeqCst);
        self.open.fetch_add(1, SeqCst);
        ConnectionPermit { limit: Arc::clone(self), open: Arc::clone(open), pool }
    }

    fn count(&self) -> bool {
        let max = self.max.load(Relaxed);
        self.open.fetch_update(SeqCst, SeqCst, |open| (open < max).then(|| open + 1)).is_ok()
    }

    /// Closes a connection that idles in another pool.
    fn close_idle(&self, except: &Weak<Pool>) -> bool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, after) = pools.all.split_at(pools.next.min(pools.all.len()));
        let others = after.iter().chain(before).enumerate().filter(|(_, pool)| !pool.ptr_eq(except));
        let found = others.filter_map(|(at, pool)| Some((at, pool.upgrade()?))).find_map(|(at, pool)| {
            // Returned before the next one looks, or it would take the last one of that pool.
            pool.give_up_idle().map(drop).map(|()| at)
        });
        let all = pools.all.len().max(1);
        match found {
            Some(at) => pools.next = (pools.next + at + 1) % all,
            None => return false,
        }
        true
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
        self.limit.open.fetch_sub(1, SeqCst);
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
        let first = limit.acquire(&a, u32::MAX, Weak::new());
        assert!(first.is_some() && limit.acquire(&a, u32::MAX, Weak::new()).is_none());
        let other = limit.acquire(&b, u32::MAX, Weak::new());
        assert!(other.is_some() && limit.acquire(&b, u32::MAX, Weak::new()).is_none());
        drop(first);
        assert!(limit.acquire(&b, u32::MAX, Weak::new()).is_none(), "one connection is one, whoever holds it");
        drop(other);
        assert!(limit.acquire(&b, u32::MAX, Weak::new()).is_some());
        assert_eq!(limit.open(), 0);
    }

    #[test]
    fn a_pool_may_have_a_limit_of_its_own() {
        let limit = ConnectionLimit::new(10);
        let (a, b) = (Arc::default(), Arc::default());
        let held: Vec<_> = (0..5).filter_map(|_| limit.acquire(&a, 2, Weak::new())).collect();
        assert_eq!((held.len(), limit.open()), (2, 2));
        assert!(limit.acquire(&b, 2, Weak::new()).is_some());
        drop(held);
        assert!(limit.acquire(&a, 2, Weak::new()).is_some());
        assert_eq!(limit.open(), 0);
    }
}
