//! What is sent again, how often and after how long.

use std::{fmt, time::Duration};

use http::{HeaderName, StatusCode};

use super::backoff::Backoff;
use crate::{
    enforcement::{Mode, Percent},
    matching::StringMatch,
};

/// What makes a call be sent again: the conditions of Envoy's `retry_on` and `retry_grpc_on`, by their names.
///
/// The first three say that the peer did not process the request, so they hold for every method and are the default.
/// [`Condition::ConnectFailure`] and [`Condition::ResetBeforeRequest`] describe what is sent again in any case and
/// free of charge, since nothing left this process or the peer named it unprocessed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum Condition {
    /// `connect-failure`: a connection could not be made.
    ConnectFailure,
    /// `refused-stream`: the peer reset the stream with REFUSED_STREAM (RFC 9113 §8.7). Draws on the budget, because the
    /// peer may be overloaded.
    RefusedStream,
    /// `reset-before-request`: the stream ended before the request's headers were sent, or by a GOAWAY that names it
    /// unprocessed.
    ResetBeforeRequest,
    /// `5xx`: any 5xx status, and no response at all (reset, per-try timeout).
    ServerError,
    /// `gateway-error`: 502, 503 and 504, and no response at all.
    GatewayError,
    /// `reset`: no response at all: the peer reset the stream, the connection closed, or the per-try timeout passed.
    Reset,
    /// `retriable-4xx`: 409.
    Retriable4xx,
    /// `retriable-status-codes`: the statuses in [`RetryPolicy::retriable_status_codes`].
    RetriableStatusCodes,
    /// `retriable-headers`: responses with one of [`RetryPolicy::retriable_headers`].
    RetriableHeaders,
    /// `cancelled`: gRPC CANCELLED.
    Cancelled,
    /// `deadline-exceeded`: gRPC DEADLINE_EXCEEDED, said by the peer.
    DeadlineExceeded,
    /// `internal`: gRPC INTERNAL.
    Internal,
    /// `resource-exhausted`: gRPC RESOURCE_EXHAUSTED.
    ResourceExhausted,
    /// `unavailable`: gRPC UNAVAILABLE.
    Unavailable,
}

impl Condition {
    /// Every condition.
    pub const ALL: &'static [Condition] = &[
        Condition::ConnectFailure,
        Condition::RefusedStream,
        Condition::ResetBeforeRequest,
        Condition::ServerError,
        Condition::GatewayError,
        Condition::Reset,
        Condition::Retriable4xx,
        Condition::RetriableStatusCodes,
        Condition::RetriableHeaders,
        Condition::Cancelled,
        Condition::DeadlineExceeded,
        Condition::Internal,
        Condition::ResourceExhausted,
        Condition::Unavailable,
    ];

    /// Its name in `retry_on`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Condition::ConnectFailure => "connect-failure",
            Condition::RefusedStream => "refused-stream",
            Condition::ResetBeforeRequest => "reset-before-request",
            Condition::ServerError => "5xx",
            Condition::GatewayError => "gateway-error",
            Condition::Reset => "reset",
            Condition::Retriable4xx => "retriable-4xx",
            Condition::RetriableStatusCodes => "retriable-status-codes",
            Condition::RetriableHeaders => "retriable-headers",
            Condition::Cancelled => "cancelled",
            Condition::DeadlineExceeded => "deadline-exceeded",
            Condition::Internal => "internal",
            Condition::ResourceExhausted => "resource-exhausted",
            Condition::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of conditions.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryOn(u16);

impl RetryOn {
    /// No condition: only what provably never reached the peer is sent again.
    pub const NOTHING: RetryOn = RetryOn(0);
    /// What the peer did not process. The default.
    pub const UNPROCESSED: RetryOn = RetryOn::NOTHING
        .with(Condition::ConnectFailure)
        .with(Condition::RefusedStream)
        .with(Condition::ResetBeforeRequest);

    const GRPC: RetryOn = RetryOn::NOTHING
        .with(Condition::Cancelled)
        .with(Condition::DeadlineExceeded)
        .with(Condition::Internal)
        .with(Condition::ResourceExhausted)
        .with(Condition::Unavailable);

    /// This set and one more condition.
    #[must_use]
    pub const fn with(self, condition: Condition) -> Self {
        Self(self.0 | 1 << condition as u8)
    }

    /// Whether the condition is in the set.
    pub const fn contains(self, condition: Condition) -> bool {
        self.0 & (1 << condition as u8) != 0
    }

    /// The conditions in their order.
    pub fn iter(self) -> impl Iterator<Item = Condition> {
        Condition::ALL.iter().copied().filter(move |condition| self.contains(*condition))
    }

    /// The first of these that is in the set.
    pub(super) fn first(self, of: &[Condition]) -> Option<Condition> {
        of.iter().copied().find(|condition| self.contains(*condition))
    }

    /// The first condition under which a peer may have processed the request.
    pub(crate) fn processed(self) -> Option<Condition> {
        self.iter().find(|condition| !Self::UNPROCESSED.contains(*condition))
    }

    /// Whether anything of what the peer may have processed is in the set.
    pub(super) const fn has_processed(self) -> bool {
        self.0 & !Self::UNPROCESSED.0 != 0
    }

    /// Whether gRPC's codes, which often stand in trailers, are in the set.
    pub(super) const fn has_grpc(self) -> bool {
        self.0 & Self::GRPC.0 != 0
    }
}

impl FromIterator<Condition> for RetryOn {
    fn from_iter<I: IntoIterator<Item = Condition>>(conditions: I) -> Self {
        conditions.into_iter().fold(Self::NOTHING, Self::with)
    }
}

impl fmt::Debug for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// `retry` of a service or a route.
///
/// Whatever stands here, a call that never left this process, or that the peer's GOAWAY names unprocessed, is sent again
/// to another endpoint, free of charge.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How often a call is sent again because of `retry_on`. Default 2, 0 to 10.
    pub num_retries: u8,
    /// What is sent again. Default [`RetryOn::UNPROCESSED`].
    pub retry_on: RetryOn,
    /// For [`Condition::RetriableStatusCodes`]. Default none.
    pub retriable_status_codes: Vec<StatusCode>,
    /// For [`Condition::RetriableHeaders`]: any of these response headers. Default none.
    pub retriable_headers: Vec<(HeaderName, StringMatch)>,
    /// Only requests with any of these headers are sent again; empty means all. Default none.
    pub retriable_request_headers: Vec<(HeaderName, StringMatch)>,
    /// Whether what may have been processed is sent again only if the method is idempotent by RFC 9110, the request has an
    /// `idempotency-key`, or the call says so ([`Call::idempotent`](crate::Call::idempotent)). Default true. gRPC calls
    /// are POST.
    pub require_idempotent: bool,
    /// One attempt, from dispatch to response headers, in place of `timeouts.per_try`. Default none. An attempt that
    /// takes longer counts as [`Condition::Reset`].
    pub per_try_timeout: Option<Duration>,
    /// How long to wait before a retry.
    pub back_off: Backoff,
    /// Longest wait that a peer may ask for by `Retry-After`, `X-RateLimit-Reset` or `grpc-retry-pushback-ms`; longer ones
    /// are cut to it. Default 30 s.
    pub max_push_back: Duration,
    /// How much of a streamed request body is kept for being sent again, in bytes, by reference. Longer ones are sent once.
    /// Default 64 KiB, at most 8 MiB. Bodies in memory are always kept.
    pub max_request_buffer: u32,
    /// Whether up to 20 ms are waited for the first frame of a gRPC response whose status may stand in its trailers, if
    /// `retry_on` has a gRPC code. Default true.
    pub peek_trailers: bool,
    /// What must remain of the deadline after the wait for a retry to be worth it. Default: as long as half of the calls
    /// take, where that is known.
    pub min_remaining: Option<Duration>,
    /// How many further attempts a whole tree of calls below this one may make, if this process is its root. Default 2,
    /// 0 to 10.
    pub tree_allowance: u8,
    /// The share of the retries that are decided that is really made. Default all.
    pub percentage: Percent,
    /// Whether retries are made. In shadow they are decided and counted, and not made. What nothing was sent of is sent
    /// again in any case. Default [`Mode::Enforce`].
    pub enforcement: Mode,
}

/// Largest `num_retries` and `tree_allowance`.
pub(crate) const MOST_RETRIES: u8 = 10;
/// Largest `max_request_buffer`.
pub(crate) const LARGEST_BUFFER: u32 = 8 * 1024 * 1024;

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            num_retries: 2,
            retry_on: RetryOn::UNPROCESSED,
            retriable_status_codes: Vec::new(),
            retriable_headers: Vec::new(),
            retriable_request_headers: Vec::new(),
            require_idempotent: true,
            per_try_timeout: None,
            back_off: Backoff::default(),
            max_push_back: Duration::from_secs(30),
            max_request_buffer: 64 * 1024,
            peek_trailers: true,
            min_remaining: None,
            tree_allowance: 2,
            percentage: Percent::ALL,
            enforcement: Mode::Enforce,
        }
    }
}

impl RetryPolicy {
    /// The default: what the peer did not process.
    pub fn unprocessed() -> Self {
        Self::default()
    }

    /// What idempotent calls bear: gateway errors, resets and UNAVAILABLE besides the default.
    pub fn idempotent() -> Self {
        Self {
            retry_on: RetryOn::UNPROCESSED
                .with(Condition::GatewayError)
                .with(Condition::Reset)
                .with(Condition::Unavailable),
            ..Self::default()
        }
    }

    /// Sets the conditions.
    #[must_use]
    pub fn on(mut self, conditions: impl IntoIterator<Item = Condition>) -> Self {
        self.retry_on = conditions.into_iter().collect();
        self
    }

    /// Sets how often.
    #[must_use]
    pub fn num_retries(mut self, retries: u8) -> Self {
        self.num_retries = retries;
        self
    }

    /// Checks bounds.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let most = |field, value: u8| match value {
            0..=MOST_RETRIES => Ok(()),
            value => Err((field, format!("{value} is out of bounds: it must be 0 to {MOST_RETRIES}"))),
        };
        most("num_retries", self.num_retries)?;
        most("tree_allowance", self.tree_allowance)?;
        if self.max_request_buffer > LARGEST_BUFFER {
            return Err(("max_request_buffer", format!("it must be at most {LARGEST_BUFFER} bytes")));
        }
        if self.per_try_timeout == Some(Duration::ZERO) {
            return Err(("per_try_timeout", "a timeout of zero fails every attempt".into()));
        }
        self.back_off.validate()
    }

    /// Whether the first frame of a gRPC response is waited for.
    pub(super) fn peeks(&self) -> bool {
        self.peek_trailers && self.num_retries > 0 && self.retry_on.has_grpc()
    }

    /// Whether a call under this policy may be sent again after the peer may have processed it, or refused it by an
    /// answer, so that its body has to be kept.
    pub(super) fn keeps_body(&self) -> bool {
        self.num_retries > 0 && self.retry_on.has_processed()
    }
}
