//! Endpoints that are new, or back, and the share that they have so far.
//!
//! New is who has just been connected to for the first time, since before that nobody could send it anything; back is
//! whose ejection or failed health checks are over, or whose connections failed and are made again: what listens there
//! now may have been started a moment ago. An endpoint that keeps its id through a reload is neither.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use super::Cluster;
use crate::{
    balance::{FEWEST, SlowStartPolicy},
    rt,
};

/// Sets of up to so many endpoints are built anew at each beginning, and larger ones once for all that happens within 100 µs
/// an endpoint (a second, of 10,000), which is a hundredth of a core at most.
const AT_ONCE: usize = 512;

/// Since when an endpoint has been new.
#[derive(Default)]
pub(super) struct Warmth {
    /// Milliseconds after the beginning of the cluster, and one; 0 for an endpoint that is not new any more.
    since: AtomicU64,
    /// It was connected to before.
    met: AtomicBool,
}

impl Warmth {
    /// It is connected; `lost` says that it could not be. True if that makes it new.
    pub(super) fn connected(&self, lost: bool) -> bool {
        !self.met.swap(true, Relaxed) || lost
    }

    /// It takes the place of another with the same id.
    pub(super) fn inherit(&self, from: &Self) {
        self.met.store(from.met.load(Relaxed), Relaxed);
        self.since.store(from.since.load(Relaxed), Relaxed);
    }

    fn begin(&self, at: Duration) {
        self.since.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX - 1) + 1, Relaxed);
    }

    fn age(&self, at: Duration) -> Option<Duration> {
        let since = self.since.load(Relaxed).checked_sub(1)?;
        Some(at.saturating_sub(Duration::from_millis(since)))
    }

    /// What it has of its share, in per cent, if not all of it.
    pub(super) fn percent(&self, at: Duration, policy: &SlowStartPolicy) -> Option<u32> {
        policy.percent(self.age(at)?)
    }

    /// Lets time pass. True if it was new the last time.
    pub(super) fn pass(&self, at: Duration, policy: &SlowStartPolicy) -> bool {
        let Some(age) = self.age(at) else { return false };
        if age >= policy.window {
            self.since.store(0, Relaxed);
        }
        true
    }
}

impl Cluster {
    /// An endpoint is new from now on.
    pub(super) fn begin_slowly(&self, warmth: &Warmth) {
        if !self.policy.load().slow_start.is_on() {
            return;
        }
        warmth.begin(self.watch.since_begun(rt::now()));
        let endpoints = self.table.load().len();
        if endpoints < FEWEST || self.reweighing.swap(true, SeqCst) {
            return;
        }
        // Not here, where locks may be held.
        let this = self.this.clone();
        self.tasks.spawn(async move {
            if endpoints > AT_ONCE {
                rt::sleep(Duration::from_micros(100) * endpoints as u32).await;
            }
            let Some(this) = this.upgrade() else { return };
            // Before the ages are read: who is new from here on is seen by the next.
            this.reweighing.store(false, SeqCst);
            this.publish();
        });
    }

    /// How long a table with the shares of new endpoints is good enough.
    pub(super) fn reweighed_after(policy: &SlowStartPolicy, endpoints: usize) -> Duration {
        policy.step().max(Duration::from_micros(100) * u32::try_from(endpoints).unwrap_or(u32::MAX))
    }
}
