//! In place of gRPC, where it is not built in; the configuration is refused before.

use http::Request;

use super::{Ask, Failure, answer::Answer};
use crate::{authz::ExtAuthz, body::Body, server::inbound::Served};

pub(super) fn request(_policy: &ExtAuthz, _served: &Served) -> Result<Request<Body>, Failure> {
    Err(Failure::new("unsupported", "asking by gRPC needs the feature `tonic`"))
}

pub(super) async fn ask(_service: &dyn Ask, _request: Request<Body>) -> Result<Answer, Failure> {
    Err(Failure::new("unsupported", "asking by gRPC needs the feature `tonic`"))
}
