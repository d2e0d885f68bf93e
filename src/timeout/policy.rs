//! How long things may take.

use std::time::Duration;

use crate::enforcement::{Mode, Percent};

/// `timeouts` of a service, partly overridden by a route's or a call's `timeout`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct TimeoutPolicy {
    /// The whole call, response body included: all attempts, waiting and back-off. Default: none; plain HTTP calls
    /// without any timeout or deadline get `response` instead.
    pub request: Option<Duration>,
    /// One attempt, from dispatch to response headers. Default: none.
    pub per_try: Option<Duration>,
    /// Without a byte of the response, within one attempt: from dispatch to response headers where the request body is here
    /// from the start, and between any two frames of the response body, for calls of every kind. Default: none.
    pub per_try_idle: Option<Duration>,
    /// From the end of the request body to response headers, for plain HTTP calls that have neither a timeout nor a
    /// deadline. Default 15 s; off for gRPC, upgrades, CONNECT, `accept: text/event-stream` and `prefer: wait`.
    pub response: Option<Duration>,
    /// One connection attempt, TLS included. Default 5 s.
    pub connect: Duration,
    /// How long a call waits while endpoints are unknown, connecting, or at their stream limit. Default 3 s.
    pub connect_wait: Duration,
    /// How long a call waits for `max_requests`. Default 0: refuse at once.
    pub limit_wait: Duration,
    /// Between any two frames of a response body, where `response` applies and the response is no event stream. Default
    /// 5 min.
    pub stream_idle: Option<Duration>,
    /// Without a byte in either direction on a connection that was upgraded. It may take up to twice as long where bytes are
    /// only written. Default 1 h.
    pub upgrade_idle: Option<Duration>,
    /// The whole life of a call of any kind, streams included. Travels to peers like every deadline. A call that has it has
    /// no `response` timeout. Default: none.
    pub max_stream_duration: Option<Duration>,
    /// The most that counts of a `grpc-timeout` written by the application. Default: as written.
    pub grpc_timeout_header_max: Option<Duration>,
    /// Taken from a `grpc-timeout` written by the application, so that this side gives up first; what is left at or below
    /// zero has passed at once. Default 0.
    pub grpc_timeout_header_offset: Duration,
    /// Whether calls end when the caller of the request being served stops waiting. Default true. Off for work that goes on
    /// without its caller.
    pub honor_inbound_deadline: bool,
    /// Whether calls end at `request`, `response` and `max_stream_duration`. In shadow they go on, and those that would have
    /// ended are counted; peers are told nothing of such a deadline. What is passed with a call, and what its caller waits,
    /// holds in any case. Default [`Mode::Enforce`].
    pub enforcement: Mode,
    /// The share of the calls for which it is enforced; the others are as in shadow. Default all.
    pub percentage: Percent,
}

impl TimeoutPolicy {
    /// Whether every call is held to it.
    pub(crate) fn is_whole(&self) -> bool {
        self.enforcement == Mode::Enforce && self.percentage == Percent::ALL
    }
}

impl Default for TimeoutPolicy {
    fn default() -> Self {
        Self {
            request: None,
            per_try: None,
            per_try_idle: None,
            response: Some(Duration::from_secs(15)),
            connect: Duration::from_secs(5),
            connect_wait: Duration::from_secs(3),
            limit_wait: Duration::ZERO,
            stream_idle: Some(Duration::from_secs(300)),
            upgrade_idle: Some(Duration::from_secs(3600)),
            max_stream_duration: None,
            grpc_timeout_header_max: None,
            grpc_timeout_header_offset: Duration::ZERO,
            honor_inbound_deadline: true,
            enforcement: Mode::Enforce,
            percentage: Percent::ALL,
        }
    }
}
