//! How much was shed, and why.

use std::sync::Arc;

use super::shedder::Cause;
use crate::{
    context::Criticality,
    instrument::{Counter, Gauge, Registry},
};

const BANDS: [&str; 4] = ["critical_plus", "critical", "sheddable_plus", "sheddable"];

/// Counters of one shedder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    of: Option<Arc<Labelled>>,
}

#[derive(Debug)]
struct Labelled {
    /// By cause, then by criticality.
    shed: Vec<Counter>,
    shadow: Counter,
    in_flight: Gauge,
    limit: Gauge,
}

impl Series {
    pub(crate) fn new(registry: &Registry, service: &str) -> Self {
        let counter = |cause, criticality, mode| {
            let labels = [("service", service), ("cause", cause), ("criticality", criticality), ("mode", mode)];
            registry.counter("sinew_shed_total", &labels)
        };
        let causes = Cause::ALL.iter();
        Self {
            of: Some(Arc::new(Labelled {
                shed: causes.flat_map(|cause| BANDS.map(|band| counter(*cause, band, "enforce"))).collect(),
                shadow: counter("", "", "shadow"),
                in_flight: registry.gauge("sinew_admission_in_flight", &[("service", service)]),
                limit: registry.gauge("sinew_admission_limit", &[("service", service)]),
            })),
        }
    }

    pub(super) fn shed(&self, cause: Cause, criticality: Criticality) {
        if let Some(of) = &self.of {
            of.shed[cause.index() * BANDS.len() + usize::from(criticality.level())].inc();
        }
    }

    pub(super) fn shadow(&self) {
        if let Some(of) = &self.of {
            of.shadow.inc();
        }
    }

    pub(super) fn report(&self, in_flight: u32, limit: Option<u32>) {
        if let Some(of) = &self.of {
            of.in_flight.set(in_flight.into());
            if let Some(limit) = limit {
                of.limit.set(limit.into());
            }
        }
    }
}
