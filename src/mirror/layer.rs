//! Mirroring as Tower layers: inside the client stack, and around any service.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    handle::{MirrorHandle, Series},
    policy::MirrorPolicy,
};
use crate::{
    body::Body,
    error::{BoxError, Code, Error},
    rt::TaskSet,
};

/// Sends copies of requests on their way.
pub(crate) trait Copies<R>: Clone {
    /// Begins a copy, if the request is to be copied. Nothing of it may wait.
    fn mirror(&self, request: &mut R);
}

/// Copies requests where the source says so. The call itself passes as it is: no future, no body is wrapped.
#[derive(Clone, Debug)]
pub(crate) struct CopyLayer<C> {
    copies: C,
}

impl<C> CopyLayer<C> {
    pub(crate) const fn with(copies: C) -> Self {
        Self { copies }
    }
}

impl<S, C: Clone> Layer<S> for CopyLayer<C> {
    type Service = Copied<S, C>;

    fn layer(&self, inner: S) -> Copied<S, C> {
        Copied { inner, copies: self.copies.clone() }
    }
}

/// The service made by [`CopyLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Copied<S, C> {
    inner: S,
    copies: C,
}

impl<S, C, R> Service<R> for Copied<S, C>
where
    S: Service<R>,
    C: Copies<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: R) -> S::Future {
        self.copies.mirror(&mut request);
        self.inner.call(request)
    }
}

/// Sends a copy of each request to a second service. Callers see nothing of it: not its time, not its failures.
///
/// Copies run in tasks of their own, bounded in number, time and size by the policy, and go on when the original is
/// cancelled. The second service is cloned for each copy and asked for its readiness there.
///
/// Outside a tokio runtime no copy is sent, and a warning is logged.
#[derive(Clone, Debug)]
pub struct MirrorLayer<M> {
    handle: Arc<MirrorHandle>,
    to: M,
    tasks: TaskSet,
}

impl<M> MirrorLayer<M> {
    /// Copies to `to`.
    ///
    /// # Errors
    /// E055 if a value of the policy is out of its bounds.
    pub fn new(policy: MirrorPolicy, to: M) -> Result<Self, Error> {
        if let Err((key, reason)) = policy.check() {
            return Err(Error::new(Code::BadRequest, format!("mirror.{key}: {reason}")));
        }
        Ok(Self { handle: MirrorHandle::new(policy, Series::default()), to, tasks: TaskSet::new() })
    }
}

impl<S, M: Clone> Layer<S> for MirrorLayer<M> {
    type Service = Mirror<S, M>;

    fn layer(&self, inner: S) -> Mirror<S, M> {
        let to = To { handle: Arc::clone(&self.handle), to: self.to.clone(), tasks: self.tasks.clone() };
        Mirror { inner: Copied { inner, copies: to } }
    }
}

/// The service made by [`MirrorLayer`].
#[derive(Clone, Debug)]
pub struct Mirror<S, M> {
    inner: Copied<S, To<M>>,
}

impl<S, M, B, RB> Service<Request<B>> for Mirror<S, M>
where
    S: Service<Request<Body>>,
    M: Service<Request<Body>, Response = Response<RB>> + Clone + Send + 'static,
    M::Error: Into<BoxError>,
    M::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    RB: HttpBody<Data = Bytes> + Send + 'static,
    RB::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        self.inner.call(request.map(Body::new))
    }
}

/// A second service.
#[derive(Clone, Debug)]
struct To<M> {
    handle: Arc<MirrorHandle>,
    to: M,
    tasks: TaskSet,
}

impl<M, RB> Copies<Request<Body>> for To<M>
where
    M: Service<Request<Body>, Response = Response<RB>> + Clone + Send + 'static,
    M::Error: Into<BoxError>,
    M::Future: Send,
    RB: HttpBody<Data = Bytes> + Send + 'static,
    RB::Error: Send,
{
    fn mirror(&self, request: &mut Request<Body>) {
        let Some(copy) = self.handle.copy(request) else { return };
        let timeout = self.handle.policy.timeout.unwrap_or(MirrorPolicy::TIMEOUT);
        let mut to = self.to.clone();
        self.tasks.spawn(copy.run(timeout, async move |request| {
            let failed = |error: M::Error| Error::from_boxed(error.into(), Code::Internal, "the mirror failed");
            poll_fn(|cx| to.poll_ready(cx)).await.map_err(failed)?;
            to.call(request).await.map_err(failed)
        }));
    }
}
