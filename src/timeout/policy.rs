//! How long things may take.

use std::time::Duration;

/// `timeouts` of a service, partly overridden by a route's or a call's `timeout`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct TimeoutPolicy {
    /// The whole call, response body included: all attempts, waiting and back-off. Default: none; plain HTTP calls
    /// without any timeout or deadline get `response` instead.
    pub request: Option<Duration>,
    /// One attempt, from dispatch to response headers. Default: none.
    pub per_try: Option<Duration>,
    /// From the end of the request body to response headers, for plain HTTP calls that have neither a timeout nor a
    /// deadline. Default 15 s; off for gRPC, upgrades, CONNECT, `accept: text/event-stream` and `prefer: wait`.
    pub response: Option<Duration>,
    /// One connection attempt, TLS included. Default 5 s.
    pub connect: Duration,
    /// How long a call waits while endpoints are unknown, connecting, or at their stream limit. Default 3 s.
    pub connect_wait: Duration,
    /// How long a call waits for `max_requests`. Default 0: refuse at once.
    pub limit_wait: Duration,
}

impl Default for TimeoutPolicy {
    fn default() -> Self {
        Self {
            request: None,
            per_try: None,
            response: Some(Duration::from_secs(15)),
            connect: Duration::from_secs(5),
            connect_wait: Duration::from_secs(3),
            limit_wait: Duration::ZERO,
        }
    }
}
