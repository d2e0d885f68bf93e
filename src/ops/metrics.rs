//! `/metrics` in Prometheus' text format.

use std::sync::{Mutex, PoisonError};

use http::{HeaderValue, Response, StatusCode};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::server::respond;
use crate::{
    body::Body,
    instrument::{Flushed, Registry},
};

/// Upper bounds in seconds: a local hop takes a fraction of a millisecond, a deadline seconds.
const BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Renders a registry through a recorder that nobody else sees.
pub(super) struct Metrics {
    registry: Registry,
    handle: PrometheusHandle,
    recorder: Mutex<(PrometheusRecorder, Flushed)>,
}

impl Metrics {
    pub(super) fn new(registry: Registry) -> Self {
        let builder = PrometheusBuilder::new();
        // Only an empty list of buckets is refused.
        let builder = builder.set_buckets(BUCKETS).unwrap_or_default();
        let recorder = builder.build_recorder();
        Self { registry, handle: recorder.handle(), recorder: Mutex::new((recorder, Flushed::default())) }
    }

    pub(super) fn render(&self) -> Response<Body> {
        // One scrape at a time, so that none sees half of another's flush.
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        let (recorder, flushed) = &mut *recorder;
        ::metrics::with_local_recorder(&*recorder, || self.registry.flush_since(flushed));
        self.handle.run_upkeep();
        respond(StatusCode::OK, PROMETHEUS, self.handle.render())
    }
}
