//! Throttling as a Tower layer around any HTTP client.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{ThrottlePolicy, Throttler};
use crate::{
    classify::{self, Outcome, Verdict},
    enforcement::Mode,
    error::{BoxError, Code, Error},
    instrument::{Counter, Registry},
    provide::{Fixed, Provide},
    rt::{self, Instant, Rng},
};

/// A request that can be throttled.
pub trait Throttled {
    /// Whether its response is one of gRPC.
    fn is_grpc(&self) -> bool;

    /// When it was made. Default: now.
    fn at(&self) -> std::time::Instant {
        rt::now().into_std()
    }
}

impl<B> Throttled for http::Request<B> {
    fn is_grpc(&self) -> bool {
        classify::is_grpc(self.headers())
    }
}

/// What calls to one service have in common.
#[derive(Debug)]
pub struct ThrottleHandle {
    pub(crate) throttler: Throttler,
    series: Series,
}

/// How often, and the service's name for messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    service: Option<Arc<str>>,
    refused: Counter,
    shadow: Counter,
}

impl Series {
    pub(crate) fn new(registry: &Registry, service: &str) -> Self {
        let counter = |mode| registry.counter("sinew_throttled_total", &[("service", service), ("mode", mode)]);
        Self { service: Some(service.into()), refused: counter("enforce"), shadow: counter("shadow") }
    }
}

impl ThrottleHandle {
    pub(crate) fn new(policy: ThrottlePolicy, series: Series, now: Instant) -> Arc<Self> {
        Arc::new(Self { throttler: Throttler::new(policy, now), series })
    }

    pub(crate) fn policy(&self) -> &ThrottlePolicy {
        self.throttler.policy()
    }

    /// Counts a call.
    ///
    /// # Errors
    /// E033 if it is not to be sent.
    fn check(&self, now: Instant) -> Result<(), Error> {
        let rng = &mut Rng::local();
        if !self.throttler.refuses(now, rng) {
            return Ok(());
        }
        let policy = self.throttler.policy();
        if policy.mode != Mode::Enforce || !policy.percentage.hit(rng) {
            self.series.shadow.inc();
            return Ok(());
        }
        self.series.refused.inc();
        let service = self.series.service.as_deref().unwrap_or("the service");
        let message = format!(
            "`{service}` refuses most calls for overload, so {:.0} % of them are not sent; it is asked again as it recovers",
            self.throttler.probability(now) * 100.0
        );
        Err(Error::new(Code::OverloadShed, message))
    }
}

/// Refuses calls with E033 in the share in which the service refuses them for overload.
///
/// What counts as a refusal: 503, 429, and UNAVAILABLE with the mark of a mesh that sheds. Everything else, an error of
/// the service or of the network too, says nothing about its load.
///
/// ```
/// use sinew::shed::throttle::{ThrottleLayer, ThrottlePolicy};
///
/// let layer = ThrottleLayer::new(ThrottlePolicy::new()).unwrap();
/// # let _ = tower::Layer::layer(&layer, tower::service_fn(|_: http::Request<String>| async { Ok::<_, sinew::Error>(http::Response::new(String::new())) }));
/// ```
#[derive(Clone, Debug)]
pub struct ThrottleLayer<Src = Fixed<Arc<ThrottleHandle>>> {
    source: Src,
}

impl ThrottleLayer {
    /// One account for all services that this layer makes.
    ///
    /// # Errors
    /// E055 if a value is out of its bounds.
    pub fn new(policy: ThrottlePolicy) -> Result<Self, Error> {
        match policy.check() {
            Ok(()) => Ok(Self { source: Fixed(ThrottleHandle::new(policy, Series::default(), rt::now())) }),
            Err((field, reason)) => Err(Error::new(Code::BadRequest, format!("throttle.{field}: {reason}"))),
        }
    }
}

impl<Src> ThrottleLayer<Src> {
    /// Finds the account for each request; none throttles nothing.
    pub const fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for ThrottleLayer<Src> {
    type Service = Throttle<S, Src>;

    fn layer(&self, inner: S) -> Self::Service {
        Throttle { inner, source: self.source.clone() }
    }
}

/// The service made by [`ThrottleLayer`].
#[derive(Clone, Debug)]
pub struct Throttle<S, Src = Fixed<Arc<ThrottleHandle>>> {
    inner: S,
    source: Src,
}

impl<S, Src, R, B> Service<R> for Throttle<S, Src>
where
    S: Service<R, Response = Response<B>>,
    S::Error: Into<BoxError>,
    Src: Provide<Arc<ThrottleHandle>, R>,
    R: Throttled,
{
    type Response = Response<B>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        let sent = match self.source.provide(&request) {
            None => Sent(None),
            Some(handle) => match handle.check(Instant::from_std(request.at())) {
                Ok(()) => Sent(Some((handle, request.is_grpc()))),
                Err(error) => return ResponseFuture { state: State::Refused { error: Some(error) } },
            },
        };
        ResponseFuture { state: State::Running { future: self.inner.call(request), sent } }
    }
}

fn foreign(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::Internal, "the service under a throttle failed")
}

/// A call that was sent. One that is given up says nothing about the service's load.
#[derive(Debug)]
struct Sent(Option<(Arc<ThrottleHandle>, bool)>);

impl Sent {
    fn answered(&mut self, accepted: impl FnOnce(bool) -> bool) {
        if let Some((handle, grpc)) = self.0.take() {
            handle.throttler.answered(rt::now(), accepted(grpc));
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.answered(|_| true);
    }
}

pin_project! {
    /// The future of a [`Throttle`].
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
        Running { #[pin] future: F, sent: Sent },
        Refused { error: Option<Error> },
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<B>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Running { future, sent } => {
                let result = ready!(future.poll(cx)).map_err(foreign);
                sent.answered(|grpc| result.as_ref().map_or(true, |response| accepted(response, grpc)));
                Poll::Ready(result)
            }
            // Taken once: the future is over with it.
            StateProjection::Refused { error } => error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
        }
    }
}

/// Whether a response is not a refusal for overload. Refusals come without a body, so the headers tell.
fn accepted<B>(response: &Response<B>, grpc: bool) -> bool {
    match classify::by_headers(response.status(), response.headers(), grpc) {
        Verdict::Final(Outcome::Shed | Outcome::RateLimited) => false,
        _ => response.status() != http::StatusCode::SERVICE_UNAVAILABLE,
    }
}
