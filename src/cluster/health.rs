//! What is known about endpoints, and what follows for the table.

use super::{Cluster, endpoint::Endpoint};
use crate::health::Flag;

impl Cluster {
    /// Says that something holds for an endpoint, or no longer does. True if that is news.
    ///
    /// The only way to change a flag: what follows from it (panic, calls that wait) is brought up to date here.
    pub(super) fn mark(&self, endpoint: &Endpoint, flag: Flag, holds: bool) -> bool {
        let news = if holds { endpoint.availability.set(flag) } else { endpoint.availability.clear(flag) };
        if news {
            self.table.load().assess();
            self.changed.notify_waiters();
        }
        news
    }
}
