//! What one attempt leaves behind: its load, its permit and its outcome, until the response body ends.

use std::sync::Arc;

use http::{HeaderMap, header::CONTENT_TYPE, response};

use super::endpoint::Endpoint;
use crate::{
    balance::Picked,
    body::{End, Guard},
    breaker::{Limit, Permit},
    classify::{self, Outcome, Verdict},
    error::Error,
    instrument::{Counter, Registry},
    transport::Upgraded,
};

/// Counters of attempts by outcome, first attempts and repeated ones apart.
pub(super) struct AttemptSeries {
    first: Vec<Counter>,
    again: Vec<Counter>,
}

impl AttemptSeries {
    pub(super) fn new(registry: &Registry, service: &str) -> Self {
        let counters = |kind| {
            let counter = |outcome: &Outcome| {
                let labels = [("service", service), ("kind", kind), ("outcome", outcome.as_str())];
                registry.counter("sinew_attempts_total", &labels)
            };
            Outcome::ALL.iter().map(counter).collect()
        };
        Self { first: counters("first"), again: counters("transparent") }
    }

    fn record(&self, again: bool, outcome: Outcome) {
        let counters = if again { &self.again } else { &self.first };
        if let Some(counter) = counters.get(outcome as usize) {
            counter.inc();
        }
    }
}

/// Open while an attempt runs.
pub(crate) struct Observe {
    cluster: Arc<super::Cluster>,
    picked: Option<Picked<Endpoint>>,
    permit: Option<Permit>,
    grpc: bool,
    again: bool,
    verdict: Option<Verdict>,
}

impl Observe {
    pub(super) fn new(
        cluster: Arc<super::Cluster>,
        picked: Picked<Endpoint>,
        permit: Permit,
        grpc: bool,
        again: bool,
    ) -> Self {
        Self { cluster, picked: Some(picked), permit: Some(permit), grpc, again, verdict: None }
    }

    pub(super) fn endpoint(&self) -> Option<Arc<str>> {
        self.picked.as_ref().map(|picked| Arc::clone(&picked.id))
    }

    pub(super) fn answered(&mut self, parts: &response::Parts) {
        self.verdict = Some(classify::response(parts, self.grpc));
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
        self.leave_for(&Arc::clone(&self.cluster.streams));
        if let Some(picked) = self.picked.take() {
            connection.hold((picked, self.permit.take()));
            self.cluster.attempts.record(self.again, Outcome::Success);
        }
    }

    pub(super) fn failed(mut self, error: &Error) {
        self.close(classify::error(error));
    }

    /// If there is room; otherwise the permit stays what it is.
    fn leave_for(&mut self, streams: &Arc<Limit>) {
        if let Some(permit) = streams.try_acquire() {
            self.permit = Some(permit);
        }
    }

    fn close(&mut self, outcome: Outcome) {
        if self.picked.take().is_some() {
            self.permit = None;
            self.cluster.attempts.record(self.again, outcome);
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
            (End::Dropped, _) => Outcome::Cancelled,
            (End::Complete, Some(Verdict::Final(outcome))) => outcome,
            (End::Complete, _) => classify::trailers(None),
        };
        self.close(outcome);
    }
}

impl Drop for Observe {
    fn drop(&mut self) {
        self.close(Outcome::Cancelled);
    }
}
