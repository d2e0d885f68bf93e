//! What makes an endpoint an outlier, and what follows.

use std::time::Duration;

use crate::enforcement::Mode;

/// `outlier_detection` of a service. Names, and meanings where there is no other word here, are those of Envoy's
/// `envoy.config.cluster.v3.OutlierDetection`.
///
/// What differs from Envoy on purpose: detection is on; it works with two and three endpoints; a share of the endpoints
/// beyond a tenth is only ejected if they fail clearly more than the others, so that an overload of all is not answered
/// by taking capacity away; gRPC's status is read from the trailers; endpoints are counted by priority; and an endpoint
/// comes back by one real call that goes well, not by time alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct OutlierPolicy {
    /// Whether outliers are ejected, only reported, or not looked for. Default: ejected.
    pub enforcement: Mode,
    /// How often rates are judged, and an endpoint that stayed well is forgiven one ejection. Default 10 s, at least
    /// 1 s.
    pub interval: Duration,
    /// How long the first ejection lasts; the n-th lasts n times as long. Default 30 s, at least 1 s.
    pub base_ejection_time: Duration,
    /// No ejection lasts longer, before jitter. Default 300 s, at least `base_ejection_time`.
    pub max_ejection_time: Duration,
    /// Up to this much is added by chance, so that endpoints do not come back all at once. Default 3 s; 0 for none.
    pub max_ejection_time_jitter: Duration,
    /// No more than this share of the endpoints of one priority is ejected, though one may be where there are two or
    /// more. Default 50, 0 to 100. Beyond a tenth an endpoint must also fail by 0.5 more of its last 50 calls than
    /// the others of theirs. 0 ejects nothing.
    pub max_ejection_percent: u32,
    /// How an endpoint comes back.
    pub recovery: Recovery,
    /// Whether failures of this side of the wire (connections, resets, timeouts) are counted apart from the endpoint's
    /// answers. If not, they count as gateway failures. Default: apart.
    pub split_external_local_origin_errors: bool,

    /// This many answers in a row with a status of 500 to 599 or a gRPC status of UNKNOWN, INTERNAL, DATA_LOSS,
    /// UNAVAILABLE or DEADLINE_EXCEEDED. Default: none, because a request that always fails would eject endpoint after
    /// endpoint.
    pub consecutive_5xx: Option<u32>,
    /// In how many of 100 cases it is acted upon. Default 100.
    pub enforcing_consecutive_5xx: u32,
    /// This many answers in a row with 502, 503, 504, UNAVAILABLE or DEADLINE_EXCEEDED, none of them marked as shed.
    /// Default 5.
    pub consecutive_gateway_failure: Option<u32>,
    /// In how many of 100 cases it is acted upon. Default 100.
    pub enforcing_consecutive_gateway_failure: u32,
    /// This many calls in a row that got no answer: no connection, a reset, a timeout, or older than
    /// `unanswered_after`. Default 5.
    pub consecutive_local_origin_failure: Option<u32>,
    /// In how many of 100 cases it is acted upon. Default 100.
    pub enforcing_consecutive_local_origin_failure: u32,

    /// A call without response headers is a failure without an answer once it is this old and ten times as old as the
    /// service's median, whoever gives it up. Default 1 s, at least 100 ms. Calls that say that they wait (`prefer: wait`,
    /// event streams, upgrades) are left out, and nobody is ejected for it if the others do not answer either.
    pub unanswered_after: Option<Duration>,
    /// A success rate below this share of its peers' median, in an interval, in per cent. Default 80, 1 to 100.
    pub windowed_success_rate: Option<u32>,
    /// Calls in an interval without which an endpoint is neither judged by `windowed_success_rate` nor a peer; two peers
    /// are needed. Default 20, at least 1.
    pub windowed_request_volume: u32,

    /// In how many of 100 cases an endpoint is ejected whose success rate is below the mean of all by
    /// `success_rate_stdev_factor` standard deviations. Default 0: off.
    pub enforcing_success_rate: u32,
    /// The same for the rate of calls that got an answer at all, where the two are split. Default 0: off.
    pub enforcing_local_origin_success_rate: u32,
    /// Thousandths of standard deviations. Default 1900.
    pub success_rate_stdev_factor: u32,
    /// With fewer endpoints of enough calls it is not judged. Default 5.
    pub success_rate_minimum_hosts: u32,
    /// How many calls in an interval are enough. Default 100.
    pub success_rate_request_volume: u32,
    /// In how many of 100 cases an endpoint is ejected that fails `failure_percentage_threshold` of its calls in an
    /// interval. Default 0: off.
    pub enforcing_failure_percentage: u32,
    /// The same for calls that got no answer, where the two are split. Default 0: off.
    pub enforcing_failure_percentage_local_origin: u32,
    /// Per cent. Default 85.
    pub failure_percentage_threshold: u32,
    /// With fewer endpoints of enough calls it is not judged. Default 3 (Envoy: 5).
    pub failure_percentage_minimum_hosts: u32,
    /// How many calls in an interval are enough. Default 20 (Envoy: 50).
    pub failure_percentage_request_volume: u32,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            enforcement: Mode::Enforce,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::from_secs(3),
            max_ejection_percent: 50,
            recovery: Recovery::Probation,
            split_external_local_origin_errors: true,
            consecutive_5xx: None,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway_failure: Some(5),
            enforcing_consecutive_gateway_failure: 100,
            consecutive_local_origin_failure: Some(5),
            enforcing_consecutive_local_origin_failure: 100,
            unanswered_after: Some(Duration::from_secs(1)),
            windowed_success_rate: Some(80),
            windowed_request_volume: 20,
            enforcing_success_rate: 0,
            enforcing_local_origin_success_rate: 0,
            success_rate_stdev_factor: 1900,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            enforcing_failure_percentage: 0,
            enforcing_failure_percentage_local_origin: 0,
            failure_percentage_threshold: 85,
            failure_percentage_minimum_hosts: 3,
            failure_percentage_request_volume: 20,
        }
    }
}

impl OutlierPolicy {
    /// What is out of bounds: the field, and why.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let second = Duration::from_secs(1);
        let mut faults = Vec::new();
        for (key, value) in [
            ("interval", self.interval),
            ("base_ejection_time", self.base_ejection_time),
            ("max_ejection_time", self.max_ejection_time),
        ] {
            if value < second {
                faults.push((key, format!("{value:?} is too short: it must be at least 1s")));
            }
        }
        if self.unanswered_after.is_some_and(|after| after < Duration::from_millis(100)) {
            faults.push(("unanswered_after", "it is too short: it must be at least 100ms".into()));
        }
        for (key, value) in [
            ("max_ejection_percent", self.max_ejection_percent),
            ("enforcing_consecutive_5xx", self.enforcing_consecutive_5xx),
            ("enforcing_consecutive_gateway_failure", self.enforcing_consecutive_gateway_failure),
            ("enforcing_consecutive_local_origin_failure", self.enforcing_consecutive_local_origin_failure),
            ("enforcing_success_rate", self.enforcing_success_rate),
            ("enforcing_local_origin_success_rate", self.enforcing_local_origin_success_rate),
            ("enforcing_failure_percentage", self.enforcing_failure_percentage),
            ("enforcing_failure_percentage_local_origin", self.enforcing_failure_percentage_local_origin),
            ("failure_percentage_threshold", self.failure_percentage_threshold),
            ("windowed_success_rate", self.windowed_success_rate.unwrap_or(1)),
        ] {
            if value > 100 {
                faults.push((key, format!("{value} is out of bounds: it is per cent, at most 100")));
            }
        }
        for (key, value) in [
            ("consecutive_5xx", self.consecutive_5xx.unwrap_or(1)),
            ("consecutive_gateway_failure", self.consecutive_gateway_failure.unwrap_or(1)),
            ("consecutive_local_origin_failure", self.consecutive_local_origin_failure.unwrap_or(1)),
            ("windowed_success_rate", self.windowed_success_rate.unwrap_or(1)),
            ("windowed_request_volume", self.windowed_request_volume),
            ("success_rate_stdev_factor", self.success_rate_stdev_factor),
            ("success_rate_minimum_hosts", self.success_rate_minimum_hosts),
            ("success_rate_request_volume", self.success_rate_request_volume),
            ("failure_percentage_minimum_hosts", self.failure_percentage_minimum_hosts),
            ("failure_percentage_request_volume", self.failure_percentage_request_volume),
        ] {
            if value == 0 {
                faults.push((key, "0 is out of bounds: it must be at least 1".into()));
            }
        }
        faults
    }
}

/// How an endpoint comes back from an ejection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Recovery {
    /// One call is sent there: if it goes well the endpoint is back, if not it is ejected for longer.
    #[default]
    Probation,
    /// When the time is over, as in Envoy.
    Time,
}

impl Recovery {
    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probation => "probation",
            Self::Time => "time",
        }
    }
}
