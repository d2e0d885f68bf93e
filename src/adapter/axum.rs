//! Extractors for axum 0.8, and its body under [`ServerLayer`](crate::ServerLayer).

use std::convert::Infallible;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use http::{StatusCode, request::Parts};

use crate::{body::Body, caller::Caller, context::Context, peer::Peer, server::RequestBody};

/// The handler is not behind a sinew listener or layer.
const MISSING: (StatusCode, &str) = (
    StatusCode::INTERNAL_SERVER_ERROR,
    "this request did not come through sinew: serve the router by `mesh.serve(..)`, or add `.layer(mesh.server_layer())`",
);

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Context::of(&parts.extensions).ok_or(MISSING)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Context {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(Context::of(&parts.extensions))
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Peer::of(&parts.extensions).ok_or(MISSING)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(Peer::of(&parts.extensions))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Caller::of(&parts.extensions).ok_or(MISSING)
    }
}

impl RequestBody for axum::body::Body {
    fn from_mesh(body: Body) -> Self {
        axum::body::Body::new(body)
    }
}

impl From<axum::body::Body> for Body {
    fn from(body: axum::body::Body) -> Self {
        Body::new(body)
    }
}
