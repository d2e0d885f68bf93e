//! The limit as a Tower layer around any HTTP service.

use std::{
    fmt,
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
    global::{CountLimits, Question},
    limiter::{RateLimiter, Told},
    policy::RateLimitPolicy,
    standing::Standing,
    subject::Limited,
};
use crate::{
    error::{BoxError, Code, Error},
    provide::{Fixed, Provide},
    rt::{self, Instant},
};

/// Refuses requests over a rate limit with E040, which says when to come back.
///
/// The decision is made in `call`, before the service is called; only a service that counts elsewhere is waited for. Clones of the services that it makes share the limit.
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

    /// As [`new`](Self::new), and what the policy says under `global` is counted by `counts`:
    #[cfg_attr(feature = "tonic", doc = "an [`RlsClient`](crate::RlsClient), or a type of one's own.")]
    #[cfg_attr(not(feature = "tonic"), doc = "a type of one's own.")]
    ///
    /// # Errors
    /// E055 if the policy limits nothing or a value is out of its bounds.
    pub fn asking(policy: RateLimitPolicy, counts: impl CountLimits) -> Result<Self, Error> {
        Ok(Self { source: Fixed(RateLimiter::asking(policy, counts)?) })
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
    S: Service<R, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    Src: Provide<Arc<RateLimiter>, R>,
    R: Limited + Send + 'static,
{
    type Response = Response<B>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    #[inline(always)]
    fn call(&mut self, request: R) -> Self::Future {
        let mut now = None;
        let asked = self.source.look(&request, |limiter| {
            let Some(limiter) = limiter else { return Ok(Asked::Passes(None)) };
            let at = Instant::from_std(request.at());
            now = Some(at);
            Asked::of(limiter, &request, at)
        });
        // Whoever says when a request came may have left it there.
        let handed = rt::handed();
        let now = now.or(handed);
        let state = match asked {
            Ok(Asked::Passes(told)) => {
                let _handed = rt::hand::<S>(now);
                return ResponseFuture { state: State::Running { future: self.inner.call(request), told } };
            }
            Ok(Asked::Waits(wait)) => {
                let (limiter, question, standing) = *wait;
                // The one that was polled ready is the one that is called.
                let next = self.inner.clone();
                let asking = ask(std::mem::replace(&mut self.inner, next), request, limiter, question, standing);
                State::Asking { asking: Box::pin(asking) }
            }
            Err(error) => State::Refused { error: Some(error) },
        };
        ResponseFuture { state }
    }
}

/// What a limit that is counted here says.
enum Asked {
    /// It is let in, and this is told to its caller.
    Passes(Option<Box<Told>>),
    /// It is counted elsewhere too. Boxed, since hardly any is.
    Waits(Box<(Arc<RateLimiter>, Question, Option<Standing>)>),
}

impl Asked {
    #[inline]
    fn of<R: Limited>(limiter: &Arc<RateLimiter>, request: &R, at: Instant) -> Result<Self, Error> {
        let subject = request.subject();
        let standing = limiter.check(&subject, at)?;
        Ok(match limiter.question(&subject) {
            None => Self::Passes(standing.map(|standing| Box::new(limiter.told(standing)))),
            Some(question) => Self::Waits(Box::new((Arc::clone(limiter), question, standing))),
        })
    }
}

/// Calls the service with a request that is let in elsewhere too.
async fn ask<S, R>(
    mut service: S,
    mut request: R,
    limiter: Arc<RateLimiter>,
    question: Question,
    standing: Option<Standing>,
) -> Result<(S::Future, Box<Told>), Error>
where
    S: Service<R>,
    R: Limited,
{
    let (told, headers) = limiter.ask(question, standing).await?;
    if let Some(own) = request.headers_mut() {
        for (name, value) in &headers {
            own.append(name, value.clone());
        }
    }
    Ok((service.call(request), Box::new(told)))
}

#[cold]
fn foreign(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::Internal, "the service under a rate limit failed")
}

type Asking<F> = Pin<Box<dyn Future<Output = Result<(F, Box<Told>), Error>> + Send>>;

pin_project! {
    /// The future of a [`RateLimit`].
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Running { #[pin] future: F, told: Option<Box<Told>> },
        /// Boxed, since hardly any limit is counted elsewhere.
        Asking { asking: Asking<F> },
        Refused { error: Option<Error> },
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limit::ResponseFuture")
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<B>, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Running { future, told } => {
                    return match future.poll(cx) {
                        Poll::Ready(Ok(response)) => Poll::Ready(Ok(match told.take() {
                            None => response,
                            Some(told) => told.tell(response),
                        })),
                        Poll::Ready(Err(error)) => Poll::Ready(Err(foreign(error))),
                        Poll::Pending => Poll::Pending,
                    };
                }
                StateProjection::Asking { asking } => {
                    let asked = ready!(asking.as_mut().poll(cx));
                    state.set(match asked {
                        Ok((future, told)) => State::Running { future, told: Some(told) },
                        Err(error) => State::Refused { error: Some(error) },
                    });
                }
                // Taken once: the future is over with it.
                StateProjection::Refused { error } => {
                    return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
            }
        }
    }
}
