//! Bodies inside the stacks: generic between the seams, so that guards are typed wrappers and nothing is boxed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::Body;
use crate::error::Error;

pin_project! {
    /// A body of the stack below, or one that was made or erased on the way.
    #[project = StackBodyProjection]
    pub(crate) enum StackBody<B> {
        Inline { #[pin] body: B },
        Erased { #[pin] body: Body },
    }
}

impl<B> StackBody<B> {
    pub(crate) fn inline(body: B) -> Self {
        Self::Inline { body }
    }

    pub(crate) fn erased(body: Body) -> Self {
        Self::Erased { body }
    }
}

impl<B: HttpBody<Data = Bytes, Error = Error>> HttpBody for StackBody<B> {
    type Data = Bytes;
    type Error = Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.project() {
            StackBodyProjection::Inline { body } => body.poll_frame(cx),
            StackBodyProjection::Erased { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inline { body } => body.is_end_stream(),
            Self::Erased { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inline { body } => body.size_hint(),
            Self::Erased { body } => body.size_hint(),
        }
    }
}

/// Makes room for a body that a layer above answers with in place of the one from below.
#[derive(Clone, Debug)]
pub(crate) struct ErasableLayer;

impl<S> Layer<S> for ErasableLayer {
    type Service = Erasable<S>;

    fn layer(&self, inner: S) -> Erasable<S> {
        Erasable { inner }
    }
}

/// The service made by [`ErasableLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Erasable<S> {
    inner: S,
}

impl<S, R, B> Service<R> for Erasable<S>
where
    S: Service<R, Response = Response<B>, Error = Error>,
{
    type Response = Response<StackBody<B>>;
    type Error = Error;
    type Future = ErasableFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        ErasableFuture { inner: self.inner.call(request) }
    }
}

pin_project! {
    pub(crate) struct ErasableFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, B> Future for ErasableFuture<F>
where
    F: Future<Output = Result<Response<B>, Error>>,
{
    type Output = Result<Response<StackBody<B>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map_ok(|response| response.map(StackBody::inline))
    }
}
