//! What is known about endpoints, and what follows for the table.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use super::{Cluster, endpoint::Endpoint};
use crate::{health::Flag, rt};

/// Up to this many endpoints are counted at each event.
const COUNTED_AT_ONCE: usize = 512;

impl Cluster {
    /// Says that something holds for an endpoint, or no longer does. True if that is news.
    ///
    /// The only way to change a flag: what follows from it (panic, calls that wait) is brought up to date here.
    pub(super) fn mark(&self, endpoint: &Endpoint, flag: Flag, holds: bool) -> bool {
        let news = if holds { endpoint.availability.set(flag) } else { endpoint.availability.clear(flag) };
        if news {
            self.assess();
            self.tell_waiting();
            if !holds && endpoint.availability.is_clear() {
                self.begin_slowly(&endpoint.warmth);
            }
        }
        news
    }

    /// Has what follows from the state of endpoints brought up to date: panic, and the shares of priorities and zones.
    ///
    /// The sets are not built anew for it: what a state changes are a few numbers beside them, and picks ask each endpoint
    /// themselves. Those numbers are counted again from the endpoints rather than kept up by each event, so that no event
    /// that is lost or comes twice can make them wrong. Counting takes a few nanoseconds an endpoint: at once in a small
    /// set; in a larger one once for all that happens within a microsecond an endpoint (10 ms of 10,000), so that it costs
    /// at most a hundredth of a core whatever goes up and down.
    pub(super) fn assess(&self) {
        let table = self.table.load();
        let endpoints = table.len();
        if endpoints <= COUNTED_AT_ONCE {
            table.assess(&self.home);
        } else if !self.assessing.swap(true, SeqCst) {
            let (this, delay) = (self.this.clone(), Duration::from_micros(endpoints as u64));
            self.tasks.spawn(async move {
                rt::sleep(delay).await;
                let Some(this) = this.upgrade() else { return };
                // Before the states are read: what changes from here on is counted by the next.
                this.assessing.store(false, SeqCst);
                this.table.load().assess(&this.home);
                this.tell_waiting();
            });
        }
    }
}
