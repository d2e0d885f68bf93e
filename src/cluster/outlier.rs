//! From what attempts leave behind to endpoints that are taken out, and back in.

use std::sync::{Arc, PoisonError};

use super::{Cluster, endpoint::Endpoint};
use crate::{
    balance::Member,
    enforcement::Mode,
    health::{Account, Cause, Change, Flag, Peer, Sample, Sent, Verdict, judge},
    instrument::{Counter, Registry},
    model::SetKind,
    rt::{self, Instant, Rng},
};

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

    pub(super) fn probed(&self, change: Option<Change>) {
        let [passed, failed, returned] = &self.probes;
        match change {
            Some(Change::Back) => passed.inc(),
            Some(_) => failed.inc(),
            None => returned.inc(),
        }
    }
}

impl Cluster {
    /// Takes in what an attempt that began at `started` says about its endpoint.
    #[inline]
    pub(super) fn observed(self: &Arc<Self>, endpoint: &Endpoint, sample: Sample, started: Instant) {
        match sample {
            Sample::Success => {
                endpoint.vitals.succeeded();
                if !endpoint.is_good() {
                    endpoint.weigh(true, self.watch.since_begun(rt::now()));
                }
            }
            Sample::Neutral => {}
            _ => self.observed_failure(endpoint, sample, started),
        }
    }

    #[cold]
    fn observed_failure(self: &Arc<Self>, endpoint: &Endpoint, sample: Sample, started: Instant) {
        // Without an answer while this process did not run: the answer may lie here, unread.
        if sample == Sample::Local && self.tasks.lag().stalled(started, rt::now()) {
            return;
        }
        if sample.is_weighed() {
            endpoint.weigh(false, self.watch.since_begun(rt::now()));
        }
        let policy = self.policy.load();
        if let Some(cause) = endpoint.vitals.failed(sample, &policy.outlier_detection) {
            self.suspect(endpoint, cause);
        }
    }

    /// An attempt without an answer was given up. If it was old enough, it is a failure of its endpoint, and this is true.
    #[cold]
    pub(super) fn given_up(self: &Arc<Self>, endpoint: &Endpoint, started: Instant, sent: Sent) -> bool {
        let now = rt::now();
        // Whatever the call waited for before it was sent is not the endpoint's.
        let started = self.watch.opened(sent).map_or(started, |opened| started.max(opened));
        let age = now.saturating_duration_since(started);
        if age < self.watch.unanswered_after() || self.tasks.lag().stalled(started, now) {
            return false;
        }
        self.watch.latency.add(age, 1);
        endpoint.weigh(false, self.watch.since_begun(now));
        let policy = self.policy.load();
        if endpoint.vitals.failed(Sample::Local, &policy.outlier_detection).is_some() {
            self.suspect(endpoint, Cause::Unanswered);
        }
        true
    }

    /// A detector found an endpoint.
    pub(super) fn suspect(self: &Arc<Self>, endpoint: &Endpoint, cause: Cause) {
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
        let is_it = |member: &Endpoint| std::ptr::eq(member, endpoint);
        let Some((spec, _)) = members.iter().find(|(_, member)| is_it(member)) else { return };
        let priority = spec.priority;
        let waiting = |member: &Endpoint| if cause.is_of_answers() { member.unanswered.waiting() } else { 0 };
        let recent = |member: &Endpoint| member.vitals.recent(cause, policy).beside(waiting(member));
        let peers = members.iter().filter(|(spec, peer)| spec.priority == priority && !is_it(peer));
        let peers = peers.map(|(_, peer)| Peer {
            ejected: peer.availability.has(Flag::EJECTED),
            usable: peer.is_usable(),
            recent: recent(peer),
            lately: peer.vitals.lately(),
        });
        let mut rng = Rng::local();
        let (recent, waiting) = (recent(endpoint), waiting(endpoint));
        let verdict = judge(cause, recent, waiting, endpoint.vitals.lately(), peers, policy, &mut rng);
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
    pub(super) fn follow(&self, endpoint: &Endpoint, change: Change, now: Instant) {
        let (ejected, probation) = match change {
            Change::Ejected => (true, false),
            Change::Probation => (false, true),
            Change::Back => (false, false),
        };
        if !ejected {
            endpoint.forget();
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

    /// Detection was switched off, or only reports from now on: everybody is back.
    pub(super) fn pardon(&self) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, member) in members.iter() {
            if member.ejection().pardon() {
                self.follow(member, Change::Back, rt::now());
            }
        }
    }

    /// What an endpoint was ejected for holds no longer: it can be connected to.
    pub(super) fn readmit(&self, endpoint: &Endpoint) {
        let now = rt::now();
        let change = endpoint.ejection().lift(now);
        if let Some(change) = change {
            self.follow(endpoint, change, now);
        }
    }

    /// What the probe of an endpoint on probation found.
    fn probed(self: &Arc<Self>, endpoint: &Endpoint, found: Sample) {
        let (spec, now) = (self.policy.load(), rt::now());
        let change = endpoint.ejection().probed(found, now, &spec.outlier_detection, &mut Rng::local());
        self.outliers.probed(change);
        if let Some(change) = change {
            self.follow(endpoint, change, now);
        } else {
            // Another call may be it.
            self.tell_waiting();
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
