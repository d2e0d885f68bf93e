//! Timeout, rate limit, circuit breaker, bulkhead and retry around a service that answers at once.

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

/// What all of them stand around.
pub(crate) fn bare(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    ready(Ok(Response::new(Body::empty())))
}

/// The five, outermost first: none of them has anything to do while all goes well.
pub(crate) fn five()
-> impl Service<Request<Body>, Response = Response<impl http_body::Body<Data = Bytes>>, Error = sinew::Error, Future: Future>
+ Clone {
    let rate = BucketPolicy::new(1_000_000_000, 1_000_000_000, Duration::from_secs(1)).expect("within bounds");
    let service = tower::service_fn(bare);
    let service = RetryLayer::new(RetryPolicy::idempotent()).expect("within bounds").layer(service);
    let service = LimitLayer::with(Fixed(Limit::new(1_000))).layer(service);
    let service = CircuitBreakerLayer::new(CircuitPolicy::new()).expect("within bounds").layer(service);
    let service = RateLimitLayer::new(RateLimitPolicy::new(rate)).expect("within bounds").layer(service);
    TimeoutLayer::new(Duration::from_secs(10)).layer(service)
}
