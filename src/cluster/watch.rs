//! Who watches the clock for a cluster: ejections that end, calls that grow old, rates that are compared.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{
            AtomicU8, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use super::{Cluster, endpoint::Endpoint};
use crate::{
    balance::{FEWEST, Member},
    enforcement::Mode,
    health::{Ages, Buckets, Cause, Change, Median, OutlierPolicy, Sample, Sent, Window, outliers},
    model::SetKind,
    rt::{self, Instant, Rng},
};

/// How often the clock is asked what it changed.
const TICK: Duration = Duration::from_millis(100);

/// An answer is late when it takes so many times the median.
pub(super) const TIMES_MEDIAN: u32 = 10;

/// Nobody watches the clock, and nobody needs to: there are no two endpoints to tell apart, nor connections.
const UNNEEDED: u8 = 0;
/// The next call has it watched.
const ASLEEP: u8 = 1;
const AWAKE: u8 = 2;

/// Without calls for so long, and with nothing else to wait for, nobody watches any more: an idle mesh does not wake up.
const IDLE: Duration = Duration::from_secs(10);

/// Whether somebody watches the clock, and what that tells calls.
#[derive(Default)]
pub(super) struct Watch {
    state: AtomicU8,
    /// Which bucket of unanswered calls is open.
    pub(super) ages: Ages,
    pub(super) latency: Median,
    /// From which age on a call is a failure, in milliseconds; 0 for never.
    age: AtomicU64,
    times: Mutex<Times>,
    begun: OnceLock<Instant>,
}

#[derive(Default)]
struct Times {
    /// When the interval began that rates are counted in.
    interval: Option<Instant>,
    /// When the shares of new endpoints were computed.
    reweighed: Option<Instant>,
    /// How many attempts there were, and since when there have been no more.
    attempts: (u64, Option<Instant>),
    buckets: Buckets,
}

impl Watch {
    /// The time since the first time that anybody asked.
    pub(super) fn since_begun(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.begun.get_or_init(|| now))
    }

    /// No call of this bucket was sent earlier.
    pub(super) fn opened(&self, sent: Sent) -> Option<Instant> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).buckets.opened(sent)
    }

    /// From which age on a call without an answer is a failure.
    pub(super) fn unanswered_after(&self) -> Duration {
        match self.age.load(Relaxed) {
            0 => Duration::MAX,
            millis => Duration::from_millis(millis),
        }
    }
}

impl Times {
    /// Whether an interval is over.
    fn interval_ended(&mut self, now: Instant, interval: Duration) -> bool {
        match self.interval {
            Some(begun) if now.saturating_duration_since(begun) < interval => false,
            begun => {
                self.interval = Some(now);
                begun.is_some()
            }
        }
    }

    fn reweigh_due(&mut self, now: Instant, after: Duration) -> bool {
        let due = self.reweighed.is_none_or(|at| now.saturating_duration_since(at) >= after);
        if due {
            self.reweighed = Some(now);
        }
        due
    }

    fn is_idle(&mut self, attempts: u64, now: Instant) -> bool {
        match self.attempts {
            (known, Some(since)) if known == attempts => now.saturating_duration_since(since) >= IDLE,
            _ => {
                self.attempts = (attempts, Some(now));
                false
            }
        }
    }
}

impl Cluster {
    /// Has the clock watched while there are calls.
    #[inline]
    pub(super) fn watch_calls(self: &Arc<Self>) {
        if self.watch.state.load(Relaxed) == ASLEEP {
            self.wake();
        }
    }

    /// Has the clock watched until nothing is pending.
    #[cold]
    pub(super) fn wake(self: &Arc<Self>) {
        if self.watch.state.compare_exchange(ASLEEP, AWAKE, SeqCst, SeqCst).is_ok() {
            if self.watch.ages.now() == Sent::default() {
                // The call that wakes it is followed as those after it are.
                let mut times = self.watch.times.lock().unwrap_or_else(PoisonError::into_inner);
                self.pass_ages(&mut times.buckets, rt::now(), &self.policy.load().outlier_detection);
            }
            self.tasks.spawn(watch(Arc::downgrade(self)));
        }
    }

    /// The set changed: whether there is anything to tell apart.
    pub(super) fn watch_set(&self, kind: SetKind, endpoints: usize) {
        let (from, to) = match (kind, endpoints) {
            (SetKind::Replicas, 2..) | (SetKind::Vip, 1..) => (UNNEEDED, ASLEEP),
            _ => (ASLEEP, UNNEEDED),
        };
        // Who is awake finds out by itself that there is nothing to do.
        let _ = self.watch.state.compare_exchange(from, to, SeqCst, SeqCst);
    }

    /// Lets time pass. False once nothing is pending any more.
    fn tick(self: &Arc<Self>, now: Instant) -> bool {
        let spec = self.policy.load();
        let policy = &spec.outlier_detection;
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending = false;
        let since = self.watch.since_begun(now);
        for (_, member) in members.iter() {
            pending |= !member.relax(since);
        }
        for (_, member) in members.iter().filter(|(_, member)| !member.availability.is_clear()) {
            let mut ejection = member.ejection();
            let change = ejection.pass(now, policy, &mut Rng::local());
            pending |= ejection.is_pending();
            drop(ejection);
            if let Some(change) = change {
                if change == Change::Ejected {
                    self.outliers.probed(Some(change));
                }
                self.follow(member, change, now);
            }
        }
        let mut times = self.watch.times.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.pass_ages(&mut times.buckets, now, policy);
        let rates = times.interval_ended(now, policy.interval);
        let endpoints = members.iter().count();
        let reweigh = spec.slow_start.is_on()
            && times.reweigh_due(now, Self::reweighed_after(&spec.slow_start, endpoints))
            && members.iter().filter(|(_, member)| member.warmth.pass(since, &spec.slow_start)).count() > 0
            && endpoints >= FEWEST;
        pending |= !times.is_idle(self.attempts.total(), now) || self.requests.used() + self.unlimited.used() > 0;
        drop(times);
        drop(members);
        if reweigh {
            self.publish();
        }
        if !old.is_empty() {
            self.judge_unanswered(&old, now, policy);
        }
        if rates {
            self.watch.latency.fade();
            self.compare_rates(policy);
        }
        pending
    }

    /// Which calls are to be judged by their age.
    fn pass_ages(&self, buckets: &mut Buckets, now: Instant, policy: &OutlierPolicy) -> Vec<Sent> {
        let (Some(least), true) = (policy.unanswered_after, policy.enforcement != Mode::Off) else {
            self.watch.age.store(0, Relaxed);
            self.watch.ages.stop(buckets);
            return Vec::new();
        };
        let age = least.max(self.watch.latency.read() * TIMES_MEDIAN);
        self.watch.age.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.watch.ages.pass(buckets, now, age)
    }

    /// Calls that have had no answer for too long are failures. All are counted before any endpoint is judged, so that
    /// it shows when none of them answers.
    fn judge_unanswered(self: &Arc<Self>, old: &[Sent], now: Instant, policy: &OutlierPolicy) {
        let age = self.watch.unanswered_after();
        let own = self.tasks.lag().stalled(now.checked_sub(age * 2).unwrap_or(now), now);
        let mut suspects = Vec::new();
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, member) in members.iter() {
            let judged = member.unanswered.judge_all(old);
            if judged == 0 || own {
                continue;
            }
            if members.kind() == SetKind::Vip {
                member.judge_lines(old);
            }
            self.watch.latency.add(age, judged);
            for _ in 0..judged {
                member.weigh(false, self.watch.since_begun(now));
            }
            let found = (0..judged).filter(|_| member.vitals.failed(Sample::Local, policy).is_some()).count();
            if found > 0 {
                suspects.push(member.clone());
            }
        }
        drop(members);
        for member in suspects {
            self.suspect(&member, Cause::Unanswered);
        }
    }

    /// Compares what the endpoints of each priority did in the last interval.
    fn compare_rates(self: &Arc<Self>, policy: &OutlierPolicy) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_priority: BTreeMap<u32, (Vec<Member<Endpoint>>, Vec<Option<Window>>)> = BTreeMap::new();
        for (spec, member) in members.iter() {
            let window = member.vitals.take_window();
            let (members, windows) = by_priority.entry(spec.priority).or_default();
            members.push(member.clone());
            windows.push(member.availability.is_usable().then_some(window));
        }
        drop(members);
        if policy.enforcement == Mode::Off {
            return;
        }
        for (members, windows) in by_priority.values() {
            for (at, cause) in outliers(windows, policy) {
                self.suspect(&members[at], cause);
            }
        }
    }
}

async fn watch(cluster: Weak<Cluster>) {
    let Some(_canary) = cluster.upgrade().map(|cluster| cluster.tasks.lag().watch(&cluster.tasks)) else { return };
    loop {
        rt::sleep(TICK).await;
        let Some(cluster) = cluster.upgrade() else { return };
        if cluster.tick(rt::now()) {
            continue;
        }
        cluster.watch.state.store(ASLEEP, SeqCst);
        // What became pending meanwhile saw that somebody was awake.
        if !cluster.tick(rt::now()) || cluster.watch.state.compare_exchange(ASLEEP, AWAKE, SeqCst, SeqCst).is_err() {
            return;
        }
    }
}
