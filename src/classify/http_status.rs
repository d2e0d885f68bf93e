//! The outcome of a plain HTTP response.

use http::{HeaderMap, StatusCode};

use super::{Outcome, is_shed};

pub(super) fn outcome(status: StatusCode, headers: &HeaderMap) -> Outcome {
    match status.as_u16() {
        101 => Outcome::Upgraded,
        429 => Outcome::RateLimited,
        503 if is_shed(headers) => Outcome::Shed,
        502..=504 => Outcome::GatewayFailure,
        500.. => Outcome::ServerFailure,
        400.. => Outcome::Rejected,
        _ => Outcome::Success,
    }
}
