//! Faults as Tower layers: inside the client stack, and around any HTTP service.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    engine::Aborted,
    handle::{FaultHandle, Injection, Series},
    pace::Paced,
    policy::FaultPolicy,
};
use crate::{
    body::{Body, Foreign, StackBody},
    classify::{GRPC_STATUS, grpc_to_http, http_to_grpc, is_grpc},
    error::{BoxError, Code, Error, Origin},
    provide::Provide,
    rescue::{Reader, answer},
    rt,
};

/// Delays, aborts and slows calls where the source finds an injection.
#[derive(Clone, Debug)]
pub(crate) struct InjectLayer<Src> {
    source: Src,
}

impl<Src> InjectLayer<Src> {
    pub(crate) const fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for InjectLayer<Src> {
    type Service = Inject<S, Src>;

    fn layer(&self, inner: S) -> Inject<S, Src> {
        Inject { inner, source: self.source.clone() }
    }
}

/// What is injected into one call, and whether the call is gRPC.
#[derive(Clone, Debug)]
pub(crate) struct Injected {
    pub(crate) injection: Arc<Injection>,
    pub(crate) grpc: bool,
}

/// The service made by [`InjectLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Inject<S, Src> {
    inner: S,
    source: Src,
}

impl<S, Src, R, B> Service<R> for Inject<S, Src>
where
    S: Service<R, Response = Response<StackBody<B>>, Error = Error> + Clone,
    Src: Provide<Injected, R>,
    B: HttpBody<Data = Bytes, Error = Error> + Send + 'static,
{
    type Response = Response<StackBody<B>>;
    type Error = Error;
    type Future = InjectFuture<S, S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        let Some(injected) = self.source.provide(&request) else {
            return InjectFuture { state: State::Sent { future: self.inner.call(request) }, injected: None };
        };
        injected.injection.count();
        let state = match injected.injection.rolled.delay {
            Some(delay) => {
                // The one that was made ready goes into the future.
                let next = self.inner.clone();
                let service = mem::replace(&mut self.inner, next);
                let sleep = Box::pin(rt::sleep_until(rt::now() + delay));
                State::Delayed { delayed: Some(Box::new((service, request))), sleep }
            }
            None if injected.injection.rolled.abort.is_some() => State::Aborted,
            None => State::Sent { future: self.inner.call(request) },
        };
        InjectFuture { state, injected: Some(injected) }
    }
}

pin_project! {
    pub(crate) struct InjectFuture<S, F, R> {
        #[pin]
        state: State<S, F, R>,
        injected: Option<Injected>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, R> {
        Sent { #[pin] future: F },
        Delayed { delayed: Option<Box<(S, R)>>, sleep: Pin<Box<rt::Sleep>> },
        Aborted,
    }
}

impl<S, R, B> Future for InjectFuture<S, S::Future, R>
where
    S: Service<R, Response = Response<StackBody<B>>, Error = Error>,
    B: HttpBody<Data = Bytes, Error = Error> + Send + 'static,
{
    type Output = Result<Response<StackBody<B>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Sent { future } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(Ok(match this.injected.take() {
                        None => response,
                        Some(injected) => slowed(response, injected),
                    }));
                }
                StateProjection::Delayed { delayed, sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    let aborts = this.injected.as_ref().is_some_and(|all| all.injection.rolled.abort.is_some());
                    let next = match delayed.take().map(|delayed| *delayed) {
                        Some((mut service, request)) if !aborts => State::Sent { future: service.call(request) },
                        _ => State::Aborted,
                    };
                    this.state.set(next);
                }
                StateProjection::Aborted => {
                    let aborted = this.injected.take().map(|injected| aborted(&injected));
                    return Poll::Ready(match aborted {
                        Some(result) => result.map(|response| response.map(StackBody::erased)),
                        None => Err(Error::new(Code::Internal, "a call was polled after its end")),
                    });
                }
            }
        }
    }
}

fn slowed<B>(response: Response<StackBody<B>>, injected: Injected) -> Response<StackBody<B>>
where
    B: HttpBody<Data = Bytes, Error = Error> + Send + 'static,
{
    match injected.injection.rolled.rate {
        None => response,
        Some(rate) => response.map(|body| StackBody::erased(Body::erase(Paced::new(body, rate, injected.injection)))),
    }
}

/// The answer in place of the service's. Metrics find in it that the mesh made it.
fn aborted(injected: &Injected) -> Result<Response<Body>, Error> {
    let Some(abort) = injected.injection.rolled.abort else {
        return Err(Error::new(Code::Internal, "a call without an abort was aborted"));
    };
    let error = Error::new(Code::FaultAbort, injected.injection.message(abort));
    let (http, grpc) = match abort {
        Aborted::Http(status) => (status, http_to_grpc(status)),
        Aborted::Grpc(status) => (grpc_to_http(status), status),
        Aborted::Reset => return Err(error.with_origin(Origin::Transport)),
    };
    let mut response = answer(&error, injected.grpc, Reader::Own);
    if injected.grpc {
        response.headers_mut().insert(GRPC_STATUS, HeaderValue::from(u16::from(grpc)));
    } else {
        *response.status_mut() = http;
        if matches!(http, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            *response.body_mut() = Body::empty();
        }
    }
    Ok(response)
}

/// Injects faults around any HTTP service: delays, aborts, slow responses.
///
/// An abort is a response with the chosen status and the header `sinew-error: SINEW-E060; fault_abort`, made without the
/// service; [`Abort::Reset`](super::Abort::Reset) is an error. `expires_after` counts from the making of the layer. The
/// services it makes share the count of active faults.
///
/// ```
/// use std::time::Duration;
/// use sinew::{enforcement::Percent, fault::{Delay, FaultLayer, FaultPolicy}};
///
/// let slow = FaultPolicy::new().delay(Delay::Fixed(Duration::from_secs(7)), Percent::new(10.0).unwrap());
/// let layer = FaultLayer::new(slow).unwrap();
/// # let _ = tower::Layer::layer(&layer, tower::service_fn(|_: http::Request<String>| async { Ok::<_, sinew::Error>(http::Response::new(String::new())) }));
/// ```
#[derive(Clone, Debug)]
pub struct FaultLayer {
    handle: Arc<FaultHandle>,
}

impl FaultLayer {
    /// Injects what the policy says.
    ///
    /// # Errors
    /// E055 if the policy contradicts itself or a value is out of its bounds.
    pub fn new(policy: FaultPolicy) -> Result<Self, Error> {
        if let Err((path, reason)) = policy.check() {
            return Err(Error::new(Code::BadRequest, format!("fault.{path}: {reason}")));
        }
        Ok(Self { handle: FaultHandle::new(policy, rt::now(), Series::default()) })
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = Fault<S>;

    fn layer(&self, inner: S) -> Fault<S> {
        Fault { inner, handle: Arc::clone(&self.handle) }
    }
}

/// The service made by [`FaultLayer`].
#[derive(Clone, Debug)]
pub struct Fault<S> {
    inner: S,
    handle: Arc<FaultHandle>,
}

impl<S, RB, B> Service<Request<RB>> for Fault<S>
where
    S: Service<Request<RB>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture<S, S::Future, Request<RB>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    fn call(&mut self, mut request: Request<RB>) -> Self::Future {
        let grpc = is_grpc(request.headers());
        let injection = self.handle.inject(request.headers_mut(), rt::now());
        // As `clone` below: the one that was made ready is called.
        let next = self.inner.clone();
        let service = mem::replace(&mut self.inner, next);
        let source = Known(injection.map(|injection| Injected { injection, grpc }));
        ResponseFuture { inner: Inject { inner: Adapted { inner: service }, source }.call(request) }
    }
}

fn foreign(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::Internal, "the service under a fault failed")
}

/// What was rolled for this request already.
#[derive(Clone, Debug)]
struct Known(Option<Injected>);

impl<R> Provide<Injected, R> for Known {
    fn provide(&self, _request: &R) -> Option<Injected> {
        self.0.clone()
    }
}

/// A foreign service with our error and our form of body.
#[derive(Clone, Debug)]
struct Adapted<S> {
    inner: S,
}

impl<S, R, B> Service<R> for Adapted<S>
where
    S: Service<R, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<StackBody<Foreign<B>>>;
    type Error = Error;
    type Future = AdaptedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    fn call(&mut self, request: R) -> Self::Future {
        AdaptedFuture { future: self.inner.call(request) }
    }
}

pin_project! {
    struct AdaptedFuture<F> {
        #[pin]
        future: F,
    }
}

impl<F, B, E> Future for AdaptedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<StackBody<Foreign<B>>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().future.poll(cx).map(|result| match result {
            Ok(response) => Ok(response.map(|body| StackBody::inline(Foreign::new(body)))),
            Err(error) => Err(foreign(error)),
        })
    }
}

pin_project! {
    /// The future of a [`Fault`].
    pub struct ResponseFuture<S, F, R> {
        #[pin]
        inner: InjectFuture<Adapted<S>, AdaptedFuture<F>, R>,
    }
}

impl<S, F, R> std::fmt::Debug for ResponseFuture<S, F, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("fault::ResponseFuture")
    }
}

impl<S, R, B> Future for ResponseFuture<S, S::Future, R>
where
    S: Service<R, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map_ok(|response| {
            response.map(|body| match body {
                StackBody::Erased { body } => body,
                body => Body::erase(body),
            })
        })
    }
}
