//! The series of one service and route, resolved before the first call.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use crate::{
    classify::Outcome,
    error::Code,
    instrument::{Counter, Gauge, Histogram, Registry},
};

/// Who made the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Outbound,
    Inbound,
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// How a call ended, as far as labels go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// With this HTTP status.
    Http(u16),
    /// With this gRPC status.
    Grpc(u8),
    /// Refused or failed by the mesh.
    Failed(Code),
    /// Answered by an injected abort, with this HTTP status and gRPC status.
    Injected(u16, Option<u8>),
    /// The caller went away before the response was complete.
    Cancelled,
}

const HTTP: usize = 500;
const GRPC: usize = 18;

impl Ended {
    fn index(self) -> usize {
        match self {
            Self::Http(status) => usize::from(status.clamp(100, 599)) - 100,
            Self::Grpc(status) => HTTP + usize::from(status).min(GRPC - 1),
            Self::Cancelled => HTTP + GRPC,
            Self::Injected(..) => HTTP + GRPC + 1 + usize::from(Code::FaultAbort.number()),
            Self::Failed(code) => HTTP + GRPC + 1 + usize::from(code.number()).min(99),
        }
    }
}

/// Handles of one direction, service and route.
pub(crate) struct CallSeries {
    registry: Registry,
    direction: Direction,
    service: Arc<str>,
    route: Arc<str>,
    in_flight: Gauge,
    succeeded: Histogram,
    failed: Histogram,
    /// One counter per way to end, made when it first happens: most routes only ever see a few.
    ended: OnceLock<Box<[OnceLock<Counter>]>>,
    /// One per status of injected aborts: rare enough for a lock.
    injected: Mutex<Vec<(Ended, Counter)>>,
}

impl CallSeries {
    pub(crate) fn new(registry: &Registry, direction: Direction, service: &str, route: &str) -> Arc<Self> {
        let labels = [("direction", direction.as_str()), ("service", service)];
        let histogram = |outcome| {
            registry.histogram(
                "sinew_request_duration_seconds",
                &[("direction", direction.as_str()), ("service", service), ("route", route), ("outcome", outcome)],
            )
        };
        Arc::new(Self {
            in_flight: registry.gauge("sinew_requests_in_flight", &labels),
            succeeded: histogram("success"),
            failed: histogram("failure"),
            registry: registry.clone(),
            direction,
            service: service.into(),
            route: route.into(),
            ended: OnceLock::new(),
            injected: Mutex::default(),
        })
    }

    pub(super) fn begin(&self) {
        self.in_flight.inc();
    }

    pub(super) fn end(&self, ended: Ended, outcome: Outcome, grpc: bool, elapsed: Duration) {
        self.in_flight.dec();
        let histogram = if outcome.is_failure() { &self.failed } else { &self.succeeded };
        histogram.record(elapsed);
        if let Ended::Injected(..) = ended {
            let mut injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
            match injected.iter().find(|(there, _)| *there == ended) {
                Some((_, counter)) => counter.inc(),
                None => {
                    let counter = self.counter(ended, grpc);
                    counter.inc();
                    injected.push((ended, counter));
                }
            }
            return;
        }
        let all = self.ended.get_or_init(|| (0..HTTP + GRPC + 101).map(|_| OnceLock::new()).collect());
        all[ended.index()].get_or_init(|| self.counter(ended, grpc)).inc();
    }

    fn counter(&self, ended: Ended, grpc: bool) -> Counter {
        let (code, grpc_status, flag) = match ended {
            Ended::Http(status) => (status.to_string(), String::new(), "-"),
            Ended::Grpc(status) => ("200".to_owned(), status.to_string(), "-"),
            Ended::Injected(http, grpc) => {
                (http.to_string(), grpc.map(|status| status.to_string()).unwrap_or_default(), Code::FaultAbort.flag())
            }
            Ended::Cancelled => ("499".to_owned(), String::new(), Code::ClientGone.flag()),
            Ended::Failed(code) if grpc => ("200".to_owned(), code.grpc_status().to_string(), code.flag()),
            Ended::Failed(code) => (code.http_status().as_u16().to_string(), String::new(), code.flag()),
        };
        self.registry.counter(
            "sinew_requests_total",
            &[
                ("direction", self.direction.as_str()),
                ("service", &self.service),
                ("route", &self.route),
                ("protocol", if grpc { "grpc" } else { "http" }),
                ("code", &code),
                ("grpc_status", &grpc_status),
                ("flag", flag),
            ],
        )
    }

    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    pub(super) fn route(&self) -> &str {
        &self.route
    }

    pub(super) fn direction(&self) -> Direction {
        self.direction
    }
}
