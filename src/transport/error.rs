//! What a failed connection or stream means: the only place that says whether a request was delivered.
//!
//! | what happened | delivery |
//! |---|---|
//! | no connection; a stream that could not be opened | `Unsent` |
//! | the connection broke, and no byte of the request had been handed to the socket | `Unsent` |
//! | remote GOAWAY that names a lower stream | `GoawayUnprocessed` |
//! | remote RST_STREAM(REFUSED_STREAM) | `RefusedStream` |
//! | anything else, an IO error above all | `Maybe` |
//!
//! A byte counts as handed over also if the write it was part of failed: what lies below may have taken some of it.
//! h2 sets a remote GOAWAY on a stream only if its id is above the last one the peer took (RFC 9113 §6.8).

use std::io;

use crate::{
    error::{Code, Delivery, Error, Origin},
    model::Address,
};

pub(crate) fn memory_refused(name: &str, why: &str) -> Error {
    Error::new(Code::ConnectFailed, format!("connection refused by memory:{name}: {why}"))
        .with_delivery(Delivery::Unsent)
}

pub(crate) fn connect(address: &Address, error: io::Error) -> Error {
    let code = if error.kind() == io::ErrorKind::TimedOut { Code::ConnectTimeout } else { Code::ConnectFailed };
    Error::new(code, format!("no connection to {address}: {error}")).with_delivery(Delivery::Unsent).with_source(error)
}

pub(crate) fn proxy(proxy: &str, failure: io::Error) -> Error {
    Error::new(Code::ConnectFailed, format!("no way through the proxy {proxy}, which HTTPS_PROXY names: {failure}"))
        .with_delivery(Delivery::Unsent)
        .with_source(failure)
}

pub(crate) fn connect_timeout(label: &str, after: std::time::Duration) -> Error {
    Error::new(Code::ConnectTimeout, format!("no connection to {label} within {after:?}, the `timeouts.connect`"))
        .with_delivery(Delivery::Unsent)
}

/// A handshake that failed: whose certificate, and why.
pub(crate) fn tls(address: &Address, failure: io::Error) -> Error {
    match refusal(&failure) {
        Some(alert) => Error::new(Code::TlsFailed, format!("{address} refused our certificate: {alert}"))
            .with_delivery(Delivery::TlsRefused)
            .with_source(failure),
        None => Error::new(Code::TlsFailed, format!("no TLS with {address}: {}", why(&failure)))
            .with_delivery(Delivery::Unsent)
            .with_source(failure),
    }
}

/// Between the handshake and now a certificate was revoked, or its authority withdrawn.
pub(crate) fn not_accepted_any_more(address: &Address) -> Error {
    Error::new(Code::TlsFailed, format!("{address} showed a certificate that is not accepted any more"))
        .with_delivery(Delivery::Unsent)
}

/// The peer answered our certificate with an alert before it answered anything else: nothing was processed.
pub(crate) fn refused(label: &str, alert: &str) -> Error {
    Error::new(Code::TlsFailed, format!("{label} refused our certificate: {alert}")).with_delivery(Delivery::TlsRefused)
}

/// The alert by which the peer refused us, if that is what happened: in TLS 1.3 it arrives after the handshake.
pub(crate) fn refusal(failure: &io::Error) -> Option<String> {
    match tls_cause(failure)? {
        rustls::Error::AlertReceived(alert) => Some(match told(*alert) {
            Some(reason) => format!("{reason}: {alert:?}"),
            None => format!("{alert:?}"),
        }),
        _ => None,
    }
}

/// The reason that an alert gives away, in the words of the side that has it; most say nothing.
fn told(alert: rustls::AlertDescription) -> Option<&'static str> {
    use rustls::AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => Some("no_certificate"),
        Alert::CertificateExpired => Some("expired"),
        Alert::CertificateRevoked => Some("revoked"),
        Alert::UnknownCA => Some("unknown_ca"),
        _ => None,
    }
}

fn tls_cause(failure: &io::Error) -> Option<&rustls::Error> {
    failure.get_ref()?.downcast_ref()
}

fn why(failure: &io::Error) -> String {
    match tls_cause(failure) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => other.to_string(),
        Some(rustls::Error::InvalidCertificate(known)) => format!("{}{known}", reason(known)),
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            "plaintext: what it says is not TLS".to_owned()
        }
        Some(error) => error.to_string(),
        None => failure.to_string(),
    }
}

/// The reason of ours for what the library has a name for.
fn reason(known: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError as Known;
    match known {
        Known::UnknownIssuer => "unknown_ca: ",
        Known::Expired | Known::ExpiredContext { .. } => "expired: ",
        Known::NotValidYet | Known::NotValidYetContext { .. } => "not_yet: ",
        Known::Revoked => "revoked: ",
        _ => "",
    }
}

/// What an accepting handshake failed of, for the log.
pub(crate) fn handshake(failure: &io::Error) -> String {
    refusal(failure).map_or_else(|| why(failure), |alert| format!("the peer refused our certificate: {alert}"))
}

/// Every endpoint of a service failed to connect, for this last cause.
pub(crate) fn unreachable(code: Code, message: String) -> Error {
    Error::new(code, message).with_delivery(Delivery::Unsent)
}

/// The peer speaks, but not what was needed.
pub(crate) fn not_supported(label: &str, wanted: &str) -> Error {
    Error::new(
        Code::ProtocolError,
        format!("{label} does not speak {wanted}; set the service's `protocol`, or look at what listens there"),
    )
    .with_delivery(Delivery::Unsent)
}

/// The handshake of HTTP/2 failed.
pub(crate) fn no_http2(message: String, error: h2::Error) -> Error {
    Error::new(Code::ConnectFailed, message).with_delivery(Delivery::Unsent).with_source(error)
}

/// The HTTP/2 connection went away before the stream was opened on it.
pub(crate) fn unopened(error: Option<h2::Error>) -> Error {
    let unsent = Error::new(Code::ConnectionClosed, "the connection closed before the request was sent on it")
        .with_delivery(Delivery::Unsent);
    match error {
        Some(error) => unsent.with_source(error),
        None => unsent,
    }
}

/// A request waiting for its response. `never_sent` is asked, once, when the connection broke.
pub(crate) fn h2_response(error: h2::Error, never_sent: impl FnOnce() -> bool) -> Error {
    let delivery = if error.is_io() && never_sent() {
        Delivery::Unsent
    } else if !error.is_remote() {
        Delivery::Maybe
    } else if error.is_go_away() {
        Delivery::GoawayUnprocessed
    } else if error.reason() == Some(h2::Reason::REFUSED_STREAM) {
        Delivery::RefusedStream
    } else {
        Delivery::Maybe
    };
    h2(error).with_delivery(delivery)
}

/// A response whose headers were read: it was processed.
pub(crate) fn h2_body(error: h2::Error) -> Error {
    h2(error)
}

fn h2(error: h2::Error) -> Error {
    let (code, origin, message) = match error.reason() {
        Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_remote() => {
            (Code::PeerCalmed, Origin::Peer, "the peer closed the connection with ENHANCE_YOUR_CALM".to_owned())
        }
        Some(reason) if error.is_go_away() && error.is_remote() => {
            (Code::ConnectionClosed, Origin::Peer, format!("the peer closed the connection: GOAWAY({reason:?})"))
        }
        Some(reason) if error.is_remote() => {
            (Code::PeerReset, Origin::Peer, format!("the peer reset the stream: {reason:?}"))
        }
        Some(reason) => (Code::ProtocolError, Origin::Peer, format!("the peer broke HTTP/2: {reason:?}")),
        None => (Code::ConnectionClosed, Origin::Transport, format!("the connection ended early: {error}")),
    };
    Error::new(code, message).with_origin(origin).with_source(error)
}

/// hyper gave the request back: nothing of it was written.
pub(crate) fn h1_unsent(error: hyper::Error) -> Error {
    Error::new(Code::ConnectionClosed, "the connection closed before the request was sent on it")
        .with_delivery(Delivery::Unsent)
        .with_source(error)
}

/// `never_sent` is asked, once, when the connection broke.
pub(crate) fn h1_response(error: hyper::Error, never_sent: impl FnOnce() -> bool) -> Error {
    if error.is_user() {
        return Error::new(Code::ClientGone, "the request's body failed")
            .with_origin(Origin::Caller)
            .with_source(error);
    }
    if error.is_parse() {
        return Error::new(Code::ProtocolError, format!("the peer broke HTTP/1.1: {error}")).with_source(error);
    }
    let delivery = if never_sent() { Delivery::Unsent } else { Delivery::Maybe };
    Error::new(Code::ConnectionClosed, "the connection closed before a complete response")
        .with_delivery(delivery)
        .with_source(error)
}
