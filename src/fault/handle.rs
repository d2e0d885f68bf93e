//! A policy while it acts: since when, on how many calls, counted.

use std::sync::{Arc, OnceLock};

use http::HeaderMap;

use super::{
    engine::{Aborted, Rolled, roll},
    header::{Asked, SINEW_FAULT},
    policy::FaultPolicy,
};
use crate::{
    enforcement::Mode,
    instrument::{Counter, Registry},
    permit::{Limit, Permit},
    rt::{Instant, Rng},
};

/// A policy and its state, shared by every call of a route.
#[derive(Debug)]
pub(crate) struct FaultHandle {
    pub(crate) policy: FaultPolicy,
    since: Instant,
    active: Arc<Limit>,
    series: Series,
}

impl FaultHandle {
    /// `since` is when the policy came into use.
    pub(crate) fn new(policy: FaultPolicy, since: Instant, series: Series) -> Arc<Self> {
        let active = Limit::new(policy.max_active_faults.unwrap_or(u32::MAX));
        Arc::new(Self { policy, since, active, series })
    }

    /// Rolls the dice for a request, and takes its wishes out of the headers.
    pub(crate) fn inject(self: &Arc<Self>, headers: &mut HeaderMap, now: Instant) -> Option<Arc<Injection>> {
        let asked = if self.policy.asks_header() {
            let asked = Asked::of(headers);
            headers.remove(SINEW_FAULT);
            asked
        } else {
            None
        };
        let expired = |after| now.saturating_duration_since(self.since) >= after;
        if self.policy.mode == Mode::Off || self.policy.expires_after.is_some_and(expired) {
            return None;
        }
        let rolled = roll(&self.policy, asked.as_ref(), &mut Rng::local());
        if rolled.is_nothing() {
            return None;
        }
        if self.policy.mode == Mode::Shadow {
            self.series.count(&rolled, self.policy.mode);
            return None;
        }
        let active = match self.policy.max_active_faults {
            Some(_) => Some(self.active.try_acquire()?),
            None => None,
        };
        Some(Arc::new(Injection { rolled, handle: Arc::clone(self), _active: active }))
    }
}

/// What is done to one call. It is an active fault until it is dropped.
#[derive(Debug)]
pub(crate) struct Injection {
    pub(crate) rolled: Rolled,
    handle: Arc<FaultHandle>,
    _active: Option<Permit>,
}

impl Injection {
    /// Counts it as injected: not before it is, since a limit above may refuse the call.
    pub(super) fn count(&self) {
        self.handle.series.count(&self.rolled, Mode::Enforce);
    }

    /// What the caller is told of an abort.
    pub(super) fn message(&self, abort: Aborted) -> String {
        let what = match abort {
            Aborted::Http(status) => format!("status {}", status.as_u16()),
            Aborted::Grpc(status) => format!("gRPC status {status}"),
            Aborted::Reset => "no answer".into(),
        };
        format!("`fault.abort` of this route answers with {what}; the service was not asked")
    }
}

/// Counters of one route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    of: Option<Arc<Labelled>>,
}

#[derive(Debug)]
struct Labelled {
    registry: Registry,
    service: Arc<str>,
    route: Arc<str>,
    /// By kind, then by mode. Made when first needed.
    counters: [OnceLock<Counter>; 6],
}

const KINDS: [&str; 3] = ["delay", "abort", "response_rate_limit"];

impl Series {
    pub(crate) fn new(registry: &Registry, service: &str, route: &str) -> Self {
        let labelled = Labelled {
            registry: registry.clone(),
            service: service.into(),
            route: route.into(),
            counters: Default::default(),
        };
        Self { of: Some(Arc::new(labelled)) }
    }

    fn count(&self, rolled: &Rolled, mode: Mode) {
        let Some(of) = &self.of else { return };
        let hit = [rolled.delay.is_some(), rolled.abort.is_some(), rolled.rate.is_some()];
        for (index, kind) in KINDS.into_iter().enumerate().filter(|(index, _)| hit[*index]) {
            let counter = of.counters[2 * index + usize::from(mode == Mode::Shadow)].get_or_init(|| {
                let labels =
                    [("service", &*of.service), ("route", &*of.route), ("kind", kind), ("mode", mode.as_str())];
                of.registry.counter("sinew_faults_injected_total", &labels)
            });
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        enforcement::Percent,
        fault::{Abort, Delay, Rate},
        rt,
    };

    fn everything() -> FaultPolicy {
        FaultPolicy::new().delay(Delay::Fixed(Duration::from_secs(1)), Percent::ALL)
    }

    fn handle(policy: FaultPolicy) -> Arc<FaultHandle> {
        FaultHandle::new(policy, rt::now(), Series::default())
    }

    #[tokio::test(start_paused = true)]
    async fn faults_end_by_themselves_after_an_hour_or_what_is_said() {
        let (default, short) = (
            handle(everything()),
            handle(FaultPolicy { expires_after: Some(Duration::from_secs(60)), ..everything() }),
        );
        let for_ever = handle(FaultPolicy { expires_after: None, ..everything() });
        let start = rt::now();
        let injects = |handle: &Arc<FaultHandle>, seconds| {
            handle.inject(&mut HeaderMap::new(), start + Duration::from_secs(seconds)).is_some()
        };
        assert!(injects(&short, 59) && !injects(&short, 60));
        assert!(injects(&default, 3599) && !injects(&default, 3600));
        assert!(injects(&for_ever, 1_000_000));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_calls_than_the_bound_are_under_a_fault() {
        let handle = handle(FaultPolicy { max_active_faults: Some(2), ..everything() });
        let inject = || handle.inject(&mut HeaderMap::new(), rt::now());
        let held = (inject(), inject());
        assert!(held.0.is_some() && held.1.is_some() && inject().is_none());
        drop(held);
        assert!(inject().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_header_is_taken_out_and_shadow_injects_nothing() {
        let policy = FaultPolicy::new()
            .abort(Abort::Header, Percent::ALL)
            .response_rate_limit(Rate::Header { min: 1 }, Percent::ALL);
        let mut headers = HeaderMap::new();
        headers.insert(SINEW_FAULT, http::HeaderValue::from_static("abort=503"));
        let injection = handle(policy.clone()).inject(&mut headers, rt::now()).unwrap();
        assert!(injection.rolled.abort.is_some() && headers.is_empty());

        let registry = Registry::default();
        let series = Series::new(&registry, "ratings", "jason");
        let shadow = FaultHandle::new(FaultPolicy { mode: Mode::Shadow, ..everything() }, rt::now(), series);
        assert!(shadow.inject(&mut HeaderMap::new(), rt::now()).is_none());
        let labels = [("service", "ratings"), ("route", "jason"), ("kind", "delay"), ("mode", "shadow")];
        assert_eq!(registry.counter("sinew_faults_injected_total", &labels).get(), 1);
    }
}
