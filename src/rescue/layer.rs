//! The rescue as a Tower layer.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Reader, answer};
use crate::{body::StackBody, error::Error, provide::Provide};

/// How a request wants to hear of its failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rescue {
    pub(crate) grpc: bool,
    pub(crate) reader: Reader,
}

/// Turns errors into answers, for requests that want one.
#[derive(Clone, Debug)]
pub(crate) struct RescueLayer<Src> {
    source: Src,
}

impl<Src> RescueLayer<Src> {
    pub(crate) const fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for RescueLayer<Src> {
    type Service = Rescued<S, Src>;

    fn layer(&self, inner: S) -> Rescued<S, Src> {
        Rescued { inner, source: self.source.clone() }
    }
}

/// The service made by [`RescueLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Rescued<S, Src> {
    inner: S,
    source: Src,
}

impl<S, Src, R, B> Service<R> for Rescued<S, Src>
where
    S: Service<R, Response = Response<StackBody<B>>, Error = Error>,
    B: HttpBody<Data = bytes::Bytes, Error = Error>,
    Src: Provide<Rescue, R>,
{
    type Response = Response<StackBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        let rescue = self.source.provide(&request);
        ResponseFuture { inner: self.inner.call(request), rescue }
    }
}

pin_project! {
    pub(crate) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        rescue: Option<Rescue>,
    }
}

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<StackBody<B>>, Error>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        Poll::Ready(match (ready!(this.inner.poll(cx)), this.rescue) {
            (Err(error), Some(rescue)) => {
                tracing::debug!(code = %error.code(), "{error}");
                Ok(answer(&error, rescue.grpc, rescue.reader).map(StackBody::erased))
            }
            (result, _) => result,
        })
    }
}
