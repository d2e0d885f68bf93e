//! The deadline as a Tower layer.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, header::CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Deadline, Idle, deadline::Expiry};
use crate::{
    error::{BoxError, Code, Error},
    provide::Provide,
    rt::{self, Instant, Sleep},
};

/// Ends calls that outlive their deadline with E020, or E021 if it was the caller's.
///
/// The deadline follows the response body: a body that stalls ends with the same error. The timer is armed when
/// something is first awaited, so calls that answer at once arm none, and a call never has more than one armed.
#[derive(Clone, Debug)]
pub struct TimeoutLayer<Src = After> {
    source: Src,
}

/// The same timeout for every request.
#[derive(Clone, Debug)]
pub struct After(Duration);

impl<R> Provide<Deadline, R> for After {
    #[inline]
    fn provide(&self, _request: &R) -> Option<Deadline> {
        let now = rt::moment();
        rt::leave(now);
        Some(Deadline::after_from(now, self.0))
    }
}

impl TimeoutLayer {
    /// Ends every call after `timeout`, body included.
    pub fn new(timeout: Duration) -> Self {
        Self { source: After(timeout) }
    }
}

impl<Src> TimeoutLayer<Src> {
    /// Finds the deadline for each request; none never ends.
    pub fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for TimeoutLayer<Src> {
    type Service = Timeout<S, Src>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout { inner, source: self.source.clone() }
    }
}

/// The service made by [`TimeoutLayer`].
#[derive(Clone, Debug)]
pub struct Timeout<S, Src = After> {
    inner: S,
    source: Src,
}

impl<S, Src, R, B> Service<R> for Timeout<S, Src>
where
    S: Service<R, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
    Src: Provide<Deadline, R>,
{
    type Response = Response<TimeoutBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    #[inline(always)]
    fn call(&mut self, request: R) -> Self::Future {
        let deadline = self.source.provide(&request);
        let now = rt::handed();
        let _handed = rt::hand::<S>(now);
        ResponseFuture { inner: self.inner.call(request), timer: Timer { deadline, sleep: None } }
    }
}

#[cold]
fn foreign(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::Internal, "the service under a timeout failed")
}

pin_project! {
    /// A deadline, and its timer once something is awaited.
    struct Timer {
        deadline: Option<Deadline>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Timer {
    /// Ready with the error once the deadline has passed. Called after the guarded work returned pending.
    fn poll_expired(self: Pin<&mut Self>, cx: &mut Context<'_>, silence: Option<&Silence>) -> Poll<Error> {
        let mut this = self.project();
        loop {
            let wakes = match (this.deadline.as_ref().map(|deadline| deadline.at), silence.map(|silence| silence.until))
            {
                (Some(deadline), Some(silence)) => deadline.min(silence),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => return Poll::Pending,
            };
            let Some(mut sleep) = this.sleep.as_mut().as_pin_mut() else {
                this.sleep.set(Some(rt::sleep_until(wakes)));
                continue;
            };
            ready!(sleep.as_mut().poll(cx));
            let now = rt::now();
            if let Some(silence) = silence.filter(|silence| silence.until <= now) {
                return Poll::Ready(silence.idle.error());
            }
            let mut next = wakes;
            if let Some(deadline) = this.deadline.as_mut().filter(|deadline| deadline.at <= now) {
                match deadline.expire(now) {
                    Expiry::Expired(error) => return Poll::Ready(error),
                    Expiry::Passed(then) => {
                        *this.deadline = then;
                        this.sleep.set(None);
                        continue;
                    }
                    Expiry::Later(at) => {
                        deadline.at = at;
                        next = silence.map_or(at, |silence| silence.until.min(at));
                    }
                }
            }
            // It was armed for something earlier: a silence that was broken meanwhile.
            sleep.reset(next);
        }
    }
}

/// A body that has nothing to say at the moment.
struct Silence {
    idle: Idle,
    /// If it goes on until then, it is over.
    until: Instant,
}

pin_project! {
    /// The future of a [`Timeout`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        #[pin]
        timer: Timer,
    }
}

impl<F> std::fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("timeout::ResponseFuture")
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: HttpBody,
{
    type Output = Result<Response<TimeoutBody<B>>, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let response = match this.inner.poll(cx) {
            Poll::Ready(Ok(response)) => response,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(foreign(error))),
            Poll::Pending => return Poll::Ready(Err(ready!(this.timer.poll_expired(cx, None)))),
        };
        let deadline = this.timer.as_mut().project().deadline.take();
        let idle = deadline.as_ref().and_then(|deadline| deadline.idle);
        let idle = idle.filter(|idle| idle.per_try || !is_event_stream(&response));
        let deadline = deadline.and_then(Deadline::of_body);
        Poll::Ready(Ok(response.map(|body| TimeoutBody {
            body,
            timer: Timer { deadline, sleep: None },
            idle,
            silence: None,
            done: false,
        })))
    }
}

pin_project! {
    /// The response body of a [`Timeout`]: fails when the deadline passes before its end.
    pub struct TimeoutBody<B> {
        #[pin]
        body: B,
        #[pin]
        timer: Timer,
        idle: Option<Idle>,
        // Since the last frame, once one was waited for.
        silence: Option<Silence>,
        done: bool,
    }
}

/// Silent for as long as nothing happens. Bodies of a known length are none, and are not looked at.
fn is_event_stream<B: HttpBody>(response: &Response<B>) -> bool {
    let kind =
        || response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    response.body().size_hint().exact().is_none() && kind()
}

impl<B> std::fmt::Debug for TimeoutBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TimeoutBody")
    }
}

impl<B> HttpBody for TimeoutBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        if *this.done {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            *this.silence = None;
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| Error::from_boxed(error.into(), Code::ConnectionClosed, "the body failed"))
            }));
        }
        if let (Some(idle), None) = (*this.idle, &this.silence) {
            *this.silence = Some(Silence { idle, until: rt::now() + idle.after() });
        }
        let error = ready!(this.timer.poll_expired(cx, this.silence.as_ref()));
        *this.done = true;
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use http::Request;
    use http_body_util::BodyExt;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        body::Body,
        provide::Fixed,
        timeout::deadline::{Cause, RequestSent},
    };

    fn stalled_body() -> Body {
        let stream = tokio_stream::StreamExt::chain(
            tokio_stream::iter([Ok(Frame::data(Bytes::from_static(b"a")))]),
            tokio_stream::pending::<Result<Frame<Bytes>, Error>>(),
        );
        Body::new(http_body_util::StreamBody::new(stream))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_response_ends_at_its_deadline() {
        let service = TimeoutLayer::new(Duration::from_secs(3)).layer(service_fn(|_: Request<Body>| async {
            std::future::pending::<Result<Response<Body>, Error>>().await
        }));
        let start = rt::now();
        let error = service.oneshot(Request::new(Body::empty())).await.unwrap_err();
        assert_eq!(error.code(), Code::TimeoutRequest);
        assert!(!error.never_processed());
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_ends_at_the_same_deadline() {
        let service = TimeoutLayer::new(Duration::from_secs(3)).layer(service_fn(|_: Request<Body>| async {
            rt::sleep(Duration::from_secs(1)).await;
            Ok::<_, Error>(Response::new(stalled_body()))
        }));
        let start = rt::now();
        let mut body = Box::pin(service.oneshot(Request::new(Body::empty())).await.unwrap().into_body());
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(body.frame().await.unwrap().unwrap_err().code(), Code::TimeoutRequest);
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_default_response_timeout_counts_from_the_end_of_the_request_body() {
        let sent = Arc::new(OnceLock::new());
        let after = Duration::from_secs(15);
        let deadline =
            Deadline::new(rt::now() + after, Cause::Response { after, sent: RequestSent::When(Arc::clone(&sent)) });
        let service = TimeoutLayer::with(Fixed(deadline)).layer(service_fn(move |_: Request<Body>| {
            let sent = Arc::clone(&sent);
            async move {
                rt::sleep(Duration::from_secs(40)).await;
                let _ = sent.set(rt::now());
                std::future::pending::<Result<Response<Body>, Error>>().await
            }
        }));
        let start = rt::now();
        let error = service.oneshot(Request::new(Body::empty())).await.unwrap_err();
        assert!(error.message().contains("timeouts.response"));
        assert_eq!(start.elapsed(), Duration::from_secs(55));
    }

    fn ticking(every: Duration) -> Body {
        let ticks = tokio_stream::StreamExt::throttle(tokio_stream::iter(0..), every);
        let frames =
            tokio_stream::StreamExt::map(ticks, |_: i32| Ok::<_, Error>(Frame::data(Bytes::from_static(b"a"))));
        Body::new(http_body_util::StreamBody::new(frames))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_go_on_for_ever_but_not_be_silent() {
        let idle = Idle::new(Duration::from_secs(5), true);
        let deadline = Deadline::idle_only(rt::now(), idle.unwrap());
        let service = |body: fn() -> Body| {
            TimeoutLayer::with(Fixed(deadline.clone()))
                .layer(service_fn(move |_: Request<Body>| async move { Ok::<_, Error>(Response::new(body())) }))
        };
        let call = service(|| ticking(Duration::from_secs(4))).oneshot(Request::new(Body::empty()));
        let mut body = Box::pin(call.await.unwrap().into_body());
        for _ in 0..1_000 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        let start = rt::now();
        let call = service(stalled_body).oneshot(Request::new(Body::empty()));
        let mut body = Box::pin(call.await.unwrap().into_body());
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(body.frame().await.unwrap().unwrap_err().code(), Code::Idle);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_stream_may_be_silent_unless_it_is_said_for_every_body() {
        for (per_try, silent) in [(false, true), (true, false)] {
            let deadline = Deadline::idle_only(rt::now(), Idle::new(Duration::from_secs(5), per_try).unwrap());
            let service = TimeoutLayer::with(Fixed(deadline)).layer(service_fn(|_: Request<Body>| async {
                let response = Response::builder().header("content-type", "text/event-stream; charset=utf-8");
                Ok::<_, Error>(response.body(stalled_body()).unwrap())
            }));
            let mut body = Box::pin(service.oneshot(Request::new(Body::empty())).await.unwrap().into_body());
            let _ = body.frame().await;
            assert_eq!(rt::timeout(Duration::from_secs(3600), body.frame()).await.is_none(), silent);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearer_of_deadline_and_silence_ends_a_body() {
        for (deadline, idle, code, took) in [(3, 5, Code::TimeoutRequest, 3), (9, 5, Code::Idle, 5)] {
            let start = rt::now();
            let idle = Idle::new(Duration::from_secs(idle), true);
            let deadline = Deadline::after(Duration::from_secs(deadline)).with_idle(idle);
            let service = TimeoutLayer::with(Fixed(deadline))
                .layer(service_fn(|_: Request<Body>| async { Ok::<_, Error>(Response::new(stalled_body())) }));
            let mut body = Box::pin(service.oneshot(Request::new(Body::empty())).await.unwrap().into_body());
            let _ = body.frame().await;
            assert_eq!(body.frame().await.unwrap().unwrap_err().code(), code);
            assert_eq!(start.elapsed(), Duration::from_secs(took));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_default_response_timeout_does_not_cover_the_body() {
        let after = Duration::from_secs(15);
        let deadline = Deadline::new(rt::now() + after, Cause::Response { after, sent: RequestSent::Always });
        let service = TimeoutLayer::with(Fixed(deadline))
            .layer(service_fn(|_: Request<Body>| async { Ok::<_, Error>(Response::new(stalled_body())) }));
        let mut body = Box::pin(service.oneshot(Request::new(Body::empty())).await.unwrap().into_body());
        let _ = body.frame().await;
        assert!(rt::timeout(Duration::from_secs(3600), body.frame()).await.is_none());
    }
}
