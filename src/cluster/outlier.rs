//! From what attempts leave behind to endpoints that are taken out, and back in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{
            AtomicU8,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use super::{Cluster, endpoint::Endpoint};
use crate::{
    balance::Member,
    enforcement::Mode,
    health::{Account, Cause, Change, Flag, OutlierPolicy, Peer, Sample, Verdict, Window, judge, outliers},
    instrument::{Counter, Registry},
    model::SetKind,
    rt::{self, Instant, Rng},
};

/// How often the clock is asked what it changed.
const TICK: Duration = Duration::from_millis(100);

/// Counters of what outlier detection did.
pub(super) struct OutlierSeries {
    /// By cause and then by result.
    found: Vec<Vec<Counter>>,
    shadow: Vec<Counter>,
    probes: [Counter; 3],
}

impl OutlierSeries {
    pub(super) fn new(registry: &Registry, service: &str) -> Self {
        let found = |cause: Cause, result: &str| {
            let labels = [("service", service), ("cause", cause.as_str()), ("result", result)];
            registry.counter("sinew_outliers_total", &labels)
        };
        let probe = |result| registry.counter("sinew_probes_total", &[("service", service), ("result", result)]);
        Self {
            found: Cause::ALL.map(|cause| Verdict::ALL.map(|verdict| found(cause, verdict.as_str())).into()).into(),
            shadow: Cause::ALL.map(|cause| found(cause, "shadow")).into(),
            probes: ["passed", "failed", "returned"].map(probe),
        }
    }

    fn found(&self, cause: Cause, verdict: Verdict) {
        let index = Verdict::ALL.iter().position(|known| *known == verdict);
        if let Some(counter) = self.found.get(cause as usize).and_then(|counters| counters.get(index?)) {
            counter.inc();
        }
    }

    fn shadow(&self, cause: Cause) {
        if let Some(counter) = self.shadow.get(cause as usize) {
            counter.inc();
        }
    }

    fn probed(&self, found: Sample, change: Option<Change>) {
        let [passed, failed, returned] = &self.probes;
        match (change, found) {
            (Some(Change::Back), _) => passed.inc(),
            (Some(_), _) => failed.inc(),
            (None, _) => returned.inc(),
        }
    }
}

/// Nobody watches the clock, and nobody needs to: there are no two endpoints to tell apart.
const UNNEEDED: u8 = 0;
/// The next call has it watched.
const ASLEEP: u8 = 1;
const AWAKE: u8 = 2;

/// Without calls for so long, and with nothing else to wait for, nobody watches any more: an idle mesh does not wake up.
const IDLE: Duration = Duration::from_secs(10);

/// Whether somebody watches the clock.
#[derive(Default)]
pub(super) struct Watch {
    state: AtomicU8,
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    /// When the interval began that rates are counted in.
    interval: Option<Instant>,
    /// How many attempts there were, and since when there have been no more.
    attempts: (u64, Option<Instant>),
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
    /// Takes in the outcome of one attempt.
    #[inline]
    pub(super) fn observed(self: &Arc<Self>, endpoint: &Endpoint, sample: Sample) {
        if sample == Sample::Success {
            endpoint.vitals.succeeded();
        } else {
            self.observed_otherwise(endpoint, sample);
        }
    }

    #[cold]
    fn observed_otherwise(self: &Arc<Self>, endpoint: &Endpoint, sample: Sample) {
        let policy = self.policy.load();
        if let Some(cause) = endpoint.vitals.failed(sample, &policy.outlier_detection) {
            self.suspect(endpoint, cause);
        }
    }

    /// A detector found an endpoint.
    fn suspect(self: &Arc<Self>, endpoint: &Endpoint, cause: Cause) {
        let spec = self.policy.load();
        let policy = &spec.outlier_detection;
        // What ends on an ejected endpoint began before, or was sent in panic: it is judged already.
        let judged = endpoint.availability.has(Flag::EJECTED) || endpoint.availability.has(Flag::PROBATION);
        if policy.enforcement == Mode::Off || judged {
            return;
        }
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if members.kind() == SetKind::Vip {
            return;
        }
        let all = || members.iter().map(|(spec, member)| (spec, &**member));
        let Some(priority) = all().find(|(_, found)| std::ptr::eq(*found, endpoint)).map(|(spec, _)| spec.priority)
        else {
            return;
        };
        let peers = all().filter(|(spec, peer)| spec.priority == priority && !std::ptr::eq(*peer, endpoint));
        let peers = peers.map(|(_, peer)| Peer {
            ejected: peer.availability.has(Flag::EJECTED),
            usable: peer.is_usable(),
            recent: peer.vitals.recent(),
        });
        let mut rng = Rng::local();
        let recent = endpoint.vitals.recent();
        let verdict = judge(cause, recent, peers, policy, &mut rng);
        let shadow = policy.enforcement == Mode::Shadow;
        match verdict {
            Verdict::Eject if shadow => self.outliers.shadow(cause),
            verdict => self.outliers.found(cause, verdict),
        }
        let (service, id) = (self.name.as_str(), &*endpoint.id);
        let failed = format_args!("{} of its last {} calls failed", recent.failures, recent.calls);
        match verdict {
            Verdict::Eject if shadow => {
                tracing::warn!(service, endpoint = id, %cause, "would be ejected: {failed} (shadow)");
            }
            Verdict::Eject => {
                let now = rt::now();
                endpoint.ejection().eject(cause, now, policy, &mut rng);
                self.follow(endpoint, Change::Ejected, now);
                tracing::warn!(service, endpoint = id, %cause, "ejected: {failed}");
            }
            Verdict::NotEnforced | Verdict::Held(_) => {
                tracing::info!(service, endpoint = id, %cause, result = verdict.as_str(), "let be: {failed}");
            }
        }
        drop(members);
        self.wake();
    }

    /// Makes of a change what calls see.
    fn follow(&self, endpoint: &Endpoint, change: Change, now: Instant) {
        let (ejected, probation) = match change {
            Change::Ejected => (true, false),
            Change::Probation => (false, true),
            Change::Back => (false, false),
        };
        if !ejected {
            endpoint.vitals.forget();
        }
        // The new flag first: in between it is out, never in.
        for (flag, holds) in [(Flag::EJECTED, ejected), (Flag::PROBATION, probation)] {
            if holds {
                self.mark(endpoint, flag, true);
            }
        }
        for (flag, holds) in [(Flag::EJECTED, ejected), (Flag::PROBATION, probation)] {
            if !holds {
                self.mark(endpoint, flag, false);
            }
        }
        let (service, id) = (self.name.as_str(), &*endpoint.id);
        match change {
            Change::Ejected => {
                if let Some(Account { until: Some(until), .. }) = endpoint.ejection().account() {
                    tracing::info!(service, endpoint = id, "out for {:?}", until.saturating_duration_since(now));
                }
            }
            Change::Probation => tracing::info!(service, endpoint = id, "on probation: one call will tell"),
            Change::Back => tracing::info!(service, endpoint = id, "back from ejection"),
        }
    }

    /// Has the clock watched while there are calls.
    #[inline]
    pub(super) fn watch_calls(self: &Arc<Self>) {
        if self.watch.state.load(Relaxed) == ASLEEP {
            self.wake();
        }
    }

    /// Has the clock watched until nothing is pending.
    #[cold]
    fn wake(self: &Arc<Self>) {
        if self.watch.state.compare_exchange(ASLEEP, AWAKE, SeqCst, SeqCst).is_ok() {
            self.tasks.spawn(watch(Arc::downgrade(self)));
        }
    }

    /// The set changed: whether there is anything to tell apart.
    pub(super) fn watch_set(&self, kind: SetKind, endpoints: usize) {
        let (from, to) = match (kind, endpoints) {
            (SetKind::Replicas, 2..) => (UNNEEDED, ASLEEP),
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
        for (_, member) in members.iter().filter(|(_, member)| !member.availability.is_clear()) {
            let mut ejection = member.ejection();
            let change = ejection.pass(now, policy, &mut Rng::local());
            pending |= ejection.is_pending();
            drop(ejection);
            if let Some(change) = change {
                if change == Change::Ejected {
                    self.outliers.probed(Sample::Neutral, Some(change));
                }
                self.follow(member, change, now);
            }
        }
        let mut times = self.watch.times.lock().unwrap_or_else(PoisonError::into_inner);
        let rates = times.interval_ended(now, policy.interval);
        pending |= !times.is_idle(self.attempts.total(), now) || self.requests.used() > 0;
        drop(times);
        drop(members);
        if rates {
            self.compare_rates(policy);
        }
        pending
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

    /// Detection was switched off, or only reports from now on: everybody is back.
    pub(super) fn pardon(&self) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, member) in members.iter() {
            if member.ejection().pardon() {
                self.follow(member, Change::Back, rt::now());
            }
        }
    }

    /// What the probe of an endpoint on probation found.
    fn probed(self: &Arc<Self>, endpoint: &Endpoint, found: Sample) {
        let (spec, now) = (self.policy.load(), rt::now());
        let change = endpoint.ejection().probed(found, now, &spec.outlier_detection, &mut Rng::local());
        self.outliers.probed(found, change);
        if let Some(change) = change {
            self.follow(endpoint, change, now);
        } else {
            // Another call may be it.
            self.changed.notify_waiters();
        }
        self.wake();
    }
}

/// The call that shows whether an endpoint is well again. Dropped without a finding, it leaves its place to another.
pub(super) struct Probe {
    cluster: Arc<Cluster>,
    endpoint: Member<Endpoint>,
    found: Sample,
}

impl Probe {
    /// Makes a call the probe of an endpoint on probation, unless there is one.
    pub(super) fn claim(
        cluster: &Arc<Cluster>,
        endpoint: Member<Endpoint>,
        repeatable: bool,
        deadline: Option<Instant>,
    ) -> Option<Box<Self>> {
        if !endpoint.ejection().probe(repeatable, rt::now(), deadline) {
            return None;
        }
        cluster.wake();
        Some(Box::new(Self { cluster: Arc::clone(cluster), endpoint, found: Sample::Neutral }))
    }

    pub(super) fn found(mut self, sample: Sample) {
        self.found = sample;
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.cluster.probed(&self.endpoint, self.found);
    }
}

async fn watch(cluster: Weak<Cluster>) {
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
