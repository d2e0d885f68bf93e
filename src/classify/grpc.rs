//! The outcome of a gRPC response, from `grpc-status`.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};

use super::{Outcome, is_shed};

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Whether a request is gRPC: `application/grpc`, with or without a suffix. Not gRPC-Web.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// The gRPC status of an HTTP status that came without one (gRPC's http-grpc-status-mapping).
pub(crate) fn http_to_grpc(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The HTTP status that means what a gRPC status means, as google.rpc.Code maps them.
pub(crate) fn grpc_to_http(status: u8) -> StatusCode {
    match status {
        0 => StatusCode::OK,
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
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
