//! A circuit that is shared: by the calls to a service, and by an operator.

use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    circuit::{Circuit, Pass, Refused, Verdict},
    gate::Gate,
    policy::CircuitPolicy,
    state::{CircuitControl, CircuitState},
};
use crate::{
    classify::{self, Outcome},
    enforcement::Mode,
    error::{Code, Error},
    instrument::{Counter, Gauge, Registry},
    rt::{self, Epoch, Instant, Rng},
};

/// The circuit of a service: what it does now, and the switch of an operator. Clones are the same circuit.
#[derive(Clone, Debug)]
pub struct CircuitHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    epoch: Epoch,
    gate: Gate,
    circuit: Mutex<Circuit>,
    series: CircuitSeries,
}

/// The circuit, looked at: it knows of all calls so far, and what becomes of it is known at the gate.
struct Locked<'a> {
    circuit: MutexGuard<'a, Circuit>,
    gate: &'a Gate,
}

impl Deref for Locked<'_> {
    type Target = Circuit;

    fn deref(&self) -> &Circuit {
        &self.circuit
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Circuit {
        &mut self.circuit
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let (era, closed) = self.circuit.era();
        self.gate.set(era, closed, nanos(self.circuit.policy().slow_call_duration));
        if self.circuit.has_forgotten() {
            // What was counted meanwhile is forgotten as well.
            self.gate.count_until(0);
            self.gate.take();
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
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
        let now = rt::now();
        let (epoch, circuit) = (Epoch::new(now), Mutex::new(Circuit::new(policy, now)));
        let handle = Self { inner: Arc::new(Inner { epoch, gate: Gate::new(), circuit, series }) };
        drop(handle.lock());
        handle
    }

    fn lock(&self) -> Locked<'_> {
        let (inner, gate) = (&self.inner, &self.inner.gate);
        let mut circuit = inner.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        circuit.succeeded(gate.take());
        Locked { circuit, gate }
    }

    #[inline]
    fn nanos(&self, now: Instant) -> u64 {
        self.inner.epoch.nanos(now)
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
    #[inline]
    pub(crate) fn admit(&self, now: Instant) -> Result<Option<Judge>, Error> {
        match self.inner.gate.era() {
            Some(era) => Ok(Some(self.judge(Pass { era, probe: false }, now))),
            None => self.ask(now),
        }
    }

    #[inline]
    fn judge(&self, pass: Pass, now: Instant) -> Judge {
        Judge { handle: self.clone(), pass, began: self.nanos(now), slow: None, open: true }
    }

    /// As [`admit`](Self::admit), of a circuit that is not simply closed.
    fn ask(&self, now: Instant) -> Result<Option<Judge>, Error> {
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
                return Ok(Some(self.judge(pass, now)));
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

    #[inline]
    fn ended(&self, pass: Pass, verdict: Verdict, slow: bool, now: Instant) {
        let gate = &self.inner.gate;
        let counted = match verdict {
            _ if slow => false,
            Verdict::Succeeded => gate.succeeded(pass.era, self.nanos(now)),
            Verdict::Ignored => gate.era() == Some(pass.era),
            Verdict::Failed => false,
        };
        if !counted {
            self.tell_circuit(pass, verdict, slow, now);
        }
    }

    fn tell_circuit(&self, pass: Pass, verdict: Verdict, slow: bool, now: Instant) {
        let mut circuit = self.lock();
        let changed = circuit.ended(pass, verdict, slow, now);
        let until = circuit.elsewhere(now).map_or(0, |until| self.nanos(until));
        circuit.gate.count_until(until);
        drop(circuit);
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
    /// By the handle's clock.
    began: u64,
    /// Whether the headers came late, once they came.
    slow: Option<bool>,
    open: bool,
}

impl Judge {
    /// The headers are there. Where they do not tell, the end does; except for a call that is to show how the service
    /// does, since a stream may last for hours.
    #[inline]
    pub(crate) fn answered(&mut self, verdict: classify::Verdict) {
        let now = rt::now();
        self.slow = Some(self.is_late(now));
        match verdict {
            classify::Verdict::Final(outcome) => self.judge(self::verdict(outcome), now),
            classify::Verdict::AtTrailers if self.pass.probe => self.judge(Verdict::Succeeded, now),
            classify::Verdict::AtTrailers => {}
        }
    }

    /// Whether it is still to be judged.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.open
    }

    #[inline]
    fn is_late(&self, now: Instant) -> bool {
        self.handle.inner.gate.is_slow(self.handle.nanos(now).saturating_sub(self.began))
    }

    /// It is over. The first word counts.
    pub(crate) fn close(&mut self, outcome: Outcome) {
        if self.open {
            self.judge(verdict(outcome), rt::now());
        }
    }

    /// Nobody waits for it any more, and it had no answer when others have long had one.
    pub(crate) fn unanswered(&mut self) {
        if self.open {
            self.judge(Verdict::Failed, rt::now());
        }
    }

    #[inline]
    fn judge(&mut self, verdict: Verdict, now: Instant) {
        if mem::take(&mut self.open) {
            let slow = self.slow.unwrap_or_else(|| self.is_late(now));
            self.handle.ended(self.pass, verdict, slow, now);
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        if self.open {
            self.judge(Verdict::Ignored, rt::now());
        }
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
