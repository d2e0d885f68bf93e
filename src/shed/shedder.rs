//! Admission: one decision from what is in flight, how late the process is, and how important the request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    adaptive::{AdaptivePolicy, Controller, Ended, Sample},
    levels::{Level, Levels},
    policy::ShedPolicy,
    series::Series,
};
use crate::{
    context::Criticality,
    enforcement::{Mode, Percent},
    rt::{Instant, Rng},
};

/// What admission asks of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) criticality: Criticality,
    /// Requests of one user stand or fall together.
    pub(crate) user: Option<&'a str>,
    pub(crate) at: Instant,
}

/// Why a request is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// So many are in work.
    InFlight(u32),
    /// Tasks that are ready wait so long.
    Lag(Duration),
    /// Others are more important.
    Level,
}

impl Cause {
    pub(super) const ALL: [&'static str; 3] = ["in_flight", "lag", "level"];

    pub(super) fn index(self) -> usize {
        match self {
            Self::InFlight(_) => 0,
            Self::Lag(_) => 1,
            Self::Level => 2,
        }
    }
}

/// What both policies say.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Policies {
    pub(crate) shed: Option<ShedPolicy>,
    pub(crate) adaptive: Option<AdaptivePolicy>,
}

impl Policies {
    /// Nothing that is off.
    pub(crate) fn new(shed: Option<&ShedPolicy>, adaptive: Option<&AdaptivePolicy>) -> Self {
        Self {
            shed: shed.filter(|policy| policy.mode != Mode::Off).copied(),
            adaptive: adaptive.filter(|policy| policy.mode != Mode::Off).copied(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shed.is_none() && self.adaptive.is_none()
    }
}

/// The policies with the state they act on.
#[derive(Debug)]
pub(crate) struct Shedder {
    policies: Policies,
    adaptive: Option<Arc<Controller>>,
    shared: Arc<Shared>,
    series: Series,
}

/// What outlives a change of policy.
#[derive(Debug)]
struct Shared {
    in_flight: AtomicU32,
    levels: Levels,
}

impl Shedder {
    /// A shedder in place of another: what is in flight stays counted, and a limit that was found is where the next begins.
    pub(crate) fn make(policies: Policies, before: Option<&Self>, series: Series, now: Instant) -> Arc<Self> {
        let found = before.and_then(|before| before.adaptive.as_ref());
        let adaptive = policies.adaptive.map(|policy| match found {
            Some(found) if *found.policy() == policy => Arc::clone(found),
            found => Arc::new(Controller::new(policy, found.map(|found| found.limit()), now, Rng::local())),
        });
        let shared = before
            .map(|before| Arc::clone(&before.shared))
            .unwrap_or_else(|| Arc::new(Shared { in_flight: AtomicU32::new(0), levels: Levels::new(now) }));
        Arc::new(Self { policies, adaptive, shared, series })
    }

    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Whether lag has to be measured.
    pub(crate) fn looks_at_lag(&self) -> bool {
        self.policies.shed.is_some_and(|policy| policy.max_lag.is_some())
    }

    /// Lets a request in, or not. Never more at a time than the limit, however many threads ask.
    pub(crate) fn admit(self: &Arc<Self>, asked: &Asked<'_>, lag: Duration, rng: &mut Rng) -> Result<Admitted, Cause> {
        let Shared { in_flight, levels } = &*self.shared;
        let level = levels.level(asked.criticality, asked.user, asked.at, rng);
        let decided =
            if levels.arrive(level, asked.at, rng) { self.enter(level, lag) } else { Err((Cause::Level, self.any())) };
        let taken = match decided {
            Ok(taken) => taken,
            Err((cause, (mode, percentage))) => {
                if let Cause::InFlight(_) | Cause::Lag(_) = cause {
                    levels.refused(level);
                }
                if mode == Mode::Enforce && percentage.hit(rng) {
                    self.series.shed(cause, asked.criticality);
                    return Err(cause);
                }
                self.series.shadow();
                in_flight.fetch_add(1, Relaxed) + 1
            }
        };
        let sample = self.adaptive.as_ref().map(|adaptive| adaptive.admitted(asked.at, taken));
        Ok(Admitted { shedder: Arc::clone(self), sample })
    }

    /// Takes a place, and says how many are taken then.
    fn enter(&self, level: Level, lag: Duration) -> Result<u32, (Cause, (Mode, Percent))> {
        let kept = self.shared.levels.is_below_top(level);
        if let Some(ShedPolicy { max_lag: Some(max), percentage, mode, .. }) = self.policies.shed {
            let max = if kept { max / 10 * 9 } else { max };
            if lag > max {
                return Err((Cause::Lag(lag), (mode, percentage)));
            }
        }
        let fixed = self.policies.shed.and_then(|policy| Some((policy.max_in_flight?, policy.mode, policy.percentage)));
        let found = self.adaptive.as_ref().map(|adaptive| {
            let policy = adaptive.policy();
            (adaptive.limit(), policy.mode, policy.percentage)
        });
        let limit = match (fixed, found) {
            (Some(fixed), Some(found)) if found.0 < fixed.0 => Some(found),
            (fixed, found) => fixed.or(found),
        };
        let Some((limit, mode, percentage)) = limit else {
            return Ok(self.shared.in_flight.fetch_add(1, Relaxed) + 1);
        };
        // The last tenth is for the most critical of what arrives.
        let limit = if kept { limit - limit / 10 } else { limit };
        let more = |taken: u32| (taken < limit).then_some(taken + 1);
        match self.shared.in_flight.fetch_update(Relaxed, Relaxed, more) {
            Ok(before) => Ok(before + 1),
            Err(taken) => Err((Cause::InFlight(taken), (mode, percentage))),
        }
    }

    /// The stricter of what the policies say about requests that are refused by level.
    fn any(&self) -> (Mode, Percent) {
        let shed = self.policies.shed.map(|policy| (policy.mode, policy.percentage));
        let adaptive = self.policies.adaptive.map(|policy| (policy.mode, policy.percentage));
        let enforced = shed.into_iter().chain(adaptive).filter(|(mode, _)| *mode == Mode::Enforce);
        enforced.max_by_key(|(_, percentage)| *percentage).unwrap_or((Mode::Shadow, Percent::ALL))
    }

    /// For the gauges.
    pub(crate) fn report(&self) {
        let limit = self.adaptive.as_ref().map(|adaptive| adaptive.limit());
        self.series.report(self.shared.in_flight.load(Relaxed), limit);
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> u32 {
        self.shared.in_flight.load(Relaxed)
    }
}

/// A request that is in work.
#[derive(Debug)]
pub(crate) struct Admitted {
    shedder: Arc<Shedder>,
    sample: Option<Sample>,
}

impl Admitted {
    /// It has ended. `now` is asked only if somebody wants to know.
    pub(super) fn leave(self, ended: Ended, now: impl FnOnce() -> Instant) {
        self.shedder.shared.in_flight.fetch_sub(1, Relaxed);
        if let (Some(sample), Some(adaptive)) = (self.sample, &self.shedder.adaptive) {
            adaptive.ended(sample, now(), ended);
        }
    }
}
