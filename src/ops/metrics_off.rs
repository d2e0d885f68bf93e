//! `/metrics` without the feature `prometheus`.

use http::{Response, StatusCode};

use super::server::{TEXT, respond};
use crate::{body::Body, instrument::Registry};

pub(super) struct Metrics;

impl Metrics {
    pub(super) fn new(_registry: Registry) -> Self {
        Self
    }

    pub(super) fn render(&self) -> Response<Body> {
        respond(StatusCode::NOT_FOUND, TEXT, "not found: build sinew with its feature `prometheus` for /metrics\n")
    }
}
