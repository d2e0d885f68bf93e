//! The outcome of a gRPC response, from `grpc-status`.

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

use super::{Outcome, is_shed};

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Whether a request is gRPC: `application/grpc`, with or without a suffix. Not gRPC-Web.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

pub(super) fn outcome(status: &HeaderValue, headers: &HeaderMap) -> Outcome {
    match status.as_bytes() {
        b"0" => Outcome::Success,
        b"4" => Outcome::GatewayFailure,
        b"8" => Outcome::RateLimited,
        b"14" if is_shed(headers) => Outcome::Shed,
        b"14" => Outcome::GatewayFailure,
        b"1" | b"3" | b"5" | b"6" | b"7" | b"9" | b"10" | b"11" | b"12" | b"16" => Outcome::Rejected,
        _ => Outcome::ServerFailure,
    }
}
