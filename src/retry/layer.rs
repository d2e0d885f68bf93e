//! Retries and hedges as a Tower layer around any HTTP service.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::RetryBody,
    future,
    handle::Handle,
    head::Head,
    hedge::HedgePolicy,
    policy::RetryPolicy,
    repeat::{Beginning, Kept, Next, Repeat, Repeating},
};
use crate::{
    body::Body,
    classify::is_grpc,
    context::{Call, Context as CallContext, GRPC_PREVIOUS_ATTEMPTS, with_current},
    error::{BoxError, Code, Error},
    provide::{Fixed, Provide},
    rt::{self, Instant},
};

/// Sends calls again as a policy says, under a budget that all services made by this layer share.
///
/// The service below takes `Request<Body>`. Its errors count as [`Condition::Reset`](super::Condition::Reset), unless they
/// are [`Error`]s, which say more. [`Call`] options in the request's extensions, or of an enclosing scope, hold.
///
/// # Cancellation
/// Dropping the future, or the response body, drops every attempt.
#[derive(Clone, Debug)]
pub struct RetryLayer<Src = Fixed<Arc<Handle>>> {
    source: Src,
}

impl RetryLayer {
    /// One policy for every request.
    ///
    /// # Errors
    /// What of the policy is out of bounds.
    pub fn new(policy: RetryPolicy) -> Result<Self, String> {
        Ok(Self::with(Fixed(Handle::new(policy, HedgePolicy::default())?)))
    }

    /// One policy for every request, and hedges.
    ///
    /// # Errors
    /// What of the policies is out of bounds.
    pub fn hedged(policy: RetryPolicy, hedge: HedgePolicy) -> Result<Self, String> {
        Ok(Self::with(Fixed(Handle::new(policy, hedge)?)))
    }
}

impl<Src> RetryLayer<Src> {
    /// Finds the policy and its state for each request; none sends it once.
    pub fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for RetryLayer<Src> {
    type Service = Retry<S, Src>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner: Repeating::new(Foreign { inner }, Alone { source: self.source.clone() }) }
    }
}

/// The service made by [`RetryLayer`].
#[derive(Clone, Debug)]
pub struct Retry<S, Src = Fixed<Arc<Handle>>> {
    inner: Repeating<Foreign<S>, Alone<Src>>,
}

impl<S, Src> Retry<S, Src> {
    /// The service below.
    pub fn get_ref(&self) -> &S {
        &self.inner.inner.inner
    }

    /// The service below.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner.inner.inner
    }

    /// The service below.
    pub fn into_inner(self) -> S {
        self.inner.inner.inner
    }
}

impl<S, Src, B, RB> Service<Request<B>> for Retry<S, Src>
where
    S: Service<Request<Body>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    Src: Provide<Arc<Handle>, Request<Body>>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    RB: HttpBody<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Response = Response<RetryBody<Body>>;
    type Error = Error;
    type Future = ResponseFuture<S, S::Future, Src>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.inner, cx)
    }

    #[inline(always)]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture { inner: self.inner.call(request.map(Body::request)) }
    }
}

pin_project! {
    /// The future of a [`Retry`].
    pub struct ResponseFuture<S, F, Src>
    where
        Src: Provide<Arc<Handle>, Request<Body>>,
    {
        #[pin]
        inner: future::ResponseFuture<Foreign<S>, ForeignFuture<F>, Alone<Src>, Request<Body>, Body>,
    }
}

impl<S, F, Src> std::fmt::Debug for ResponseFuture<S, F, Src>
where
    Src: Provide<Arc<Handle>, Request<Body>>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("retry::ResponseFuture")
    }
}

impl<S, Src, RB> Future for ResponseFuture<S, S::Future, Src>
where
    S: Service<Request<Body>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    Src: Provide<Arc<Handle>, Request<Body>>,
    RB: HttpBody<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Output = Result<Response<RetryBody<Body>>, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

/// A service of somebody else's, with our error and our body.
#[derive(Clone, Debug)]
struct Foreign<S> {
    inner: S,
}

#[cold]
fn foreign(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::ConnectionClosed, "the service under a retry failed")
}

impl<S, RB> Service<Request<Body>> for Foreign<S>
where
    S: Service<Request<Body>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: HttpBody<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ForeignFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    #[inline(always)]
    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ForeignFuture { inner: self.inner.call(request) }
    }
}

pin_project! {
    struct ForeignFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, RB, E> Future for ForeignFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
    RB: HttpBody<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().inner.poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response.map(Body::new))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(foreign(error))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The layer by itself: nobody knows endpoints, and the policy comes from its source.
#[derive(Clone, Debug)]
struct Alone<Src> {
    source: Src,
}

impl<Src> Repeat<Request<Body>> for Alone<Src>
where
    Src: Provide<Arc<Handle>, Request<Body>>,
{
    type Kept = One;

    #[inline]
    fn keep(&self, request: &mut Request<Body>) -> Option<(One, Beginning)> {
        let started = rt::moment();
        let handle = self.source.provide(request)?;
        let scoped = match request.extensions().is_empty() {
            false => CallContext::of(request.extensions()).or_else(CallContext::current),
            true => with_current(|context| context.cloned()),
        };
        let inherited = scoped.as_ref().map(|context| context.inner().call).unwrap_or_default();
        let call = request.extensions().get::<Call>().copied().unwrap_or_default().or(inherited);
        let hedge_after = handle.hedge_after(&call, started);
        let one = One {
            head: Head::of(request),
            grpc: is_grpc(request.headers()),
            deadline: scoped.and_then(|context| context.inner().deadline),
            no_retry: call.no_retry == Some(true),
            idempotent: call.idempotent,
            handle,
        };
        Some((one, Beginning { started, waited: false, hedge_after }))
    }
}

/// One call of a [`Retry`].
struct One {
    handle: Arc<Handle>,
    head: Head,
    deadline: Option<Instant>,
    grpc: bool,
    no_retry: bool,
    idempotent: Option<bool>,
}

impl Kept<Request<Body>> for One {
    fn handle(&self) -> &Handle {
        &self.handle
    }

    fn body(request: &mut Request<Body>) -> &mut Body {
        request.body_mut()
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn is_grpc(&self) -> bool {
        self.grpc
    }

    fn is_idempotent(&self) -> bool {
        self.idempotent.unwrap_or_else(|| self.head.is_idempotent())
    }

    fn is_eligible(&self) -> bool {
        self.head.is_eligible(&self.handle.policy().retriable_request_headers)
    }

    fn no_retry(&self) -> bool {
        self.no_retry
    }

    fn allowance(&self) -> u8 {
        self.handle.policy().tree_allowance
    }

    fn is_of_the_mesh(&self) -> bool {
        false
    }

    fn grant(&self, _request: &mut Request<Body>, _grant: u8) {}

    fn reports(&self) -> bool {
        false
    }

    fn spent(&self, _spent: u8) {}

    fn asked_not_to_retry(&self) {}

    fn avoid_asked(&mut self, _failed: Option<&Error>) {}

    /// The service below balances by itself, or it does not.
    fn elsewhere(&self) -> bool {
        true
    }

    /// Nobody here knows.
    fn is_crowded(&self, _now: Instant) -> bool {
        false
    }

    fn counts(&self) -> bool {
        true
    }

    fn again(&mut self, next: Next, body: Body) -> Request<Body> {
        let mut request = self.head.request(body);
        if self.grpc && next.before > 0 {
            request.headers_mut().insert(GRPC_PREVIOUS_ATTEMPTS, next.before.into());
        }
        request
    }
}
