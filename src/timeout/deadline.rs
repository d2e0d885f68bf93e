//! When something must have ended, and why.

use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    error::{Code, Error, Origin},
    instrument::Counter,
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
    /// A timeout that is not enforced: that it passed is counted, and the call goes on.
    Watched(Box<Watched>),
}

/// See [`Cause::Watched`].
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    cause: Cause,
    passed: Counter,
    /// What holds all the same.
    then: Option<Deadline>,
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

    /// This one is not enforced, `then` is. That it passed is counted, unless the call ends before.
    pub(crate) fn watched(self, passed: Counter, then: Option<Deadline>) -> Self {
        match then {
            Some(then) if then.at <= self.at => then,
            then => Self::new(self.at, Cause::Watched(Box::new(Watched { cause: self.cause, passed, then }))),
        }
    }

    /// What holds of it once the response headers are there.
    pub(crate) fn of_body(self) -> Option<Self> {
        match self.cause {
            Cause::Watched(watched) if watched.cause.is_of_headers() => watched.then?.of_body(),
            cause if cause.is_of_headers() => None,
            cause => Some(Self { cause, ..self }),
        }
    }

    /// The part of it that is enforced.
    pub(crate) fn enforced(&self) -> Option<&Self> {
        match &self.cause {
            Cause::Watched(watched) => watched.then.as_ref(),
            _ => Some(self),
        }
    }

    /// Silence ends it as well.
    pub(crate) fn with_idle(mut self, idle: Option<Idle>) -> Self {
        self.idle = idle;
        self
    }

    /// When it passes, if that is known already.
    pub(crate) fn fixed(&self) -> Option<Instant> {
        match &self.cause {
            Cause::Response { sent: RequestSent::When(_), .. } | Cause::Nobody => None,
            Cause::Watched(watched) => watched.then.as_ref()?.fixed(),
            _ => Some(self.at),
        }
    }

    /// Whether it still holds, or is watched, once the response headers are there.
    pub(crate) fn covers_body(&self) -> bool {
        match &self.cause {
            Cause::Watched(watched) => !watched.cause.is_of_headers(),
            cause => !cause.is_of_headers(),
        }
    }

    /// Whether peers are told of it.
    pub(crate) fn travels(&self) -> bool {
        !self.cause.is_of_headers() && !matches!(self.cause, Cause::Nobody | Cause::Watched(_))
    }

    /// What follows when the timer fires: an error, or a later time to look again.
    pub(crate) fn expire(&self, now: Instant) -> Expiry {
        let cause = match &self.cause {
            Cause::Watched(watched) => &watched.cause,
            cause => cause,
        };
        let Cause::Response { after, sent: RequestSent::When(sent) } = cause else { return self.passed() };
        // The body may have ended long after the timer was armed. If it has not ended yet, it ends after now, so
        // looking again after a full timeout is exact.
        let at = sent.get().copied().unwrap_or(now) + *after;
        if at <= now { self.passed() } else { Expiry::Later(at) }
    }

    fn passed(&self) -> Expiry {
        let Cause::Watched(watched) = &self.cause else { return Expiry::Expired(self.error()) };
        watched.passed.inc();
        Expiry::Passed(match (&watched.then, self.idle) {
            (Some(then), idle) => Some(then.clone().with_idle(idle)),
            (None, Some(idle)) => Some(Self::idle_only(self.at, idle)),
            (None, None) => None,
        })
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
            Cause::Nobody | Cause::Watched(_) => Error::new(Code::Internal, "a call without a deadline has passed it"),
            Cause::Inbound => Error::new(
                Code::DeadlineExhausted,
                "the deadline of the request being served passed before this call was complete",
            )
            .with_origin(Origin::Caller),
        }
    }
}

impl Cause {
    /// Whether it is over once the response headers are there.
    fn is_of_headers(&self) -> bool {
        matches!(self, Cause::Response { .. } | Cause::PerTry { .. })
    }

    /// The key of the configuration that sets it.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Cause::Response { .. } => "response",
            Cause::MaxDuration { .. } => "max_stream_duration",
            _ => "request",
        }
    }
}

/// See [`Deadline::expire`].
pub(crate) enum Expiry {
    Expired(Error),
    /// It was not enforced; this is what holds from now on.
    Passed(Option<Deadline>),
    Later(Instant),
}
