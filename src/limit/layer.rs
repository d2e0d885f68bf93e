//! The limit as a Tower layer around any HTTP service.

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

use super::{
    limiter::RateLimiter,
    policy::RateLimitPolicy,
    standing::{RateLimitHeaders, Standing},
    subject::Limited,
};
use crate::{
    error::{BoxError, Code, Error},
    provide::{Fixed, Provide},
    rt::Instant,
};

/// Refuses requests over a rate limit with E040, which says when to come back.
///
/// The decision is made in `call`, before the service is called. Clones of the services that it makes share the limit.
///
/// ```
/// use std::time::Duration;
/// use sinew::limit::{BucketPolicy, KeySource, RateLimitLayer, RateLimitPolicy};
///
/// // 10 a second for each tenant, 20 at once.
/// let rate = BucketPolicy::new(20, 10, Duration::from_secs(1)).unwrap();
/// let policy = RateLimitPolicy::new(rate).key(KeySource::Header("x-tenant".parse().unwrap()));
/// let layer = RateLimitLayer::new(policy).unwrap();
/// # let _ = tower::Layer::layer(&layer, tower::service_fn(|_: http::Request<String>| async { Ok::<_, sinew::Error>(http::Response::new(String::new())) }));
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitLayer<Src = Fixed<Arc<RateLimiter>>> {
    source: Src,
}

impl RateLimitLayer {
    /// Limits what passes through all services that this layer makes together.
    ///
    /// # Errors
    /// E055 if the policy limits nothing or a value is out of its bounds.
    pub fn new(policy: RateLimitPolicy) -> Result<Self, Error> {
        Ok(Self { source: Fixed(RateLimiter::new(policy)?) })
    }
}

impl<Src> RateLimitLayer<Src> {
    /// Finds the limit for each request; none admits.
    pub const fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for RateLimitLayer<Src> {
    type Service = RateLimit<S, Src>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit { inner, source: self.source.clone() }
    }
}

/// The service made by [`RateLimitLayer`].
#[derive(Clone, Debug)]
pub struct RateLimit<S, Src = Fixed<Arc<RateLimiter>>> {
    inner: S,
    source: Src,
}

impl<S, Src, R, B> Service<R> for RateLimit<S, Src>
where
    S: Service<R, Response = Response<B>>,
    S::Error: Into<BoxError>,
    Src: Provide<Arc<RateLimiter>, R>,
    R: Limited,
{
    type Response = Response<B>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        let state = match self.source.provide(&request) {
            None => State::Running { future: self.inner.call(request), told: None },
            Some(limiter) => match limiter.check(&request.subject(), Instant::from_std(request.at())) {
                Ok(standing) => State::Running {
                    future: self.inner.call(request),
                    told: standing.map(|standing| Box::new((limiter.policy().headers, standing))),
                },
                Err(error) => State::Refused { error: Some(error) },
            },
        };
        ResponseFuture { state }
    }
}

fn foreign(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::Internal, "the service under a rate limit failed")
}

pin_project! {
    /// The future of a [`RateLimit`].
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
        Running { #[pin] future: F, told: Option<Box<(RateLimitHeaders, Standing)>> },
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
            StateProjection::Running { future, told } => {
                let mut response = ready!(future.poll(cx)).map_err(foreign)?;
                if let Some(told) = told.take() {
                    let (style, standing) = &*told;
                    style.write(response.headers_mut(), standing);
                }
                Poll::Ready(Ok(response))
            }
            // Taken once: the future is over with it.
            StateProjection::Refused { error } => error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
        }
    }
}
