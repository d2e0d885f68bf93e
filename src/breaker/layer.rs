//! The limit as a Tower layer around any HTTP service.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Limit, Permit};
use crate::{
    body::{Foreign, GuardedBody, Held},
    error::{BoxError, Code, Error},
    provide::{Fixed, Provide},
    rt,
};

/// Refuses calls beyond a limit with E030, at once. The permit is held until the response body ends.
///
/// Nothing is reserved in `poll_ready`, so clones that are made and never called cost nothing.
#[derive(Clone, Debug)]
pub struct LimitLayer<Src = Fixed<Arc<Limit>>> {
    source: Src,
}

impl LimitLayer {
    /// At most `max` calls in flight through all services this layer makes.
    pub fn new(max: u32) -> Self {
        Self { source: Fixed(Limit::new(max)) }
    }
}

impl<Src> LimitLayer<Src> {
    /// Finds the limit for each request; no limit admits.
    pub fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for LimitLayer<Src> {
    type Service = LimitService<S, Src>;

    fn layer(&self, inner: S) -> Self::Service {
        LimitService { inner, source: self.source.clone() }
    }
}

/// The service made by [`LimitLayer`].
#[derive(Clone, Debug)]
pub struct LimitService<S, Src = Fixed<Arc<Limit>>> {
    inner: S,
    source: Src,
}

impl<S, Src, R, B> Service<R> for LimitService<S, Src>
where
    S: Service<R, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = bytes::Bytes>,
    B::Error: Into<BoxError>,
    Src: Provide<Arc<Limit>, R>,
{
    type Response = Response<LimitBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    #[inline(always)]
    fn call(&mut self, request: R) -> Self::Future {
        let now = rt::handed();
        let permit = match self.source.provide(&request).map(Limit::admit).transpose() {
            Ok(permit) => permit,
            Err(max) => return ResponseFuture { state: State::Refused { max } },
        };
        let _handed = rt::hand::<S>(now);
        ResponseFuture { state: State::Running { future: self.inner.call(request), permit } }
    }
}

#[cold]
fn foreign(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::Internal, "the service under a limit failed")
}

pin_project! {
    /// The response body of a [`LimitService`]: holds the permit to its end.
    pub struct LimitBody<B> {
        #[pin]
        inner: GuardedBody<Foreign<B>, Held<Option<Permit>>>,
    }
}

impl<B> std::fmt::Debug for LimitBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LimitBody")
    }
}

impl<B> HttpBody for LimitBody<B>
where
    B: HttpBody<Data = bytes::Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = bytes::Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// The future of a [`LimitService`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Running { #[pin] future: F, permit: Option<Permit> },
        Refused { max: u32 },
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: HttpBody<Data = bytes::Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<LimitBody<B>>, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Running { future, permit } => {
                let response = match ready!(future.poll(cx)) {
                    Ok(response) => response,
                    Err(error) => return Poll::Ready(Err(foreign(error))),
                };
                let permit = permit.take();
                let guarded = |body| GuardedBody::new(Foreign::new(body), Held(permit));
                Poll::Ready(Ok(response.map(|body| LimitBody { inner: guarded(body) })))
            }
            StateProjection::Refused { max } => Poll::Ready(Err(Error::new(
                Code::Overflow,
                format!("{max} calls are in flight, the limit; raise it, or call less at a time"),
            ))),
        }
    }
}
