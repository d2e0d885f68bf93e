//! The seat of authorization in the stack.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::{inbound::Served, refuse::ResponseFuture};
use crate::error::Error;

/// Refuses requests that no rule allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuthorizeLayer;

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { inner }
    }
}

/// The service made by [`AuthorizeLayer`].
#[derive(Clone)]
pub(crate) struct Authorize<S> {
    inner: S,
}

impl<S> Service<Served> for Authorize<S>
where
    S: Service<Served, Error = Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, served: Served) -> Self::Future {
        match served.cx.policy.access.as_ref().map_or(Ok(()), |access| access.check(&served)) {
            Ok(()) => ResponseFuture::Running { future: self.inner.call(served) },
            Err(error) => ResponseFuture::refused(error),
        }
    }
}
