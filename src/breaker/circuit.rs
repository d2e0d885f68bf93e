//! When to leave a service alone: closed, open, half-open.
//!
//! Calls are judged by when they began: one from before the circuit opened neither closes it nor opens it again.

use std::{mem, time::Duration};

use super::{
    policy::CircuitPolicy,
    recent::{Recent, Sums},
    state::{CircuitControl, CircuitState},
};
use crate::{
    enforcement::{Mode, Percent},
    rt::Instant,
};

/// How a call did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Succeeded,
    Failed,
    /// It says nothing about the service.
    Ignored,
}

/// A call that was let through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// Which time of being closed or half-open it belongs to.
    pub(super) era: u64,
    /// It is to show how the service does.
    pub(super) probe: bool,
}

/// Why a call is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// It stays open for so long.
    Open(Duration),
    /// As many as may find out how the service does are on their way.
    Probing,
    ByHand,
}

/// A round of so many calls that all succeed closes the circuit.
const CONVINCING: u32 = 8;

/// The circuit of one service.
#[derive(Debug)]
pub(super) struct Circuit {
    policy: CircuitPolicy,
    control: CircuitControl,
    phase: Phase,
    /// How long it stays open next time.
    wait: Duration,
    era: u64,
    recent: Recent,
    /// Where the successes belong that are counted [elsewhere](super::gate).
    slot: u64,
    /// Everything was forgotten since that was asked.
    forgot: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { round: u32, begun: u32, succeeded: u32, last: Instant },
}

impl Circuit {
    pub(super) fn new(policy: CircuitPolicy, now: Instant) -> Self {
        Self {
            control: CircuitControl::Calls,
            phase: Phase::Closed,
            wait: policy.wait_in_open,
            era: 0,
            recent: Recent::new(policy.window, now),
            slot: 0,
            forgot: true,
            policy,
        }
    }

    pub(super) fn policy(&self) -> &CircuitPolicy {
        &self.policy
    }

    /// Goes on under another policy: what it does stays, what it remembers of calls does not.
    pub(super) fn set_policy(&mut self, policy: CircuitPolicy, now: Instant) {
        self.wait = self.wait.clamp(policy.wait_in_open, policy.max_wait_in_open);
        self.policy = policy;
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        self.recent = Recent::new(self.policy.window, now);
        self.forgot = true;
    }

    /// Whether everything was forgotten since this was asked.
    pub(super) fn has_forgotten(&mut self) -> bool {
        mem::take(&mut self.forgot)
    }

    /// The era that calls belong to, and whether it lets all of them through.
    pub(super) fn era(&self) -> (u64, bool) {
        let closed = matches!(self.phase, Phase::Closed) && self.control != CircuitControl::HeldOpen;
        (self.era, closed && self.policy.mode != Mode::Off)
    }

    /// Until when successes may be counted elsewhere; from now on in the part of the window that this moment belongs to.
    pub(super) fn elsewhere(&mut self, now: Instant) -> Option<Instant> {
        let (slot, until) = self.recent.slot(now)?;
        self.slot = slot;
        Some(until)
    }

    /// So many successes were counted elsewhere.
    pub(super) fn succeeded(&mut self, calls: u32) {
        self.recent.succeeded(self.slot, calls);
    }

    /// Lets a call through. `true` if it was the first to find that the time of being open is over.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(Pass, bool), Refused> {
        let mut opened = false;
        match self.control {
            CircuitControl::HeldOpen => return Err(Refused::ByHand),
            CircuitControl::HeldClosed => return Ok((Pass { era: self.era, probe: false }, false)),
            CircuitControl::Calls => {}
        }
        if let Phase::Open { until } = self.phase {
            if now < until {
                return Err(Refused::Open(until - now));
            }
            self.phase = Phase::HalfOpen { round: self.policy.half_open_calls, begun: 0, succeeded: 0, last: now };
            self.era += 1;
            opened = true;
        }
        let Phase::HalfOpen { round, begun, last, .. } = &mut self.phase else {
            return Ok((Pass { era: self.era, probe: false }, false));
        };
        if *begun == *round {
            return Err(Refused::Probing);
        }
        (*begun, *last) = (*begun + 1, now);
        Ok((Pass { era: self.era, probe: true }, opened))
    }

    /// A probe that does not end has failed, or nobody would ever find out. To be asked before [`admit`](Self::admit).
    pub(super) fn overdue(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::HalfOpen { round, begun, last, .. }
                if begun == round && now.saturating_duration_since(last) >= self.policy.slow_call_duration =>
            {
                self.open(now);
                true
            }
            _ => false,
        }
    }

    /// Counts how a call did. The state, if that changed it.
    pub(super) fn ended(&mut self, pass: Pass, verdict: Verdict, slow: bool, now: Instant) -> Option<CircuitState> {
        if pass.era != self.era {
            return None;
        }
        match self.phase {
            Phase::HalfOpen { .. } => self.probed(verdict, slow, now),
            // One that was given up late is slow.
            Phase::Closed if verdict != Verdict::Ignored || slow => {
                self.recent.add(verdict == Verdict::Failed, slow, now);
                if verdict == Verdict::Failed || slow { self.judge(now) } else { None }
            }
            _ => None,
        }
    }

    /// Opens, if what is remembered is bad enough.
    fn judge(&mut self, now: Instant) -> Option<CircuitState> {
        let Sums { calls, failed, slow } = self.recent.sums(now);
        let over = |count: u32, threshold: Percent| {
            u64::from(count) * 1_000_000 >= u64::from(calls) * u64::from(threshold.millionths())
        };
        let bad = over(failed, self.policy.failure_rate_threshold) || over(slow, self.policy.slow_call_rate_threshold);
        if calls < self.policy.minimum_calls || !bad || self.control != CircuitControl::Calls {
            return None;
        }
        Some(self.open(now))
    }

    fn open(&mut self, now: Instant) -> CircuitState {
        self.phase = Phase::Open { until: now + self.wait };
        self.wait = (self.wait * 2).min(self.policy.max_wait_in_open);
        self.era += 1;
        CircuitState::Open
    }

    /// A call of the half-open circuit has ended.
    fn probed(&mut self, verdict: Verdict, slow: bool, now: Instant) -> Option<CircuitState> {
        let Phase::HalfOpen { round, begun, succeeded, .. } = &mut self.phase else { return None };
        match verdict {
            // Somebody else may find out.
            Verdict::Ignored if !slow => {
                *begun -= 1;
                None
            }
            Verdict::Succeeded if !slow => {
                *succeeded += 1;
                if *succeeded < *round {
                    return None;
                }
                if *round < CONVINCING {
                    (*round, *begun, *succeeded) = (*round * 2, 0, 0);
                    return None;
                }
                self.close(now);
                Some(CircuitState::Closed)
            }
            _ => Some(self.open(now)),
        }
    }

    fn close(&mut self, now: Instant) {
        self.phase = Phase::Closed;
        self.wait = self.policy.wait_in_open;
        self.forget(now);
        self.era += 1;
    }

    /// Gives the decision to an operator, or back to what calls show; it then is closed and remembers nothing.
    pub(super) fn control(&mut self, control: CircuitControl, now: Instant) {
        self.control = control;
        self.close(now);
    }

    /// What it does, and who decides that.
    pub(super) fn state(&self) -> (CircuitState, CircuitControl) {
        let state = match (self.control, self.phase) {
            (CircuitControl::HeldOpen, _) | (CircuitControl::Calls, Phase::Open { .. }) => CircuitState::Open,
            (CircuitControl::Calls, Phase::HalfOpen { .. }) => CircuitState::HalfOpen,
            _ => CircuitState::Closed,
        };
        (state, self.control)
    }

    /// Calls, failed calls and slow calls that it remembers.
    pub(super) fn remembers(&mut self, now: Instant) -> (u32, u32, u32) {
        let Sums { calls, failed, slow } = self.recent.sums(now);
        (calls, failed, slow)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{breaker::CircuitWindow, rt};

    const SECOND: Duration = Duration::from_secs(1);

    fn circuit() -> (Circuit, Instant) {
        let now = rt::now();
        (Circuit::new(CircuitPolicy::default(), now), now)
    }

    fn call(circuit: &mut Circuit, now: Instant, verdict: Verdict) -> bool {
        match circuit.admit(now) {
            Ok((pass, _)) => {
                circuit.ended(pass, verdict, false, now);
                true
            }
            Err(_) => false,
        }
    }

    fn alternating(n: u32) -> Verdict {
        if n.is_multiple_of(2) { Verdict::Succeeded } else { Verdict::Failed }
    }

    fn opened(circuit: &mut Circuit, now: Instant) {
        for n in 0..20 {
            assert!(call(circuit, now, alternating(n)));
        }
        assert_eq!(circuit.state().0, CircuitState::Open);
    }

    #[test]
    fn it_opens_when_half_of_twenty_calls_fail_and_not_before() {
        let (mut circuit, now) = circuit();
        for n in 0..18 {
            assert!(call(&mut circuit, now, alternating(n)));
        }
        assert!(call(&mut circuit, now, Verdict::Ignored));
        assert_eq!(circuit.state().0, CircuitState::Closed);
        assert!(call(&mut circuit, now, Verdict::Succeeded) && call(&mut circuit, now, Verdict::Failed));
        assert_eq!(circuit.admit(now + SECOND).unwrap_err(), Refused::Open(4 * SECOND));
    }

    #[test]
    fn slow_calls_open_it_too() {
        let now = rt::now();
        let policy = CircuitPolicy { slow_call_duration: SECOND, ..CircuitPolicy::default() };
        let mut circuit = Circuit::new(policy, now);
        for n in 0..20 {
            assert_eq!(circuit.state().0, CircuitState::Closed, "{n}");
            let (pass, _) = circuit.admit(now).unwrap();
            circuit.ended(pass, Verdict::Ignored, true, now);
        }
        assert_eq!(circuit.state().0, CircuitState::Open);
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let (mut circuit, now) = circuit();
        (0..15).for_each(|_| _ = call(&mut circuit, now, Verdict::Failed));
        (0..15).for_each(|_| _ = call(&mut circuit, now + 11 * SECOND, Verdict::Failed));
        assert_eq!(circuit.state().0, CircuitState::Closed);
        (0..5).for_each(|_| _ = call(&mut circuit, now + 19 * SECOND, Verdict::Failed));
        assert_eq!(circuit.state().0, CircuitState::Open);
    }

    #[test]
    fn a_window_of_calls_knows_no_time() {
        let now = rt::now();
        let policy = CircuitPolicy { window: CircuitWindow::Calls(20), ..CircuitPolicy::default() };
        let mut circuit = Circuit::new(policy, now);
        (0..9).for_each(|_| _ = call(&mut circuit, now, Verdict::Failed));
        (0..11).for_each(|n| _ = call(&mut circuit, now + SECOND * 3600 * n, Verdict::Succeeded));
        assert_eq!(circuit.remembers(now), (20, 9, 0));
        // The oldest, a failure, leaves as this one comes.
        call(&mut circuit, now, Verdict::Failed);
        assert_eq!((circuit.remembers(now), circuit.state().0), ((20, 9, 0), CircuitState::Closed));
        (0..9).for_each(|_| _ = call(&mut circuit, now, Verdict::Succeeded));
        (0..8).for_each(|_| _ = call(&mut circuit, now, Verdict::Failed));
        assert_eq!((circuit.remembers(now), circuit.state().0), ((20, 9, 0), CircuitState::Closed));
        call(&mut circuit, now, Verdict::Failed);
        assert_eq!(circuit.state().0, CircuitState::Open);
    }

    #[test]
    fn one_then_two_then_four_then_eight_successes_close_it() {
        let (mut circuit, start) = circuit();
        opened(&mut circuit, start);
        let now = start + 5 * SECOND;
        for round in [1, 2, 4, 8] {
            let passes: Vec<_> = (0..round).map(|_| circuit.admit(now).unwrap().0).collect();
            assert_eq!(circuit.admit(now).unwrap_err(), Refused::Probing, "{round}");
            assert!(passes.iter().all(|pass| pass.probe));
            for pass in passes {
                assert_eq!(circuit.state().0, CircuitState::HalfOpen);
                circuit.ended(pass, Verdict::Succeeded, false, now);
            }
        }
        assert_eq!(circuit.state().0, CircuitState::Closed);
        assert_eq!(circuit.remembers(now), (0, 0, 0));
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_a_minute() {
        let (mut circuit, mut now) = circuit();
        opened(&mut circuit, now);
        for wait in [5, 10, 20, 40, 60, 60] {
            assert_eq!(circuit.admit(now).unwrap_err(), Refused::Open(wait * SECOND));
            now += wait * SECOND;
            assert!(call(&mut circuit, now, Verdict::Failed));
        }
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place_and_one_that_hangs_has_failed() {
        let (mut circuit, start) = circuit();
        opened(&mut circuit, start);
        let now = start + 5 * SECOND;
        assert!(call(&mut circuit, now, Verdict::Ignored));
        let (hanging, opened) = circuit.admit(now).unwrap();
        assert!(!opened, "it was half-open already");
        assert!(!circuit.overdue(now + 59 * SECOND) && circuit.admit(now + 59 * SECOND).is_err());
        assert!(circuit.overdue(now + 60 * SECOND));
        assert_eq!(circuit.admit(now + 60 * SECOND).unwrap_err(), Refused::Open(10 * SECOND));
        // Whatever it says in the end, it is of another time.
        assert_eq!(circuit.ended(hanging, Verdict::Succeeded, true, now + 61 * SECOND), None);
        assert_eq!(circuit.state().0, CircuitState::Open);
    }

    #[test]
    fn a_call_from_before_it_opened_does_not_count() {
        let (mut circuit, start) = circuit();
        let (late, _) = circuit.admit(start).unwrap();
        opened(&mut circuit, start);
        let now = start + 5 * SECOND;
        let (probe, _) = circuit.admit(now).unwrap();
        assert_eq!(circuit.ended(late, Verdict::Failed, false, now), None);
        assert_eq!(circuit.state().0, CircuitState::HalfOpen);
        assert_eq!(circuit.ended(probe, Verdict::Failed, false, now), Some(CircuitState::Open));
    }

    #[test]
    fn an_operator_holds_it_open_or_closed_and_gives_it_back() {
        let (mut circuit, now) = circuit();
        circuit.control(CircuitControl::HeldOpen, now);
        assert_eq!(circuit.admit(now + SECOND * 3600).unwrap_err(), Refused::ByHand);
        assert_eq!(circuit.state(), (CircuitState::Open, CircuitControl::HeldOpen));
        circuit.control(CircuitControl::HeldClosed, now);
        for _ in 0..100 {
            assert!(call(&mut circuit, now, Verdict::Failed));
        }
        assert_eq!(circuit.state(), (CircuitState::Closed, CircuitControl::HeldClosed));
        circuit.control(CircuitControl::Calls, now);
        opened(&mut circuit, now);
        circuit.control(CircuitControl::Calls, now);
        assert_eq!(circuit.state(), (CircuitState::Closed, CircuitControl::Calls));
    }

    #[test]
    fn another_policy_keeps_what_it_does() {
        let (mut circuit, now) = circuit();
        opened(&mut circuit, now);
        circuit.set_policy(CircuitPolicy { wait_in_open: SECOND, max_wait_in_open: 7 * SECOND, ..<_>::default() }, now);
        assert_eq!(circuit.admit(now).unwrap_err(), Refused::Open(5 * SECOND));
        assert!(call(&mut circuit, now + 5 * SECOND, Verdict::Failed));
        assert_eq!(circuit.admit(now + 5 * SECOND).unwrap_err(), Refused::Open(7 * SECOND));
    }

    proptest! {
        /// Whatever happens in which order: half-open never has more on their way than its round, and places return.
        #[test]
        fn half_open_admits_no_more_than_its_round(steps in proptest::collection::vec((0u8..5, 0u64..3000), 1..400)) {
            let (mut circuit, mut now) = circuit();
            let mut open: Vec<Pass> = Vec::new();
            for (kind, millis) in steps {
                now += Duration::from_millis(millis);
                match kind {
                    0 | 1 => {
                        circuit.overdue(now);
                        open.extend(circuit.admit(now).ok().map(|(pass, _)| pass));
                    }
                    kind => {
                        if let Some(pass) = open.pop() {
                            let verdict = [Verdict::Succeeded, Verdict::Failed, Verdict::Ignored][usize::from(kind) - 2];
                            circuit.ended(pass, verdict, false, now);
                        }
                    }
                }
                let probes = open.iter().filter(|pass| pass.probe && pass.era == circuit.era).count();
                prop_assert!(probes <= CONVINCING as usize);
                if let Phase::HalfOpen { round, begun, succeeded, .. } = circuit.phase {
                    prop_assert!(begun <= round && succeeded < round);
                    prop_assert_eq!(probes as u32 + succeeded, begun);
                }
            }
        }
    }
}
