//! Which faults are injected into which share of requests.

use std::time::Duration;

use http::StatusCode;

use crate::enforcement::{Mode, Percent};

/// Faults of one route: `fault`. Delay, abort and slow response are rolled independently, so 20 % of one and 5 % of
/// another touch 24 % of requests (Envoy's HTTP fault filter, gRPC A33).
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct FaultPolicy {
    /// Time before the request is sent. Default: none.
    pub delay: Option<FaultDelay>,
    /// An answer in place of the service's. Default: none.
    pub abort: Option<FaultAbort>,
    /// A response body slower than the service sends it. Default: none.
    pub response_rate_limit: Option<FaultRate>,
    /// How many calls may be under a fault at the same time; further ones go untouched. Default: no bound.
    pub max_active_faults: Option<u32>,
    /// After this the faults of a policy that was not changed end by themselves, since a forgotten fault is an outage.
    /// Default 1 h; `None` is for ever.
    pub expires_after: Option<Duration>,
    /// `shadow` rolls and counts, and injects nothing. Default `enforce`.
    pub mode: Mode,
}

impl Default for FaultPolicy {
    fn default() -> Self {
        Self {
            delay: None,
            abort: None,
            response_rate_limit: None,
            max_active_faults: None,
            expires_after: Some(Self::EXPIRES_AFTER),
            mode: Mode::Enforce,
        }
    }
}

impl FaultPolicy {
    /// The default of `expires_after`.
    pub const EXPIRES_AFTER: Duration = Duration::from_secs(3600);
    /// The longest delay that may be configured.
    pub const MAX_DELAY: Duration = Duration::from_secs(3600);

    /// No faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Delays a share of requests.
    #[must_use]
    pub fn delay(mut self, delay: Delay, percentage: Percent) -> Self {
        self.delay = Some(FaultDelay { delay, percentage });
        self
    }

    /// Aborts a share of requests.
    #[must_use]
    pub fn abort(mut self, abort: Abort, percentage: Percent) -> Self {
        self.abort = Some(FaultAbort { abort, percentage });
        self
    }

    /// Slows the response bodies of a share of requests.
    #[must_use]
    pub fn response_rate_limit(mut self, rate: Rate, percentage: Percent) -> Self {
        self.response_rate_limit = Some(FaultRate { rate, percentage });
        self
    }

    /// What no reader of this policy may be given.
    ///
    /// # Errors
    /// What is wrong, by the dotted path inside the policy.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(FaultDelay { delay, .. }) = self.delay {
            let longest = match delay {
                Delay::Fixed(delay) => delay,
                Delay::Range { min, max } if min > max => {
                    return Err(("delay.range", "`min` is longer than `max`".into()));
                }
                Delay::Range { max, .. } | Delay::Header { max } => max,
                Delay::Exponential { mean } => mean,
            };
            if longest > Self::MAX_DELAY {
                return Err(("delay", "a delay is at most one hour".into()));
            }
        }
        match self.abort.map(|abort| abort.abort) {
            Some(Abort::Http(status)) if status.as_u16() < 200 || status.as_u16() > 599 => {
                Err(("abort.http_status", format!("{} is not 200 to 599", status.as_u16())))
            }
            Some(Abort::Grpc(status)) if status == 0 || status > 16 => {
                Err(("abort.grpc_status", format!("{status} is not 1 to 16")))
            }
            _ => match self.response_rate_limit.map(|rate| rate.rate) {
                Some(Rate::Fixed(0) | Rate::Header { min: 0 }) => {
                    Err(("response_rate_limit", "a rate of 0 KiB/s never ends".into()))
                }
                _ => Ok(()),
            },
        }
    }

    /// Whether a request's own header has a word in it.
    pub(crate) fn asks_header(&self) -> bool {
        matches!(self.delay, Some(FaultDelay { delay: Delay::Header { .. }, .. }))
            || matches!(self.abort, Some(FaultAbort { abort: Abort::Header, .. }))
            || matches!(self.response_rate_limit, Some(FaultRate { rate: Rate::Header { .. }, .. }))
    }
}

/// A delay and the share of requests it holds for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FaultDelay {
    /// How long.
    pub delay: Delay,
    /// For this share. With a header: at most this share.
    pub percentage: Percent,
}

/// How long a request is delayed; at most one hour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Delay {
    /// Always the same.
    Fixed(Duration),
    /// Uniformly between the two.
    Range {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// Exponentially distributed, cut off at ten times the mean.
    Exponential {
        /// The mean.
        mean: Duration,
    },
    /// As the request's header `sinew-fault: delay=250ms` says; without it, none.
    Header {
        /// Longer wishes are cut to this.
        max: Duration,
    },
}

/// An abort and the share of requests it holds for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FaultAbort {
    /// How.
    pub abort: Abort,
    /// For this share. With a header: at most this share.
    pub percentage: Percent,
}

/// How a request is aborted. The service never sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Abort {
    /// With this status, 200 to 599; gRPC callers get the status that gRPC maps it to.
    Http(StatusCode),
    /// With this gRPC status, 1 to 16; plain HTTP callers get the status that belongs to it.
    Grpc(u8),
    /// Without an answer: the call fails with E060, as if the connection had broken.
    Reset,
    /// As the request's header says: `sinew-fault: abort=503`, `abort=grpc-14` or `abort=reset`; without it, not at all.
    Header,
}

/// A rate of the response body and the share of requests it holds for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FaultRate {
    /// How fast.
    pub rate: Rate,
    /// For this share. With a header: at most this share.
    pub percentage: Percent,
}

/// How fast a response body is handed up, in KiB per second; at least 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Rate {
    /// Always the same.
    Fixed(u32),
    /// As the request's header `sinew-fault: rate=16` says; without it, as it comes.
    Header {
        /// Slower wishes are raised to this.
        min: u32,
    },
}
