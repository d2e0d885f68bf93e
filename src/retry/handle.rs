//! A policy and the state that its calls share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    budget::Budget,
    decision::No,
    hedge::{HedgeMode, HedgePolicy, Latencies, Load},
    policy::{MOST_RETRIES, RetryPolicy},
};
use crate::{
    context::Call,
    instrument::{Counter, Registry},
    rt::{self, Instant},
};

/// `retry` and `hedge` of a service or a route.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct RetrySpec {
    /// What is sent again.
    pub policy: RetryPolicy,
    /// What is asked twice.
    pub hedge: HedgePolicy,
}

/// A policy, its hedging, and what all calls under it share: the budget of the backend, and what is known of latency.
#[derive(Debug)]
pub struct Handle {
    pub(super) policy: RetryPolicy,
    pub(super) hedge: HedgePolicy,
    /// The timeout of one attempt, where the seat knows it.
    pub(super) per_try: Option<Duration>,
    pub(super) budget: Arc<Budget>,
    latencies: Option<Box<Latencies>>,
    load: Load,
    epoch: Instant,
    /// Milliseconds since the epoch at which a peer last shed or pushed back.
    overloaded: AtomicU64,
    series: Series,
}

/// For how long nothing is hedged after a peer said that it has too much to do.
const CALM: u64 = 1_000;

/// Of more calls than these in a second, one of so many is measured.
const SAMPLED: u32 = 16;

impl Handle {
    /// A policy with a budget of its own.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn new(policy: RetryPolicy, hedge: HedgePolicy) -> Result<Arc<Self>, String> {
        let spec = checked(policy, hedge)?;
        let budget = Budget::new(rt::now());
        Ok(Arc::new(Self::on(spec, None, budget, Series::unregistered(), rt::now())))
    }

    /// Another policy for the same backend: they share one budget.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn sharing(&self, policy: RetryPolicy, hedge: HedgePolicy) -> Result<Arc<Self>, String> {
        let spec = checked(policy, hedge)?;
        let budget = Arc::clone(&self.budget);
        Ok(Arc::new(Self::on(spec, None, budget, Series::unregistered(), rt::now())))
    }

    /// A valid policy for a backend whose budget is known.
    pub(crate) fn on(
        spec: RetrySpec,
        per_try: Option<Duration>,
        budget: Arc<Budget>,
        series: Series,
        now: Instant,
    ) -> Self {
        let RetrySpec { policy, hedge } = spec;
        // What a call takes is measured where something depends on it: the clock is read once more for each call.
        let measures = hedge.is_on() || policy.keeps_body();
        let per_try = policy.per_try_timeout.or(per_try);
        Self {
            latencies: measures.then(|| Latencies::new(now)),
            load: Load::default(),
            epoch: now,
            overloaded: AtomicU64::new(u64::MAX),
            policy,
            hedge,
            per_try,
            budget,
            series,
        }
    }

    /// Whether it would be made the same again.
    pub(crate) fn is(&self, spec: &RetrySpec, per_try: Option<Duration>, budget: &Arc<Budget>) -> bool {
        (&self.policy, &self.hedge) == (&spec.policy, &spec.hedge)
            && self.per_try == spec.policy.per_try_timeout.or(per_try)
            && Arc::ptr_eq(&self.budget, budget)
    }

    /// The policy.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// How calls are hedged.
    pub fn hedge(&self) -> &HedgePolicy {
        &self.hedge
    }

    /// The timeout of one attempt. A call that is hedged when it passes lets the late attempt go on.
    pub(crate) fn attempt_timeout(&self, call: &Call) -> Option<Duration> {
        let goes_on = self.hedge.mode == HedgeMode::PerTryTimeout && call.hedges_after().is_none();
        self.per_try.filter(|_| !goes_on)
    }

    /// Whether a call has to know which endpoints its attempts went to.
    pub(crate) fn asks_who_was_asked(&self, call: &Call) -> bool {
        self.policy.keeps_body() || self.hedge.is_on() || call.hedges_after().is_some()
    }

    /// Whether it is of interest what a call takes, of which there were so many in this second. What a percentile of is asked
    /// for call by call needs every call; what a retry will probably take, many of few and a part of many.
    #[inline]
    pub(super) fn measures(&self, calls: u32) -> bool {
        self.latencies.is_some() && (calls < SAMPLED || calls.is_multiple_of(SAMPLED) || self.hedge.is_on())
    }

    pub(super) fn took(&self, took: Duration, now: Instant) {
        if let Some(latencies) = &self.latencies {
            latencies.record(took, now);
        }
    }

    /// How long half of the calls take; zero while that is not known.
    pub(super) fn median(&self, now: Instant) -> Duration {
        self.latencies.as_ref().and_then(|latencies| latencies.percentile(50.0, now)).unwrap_or_default()
    }

    /// When a call that began now is hedged.
    #[inline]
    pub(crate) fn hedge_after(&self, call: &Call, now: Instant) -> Option<Duration> {
        if let Some(asked) = call.hedges_after() {
            // Who asks for it call by call has weighed its load.
            self.load.call(100);
            return asked;
        }
        if !self.hedge.is_on() {
            return None;
        }
        self.load.call(self.hedge.max_extra_load_percent);
        match self.hedge.mode {
            HedgeMode::Off => None,
            HedgeMode::Fixed(delay) => Some(delay),
            HedgeMode::Percentile(percent) => self.latencies.as_ref()?.percentile(percent, now),
            HedgeMode::PerTryTimeout => self.per_try,
        }
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    /// A peer shed or pushed back.
    pub(super) fn overloaded(&self, now: Instant) {
        self.overloaded.store(self.since_epoch(now), Relaxed);
    }

    pub(super) fn is_overloaded(&self, now: Instant) -> bool {
        let at = self.overloaded.load(Relaxed);
        at != u64::MAX && self.since_epoch(now).saturating_sub(at) < CALM
    }

    /// Takes the right to one hedge, if their share of the calls is not used up.
    pub(super) fn bears_hedge(&self) -> bool {
        self.load.take()
    }

    pub(super) fn refused(&self, no: No) {
        if let Some(counter) = self.series.refused.get(no as usize) {
            counter.inc();
        }
    }

    pub(super) fn recovered(&self) {
        self.series.recovered.inc();
    }
}

impl RetrySpec {
    /// This policy, not hedged.
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, hedge: HedgePolicy::default() }
    }

    /// Hedges as well.
    #[must_use]
    pub fn hedge(mut self, hedge: HedgePolicy) -> Self {
        self.hedge = hedge;
        self
    }

    /// Checks bounds.
    ///
    /// # Errors
    /// The path of the field below a service or route, and what is wrong with it.
    pub(crate) fn validate(&self) -> Result<(), (String, String)> {
        let under = |group: &str, (field, reason): (&str, String)| (format!("{group}.{field}"), reason);
        self.policy.validate().map_err(|wrong| under("retry", wrong))?;
        self.hedge.validate().map_err(|wrong| under("hedge", wrong))?;
        let attempts = self.policy.num_retries + self.hedge.max_hedged_attempts;
        if self.hedge.is_on() && attempts > MOST_RETRIES {
            let reason =
                format!("with `num_retries` it makes {attempts} further attempts, at most {MOST_RETRIES} are allowed");
            return Err(("hedge.max_hedged_attempts".into(), reason));
        }
        Ok(())
    }
}

fn checked(policy: RetryPolicy, hedge: HedgePolicy) -> Result<RetrySpec, String> {
    let spec = RetrySpec { policy, hedge };
    spec.validate().map_err(|(path, reason)| format!("{path}: {reason}"))?;
    Ok(spec)
}

/// Counters of what became of failed attempts.
#[derive(Debug)]
pub(crate) struct Series {
    recovered: Counter,
    refused: Vec<Counter>,
}

impl Series {
    pub(crate) fn new(registry: &Registry, service: &str, route: &str) -> Self {
        let counter = |result| {
            let labels = [("service", service), ("route", route), ("result", result)];
            registry.counter("sinew_retries_total", &labels)
        };
        Self { recovered: counter("recovered"), refused: No::ALL.iter().map(|no| counter(no.as_str())).collect() }
    }

    fn unregistered() -> Self {
        Self { recovered: Counter::default(), refused: No::ALL.iter().map(|_| Counter::default()).collect() }
    }
}
