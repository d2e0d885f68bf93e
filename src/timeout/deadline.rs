//! When something must have ended, and why.

use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    error::{Code, Error, Origin},
    rt::Instant,
};

/// As good as never.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// When something must have ended, and who says so.
#[derive(Clone, Debug)]
pub struct Deadline {
    pub(crate) at: Instant,
    pub(crate) cause: Cause,
    /// How long the response body may be silent.
    pub(crate) idle: Option<Idle>,
}

/// Who set a deadline.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// The configured timeout of a whole call, body included.
    Request { after: Duration, key: &'static str },
    /// The option of this call.
    Call { after: Duration },
    /// The caller of the request being served stops waiting.
    Inbound,
    /// The default for calls that have no timeout of any kind: to response headers, from the end of the request body.
    Response { after: Duration, sent: RequestSent },
    /// The configured timeout of one attempt: to response headers.
    PerTry { after: Duration },
    /// The configured life of a call of any kind.
    MaxDuration { after: Duration },
    /// Nobody: only silence ends it.
    Nobody,
}

/// How long a response body may be silent, and by whose word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Idle {
    millis: NonZeroU32,
    /// `timeouts.per_try_idle`, which holds for responses of every kind; else `timeouts.stream_idle`.
    pub(crate) per_try: bool,
}

impl Idle {
    pub(crate) fn new(after: Duration, per_try: bool) -> Option<Self> {
        let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        Some(Self { millis: NonZeroU32::new(millis)?, per_try })
    }

    pub(crate) fn after(self) -> Duration {
        Duration::from_millis(self.millis.get().into())
    }

    pub(crate) fn error(self) -> Error {
        let key = if self.per_try { "per_try_idle" } else { "stream_idle" };
        Error::new(
            Code::Idle,
            format!(
                "not a byte of the response body for {:?}, its `timeouts.{key}`; raise it, or turn it off",
                self.after()
            ),
        )
        .with_origin(Origin::Peer)
    }
}

/// When the request body was sent whole. `Always` for bodies that are here from the start.
#[derive(Clone, Debug)]
pub(crate) enum RequestSent {
    Always,
    When(Arc<OnceLock<Instant>>),
}

impl Deadline {
    /// `after` from now, body included.
    pub fn after(after: Duration) -> Self {
        Self::after_from(crate::rt::now(), after)
    }

    #[inline]
    pub(crate) fn after_from(from: Instant, after: Duration) -> Self {
        Self::new(from + after, Cause::Request { after, key: "timeout" })
    }

    pub(crate) fn new(at: Instant, cause: Cause) -> Self {
        Self { at, cause, idle: None }
    }

    /// Nothing but silence ends the call.
    pub(crate) fn idle_only(from: Instant, idle: Idle) -> Self {
        Self { at: from + FAR, cause: Cause::Nobody, idle: Some(idle) }
    }

    /// Silence ends it as well.
    pub(crate) fn with_idle(mut self, idle: Option<Idle>) -> Self {
        self.idle = idle;
        self
    }

    /// When it passes, if that is known already.
    pub(crate) fn fixed(&self) -> Option<Instant> {
        match self.cause {
            Cause::Response { sent: RequestSent::When(_), .. } | Cause::Nobody => None,
            _ => Some(self.at),
        }
    }

    /// Whether peers are told of it.
    pub(crate) fn travels(&self) -> bool {
        self.covers_body() && !matches!(self.cause, Cause::Nobody)
    }

    /// Whether it still holds once the response headers are there.
    pub(crate) fn covers_body(&self) -> bool {
        !matches!(self.cause, Cause::Response { .. } | Cause::PerTry { .. })
    }

    /// What follows when the timer fires: an error, or a later time to look again.
    pub(crate) fn expire(&self, now: Instant) -> Expiry {
        let Cause::Response { after, sent: RequestSent::When(sent) } = &self.cause else {
            return Expiry::Expired(self.error());
        };
        // The body may have ended long after the timer was armed. If it has not ended yet, it ends after now, so
        // looking again after a full timeout is exact.
        let at = sent.get().copied().unwrap_or(now) + *after;
        if at <= now { Expiry::Expired(self.error()) } else { Expiry::Later(at) }
    }

    pub(crate) fn error(&self) -> Error {
        match &self.cause {
            Cause::Request { after, key } => Error::new(
                Code::TimeoutRequest,
                format!(
                    "no complete response within {after:?}, the `{key}` of this call; raise it, or pass a timeout with the call"
                ),
            ),
            Cause::Call { after } => Error::new(
                Code::TimeoutRequest,
                format!("no complete response within {after:?}, the timeout passed with this call"),
            ),
            Cause::Response { after, .. } => Error::new(
                Code::TimeoutRequest,
                format!(
                    "no response headers within {after:?}, the default for calls without a timeout (`timeouts.response`); \
                     set `timeouts.request`, pass a timeout with the call, or send `prefer: wait` for a long poll"
                ),
            ),
            Cause::PerTry { after } => Error::new(
                Code::TimeoutRequest,
                format!("no response headers within {after:?}, the per-try timeout of this call"),
            )
            .with_origin(Origin::Peer),
            Cause::MaxDuration { after } => Error::new(
                Code::MaxDuration,
                format!("the call is {after:?} old, its `timeouts.max_stream_duration`; raise it, or call anew before"),
            ),
            Cause::Nobody => Error::new(Code::Internal, "a call without a deadline has passed it"),
            Cause::Inbound => Error::new(
                Code::DeadlineExhausted,
                "the deadline of the request being served passed before this call was complete",
            )
            .with_origin(Origin::Caller),
        }
    }
}

/// See [`Deadline::expire`].
pub(crate) enum Expiry {
    Expired(Error),
    Later(Instant),
}
