//! `grpc.health.v1` without the feature `tonic`.

use std::{convert::Infallible, future::Future, pin::Pin};

use http::{Request, Response, StatusCode};

use super::{
    readiness::Readiness,
    server::{TEXT, respond},
};
use crate::{body::Body, rt::TaskSet};

pub(super) struct Health;

impl Health {
    pub(super) fn new(_service: &str, _readiness: &Readiness, _tasks: &TaskSet) -> Self {
        Self
    }

    pub(super) fn call(
        &self,
        _request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> {
        let answer = respond(
            StatusCode::NOT_FOUND,
            TEXT,
            "not found: build sinew with its feature `tonic` for grpc.health.v1\n",
        );
        Box::pin(std::future::ready(Ok(answer)))
    }
}
