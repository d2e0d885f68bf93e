//! One error type for everything the mesh refuses or fails.
//!
//! The questions a caller has are: whose fault is it ([`Origin`]), may it have been processed ([`Delivery`]), what is
//! it called ([`Code`]), and what do I do now (the message, which says what, why, since when and what next). The type
//! is opaque so that causes can gain detail without breaking anyone; ask it with the `is_*` predicates.

mod code;

use std::{
    borrow::Cow,
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderMap;

pub use self::code::Code;
use crate::body::Body;

/// Any error, boxed: what foreign services and bodies fail with.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A call that was refused or failed.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    code: Code,
    origin: Origin,
    delivery: Delivery,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    source: Option<BoxError>,
    /// The finer cause that the code leaves open.
    reason: Option<&'static str>,
    /// The endpoint that was tried.
    endpoint: Option<Arc<str>>,
    /// What the answer to a refused request says besides.
    headers: Option<Box<HeaderMap>>,
    /// The body of a request that never left, to be sent again. The lock is never contended: it makes the error `Sync`.
    returned: Mutex<Option<Body>>,
}

/// Where an error comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Origin {
    /// The application that made the call: its request, its body, or its going away.
    Caller,
    /// This process's mesh: policy, configuration, limits.
    Mesh,
    /// The network or a connection.
    Transport,
    /// The peer that answered or reset.
    Peer,
}

/// What is known about whether the peer saw the request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Delivery {
    /// Nothing of the request left this process.
    Unsent,
    /// The peer's GOAWAY names a lower stream: it did not process this one (RFC 9113 §6.8).
    GoawayUnprocessed,
    /// The peer reset the stream with REFUSED_STREAM before processing it (RFC 9113 §8.7).
    RefusedStream,
    /// The peer refused the connection by a TLS alert before any response byte.
    TlsRefused,
    /// The request may have been processed.
    Maybe,
}

/// The broad class of an error, one level above its [`Code`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// No route or no such service.
    NotFound,
    /// No configuration or no usable endpoint.
    Unavailable,
    /// A connection could not be made.
    Connect,
    /// A connection or stream ended early.
    Reset,
    /// The peer broke the protocol.
    Protocol,
    /// A timeout or deadline passed.
    Timeout,
    /// A limit, breaker or shedder refused the call.
    Overload,
    /// Authentication or authorization refused the call.
    Denied,
    /// The request is malformed or too large.
    Request,
    /// This process is draining.
    Draining,
    /// The caller went away.
    Canceled,
    /// A fault was injected.
    Fault,
    /// This process cannot listen on an address.
    Listen,
    /// A panic or a broken invariant.
    Internal,
}

impl Error {
    /// An error of this code whose message says what, why, since when and what to do.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let delivery = if code.refuses_before_sending() { Delivery::Unsent } else { Delivery::Maybe };
        Self {
            inner: Box::new(Inner {
                code,
                origin: default_origin(code),
                delivery,
                message: message.into(),
                retry_after: None,
                source: None,
                reason: None,
                endpoint: None,
                headers: None,
                returned: Mutex::new(None),
            }),
        }
    }

    /// An error that a peer answered with: unlike one of our own refusals it says nothing about delivery.
    pub(crate) fn answered(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(code, message);
        error.inner.delivery = Delivery::Maybe;
        error.with_origin(Origin::Peer)
    }

    /// Keeps the cause, found again by [`std::error::Error::source`].
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Names the finer cause, in one word that the caller may know.
    #[must_use]
    pub(crate) fn with_reason(mut self, reason: &'static str) -> Self {
        self.inner.reason = Some(reason);
        self
    }

    /// Says whose fault it is where the code alone does not.
    #[must_use]
    pub(crate) fn with_origin(mut self, origin: Origin) -> Self {
        self.inner.origin = origin;
        self
    }

    /// When the caller may try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.inner.retry_after = Some(after);
        self
    }

    /// Adds headers to the answer that a peer gets.
    #[must_use]
    pub(crate) fn with_headers(mut self, add: impl FnOnce(&mut HeaderMap)) -> Self {
        add(self.inner.headers.get_or_insert_default());
        self
    }

    /// What the answer to a peer says besides.
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        self.inner.headers.as_deref()
    }

    /// Only the transport knows what left the process.
    #[must_use]
    pub(crate) fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.inner.delivery = delivery;
        self
    }

    /// Says which endpoint was tried.
    #[must_use]
    pub(crate) fn with_endpoint(mut self, endpoint: Arc<str>) -> Self {
        self.inner.endpoint = Some(endpoint);
        self
    }

    /// Hands the request body back with an error that says that nothing was processed.
    #[must_use]
    pub(crate) fn returning(mut self, body: Body) -> Self {
        self.inner.returned = Mutex::new(Some(body));
        self
    }

    /// The request body, if it came back.
    pub(crate) fn take_returned(&mut self) -> Option<Body> {
        self.inner.returned.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A foreign error that reached a mesh seam: a mesh error that was boxed on the way is taken out again.
    pub fn from_boxed(error: BoxError, code: Code, message: &'static str) -> Self {
        match error.downcast::<Error>() {
            Ok(own) => *own,
            Err(foreign) => Error::new(code, message).with_source(foreign),
        }
    }

    /// The code, printed as `SINEW-E010`.
    pub fn code(&self) -> Code {
        self.inner.code
    }

    /// Whose fault it is.
    pub fn origin(&self) -> Origin {
        self.inner.origin
    }

    /// What is known about whether the peer saw the request.
    pub fn delivery(&self) -> Delivery {
        self.inner.delivery
    }

    /// The endpoint that was tried, by its id.
    pub fn endpoint(&self) -> Option<&str> {
        self.inner.endpoint.as_deref()
    }

    /// The broad class.
    pub fn kind(&self) -> Kind {
        kind(self.inner.code)
    }

    /// The message without its code.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The finer cause where the code has several: `path`, `host`, `header` or `target` of E055.
    pub fn reason(&self) -> Option<&'static str> {
        self.inner.reason
    }

    /// When the caller may try again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// True if the peer provably did not process the request, so that sending it again is safe for any method.
    pub fn never_processed(&self) -> bool {
        self.inner.delivery != Delivery::Maybe
    }

    /// True for timeouts and passed deadlines.
    pub fn is_timeout(&self) -> bool {
        self.kind() == Kind::Timeout
    }

    /// True if a connection could not be made.
    pub fn is_connect(&self) -> bool {
        self.kind() == Kind::Connect
    }

    /// True if a limit refused the call.
    pub fn is_overload(&self) -> bool {
        self.kind() == Kind::Overload
    }

    /// True if no usable endpoint or configuration was there.
    pub fn is_unavailable(&self) -> bool {
        self.kind() == Kind::Unavailable
    }

    /// Finds a mesh error in a chain of causes, by type and never by text.
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(own) = error.downcast_ref() {
                return Some(own);
            }
            next = error.source();
        }
        None
    }
}

fn default_origin(code: Code) -> Origin {
    match kind(code) {
        Kind::Connect | Kind::Reset => Origin::Transport,
        Kind::Protocol => Origin::Peer,
        Kind::Request | Kind::Canceled => Origin::Caller,
        _ => Origin::Mesh,
    }
}

fn kind(code: Code) -> Kind {
    match code {
        Code::NoRoute | Code::UnknownService => Kind::NotFound,
        Code::ConfigNotReady | Code::NoHealthyEndpoint | Code::RetryExhausted => Kind::Unavailable,
        Code::ConnectFailed | Code::ConnectTimeout | Code::DnsFailed | Code::TlsFailed => Kind::Connect,
        Code::ConnectionClosed | Code::PeerReset | Code::PeerCalmed => Kind::Reset,
        Code::ProtocolError => Kind::Protocol,
        Code::TimeoutRequest | Code::DeadlineExhausted | Code::Idle | Code::MaxDuration => Kind::Timeout,
        Code::Overflow | Code::CircuitOpen | Code::OverloadShed | Code::RateLimited | Code::LimiterUnavailable => {
            Kind::Overload
        }
        Code::Unauthenticated | Code::Denied | Code::ExternalDenied => Kind::Denied,
        Code::BadRequest | Code::TooLarge => Kind::Request,
        Code::FaultAbort => Kind::Fault,
        Code::LocalDraining => Kind::Draining,
        Code::ClientGone => Kind::Canceled,
        Code::BindFailed => Kind::Listen,
        Code::Internal | Code::ServedFromCache => Kind::Internal,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.inner.code, self.inner.message)?;
        match &self.inner.endpoint {
            // Messages of the dialler name the address already.
            Some(endpoint) if !self.inner.message.contains(&**endpoint) => write!(f, " (endpoint {endpoint})"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug
            .field("code", &self.inner.code)
            .field("origin", &self.inner.origin)
            .field("delivery", &self.inner.delivery)
            .field("message", &self.inner.message);
        if let Some(after) = self.inner.retry_after {
            debug.field("retry_after", &after);
        }
        if let Some(source) = &self.inner.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_its_own_level_and_source_keeps_the_cause() {
        let error = Error::new(Code::ConnectFailed, "connection refused by 127.0.0.1:1")
            .with_source(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(error.to_string(), "SINEW-E011 connection refused by 127.0.0.1:1");
        assert!(error.source().is_some());
        assert!(error.is_connect());
    }

    #[test]
    fn local_refusals_are_never_processed_and_timeouts_may_be() {
        assert!(Error::new(Code::Overflow, "full").never_processed());
        assert!(!Error::new(Code::TimeoutRequest, "late").never_processed());
    }

    #[test]
    fn a_boxed_mesh_error_is_taken_out_again() {
        let boxed: BoxError = Box::new(Error::new(Code::NoRoute, "none"));
        assert_eq!(Error::from_boxed(boxed, Code::Internal, "foreign").code(), Code::NoRoute);
    }

    #[test]
    fn an_error_is_one_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
