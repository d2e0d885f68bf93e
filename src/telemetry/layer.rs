//! The record as a Tower layer.

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
use tracing::Span;

use super::Record;
use crate::{body::GuardedBody, error::Error, provide::Provide};

/// Records every call that passes.
#[derive(Clone, Debug)]
pub(crate) struct TelemetryLayer<Src> {
    source: Src,
}

impl<Src> TelemetryLayer<Src> {
    pub(crate) const fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for TelemetryLayer<Src> {
    type Service = Telemetry<S, Src>;

    fn layer(&self, inner: S) -> Self::Service {
        Telemetry { inner, source: self.source.clone() }
    }
}

/// The service made by [`TelemetryLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Telemetry<S, Src> {
    inner: S,
    source: Src,
}

impl<S, Src, R, B> Service<R> for Telemetry<S, Src>
where
    S: Service<R, Response = Response<B>, Error = Error>,
    B: HttpBody<Data = bytes::Bytes, Error = Error>,
    Src: Provide<Record, R>,
{
    type Response = Response<GuardedBody<B, Option<Record>>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        let record = self.source.provide(&request);
        let span = record.as_ref().map_or_else(Span::none, Record::span);
        // A closure would have the future moved once more.
        let entered = span.enter();
        let inner = self.inner.call(request);
        drop(entered);
        ResponseFuture { inner, record, span }
    }
}

pin_project! {
    pub(crate) struct ResponseFuture<F> {
        #[pin]
        inner: F,
        record: Option<Record>,
        span: Span,
    }
}

impl<F, B> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, Error>>,
    B: HttpBody<Data = bytes::Bytes, Error = Error>,
{
    type Output = Result<Response<GuardedBody<B, Option<Record>>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        match ready!(this.inner.poll(cx)) {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let mut record = this.record.take();
                if let Some(record) = &mut record {
                    record.answered(&parts);
                }
                Poll::Ready(Ok(Response::from_parts(parts, GuardedBody::new(body, record))))
            }
            Err(error) => {
                if let Some(record) = this.record.take() {
                    record.failed(&error);
                }
                Poll::Ready(Err(error))
            }
        }
    }
}
