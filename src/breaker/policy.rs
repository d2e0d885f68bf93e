//! Exact limits on what may be in flight towards one service.

use std::time::Duration;

use crate::{
    enforcement::{Mode, Percent},
    permit::QueueOrder,
};

/// `circuit_breakers` of a service. Every limit is exact, shared by all clones and routes, and held until the response
/// body ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct BreakerPolicy {
    /// Connections to all endpoints, those that are being made included. Default 1024, at least 1. Every endpoint may
    /// always hold one; at the limit a connection that idles elsewhere is closed first, unless its endpoint has no other.
    pub max_connections: u32,
    /// Calls that wait for a connection or for `max_requests`. Default 1024; 0 refuses instead of waiting.
    pub max_pending_requests: u32,
    /// Calls in flight. Default 1024; 0 refuses every call.
    pub max_requests: u32,
    /// Upgraded connections, event streams and whatever is open for 30 s (found within 5 s more): they leave
    /// `max_requests`, as far as there is room here. Default 100,000.
    pub max_streams: u32,
    /// In which order calls are served that wait for `max_requests`, by `timeouts.limit_wait`, or until they can be sent, by
    /// `timeouts.connect_wait`. Default first come, first served. A call whose remaining time is less than half of the
    /// calls take does not wait.
    pub queue: QueueOrder,
    /// Limits on each endpoint. Default none.
    pub per_endpoint: EndpointLimits,
}

/// `circuit_breakers.per_endpoint`: exact limits on each endpoint of a service, by which it takes no more calls for a while
/// as if its connections took no more streams. A call goes to another endpoint; where all are at their limits it waits for
/// `timeouts.connect_wait`, as one of `max_pending_requests`.
///
/// For endpoints that can do so much and no more at a time, however few of them are left: a limit of the service is one on
/// all of them together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct EndpointLimits {
    /// Calls in flight, as [`BreakerPolicy::max_requests`] counts them. Default none, at least 1. Where there was none before,
    /// calls count from then on. Mirrored requests do not.
    pub max_requests: Option<u32>,
    /// Connections, those that are being made included. Default none beside [`BreakerPolicy::max_connections`] and the four of
    /// HTTP/2 (16 to a virtual IP); at least 1. One that takes the place of an older one may pass it until that is closed.
    pub max_connections: Option<u32>,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_streams: 100_000,
            queue: QueueOrder::Fifo,
            per_endpoint: EndpointLimits::default(),
        }
    }
}

/// `circuit_breakers.breaker`: when a service is left alone because most calls to it fail or take too long.
///
/// For a service with one address in front of it, where taking out an endpoint would leave none; where there are several,
/// outlier detection does better.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct CircuitPolicy {
    /// The share of failed calls at which it opens. Default 50 %, above 0.
    pub failure_rate_threshold: Percent,
    /// From how long on a call is slow: from dispatch to response headers. Default 60 s; at least 1 ms.
    pub slow_call_duration: Duration,
    /// The share of slow calls at which it opens. Default 100 %, above 0.
    pub slow_call_rate_threshold: Percent,
    /// Which calls are remembered. Default those of the last 10 s.
    pub window: CircuitWindow,
    /// With fewer calls in the window it stays closed. Default 20; at least 1, at most what the window holds.
    pub minimum_calls: u32,
    /// How long it stays open at first; each time that the service still fails, twice as long. Default 5 s; at least
    /// 100 ms.
    pub wait_in_open: Duration,
    /// The longest that it stays open. Default 60 s; at least `wait_in_open`.
    pub max_wait_in_open: Duration,
    /// How many calls find out at first whether the service is well again; each round that all of them succeed, twice as
    /// many, until 8 at once did. Default 1; 1 to 100.
    pub half_open_calls: u32,
    /// The share of refusals that are really made. Default all.
    pub percentage: Percent,
    /// Whether it acts. Default [`Mode::Enforce`].
    pub mode: Mode,
}

/// Which calls a circuit remembers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CircuitWindow {
    /// Those of so long, to a tenth of it. 1 s to 10 min.
    Time(Duration),
    /// The last so many, however long ago. 1 to 10,000.
    Calls(u32),
}

impl Default for CircuitPolicy {
    fn default() -> Self {
        Self {
            failure_rate_threshold: Percent::of_millionths(500_000),
            slow_call_duration: Duration::from_secs(60),
            slow_call_rate_threshold: Percent::ALL,
            window: CircuitWindow::Time(Duration::from_secs(10)),
            minimum_calls: 20,
            wait_in_open: Duration::from_secs(5),
            max_wait_in_open: Duration::from_secs(60),
            half_open_calls: 1,
            percentage: Percent::ALL,
            mode: Mode::Enforce,
        }
    }
}

impl CircuitPolicy {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks what the types alone cannot; the field that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let wrong = match self.window {
            CircuitWindow::Time(window) => !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&window),
            CircuitWindow::Calls(calls) => !(1..=10_000).contains(&calls),
        };
        if wrong {
            return Err(("window", "it is 1s to 10m, or 1 to 10000 calls"));
        }
        if self.failure_rate_threshold == Percent::NONE {
            return Err(("failure_rate_threshold", "it is above 0%"));
        }
        if self.slow_call_rate_threshold == Percent::NONE {
            return Err(("slow_call_rate_threshold", "it is above 0%"));
        }
        if self.slow_call_duration < Duration::from_millis(1) {
            return Err(("slow_call_duration", "it is at least 1ms"));
        }
        if self.minimum_calls == 0 {
            return Err(("minimum_calls", "it is at least 1"));
        }
        if matches!(self.window, CircuitWindow::Calls(calls) if calls < self.minimum_calls) {
            return Err(("minimum_calls", "the window never holds so many"));
        }
        if self.wait_in_open < Duration::from_millis(100) {
            return Err(("wait_in_open", "it is at least 100ms"));
        }
        if self.max_wait_in_open < self.wait_in_open {
            return Err(("max_wait_in_open", "it is shorter than `wait_in_open`"));
        }
        if !(1..=100).contains(&self.half_open_calls) {
            return Err(("half_open_calls", "it is 1 to 100"));
        }
        Ok(())
    }
}
