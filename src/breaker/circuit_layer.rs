//! The circuit breaker as a Tower layer around any HTTP client.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    handle::{CircuitHandle, CircuitSeries, Judge},
    policy::CircuitPolicy,
};
use crate::{
    body::{End, Foreign, Guard, GuardedBody},
    classify::{self, Outcome},
    error::{BoxError, Code, Error},
    rt,
};

/// Refuses calls with E031 while most of them fail or take too long.
///
/// A call is judged by its outcome as everywhere in the mesh: 5xx, gRPC's server errors, broken connections and timeouts
/// are failures; refusals for overload and cancelled calls say nothing. gRPC is judged by its trailers.
///
/// ```
/// use sinew::breaker::{CircuitBreakerLayer, CircuitPolicy};
///
/// let layer = CircuitBreakerLayer::new(CircuitPolicy::new()).unwrap();
/// let circuit = layer.handle();
/// # let _ = tower::Layer::layer(&layer, tower::service_fn(|_: http::Request<String>| async { Ok::<_, sinew::Error>(http::Response::new(String::new())) }));
/// circuit.open();
/// ```
#[derive(Clone, Debug)]
pub struct CircuitBreakerLayer {
    handle: CircuitHandle,
}

impl CircuitBreakerLayer {
    /// One circuit for all services that this layer makes.
    ///
    /// # Errors
    /// E055 if a value is out of its bounds.
    pub fn new(policy: CircuitPolicy) -> Result<Self, Error> {
        match policy.check() {
            Ok(()) => Ok(Self { handle: CircuitHandle::new(policy, CircuitSeries::default()) }),
            Err((field, reason)) => Err(Error::new(Code::BadRequest, format!("breaker.{field}: {reason}"))),
        }
    }

    /// The circuit, for an operator.
    pub fn handle(&self) -> CircuitHandle {
        self.handle.clone()
    }
}

impl<S> Layer<S> for CircuitBreakerLayer {
    type Service = CircuitBreaker<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreaker { inner, handle: self.handle.clone() }
    }
}

/// The service made by [`CircuitBreakerLayer`].
#[derive(Clone, Debug)]
pub struct CircuitBreaker<S> {
    inner: S,
    handle: CircuitHandle,
}

impl<S, RB, B> Service<Request<RB>> for CircuitBreaker<S>
where
    S: Service<Request<RB>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<CircuitBody<B>>;
    type Error = Error;
    type Future = CircuitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    #[inline(always)]
    fn call(&mut self, request: Request<RB>) -> Self::Future {
        let grpc = classify::is_grpc(request.headers());
        let now = rt::moment();
        let state = match self.handle.admit(now) {
            Ok(judge) => {
                let _handed = rt::hand::<S>(Some(now));
                return CircuitFuture { state: State::Running { future: self.inner.call(request), judge, grpc } };
            }
            Err(error) => State::Refused { error: Some(error) },
        };
        CircuitFuture { state }
    }
}

#[cold]
fn foreign(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::Internal, "the service under a circuit breaker failed")
}

pin_project! {
    /// The future of a [`CircuitBreaker`].
    pub struct CircuitFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Running { #[pin] future: F, judge: Option<Judge>, grpc: bool },
        Refused { error: Option<Error> },
    }
}

impl<F> fmt::Debug for CircuitFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CircuitFuture")
    }
}

impl<F, B, E> Future for CircuitFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<CircuitBody<B>>, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Running { future, judge, grpc } => {
                let response = match ready!(future.poll(cx)) {
                    Ok(response) => response,
                    Err(error) => {
                        let error = foreign(error);
                        if let Some(mut judge) = judge.take() {
                            judge.close(classify::error(&error));
                        }
                        return Poll::Ready(Err(error));
                    }
                };
                if let Some(judge) = judge {
                    judge.answered(classify::by_headers(response.status(), response.headers(), *grpc));
                }
                // One that was judged has nothing to learn from the body.
                let judge = judge.take().filter(Judge::waits);
                let guarded = |body| GuardedBody::new(Foreign::new(body), judge);
                Poll::Ready(Ok(response.map(|body| CircuitBody { inner: guarded(body) })))
            }
            // Taken once: the future is over with it.
            StateProjection::Refused { error } => error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
        }
    }
}

pin_project! {
    /// The response body of a [`CircuitBreaker`]: its end judges the call where the headers do not.
    pub struct CircuitBody<B> {
        #[pin]
        inner: GuardedBody<Foreign<B>, Option<Judge>>,
    }
}

impl<B> fmt::Debug for CircuitBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CircuitBody")
    }
}

impl<B> HttpBody for CircuitBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Guard for Judge {
    fn trailers(&mut self, trailers: &HeaderMap) {
        self.close(classify::trailers(Some(trailers)));
    }

    fn end(&mut self, end: End<'_>) {
        self.close(match end {
            End::Complete => classify::trailers(None),
            End::Failed(_) => Outcome::BodyFailure,
            End::Dropped => Outcome::Cancelled,
        });
    }
}
