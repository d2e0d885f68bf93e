//! A circuit that is shared: by the calls to a service, and by an operator.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    circuit::{Circuit, CircuitControl, CircuitState, Pass, Refused, Verdict},
    policy::CircuitPolicy,
};
use crate::{
    classify::{self, Outcome},
    enforcement::Mode,
    error::{Code, Error},
    instrument::{Counter, Gauge, Registry},
    rt::{self, Instant, Rng},
};

/// The circuit of a service: what it does now, and the switch of an operator. Clones are the same circuit.
#[derive(Clone, Debug)]
pub struct CircuitHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    circuit: Mutex<Circuit>,
    series: CircuitSeries,
}

/// What is counted, and the service's name for messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct CircuitSeries {
    service: Option<Arc<str>>,
    refused: Counter,
    shadow: Counter,
    opened: Counter,
    half_opened: Counter,
    closed: Counter,
    state: Gauge,
}

impl CircuitSeries {
    pub(crate) fn new(registry: &Registry, service: &str) -> Self {
        let refused = |mode| registry.counter("sinew_circuit_refused_total", &[("service", service), ("mode", mode)]);
        let changes = |to| registry.counter("sinew_circuit_changes_total", &[("service", service), ("to", to)]);
        Self {
            service: Some(service.into()),
            refused: refused("enforce"),
            shadow: refused("shadow"),
            opened: changes("open"),
            half_opened: changes("half_open"),
            closed: changes("closed"),
            state: registry.gauge("sinew_circuit_state", &[("service", service)]),
        }
    }
}

impl CircuitHandle {
    pub(crate) fn new(policy: CircuitPolicy, series: CircuitSeries) -> Self {
        Self { inner: Arc::new(Inner { circuit: Mutex::new(Circuit::new(policy, rt::now())), series }) }
    }

    fn lock(&self) -> MutexGuard<'_, Circuit> {
        self.inner.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the circuit does now.
    pub fn state(&self) -> CircuitState {
        self.lock().state().0
    }

    /// Who decides that.
    pub fn control(&self) -> CircuitControl {
        self.lock().state().1
    }

    /// Calls, failed calls and slow calls that it remembers.
    pub fn remembers(&self) -> (u32, u32, u32) {
        self.lock().remembers(rt::now())
    }

    /// Refuses every call, until [`close`](Self::close) or [`reset`](Self::reset).
    pub fn open(&self) {
        self.hold(CircuitControl::HeldOpen);
    }

    /// Lets every call through whatever calls show, until [`open`](Self::open) or [`reset`](Self::reset).
    pub fn close(&self) {
        self.hold(CircuitControl::HeldClosed);
    }

    /// Gives the decision back to what calls show; the circuit is closed and remembers nothing.
    pub fn reset(&self) {
        self.hold(CircuitControl::Calls);
    }

    fn hold(&self, control: CircuitControl) {
        let mut circuit = self.lock();
        let before = circuit.state().0;
        circuit.control(control, rt::now());
        let (now, control) = circuit.state();
        drop(circuit);
        tracing::warn!(service = self.service(), control = control.as_str(), "the circuit is in an operator's hands");
        if now != before {
            self.tell(now);
        }
    }

    pub(crate) fn set_policy(&self, policy: CircuitPolicy) {
        let mut circuit = self.lock();
        if *circuit.policy() != policy {
            circuit.set_policy(policy, rt::now());
        }
    }

    fn service(&self) -> &str {
        self.inner.series.service.as_deref().unwrap_or("the service")
    }

    /// Lets a call through, if it may be sent; nothing judges one that is let through although it would be refused.
    ///
    /// # Errors
    /// E031 while the service is left alone.
    pub(crate) fn admit(&self, now: Instant) -> Result<Option<Judge>, Error> {
        let mut circuit = self.lock();
        let policy = *circuit.policy();
        if policy.mode == Mode::Off {
            return Ok(None);
        }
        let overdue = circuit.overdue(now);
        let admitted = circuit.admit(now);
        drop(circuit);
        if overdue {
            self.tell(CircuitState::Open);
        }
        let refused = match admitted {
            Ok((pass, opened)) => {
                if opened {
                    self.tell(CircuitState::HalfOpen);
                }
                return Ok(Some(Judge { handle: self.clone(), pass, slow: None, open: true }));
            }
            Err(refused) => refused,
        };
        if policy.mode == Mode::Shadow || !policy.percentage.hit(&mut Rng::local()) {
            self.inner.series.shadow.inc();
            return Ok(None);
        }
        self.inner.series.refused.inc();
        Err(self.refusal(refused))
    }

    #[cold]
    fn refusal(&self, refused: Refused) -> Error {
        let service = self.service();
        let (after, why) = match refused {
            Refused::ByHand => (None, format!("the circuit of `{service}` was opened by hand; `reset` gives it back")),
            Refused::Probing => {
                (None, format!("most calls to `{service}` failed; a few are on their way to see whether they still do"))
            }
            Refused::Open(left) => (
                Some(left),
                format!("most calls to `{service}` failed or were slow; it is left alone for {left:.1?} more"),
            ),
        };
        let error = Error::new(Code::CircuitOpen, why);
        match after {
            Some(after) => error.with_retry_after(after),
            None => error,
        }
    }

    fn ended(&self, pass: Pass, verdict: Verdict, slow: bool, now: Instant) {
        let changed = self.lock().ended(pass, verdict, slow, now);
        if let Some(state) = changed {
            self.tell(state);
        }
    }

    #[cold]
    fn tell(&self, state: CircuitState) {
        let (series, service) = (&self.inner.series, self.service());
        let (value, changes) = match state {
            CircuitState::Closed => (0, &series.closed),
            CircuitState::HalfOpen => (1, &series.half_opened),
            CircuitState::Open => (2, &series.opened),
        };
        series.state.set(value);
        changes.inc();
        match state {
            CircuitState::Open => tracing::warn!(service, "the circuit is open: calls are refused"),
            _ => tracing::info!(service, "the circuit is {}", state.as_str()),
        }
    }
}

/// A call that was let through, until it is judged. Dropped before, it says nothing.
#[derive(Debug)]
pub(crate) struct Judge {
    handle: CircuitHandle,
    pass: Pass,
    /// Whether the headers came late, once they came.
    slow: Option<bool>,
    open: bool,
}

impl Judge {
    /// The headers are there. Where they do not tell, the end does; except for a call that is to show how the service
    /// does, since a stream may last for hours.
    pub(crate) fn answered(&mut self, verdict: classify::Verdict) {
        self.slow = Some(self.is_late());
        match verdict {
            classify::Verdict::Final(outcome) => self.close(outcome),
            classify::Verdict::AtTrailers if self.pass.probe => self.close(Outcome::Success),
            classify::Verdict::AtTrailers => {}
        }
    }

    fn is_late(&self) -> bool {
        let waited = rt::now().saturating_duration_since(self.pass.began);
        waited >= self.handle.lock().policy().slow_call_duration
    }

    /// It is over. The first word counts.
    pub(crate) fn close(&mut self, outcome: Outcome) {
        self.judge(verdict(outcome));
    }

    /// Nobody waits for it any more, and it had no answer when others have long had one.
    pub(crate) fn unanswered(&mut self) {
        self.judge(Verdict::Failed);
    }

    fn judge(&mut self, verdict: Verdict) {
        if std::mem::take(&mut self.open) {
            let slow = self.slow.unwrap_or_else(|| self.is_late());
            self.handle.ended(self.pass, verdict, slow, rt::now());
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.judge(Verdict::Ignored);
    }
}

/// Overload is the throttle's to answer, and what this process did says nothing about the service.
fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Success | Outcome::Rejected | Outcome::Upgraded => Verdict::Succeeded,
        Outcome::GatewayFailure
        | Outcome::ServerFailure
        | Outcome::MissingStatus
        | Outcome::ConnectFailure
        | Outcome::Reset
        | Outcome::ProtocolFailure
        | Outcome::BodyFailure
        | Outcome::Timeout => Verdict::Failed,
        Outcome::RateLimited
        | Outcome::Shed
        | Outcome::Unprocessed
        | Outcome::DeadlineExpired
        | Outcome::Cancelled
        | Outcome::CallerBodyFailure
        | Outcome::LocalRefusal
        | Outcome::OwnCredential
        | Outcome::Injected
        | Outcome::HedgeLoser
        | Outcome::Mirror
        | Outcome::DirectResponse => Verdict::Ignored,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_call_is_slow_by_its_headers_and_not_by_its_body() {
        let policy = CircuitPolicy { slow_call_duration: SECOND, minimum_calls: 2, ..CircuitPolicy::default() };
        let handle = CircuitHandle::new(policy, CircuitSeries::default());
        let mut quick = handle.admit(rt::now()).unwrap().unwrap();
        quick.answered(classify::Verdict::AtTrailers);
        let mut late = handle.admit(rt::now()).unwrap().unwrap();
        rt::sleep(SECOND).await;
        quick.close(Outcome::Success);
        late.answered(classify::Verdict::Final(Outcome::Success));
        late.close(Outcome::ServerFailure);
        assert_eq!(handle.remembers(), (2, 0, 1));
        // Given up late.
        let given_up = handle.admit(rt::now()).unwrap();
        rt::sleep(SECOND).await;
        drop(given_up);
        drop(handle.admit(rt::now()).unwrap());
        assert_eq!(handle.remembers(), (3, 0, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_made_for_a_share_of_calls_or_only_counted() {
        let open = |policy: CircuitPolicy| {
            let handle = CircuitHandle::new(policy, CircuitSeries::default());
            handle.open();
            handle
        };
        let shadow = open(CircuitPolicy { mode: Mode::Shadow, ..CircuitPolicy::default() });
        assert!((0..100).all(|_| shadow.admit(rt::now()).unwrap().is_none()));
        assert_eq!(shadow.inner.series.shadow.get(), 100);
        Rng::seed_local(1);
        let percentage = crate::enforcement::Percent::new(25.0).unwrap();
        let some = open(CircuitPolicy { percentage, ..CircuitPolicy::default() });
        let refused = (0..10_000).filter(|_| some.admit(rt::now()).is_err()).count();
        assert!((2_300..2_700).contains(&refused), "{refused}");
        let off = open(CircuitPolicy { mode: Mode::Off, ..CircuitPolicy::default() });
        assert!(off.admit(rt::now()).unwrap().is_none());
    }
}
