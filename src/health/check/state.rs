//! From findings to health, and to the time of the next check.

use std::time::Duration;

use super::HealthCheck;
use crate::rt::Rng;

/// What one check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// All is well.
    Passed,
    /// No answer, or one that may be given now and then.
    Failed,
    /// An answer that must not be given.
    Wrong,
    /// This process had no time to look.
    Unseen,
}

impl Finding {
    pub(crate) const ALL: [Finding; 4] = [Finding::Passed, Finding::Failed, Finding::Wrong, Finding::Unseen];

    /// The label value.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Finding::Passed => "passed",
            Finding::Failed => "failed",
            Finding::Wrong => "wrong",
            Finding::Unseen => "unseen",
        }
    }
}

/// What the checks of an endpoint say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Status {
    /// Nothing yet.
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Status::Unknown => "unknown",
            Status::Healthy => "healthy",
            Status::Unhealthy => "unhealthy",
        }
    }
}

/// One endpoint under one check.
#[derive(Debug, Default)]
pub(crate) struct CheckState {
    status: Status,
    /// In a row; each sets the other back to nothing.
    passes: u32,
    failures: u32,
    /// The next interval is the one after a change.
    edge: bool,
}

impl CheckState {
    /// With what others have found out before.
    pub(crate) fn with(known: Status) -> Self {
        Self { status: known, ..Self::default() }
    }

    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// Takes a finding. True if it changed the status.
    pub(crate) fn take(&mut self, finding: Finding, check: &HealthCheck) -> bool {
        let before = self.status;
        match finding {
            Finding::Unseen => return false,
            Finding::Passed => {
                self.failures = 0;
                self.passes = self.passes.saturating_add(1);
                if before == Status::Unknown || self.passes >= check.healthy_threshold {
                    self.status = Status::Healthy;
                }
            }
            Finding::Failed | Finding::Wrong => {
                self.passes = 0;
                self.failures = self.failures.saturating_add(1);
                if finding == Finding::Wrong || self.failures >= check.unhealthy_threshold {
                    self.status = Status::Unhealthy;
                }
            }
        }
        let changed = self.status != before;
        self.edge |= changed;
        changed
    }

    /// How long to wait before the first check.
    pub(crate) fn first(check: &HealthCheck, rng: &mut Rng) -> Duration {
        part(check.initial_jitter.unwrap_or(check.interval), rng)
    }

    /// How long to wait before the next one; `traffic` says whether the service is called at all.
    pub(crate) fn next(&mut self, check: &HealthCheck, traffic: bool, rng: &mut Rng) -> Duration {
        let edge = std::mem::take(&mut self.edge);
        let unhealthy = check.unhealthy_interval.unwrap_or(check.interval);
        let base = match self.status {
            Status::Unhealthy if edge => check.unhealthy_edge_interval.unwrap_or(unhealthy),
            Status::Healthy if edge => check.healthy_edge_interval.unwrap_or(check.interval),
            // Whether it fails for good is found out as fast with and without traffic.
            Status::Healthy | Status::Unknown if self.failures > 0 => check.interval,
            _ if !traffic => check.no_traffic_interval,
            Status::Unhealthy => unhealthy,
            Status::Healthy | Status::Unknown => check.interval,
        };
        base + part(check.interval_jitter, rng)
            + part(base.mul_f64(f64::from(check.interval_jitter_percent) / 100.0), rng)
    }
}

/// Between nothing and `most`.
fn part(most: Duration, rng: &mut Rng) -> Duration {
    most.mul_f64(f64::from(rng.below(1_001)) / 1_000.0)
}

#[cfg(test)]
mod tests {
    use Finding::{Failed, Passed, Unseen, Wrong};
    use Status::{Healthy, Unhealthy, Unknown};

    use super::*;

    fn check() -> HealthCheck {
        HealthCheck { interval_jitter_percent: 0, ..HealthCheck::tcp() }
    }

    fn run(findings: &[Finding]) -> Vec<Status> {
        let mut state = CheckState::default();
        let take = |finding: &Finding| {
            let before = state.status();
            let changed = state.take(*finding, &check());
            assert_eq!(changed, before != state.status());
            state.status()
        };
        findings.iter().map(take).collect()
    }

    #[test]
    fn the_first_pass_is_enough_and_then_thresholds_count_in_a_row() {
        assert_eq!(run(&[Passed]), [Healthy]);
        assert_eq!(run(&[Failed, Failed, Passed]), [Unknown, Unknown, Healthy]);
        assert_eq!(run(&[Failed, Failed, Failed]), [Unknown, Unknown, Unhealthy]);
        assert_eq!(
            run(&[Passed, Failed, Failed, Passed, Failed, Failed, Failed, Passed, Failed, Passed, Passed]),
            [Healthy, Healthy, Healthy, Healthy, Healthy, Healthy, Unhealthy, Unhealthy, Unhealthy, Unhealthy, Healthy]
        );
    }

    #[test]
    fn an_answer_that_must_not_be_given_counts_at_once() {
        assert_eq!(run(&[Wrong, Passed, Passed]), [Unhealthy, Unhealthy, Healthy]);
        assert_eq!(run(&[Passed, Wrong]), [Healthy, Unhealthy]);
    }

    #[test]
    fn what_was_not_seen_counts_for_nothing() {
        assert_eq!(run(&[Unseen, Unseen, Unseen]), [Unknown; 3]);
        assert_eq!(run(&[Failed, Failed, Unseen, Failed]), [Unknown, Unknown, Unknown, Unhealthy]);
    }

    #[test]
    fn each_state_has_its_interval_and_the_one_after_a_change_its_own() {
        let seconds = Duration::from_secs;
        let check = HealthCheck {
            unhealthy_interval: Some(seconds(10)),
            unhealthy_edge_interval: Some(seconds(1)),
            healthy_edge_interval: Some(seconds(2)),
            ..check()
        };
        let (mut state, mut rng) = (CheckState::default(), Rng::seeded(1));
        let mut after = |finding, traffic| {
            state.take(finding, &check);
            state.next(&check, traffic, &mut rng)
        };
        assert_eq!(after(Passed, true), seconds(2));
        assert_eq!(after(Passed, true), seconds(3));
        assert_eq!(after(Passed, false), seconds(60));
        assert_eq!(after(Failed, false), seconds(3), "a doubt is followed up");
        assert_eq!(after(Wrong, true), seconds(1));
        assert_eq!(after(Failed, true), seconds(10));
        assert_eq!(after(Failed, false), seconds(60));
        assert_eq!(after(Passed, true), seconds(10));
        assert_eq!(after(Passed, true), seconds(2));
    }

    #[test]
    fn jitter_is_added_within_its_bounds() {
        let check = HealthCheck {
            interval: Duration::from_secs(10),
            interval_jitter: Duration::from_secs(2),
            interval_jitter_percent: 50,
            ..check()
        };
        let mut rng = Rng::seeded(3);
        let mut state = CheckState::default();
        let waits: Vec<f64> = (0..2_000).map(|_| state.next(&check, true, &mut rng).as_secs_f64()).collect();
        assert!(waits.iter().all(|wait| (10.0..=17.0).contains(wait)));
        assert!(waits.iter().any(|wait| *wait < 10.5) && waits.iter().any(|wait| *wait > 16.5));
        let firsts: Vec<f64> = (0..2_000).map(|_| CheckState::first(&check, &mut rng).as_secs_f64()).collect();
        assert!(firsts.iter().all(|first| (0.0..=10.0).contains(first)));
        assert!(firsts.iter().any(|first| *first < 0.5) && firsts.iter().any(|first| *first > 9.5));
        let at_once = HealthCheck { initial_jitter: Some(Duration::ZERO), ..check };
        assert_eq!(CheckState::first(&at_once, &mut rng), Duration::ZERO);
    }
}
