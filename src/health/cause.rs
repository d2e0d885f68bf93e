//! Why an endpoint is an outlier.

use std::fmt;

use super::{OutlierPolicy, history::LENGTH};

/// The detector that found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    /// Calls that got no answer for too long.
    Unanswered,
    WindowedSuccessRate,
    SuccessRate,
    LocalOriginSuccessRate,
    FailurePercentage,
    LocalOriginFailurePercentage,
}

impl Cause {
    pub(crate) const ALL: [Cause; 9] = [
        Cause::Consecutive5xx,
        Cause::ConsecutiveGatewayFailure,
        Cause::ConsecutiveLocalOriginFailure,
        Cause::Unanswered,
        Cause::WindowedSuccessRate,
        Cause::SuccessRate,
        Cause::LocalOriginSuccessRate,
        Cause::FailurePercentage,
        Cause::LocalOriginFailurePercentage,
    ];

    /// The label value, and the name of the detector in the configuration.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Cause::Consecutive5xx => "consecutive_5xx",
            Cause::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Cause::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Cause::Unanswered => "unanswered",
            Cause::WindowedSuccessRate => "windowed_success_rate",
            Cause::SuccessRate => "success_rate",
            Cause::LocalOriginSuccessRate => "local_origin_success_rate",
            Cause::FailurePercentage => "failure_percentage",
            Cause::LocalOriginFailurePercentage => "failure_percentage_local_origin",
        }
    }

    /// In how many of 100 cases it is acted upon.
    pub(super) fn enforcing(self, policy: &OutlierPolicy) -> u32 {
        match self {
            Cause::Consecutive5xx => policy.enforcing_consecutive_5xx,
            Cause::ConsecutiveGatewayFailure => policy.enforcing_consecutive_gateway_failure,
            Cause::ConsecutiveLocalOriginFailure | Cause::Unanswered => {
                policy.enforcing_consecutive_local_origin_failure
            }
            Cause::WindowedSuccessRate => 100,
            Cause::SuccessRate => policy.enforcing_success_rate,
            Cause::LocalOriginSuccessRate => policy.enforcing_local_origin_success_rate,
            Cause::FailurePercentage => policy.enforcing_failure_percentage,
            Cause::LocalOriginFailurePercentage => policy.enforcing_failure_percentage_local_origin,
        }
    }

    /// How many of an endpoint's last calls are compared with the others'. An endpoint that went silent shows it by the
    /// calls that made it suspect: its good past is no defence.
    pub(super) fn looks_back(self, policy: &OutlierPolicy) -> u32 {
        match (self, policy.consecutive_local_origin_failure) {
            (Cause::Unanswered, Some(in_a_row)) => in_a_row.saturating_mul(2).min(LENGTH),
            _ => LENGTH,
        }
    }

    /// Whether it is found by what was answered. Calls that wait speak for their endpoint then, and not where silence is
    /// the matter.
    pub(crate) fn is_of_answers(self) -> bool {
        !matches!(
            self,
            Cause::Unanswered
                | Cause::ConsecutiveLocalOriginFailure
                | Cause::LocalOriginSuccessRate
                | Cause::LocalOriginFailurePercentage
        )
    }

    /// Whether it says nothing unless the others do better. That calls are slow is no fault where all are: the median
    /// may not have caught up yet, or every call is one that waits.
    pub(super) fn compares(self) -> bool {
        self == Cause::Unanswered
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
