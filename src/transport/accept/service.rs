//! Between hyper and the server stack: counts requests, hands over bodies, says `Connection: close`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, HeaderMap},
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::state::{ConnState, InFlight};
use crate::{body::Body, error::BoxError};

/// The service of one connection.
pub(super) struct Wire<S> {
    inner: S,
    state: Arc<ConnState>,
    http1: bool,
}

impl<S> Wire<S> {
    pub(super) fn new(inner: S, state: Arc<ConnState>, http1: bool) -> Self {
        Self { inner, state, http1 }
    }
}

impl<S, RB> hyper::service::Service<Request<Incoming>> for Wire<S>
where
    S: Service<Request<Body>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    RB: HttpBody<Data = Bytes>,
{
    type Response = Response<Counted<RB>>;
    type Error = BoxError;
    type Future = ResponseFuture<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let guard = self.state.begin(!request.body().is_end_stream());
        let http1 =
            self.http1.then(|| Http1 { state: Arc::clone(&self.state), connect: request.method() == Method::CONNECT });
        let request = request.map(Body::incoming);
        let mut inner = self.inner.clone();
        // A service that is ready is called here and not in the future: admission must be decided before a future
        // exists, or under overload every accepted request waits behind every other.
        let stage = match inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Stage::Called { future: inner.call(request) },
            Poll::Ready(Err(error)) => Stage::Failed { error: Some(error.into()) },
            Poll::Pending => Stage::Waiting { inner, request: Some(request) },
        };
        ResponseFuture { stage, guard: Some(guard), http1 }
    }
}

struct Http1 {
    state: Arc<ConnState>,
    connect: bool,
}

impl Http1 {
    fn finish(&self, status: StatusCode, headers: &mut HeaderMap) {
        if status == StatusCode::SWITCHING_PROTOCOLS || (self.connect && status.is_success()) {
            self.state.upgrade();
        } else if self.state.closes_next() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

pin_project! {
    /// The response, with what its connection wants to know about it.
    pub(super) struct ResponseFuture<S>
    where
        S: Service<Request<Body>>,
    {
        #[pin]
        stage: Stage<S, S::Future>,
        guard: Option<InFlight>,
        http1: Option<Http1>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, F> {
        Waiting { inner: S, request: Option<Request<Body>> },
        Called { #[pin] future: F },
        Failed { error: Option<BoxError> },
    }
}

impl<S, RB> Future for ResponseFuture<S>
where
    S: Service<Request<Body>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: HttpBody<Data = Bytes>,
{
    type Output = Result<Response<Counted<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProj::Waiting { inner, request } => {
                    ready!(inner.poll_ready(cx)).map_err(Into::into)?;
                    // Taken once: the stage changes with it.
                    let Some(request) = request.take() else { return Poll::Pending };
                    let future = inner.call(request);
                    this.stage.set(Stage::Called { future });
                }
                StageProj::Called { future } => {
                    let (mut head, body) = ready!(future.poll(cx)).map_err(Into::into)?.into_parts();
                    if let Some(http1) = this.http1 {
                        http1.finish(head.status, &mut head.headers);
                    }
                    return Poll::Ready(Ok(Response::from_parts(head, Counted::new(body, this.guard.take()))));
                }
                StageProj::Failed { error } => {
                    return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
            }
        }
    }
}

pin_project! {
    /// A response body; the request is in flight until it ends.
    pub(super) struct Counted<B> {
        #[pin]
        body: B,
        guard: Option<InFlight>,
    }
}

impl<B: HttpBody> Counted<B> {
    fn new(body: B, guard: Option<InFlight>) -> Self {
        let guard = guard.filter(|_| !body.is_end_stream());
        Self { body, guard }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let more = matches!(&frame, Some(Ok(frame)) if frame.is_data()) && !this.body.is_end_stream();
        if !more {
            *this.guard = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
