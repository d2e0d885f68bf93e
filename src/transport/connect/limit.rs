//! How many connections a cluster may hold.

use std::sync::Arc;

use crate::permit::{Limit, Permit};

/// `max_connections` of a cluster, shared by the pools of its endpoints. Every endpoint may always hold one, or an
/// endpoint beyond the limit could never be used.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    limit: Arc<Limit>,
}

/// One connection's share; `Free` for the one that is always allowed.
#[derive(Debug)]
pub(super) enum ConnectionPermit {
    Counted { _permit: Permit },
    Free,
}

impl ConnectionLimit {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { limit: Limit::new(max) })
    }

    pub(crate) fn set_max(&self, max: u32) {
        self.limit.set_max(max);
    }

    pub(super) fn acquire(&self, open: usize) -> Option<ConnectionPermit> {
        match self.limit.try_acquire() {
            Some(permit) => Some(ConnectionPermit::Counted { _permit: permit }),
            None if open == 0 => Some(ConnectionPermit::Free),
            None => None,
        }
    }
}
