//! Timeout, rate limit, circuit breaker, bulkhead and retry around a service that answers at once: each alone, and all five.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use sinew::{
    Body,
    breaker::{CircuitBreakerLayer, CircuitPolicy, Limit, LimitLayer},
    limit::{BucketPolicy, RateLimitLayer, RateLimitPolicy},
    provide::Fixed,
    retry::{RetryLayer, RetryPolicy},
    timeout::TimeoutLayer,
};
use tower::{Layer, Service};

/// A service whose answers have a body of the mesh's kind.
pub(crate) trait Answers<E>:
    Service<Request<Body>, Response = Response<Self::Of>, Error = E, Future: Future> + Clone + Send + 'static
{
    type Of: http_body::Body<Data = Bytes, Error = sinew::Error> + Send + 'static;
}

impl<S, B, E> Answers<E> for S
where
    S: Service<Request<Body>, Response = Response<B>, Error = E, Future: Future> + Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error = sinew::Error> + Send + 'static,
{
    type Of = B;
}

/// What all of them stand around.
pub(crate) fn bare(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    ready(Ok(Response::new(Body::empty())))
}

/// Sends again what fails, and has nothing to send again.
pub(crate) fn retry<S: Answers<E>, E: Into<sinew::BoxError>>(service: S) -> impl Answers<sinew::Error> {
    RetryLayer::new(RetryPolicy::idempotent()).expect("within bounds").layer(service)
}

/// A thousand at a time, and there is one.
pub(crate) fn bulkhead<S: Answers<E>, E: Into<sinew::BoxError>>(service: S) -> impl Answers<sinew::Error> {
    LimitLayer::with(Fixed(Limit::new(1_000))).layer(service)
}

/// Closed.
pub(crate) fn breaker<S: Answers<E>, E: Into<sinew::BoxError>>(service: S) -> impl Answers<sinew::Error> {
    CircuitBreakerLayer::new(CircuitPolicy::new()).expect("within bounds").layer(service)
}

/// A token for each nanosecond.
pub(crate) fn rate<S: Answers<E>, E: Into<sinew::BoxError>>(service: S) -> impl Answers<sinew::Error> {
    let rate = BucketPolicy::new(1_000_000_000, 1_000_000_000, Duration::from_secs(1)).expect("within bounds");
    RateLimitLayer::new(RateLimitPolicy::new(rate)).expect("within bounds").layer(service)
}

/// Ten seconds, of which hardly a microsecond passes.
pub(crate) fn timeout<S: Answers<E>, E: Into<sinew::BoxError>>(service: S) -> impl Answers<sinew::Error> {
    TimeoutLayer::new(Duration::from_secs(10)).layer(service)
}

/// The five, outermost first: none of them has anything to do while all goes well.
pub(crate) fn five() -> impl Answers<sinew::Error> {
    timeout(rate(breaker(bulkhead(retry(tower::service_fn(bare))))))
}
