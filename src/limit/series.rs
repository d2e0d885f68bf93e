//! How often a limit admitted and refused.

use std::sync::Arc;

use super::global::FailSeries;
use crate::instrument::{Counter, Registry};

/// Counters of one limit, and what it is called.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    what: Arc<str>,
    ok: Counter,
    limited: Counter,
    shadow: Counter,
    pub(super) fails: FailSeries,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            what: "the rate limit".into(),
            ok: <_>::default(),
            limited: <_>::default(),
            shadow: <_>::default(),
            fails: <_>::default(),
        }
    }
}

impl Series {
    /// `what` is the limit in a sentence.
    /// `global`: whether the limit is also counted elsewhere.
    pub(crate) fn new(registry: &Registry, [direction, service, route]: [&str; 3], what: String, global: bool) -> Self {
        let counter = |result| {
            let labels = [("direction", direction), ("service", service), ("route", route), ("result", result)];
            registry.counter("sinew_rate_limit_total", &labels)
        };
        Self {
            what: what.into(),
            ok: counter("ok"),
            limited: counter("limited"),
            shadow: counter("shadow"),
            fails: if global { FailSeries::new(registry, direction, service, route) } else { FailSeries::default() },
        }
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }

    pub(super) fn ok(&self) {
        self.ok.inc();
    }

    pub(super) fn limited(&self) {
        self.limited.inc();
    }

    pub(super) fn shadow(&self) {
        self.shadow.inc();
    }
}
