//! Between hyper and the server stack: counts requests, hands over bodies, says `Connection: close`.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, HeaderMap, UPGRADE},
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    exchanges::Judged,
    state::{ConnState, InFlight},
};
use crate::{
    body::{Body, Meter},
    classify::is_grpc,
    error::BoxError,
};

/// The service of one connection.
pub(super) struct Wire<S> {
    inner: S,
    state: Arc<ConnState>,
    http1: bool,
    judged: Option<Judged>,
}

impl<S> Wire<S> {
    pub(super) fn new(inner: S, state: Arc<ConnState>, http1: bool, judged: Option<Judged>) -> Self {
        Self { inner, state, http1, judged }
    }
}

/// The same for a connection of HTTP/2.
///
/// hyper makes a task of each exchange, and moves it on its way there and between its stages some fifteen times: what it
/// moves is a box, and a body that may be empty.
pub(super) struct Streamed<S>(pub(super) Wire<S>);

impl<S, RB> hyper::service::Service<Request<Incoming>> for Streamed<S>
where
    S: Service<Request<Body>, Response = Response<RB>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    RB: HttpBody<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(StreamFuture { exchange: self.0.call(request) })
    }
}

pin_project! {
    struct StreamFuture<S>
    where
        S: Service<Request<Body>>,
    {
        #[pin]
        exchange: ResponseFuture<S>,
    }
}

impl<S, RB> Future for StreamFuture<S>
where
    S: Service<Request<Body>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: HttpBody<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match ready!(self.project().exchange.poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(error)),
        };
        Poll::Ready(Ok(response.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(body) })))
    }
}

/// Whether a request may be judged by its peer's pace: not what streams by its nature, and not who says that it waits.
fn has_pace(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let waits = || {
        let prefers = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
        prefers.flat_map(|value| value.split([',', ';'])).any(|preference| {
            let name = preference.split('=').next().unwrap_or_default();
            name.trim().eq_ignore_ascii_case("wait")
        })
    };
    !(is_grpc(headers) || request.method() == Method::CONNECT || headers.contains_key(UPGRADE) || waits())
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
        let meter = match &self.judged {
            Some(judged) if has_pace(&request) => Some(judged.begin()),
            _ => None,
        };
        let request = match &meter {
            None => request.map(|body| Body::incoming(body, self.http1)),
            Some(meter) => request.map(|body| Body::metered(body, self.http1, Arc::clone(meter))),
        };
        let mut inner = self.inner.clone();
        // A service that is ready is called here and not in the future: admission must be decided before a future
        // exists, or under overload every accepted request waits behind every other.
        let stage = match inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Stage::Called { future: inner.call(request) },
            Poll::Ready(Err(error)) => Stage::Failed { error: Some(error.into()) },
            Poll::Pending => Stage::Waiting { inner, request: Some(request) },
        };
        ResponseFuture { stage, guard: Some(guard), http1, meter }
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
        meter: Option<Arc<Meter>>,
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
                    let mut response = match ready!(future.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => return Poll::Ready(Err(error.into())),
                    };
                    if let Some(http1) = this.http1.as_ref() {
                        http1.finish(response.status(), response.headers_mut());
                    }
                    let (guard, meter, http2) = (this.guard.take(), this.meter.take(), this.http1.is_none());
                    return Poll::Ready(Ok(response.map(|body| Counted::new(body, guard, meter, http2))));
                }
                StageProj::Failed { error } => {
                    return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
            }
        }
    }
}

/// Longest part of a response that HTTP/2 is given at once: h2 keeps the whole of what it was given for as soon as the peer
/// opens its window by one byte.
const MAX_PART: usize = 64 * 1024;

pin_project! {
    /// A response body; the request is in flight until it ends. `rest` is what is left of a part that was too long.
    pub(super) struct Counted<B> {
        #[pin]
        body: B,
        guard: Option<InFlight>,
        meter: Option<Arc<Meter>>,
        rest: Bytes,
        max_part: usize,
    }
}

impl<B: HttpBody> Counted<B> {
    fn new(body: B, guard: Option<InFlight>, meter: Option<Arc<Meter>>, http2: bool) -> Self {
        let guard = guard.filter(|_| !body.is_end_stream());
        Self { body, guard, meter, rest: Bytes::new(), max_part: if http2 { MAX_PART } else { usize::MAX } }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        if let Some(meter) = this.meter.as_deref() {
            meter.wanted();
        }
        let mut frame = match mem::take(this.rest) {
            rest if rest.is_empty() => ready!(this.body.as_mut().poll_frame(cx)),
            rest => Some(Ok(Frame::data(rest))),
        };
        if let Some(Ok(part)) = &mut frame
            && let Some(data) = part.data_mut()
            && data.len() > *this.max_part
        {
            *this.rest = data.split_off(*this.max_part);
        }
        if let (Some(meter), Some(_)) = (this.meter.as_deref(), &frame) {
            meter.gave();
        }
        let is_data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if !(is_data && (!this.rest.is_empty() || !this.body.is_end_stream())) {
            *this.guard = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        let mut all = SizeHint::new();
        all.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            all.set_upper(upper.saturating_add(rest));
        }
        all
    }
}
