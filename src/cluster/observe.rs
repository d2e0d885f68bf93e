//! What one attempt leaves behind: its load, its permit and its outcome, until the response body ends.

use std::sync::Arc;

use http::{HeaderMap, header::CONTENT_TYPE, response};

use super::{endpoint::Endpoint, lines::Followed, outlier::Probe, place::EndpointPlace};
use crate::{
    balance::Picked,
    body::{End, Guard},
    breaker::{Judge, Limit, Permit},
    classify::{self, Outcome, Verdict},
    error::Error,
    health::{Sample, Sent},
    instrument::{Counter, Registry},
    retry::AttemptKind,
    rt::{self, Instant, Rng},
    transport::Upgraded,
};

/// Counters of attempts by outcome, first attempts and repeated ones apart.
pub(super) struct AttemptSeries {
    /// By kind of attempt, then by outcome.
    counters: Vec<Vec<Counter>>,
}

impl AttemptSeries {
    pub(super) fn new(registry: &Registry, service: &str) -> Self {
        let counters = |kind: &AttemptKind| {
            let counter = |outcome: &Outcome| {
                let labels = [("service", service), ("kind", kind.as_str()), ("outcome", outcome.as_str())];
                registry.counter("sinew_attempts_total", &labels)
            };
            Outcome::ALL.iter().map(counter).collect()
        };
        Self { counters: AttemptKind::ALL.iter().map(counters).collect() }
    }

    /// How many there were.
    pub(super) fn total(&self) -> u64 {
        self.counters.iter().flatten().map(Counter::get).sum()
    }

    pub(super) fn record(&self, kind: AttemptKind, outcome: Outcome) {
        if let Some(counter) = self.counters.get(kind as usize).and_then(|of| of.get(outcome as usize)) {
            counter.inc();
        }
    }
}

/// By this header of any answer an endpoint says that it is not well, as to Envoy. Heeded where it is checked, and until
/// checks pass again.
const IMMEDIATE_FAIL: &str = "x-envoy-immediate-health-check-fail";

/// When an attempt was sent.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) started: Instant,
    pub(super) sent: Sent,
}

/// Open while an attempt runs.
pub(crate) struct Observe {
    cluster: Arc<super::Cluster>,
    picked: Option<Picked<Endpoint>>,
    permit: Option<Permit>,
    /// At the endpoint.
    place: Option<Box<EndpointPlace>>,
    probe: Option<Box<Probe>>,
    judge: Option<Judge>,
    /// The connection, where that is judged instead of the endpoint.
    line: Option<Arc<Followed>>,
    begun: Begun,
    /// Too old without an answer: it was taken in then.
    judged: bool,
    grpc: bool,
    kind: AttemptKind,
    verdict: Option<Verdict>,
}

impl Observe {
    pub(super) fn new(
        cluster: Arc<super::Cluster>,
        picked: Picked<Endpoint>,
        permit: Permit,
        probe: Option<Box<Probe>>,
        begun: Begun,
        grpc: bool,
        kind: AttemptKind,
    ) -> Self {
        picked.unanswered.sent(begun.sent);
        Self {
            cluster,
            picked: Some(picked),
            permit: Some(permit),
            place: None,
            probe,
            judge: None,
            line: None,
            begun,
            judged: false,
            grpc,
            kind,
            verdict: None,
        }
    }

    /// It goes over this connection, which is judged by its answers.
    pub(super) fn over(mut self, line: Option<Arc<Followed>>) -> Self {
        if let Some(line) = &line {
            line.sent(self.begun.sent);
        }
        self.line = line;
        self
    }

    /// It is one of the calls in flight to the endpoint.
    pub(super) fn in_place(mut self, place: Option<Box<EndpointPlace>>) -> Self {
        self.place = place;
        self
    }

    /// A circuit hears how it did.
    pub(super) fn judged_by(mut self, judge: Option<Judge>) -> Self {
        self.judge = judge;
        self
    }

    pub(super) fn endpoint(&self) -> Option<Arc<str>> {
        self.picked.as_ref().map(|picked| Arc::clone(&picked.id))
    }

    pub(super) fn answered(&mut self, parts: &response::Parts) {
        self.heard();
        let verdict = classify::response(parts, self.grpc);
        self.verdict = Some(verdict);
        if let Some(judge) = &mut self.judge {
            judge.answered(verdict);
        }
        if self.cluster.boards.are_any()
            && parts.headers.contains_key(IMMEDIATE_FAIL)
            && let Some(picked) = &self.picked
        {
            self.cluster.failed_by_its_word(picked);
        }
        if let Some(probe) = self.probe.take() {
            // A stream that may last for hours has shown by its headers that the endpoint works.
            probe.found(match verdict {
                Verdict::Final(outcome) => Sample::of(outcome),
                Verdict::AtTrailers => Sample::Success,
            });
        }
        let event_stream = || {
            let value = parts.headers.get(CONTENT_TYPE);
            value.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
        };
        if !self.grpc && event_stream() {
            self.leave_for(&Arc::clone(&self.cluster.streams));
        }
    }

    /// The call is over, its connection is not: load and permit go with the connection.
    pub(super) fn upgraded(&mut self, connection: &Upgraded) {
        if let Some(after) = self.cluster.policy.load().timeouts.upgrade_idle {
            connection.end_when_silent_for(after);
        }
        self.leave_for(&Arc::clone(&self.cluster.streams));
        if let Some(picked) = self.picked.take() {
            if !self.judged {
                self.cluster.observed(&picked, Sample::Success, self.begun.started);
            }
            connection.hold((picked, self.permit.take(), self.place.take()));
            self.cluster.record(self.kind, Outcome::Upgraded);
        }
    }

    pub(super) fn failed(mut self, error: &Error) {
        let outcome = classify::error(error);
        let sample = Sample::of(outcome);
        if let Some(probe) = self.probe.take() {
            probe.found(sample);
        }
        self.close(outcome, sample);
    }

    /// If there is room; otherwise the permit stays what it is.
    fn leave_for(&mut self, streams: &Arc<Limit>) {
        if let Some(permit) = streams.try_acquire() {
            self.permit = Some(permit);
            self.place = None;
        }
    }

    /// There is an answer.
    fn heard(&mut self) {
        let (Some(picked), sent) = (&self.picked, std::mem::take(&mut self.begun.sent)) else { return };
        self.judged = !picked.unanswered.over(sent);
        if let Some(line) = self.line.take() {
            line.answered(sent, self.cluster.watch.ages.now());
        }
        let latency = &self.cluster.watch.latency;
        if sent != Sent::default() && latency.wants(Rng::local_u64) {
            latency.add(rt::now().saturating_duration_since(self.begun.started), 1);
        }
    }

    /// Says once what the attempt showed of its endpoint.
    fn report(&mut self, picked: &Endpoint, outcome: Outcome, sample: Sample) {
        let (started, sent) = (self.begun.started, std::mem::take(&mut self.begun.sent));
        let waited = sent != Sent::default();
        let line = self.line.take();
        if let Some(line) = &line {
            line.over(sent);
        }
        self.judged |= !picked.unanswered.over(sent);
        if self.judged {
            return;
        }
        match outcome {
            Outcome::Cancelled | Outcome::DeadlineExpired | Outcome::HedgeLoser if waited => {
                let late = self.cluster.given_up(picked, started, sent);
                if let Some(judge) = self.judge.as_mut().filter(|_| late) {
                    judge.unanswered();
                }
                if let Some(line) = line.filter(|_| late) {
                    picked.gave_up_on(&line, sent);
                }
            }
            _ => self.cluster.observed(picked, sample, started),
        }
    }

    fn close(&mut self, outcome: Outcome, sample: Sample) {
        if let Some(picked) = self.picked.take() {
            self.permit = None;
            self.place = None;
            self.report(&picked, outcome, sample);
            if let Some(mut judge) = self.judge.take() {
                judge.close(outcome);
            }
            self.cluster.record(self.kind, outcome);
        }
    }
}

impl super::Cluster {
    fn record(&self, kind: AttemptKind, outcome: Outcome) {
        self.attempts.record(kind, outcome);
        if outcome.fills_budget() {
            self.retries.success();
        }
    }
}

impl Guard for Observe {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.verdict == Some(Verdict::AtTrailers) {
            self.verdict = Some(Verdict::Final(classify::trailers(Some(trailers))));
        }
    }

    fn end(&mut self, end: End<'_>) {
        let outcome = match (end, self.verdict) {
            (End::Failed(_), _) => Outcome::BodyFailure,
            // A failure stays one when its body is not read, as by a retry.
            (End::Dropped, Some(Verdict::Final(outcome))) if outcome.is_failure() => outcome,
            (End::Dropped, _) => classify::dropped(),
            (End::Complete, Some(Verdict::Final(outcome))) => outcome,
            (End::Complete, _) => classify::trailers(None),
        };
        let sample = match (outcome, self.verdict) {
            // Who reads no further has seen what the headers said.
            (Outcome::Cancelled, Some(Verdict::Final(answered))) => Sample::of(answered),
            (outcome, _) => Sample::of(outcome),
        };
        self.close(outcome, sample);
    }
}

impl Drop for Observe {
    fn drop(&mut self) {
        self.close(classify::dropped(), Sample::Neutral);
    }
}
