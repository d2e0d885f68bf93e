//! One outcome per response, read by everything that cares: retries, ejection, balancing, metrics.
//!
//! Envoy and Linkerd classify in each filter by that filter's own rules; here it happens once. For HTTP the status line
//! decides. For gRPC the status comes in the trailers, or in the headers of a trailers-only response, so the outcome of
//! a gRPC call is known when its body ends.

mod grpc;
mod http_status;
mod lost;

pub(crate) use self::{
    grpc::{GRPC_STATUS, grpc_to_http, http_to_grpc, is_grpc},
    lost::{dropped, losing},
};

use http::{HeaderMap, StatusCode, header::HeaderValue, response};

use crate::error::{Code, Delivery, Error, Origin};

/// What happened to one attempt, or to one whole call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// A useful answer.
    Success,
    /// The peer answered that the request is wrong: other 4xx, gRPC client errors.
    Rejected,
    /// 429 or RESOURCE_EXHAUSTED without a shed marker: this caller asked too often. Says nothing about the endpoint.
    RateLimited,
    /// The peer shed load before processing (`sinew-shed`, or 503/UNAVAILABLE with push-back).
    Shed,
    /// 502, 503, 504, UNAVAILABLE, remote DEADLINE_EXCEEDED.
    GatewayFailure,
    /// Another 5xx, UNKNOWN, INTERNAL, DATA_LOSS.
    ServerFailure,
    /// A gRPC response that ended without `grpc-status`.
    MissingStatus,
    /// The connection was switched to another protocol.
    Upgraded,
    /// A connection could not be made.
    ConnectFailure,
    /// The peer provably did not process the request: REFUSED_STREAM or GOAWAY above its last stream.
    Unprocessed,
    /// The stream or connection ended before a complete response.
    Reset,
    /// The peer broke the protocol.
    ProtocolFailure,
    /// The body failed after the response had begun.
    BodyFailure,
    /// A timeout of this process passed.
    Timeout,
    /// The caller's own deadline passed.
    DeadlineExpired,
    /// The caller went away: a dropped future or body.
    Cancelled,
    /// The caller's request body failed.
    CallerBodyFailure,
    /// This process refused the call: limits, no endpoint, no route, draining.
    LocalRefusal,
    /// This process's own credential was refused; no endpoint is to blame.
    OwnCredential,
    /// An injected fault.
    Injected,
    /// Another attempt of a hedged call won.
    HedgeLoser,
    /// A mirrored request.
    Mirror,
    /// The route answered by itself: redirect or direct response.
    DirectResponse,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &'static [Outcome] = &[
        Outcome::Success,
        Outcome::Rejected,
        Outcome::RateLimited,
        Outcome::Shed,
        Outcome::GatewayFailure,
        Outcome::ServerFailure,
        Outcome::MissingStatus,
        Outcome::Upgraded,
        Outcome::ConnectFailure,
        Outcome::Unprocessed,
        Outcome::Reset,
        Outcome::ProtocolFailure,
        Outcome::BodyFailure,
        Outcome::Timeout,
        Outcome::DeadlineExpired,
        Outcome::Cancelled,
        Outcome::CallerBodyFailure,
        Outcome::LocalRefusal,
        Outcome::OwnCredential,
        Outcome::Injected,
        Outcome::HedgeLoser,
        Outcome::Mirror,
        Outcome::DirectResponse,
    ];

    /// Whether a success-rate metric counts this as a failure. A 4xx is a success of the server.
    pub fn is_failure(self) -> bool {
        !matches!(
            self,
            Outcome::Success
                | Outcome::Rejected
                | Outcome::RateLimited
                | Outcome::Upgraded
                | Outcome::Cancelled
                | Outcome::HedgeLoser
                | Outcome::Mirror
                | Outcome::DirectResponse
        )
    }

    /// Whether a call that ended like this pays for a part of a retry: the backend did its work.
    pub(crate) fn fills_budget(self) -> bool {
        matches!(self, Outcome::Success | Outcome::Rejected | Outcome::Upgraded)
    }

    /// The label value in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Rejected => "rejected",
            Outcome::RateLimited => "rate_limited",
            Outcome::Shed => "shed",
            Outcome::GatewayFailure => "gateway_failure",
            Outcome::ServerFailure => "server_failure",
            Outcome::MissingStatus => "missing_status",
            Outcome::Upgraded => "upgraded",
            Outcome::ConnectFailure => "connect_failure",
            Outcome::Unprocessed => "unprocessed",
            Outcome::Reset => "reset",
            Outcome::ProtocolFailure => "protocol_failure",
            Outcome::BodyFailure => "body_failure",
            Outcome::Timeout => "timeout",
            Outcome::DeadlineExpired => "deadline_expired",
            Outcome::Cancelled => "cancelled",
            Outcome::CallerBodyFailure => "caller_body_failure",
            Outcome::LocalRefusal => "local_refusal",
            Outcome::OwnCredential => "own_credential",
            Outcome::Injected => "injected",
            Outcome::HedgeLoser => "hedge_loser",
            Outcome::Mirror => "mirror",
            Outcome::DirectResponse => "direct_response",
        }
    }
}

/// A response whose outcome may still depend on its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Known from the headers.
    Final(Outcome),
    /// A gRPC response: known from its trailers.
    AtTrailers,
}

/// Marks a response that the mesh made in place of an error, so that metrics see the cause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal(pub(crate) Code);

/// The outcome of a response as far as its headers tell. `grpc` says whether the *request* was gRPC.
pub(crate) fn response(parts: &response::Parts, grpc: bool) -> Verdict {
    by_headers(parts.status, &parts.headers, grpc)
}

pub(crate) fn by_headers(status: StatusCode, headers: &HeaderMap, grpc: bool) -> Verdict {
    if grpc && status == StatusCode::OK {
        return match headers.get(GRPC_STATUS) {
            Some(status) => Verdict::Final(grpc::outcome(status, headers)),
            None => Verdict::AtTrailers,
        };
    }
    Verdict::Final(http_status::outcome(status, headers))
}

/// The outcome of a gRPC response that ended with these trailers, `None` if it ended without.
pub(crate) fn trailers(trailers: Option<&HeaderMap>) -> Outcome {
    match trailers.and_then(|trailers| Some((trailers.get(GRPC_STATUS)?, trailers))) {
        Some((status, trailers)) => grpc::outcome(status, trailers),
        None => Outcome::MissingStatus,
    }
}

/// The outcome of a call that ended without a response.
pub(crate) fn error(error: &Error) -> Outcome {
    match error.code() {
        Code::ConnectFailed | Code::ConnectTimeout | Code::DnsFailed => Outcome::ConnectFailure,
        Code::TlsFailed if error.delivery() == Delivery::TlsRefused => Outcome::OwnCredential,
        Code::TlsFailed => Outcome::ConnectFailure,
        Code::ConnectionClosed | Code::PeerReset | Code::PeerCalmed => match error.delivery() {
            Delivery::Unsent | Delivery::GoawayUnprocessed | Delivery::RefusedStream => Outcome::Unprocessed,
            _ => Outcome::Reset,
        },
        Code::ProtocolError => Outcome::ProtocolFailure,
        Code::TimeoutRequest | Code::Idle | Code::MaxDuration => Outcome::Timeout,
        Code::DeadlineExhausted => Outcome::DeadlineExpired,
        Code::ClientGone if error.origin() == Origin::Caller => Outcome::CallerBodyFailure,
        Code::ClientGone => Outcome::Cancelled,
        Code::FaultAbort => Outcome::Injected,
        Code::RateLimited => Outcome::LocalRefusal,
        Code::Internal => Outcome::ServerFailure,
        _ => Outcome::LocalRefusal,
    }
}

/// Whether the peer said that it shed this request before processing it.
fn is_shed(headers: &HeaderMap) -> bool {
    headers.contains_key("sinew-shed") || headers.contains_key("retry-after") || pushes_back(headers)
}

fn pushes_back(headers: &HeaderMap) -> bool {
    headers.get("grpc-retry-pushback-ms").map(HeaderValue::as_bytes).is_some_and(|ms| !ms.starts_with(b"-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(status: u16, headers: &[(&'static str, &'static str)]) -> Outcome {
        match by_headers(StatusCode::from_u16(status).unwrap(), &map(headers), false) {
            Verdict::Final(outcome) => outcome,
            Verdict::AtTrailers => panic!("HTTP outcomes are known at the headers"),
        }
    }

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn every_variant_has_one_row_and_its_own_label() {
        let mut labels: Vec<_> = Outcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Outcome::ALL.len());
    }

    #[test]
    fn http_statuses() {
        for (status, outcome) in [
            (200, Outcome::Success),
            (101, Outcome::Upgraded),
            (304, Outcome::Success),
            (404, Outcome::Rejected),
            (429, Outcome::RateLimited),
            (500, Outcome::ServerFailure),
            (501, Outcome::ServerFailure),
            (502, Outcome::GatewayFailure),
            (503, Outcome::GatewayFailure),
            (504, Outcome::GatewayFailure),
        ] {
            assert_eq!(http(status, &[]), outcome, "{status}");
        }
        assert_eq!(http(503, &[("sinew-shed", "1")]), Outcome::Shed);
        assert_eq!(http(503, &[("retry-after", "1")]), Outcome::Shed);
    }

    #[test]
    fn grpc_statuses_come_from_trailers_or_trailers_only_headers() {
        let at = |status| trailers(Some(&map(&[("grpc-status", status)])));
        for (status, outcome) in [
            ("0", Outcome::Success),
            ("1", Outcome::Rejected),
            ("2", Outcome::ServerFailure),
            ("3", Outcome::Rejected),
            ("4", Outcome::GatewayFailure),
            ("5", Outcome::Rejected),
            ("8", Outcome::RateLimited),
            ("12", Outcome::Rejected),
            ("13", Outcome::ServerFailure),
            ("14", Outcome::GatewayFailure),
            ("15", Outcome::ServerFailure),
            ("16", Outcome::Rejected),
            ("99", Outcome::ServerFailure),
            ("x", Outcome::ServerFailure),
        ] {
            assert_eq!(at(status), outcome, "{status}");
        }
        assert_eq!(trailers(None), Outcome::MissingStatus);
        assert_eq!(trailers(Some(&map(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "10")]))), Outcome::Shed);
        let ok = StatusCode::OK;
        assert_eq!(by_headers(ok, &HeaderMap::new(), true), Verdict::AtTrailers);
        assert_eq!(by_headers(ok, &map(&[("grpc-status", "14")]), true), Verdict::Final(Outcome::GatewayFailure));
        assert_eq!(
            by_headers(StatusCode::BAD_GATEWAY, &HeaderMap::new(), true),
            Verdict::Final(Outcome::GatewayFailure)
        );
    }

    #[test]
    fn errors_tell_refusals_of_this_process_from_failures_of_the_peer() {
        let outcome = |code| error(&Error::new(code, "x"));
        assert_eq!(outcome(Code::ConnectFailed), Outcome::ConnectFailure);
        assert_eq!(outcome(Code::Overflow), Outcome::LocalRefusal);
        assert_eq!(outcome(Code::DeadlineExhausted), Outcome::DeadlineExpired);
        assert_eq!(outcome(Code::PeerReset), Outcome::Reset);
        let refused = Error::new(Code::PeerReset, "x").with_delivery(Delivery::RefusedStream);
        assert_eq!(error(&refused), Outcome::Unprocessed);
    }
}
