//! How long an endpoint stays out, and how it comes back.

use std::time::Duration;

use super::{Cause, OutlierPolicy, Recovery, Sample};
use crate::rt::{Instant, Rng};

/// A probe without an answer counts as failed after this.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// For so long only a call that may be repeated is taken as the probe.
const PREFER_IDEMPOTENT: Duration = Duration::from_secs(1);

/// Usable -> ejected -> on probation -> usable, or ejected again and for longer.
///
/// ```text
///           a detector's word                    the time is over
///   usable -------------------> ejected -----------------------------> on probation
///     ^                            ^       (recovery: time -> usable)   |        |
///     |                            +------ the probe failed ------------+        |
///     +----------------------------------- the probe went well ------------------+
/// ```
#[derive(Debug, Default)]
pub(crate) struct Ejection {
    state: State,
    /// The next ejection lasts one base time more than this many. Forgiven one by one.
    times: u32,
    /// When it was last forgiven, or came back.
    forgiven: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Usable,
    Ejected {
        cause: Cause,
        since: Instant,
        until: Instant,
    },
    Probation {
        cause: Cause,
        ejected: Instant,
        since: Instant,
        /// The call that was sent, and when it counts as failed.
        probe: Option<Instant>,
    },
}

/// What time or a probe changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// It was ejected, once more.
    Ejected,
    /// It is on probation.
    Probation,
    /// It is back.
    Back,
}

/// The ejection of an endpoint, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Account {
    pub(crate) cause: Cause,
    pub(crate) since: Instant,
    /// Unless it is over and a probe is waited for.
    pub(crate) until: Option<Instant>,
}

impl Ejection {
    /// After what a probe without an answer has failed, and for how long only a call that may be repeated is one.
    pub(crate) const PROBE: (Duration, Duration) = (PROBE_LIMIT, PREFER_IDEMPOTENT);

    /// Takes the endpoint out.
    pub(crate) fn eject(&mut self, cause: Cause, now: Instant, policy: &OutlierPolicy, rng: &mut Rng) {
        self.forgive(now, policy);
        self.times = self.times.saturating_add(1);
        let longest = policy.max_ejection_time.max(policy.base_ejection_time);
        let lasts = policy.base_ejection_time.checked_mul(self.times).map_or(longest, |lasts| lasts.min(longest));
        let until = now + lasts + part(policy.max_ejection_time_jitter, rng);
        self.state = State::Ejected { cause, since: now, until };
    }

    /// Whether time could change anything.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.state, State::Ejected { .. } | State::Probation { probe: Some(_), .. })
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, now: Instant, policy: &OutlierPolicy, rng: &mut Rng) -> Option<Change> {
        match self.state {
            State::Ejected { cause, since, until } if now >= until => match policy.recovery {
                Recovery::Probation => {
                    self.state = State::Probation { cause, ejected: since, since: now, probe: None };
                    Some(Change::Probation)
                }
                Recovery::Time => Some(self.back(now)),
            },
            State::Probation { cause, probe: Some(until), .. } if now >= until => {
                self.eject(cause, now, policy, rng);
                Some(Change::Ejected)
            }
            _ => None,
        }
    }

    /// Whether a call could be the probe.
    pub(crate) fn wants_probe(&self, idempotent: bool, now: Instant) -> bool {
        match self.state {
            State::Probation { probe: None, since, .. } => {
                idempotent || now.saturating_duration_since(since) >= PREFER_IDEMPOTENT
            }
            _ => false,
        }
    }

    /// Makes a call the probe, unless there is one.
    pub(crate) fn probe(&mut self, idempotent: bool, now: Instant, deadline: Option<Instant>) -> bool {
        if !self.wants_probe(idempotent, now) {
            return false;
        }
        if let State::Probation { probe, .. } = &mut self.state {
            let limit = now + PROBE_LIMIT;
            *probe = Some(deadline.map_or(limit, |deadline| deadline.min(limit)));
        }
        true
    }

    /// What the probe found. One that says nothing, such as a call that was given up early, leaves its place to another.
    pub(crate) fn probed(
        &mut self,
        found: Sample,
        now: Instant,
        policy: &OutlierPolicy,
        rng: &mut Rng,
    ) -> Option<Change> {
        let State::Probation { cause, probe: probe @ Some(_), .. } = &mut self.state else { return None };
        let (late, cause) = (probe.is_some_and(|until| now >= until), *cause);
        match found {
            Sample::Success => Some(self.back(now)),
            Sample::Neutral if !late => {
                *probe = None;
                None
            }
            _ => {
                self.eject(cause, now, policy, rng);
                Some(Change::Ejected)
            }
        }
    }

    /// The ejection for whoever takes the endpoint's place. A probe that is on its way reports to the old one.
    pub(crate) fn handed_on(&self) -> Self {
        let mut state = self.state;
        if let State::Probation { probe, .. } = &mut state {
            *probe = None;
        }
        Self { state, ..*self }
    }

    /// Takes it back if it was ejected for want of answers.
    pub(crate) fn lift(&mut self, now: Instant) -> Option<Change> {
        let local = matches!(self.state, State::Ejected { cause: Cause::ConsecutiveLocalOriginFailure, .. });
        local.then(|| self.back(now))
    }

    /// Takes it back without asking: detection was switched off.
    pub(crate) fn pardon(&mut self) -> bool {
        std::mem::take(self).state != State::Usable
    }

    /// The ejection that is not over yet.
    pub(crate) fn account(&self) -> Option<Account> {
        match self.state {
            State::Usable => None,
            State::Ejected { cause, since, until } => Some(Account { cause, since, until: Some(until) }),
            State::Probation { cause, ejected, .. } => Some(Account { cause, since: ejected, until: None }),
        }
    }

    fn back(&mut self, now: Instant) -> Change {
        self.state = State::Usable;
        self.forgiven = Some(now);
        Change::Back
    }

    /// One ejection less for each interval since it is back.
    fn forgive(&mut self, now: Instant, policy: &OutlierPolicy) {
        let (State::Usable, Some(forgiven)) = (self.state, self.forgiven) else { return };
        let intervals = now.saturating_duration_since(forgiven).as_nanos() / policy.interval.as_nanos().max(1);
        let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
        self.times = self.times.saturating_sub(intervals);
        if intervals > 0 {
            self.forgiven = Some(forgiven + policy.interval.saturating_mul(intervals).min(now - forgiven));
        }
    }
}

/// Between nothing and `most`.
fn part(most: Duration, rng: &mut Rng) -> Duration {
    most.mul_f64(f64::from(rng.below(1_001)) / 1_000.0)
}
