//! The service under both the layer and the client stack: one call, several attempts.
//!
//! The first attempt runs inline, and a call that succeeds costs what is kept of its head. Everything else is made when an
//! attempt fails or is late.

use std::{
    mem,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{future::ResponseFuture, handle::Handle, plan::Plan};
use crate::{body::Body, error::Error, rt::Instant};

/// What an attempt is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum AttemptKind {
    /// The first of its call.
    #[default]
    First,
    /// Sent again because nothing of it had been processed.
    Transparent,
    /// A retry by policy.
    Retry,
    /// A hedge.
    Hedge,
}

impl AttemptKind {
    /// Every kind.
    pub(crate) const ALL: &'static [AttemptKind] =
        &[AttemptKind::First, AttemptKind::Transparent, AttemptKind::Retry, AttemptKind::Hedge];

    /// The label value in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            AttemptKind::First => "first",
            AttemptKind::Transparent => "transparent",
            AttemptKind::Retry => "retry",
            AttemptKind::Hedge => "hedge",
        }
    }
}

/// What a further attempt has to be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next {
    pub(crate) kind: AttemptKind,
    /// Retries and hedges that were sent before it.
    pub(crate) before: u32,
    /// The tree's allowance that it may spend.
    pub(crate) grant: u8,
}

/// Finds what a request of type `R` needs to become several.
pub(crate) trait Repeat<R>: Clone {
    type Kept: Kept<R>;

    /// What is kept of the request and what holds for it, and its beginning; `None` if it is sent once, whatever happens.
    fn keep(&self, request: &mut R) -> Option<(Self::Kept, Beginning)>;
}

/// How a call begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    pub(crate) started: Instant,
    /// What stands above may have waited since.
    pub(crate) waited: bool,
    /// After how long a further attempt starts; `None` for never.
    pub(crate) hedge_after: Option<Duration>,
}

/// What is kept of one call.
pub(crate) trait Kept<R>: Send {
    fn handle(&self) -> &Handle;
    fn body(request: &mut R) -> &mut Body;
    fn deadline(&self) -> Option<Instant>;
    fn is_grpc(&self) -> bool;
    /// Whether doing it twice does no harm.
    fn is_idempotent(&self) -> bool;
    /// Whether the policy holds for this request by its headers.
    fn is_eligible(&self) -> bool;
    /// The call asked for no retry.
    fn no_retry(&self) -> bool;
    /// The tree's allowance of this call.
    fn allowance(&self) -> u8;
    /// Whether the peers are of the mesh: they are told of the allowance, and their word on shedding counts.
    fn is_of_the_mesh(&self) -> bool;
    /// What the first attempt may spend of it.
    fn grant(&self, request: &mut R, grant: u8);
    /// Whether somebody above wants to know what was spent.
    fn reports(&self) -> bool;
    /// What this call spent in all.
    fn spent(&self, spent: u8);
    /// The call failed at a server that asks that nobody retries.
    fn asked_not_to_retry(&self);
    /// Passes over the endpoints that were asked so far.
    fn avoid_asked(&mut self, failed: Option<&Error>);
    /// Whether another endpoint can be asked.
    fn elsewhere(&self) -> bool;
    /// Whether calls to the backend wait or are refused here already: a second attempt would add to that.
    fn is_crowded(&self, now: Instant) -> bool;
    /// Whether successes have to be counted here, since nobody below does.
    fn counts(&self) -> bool;
    /// A further attempt.
    fn again(&mut self, next: Next, body: Body) -> R;
}

/// Repeats calls as far as what is kept of them allows.
#[derive(Clone, Debug)]
pub(crate) struct Repeating<S, M> {
    pub(super) inner: S,
    how: M,
}

impl<S, M> Repeating<S, M> {
    pub(crate) const fn new(inner: S, how: M) -> Self {
        Self { inner, how }
    }
}

impl<S, M, R, B> Service<R> for Repeating<S, M>
where
    S: Service<R, Response = Response<B>, Error = Error> + Clone,
    M: Repeat<R>,
    B: HttpBody<Data = Bytes, Error = Error> + Unpin,
{
    type Response = Response<super::RetryBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S, S::Future, M, R, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: R) -> Self::Future {
        let Some((kept, beginning)) = self.how.keep(&mut request) else {
            return ResponseFuture::new(self.inner.call(request), None);
        };
        // The one that was asked is ready, its clone need not be.
        let clone = self.inner.clone();
        let mut ready = mem::replace(&mut self.inner, clone.clone());
        let plan = Plan::new(clone, kept, beginning, &mut request);
        ResponseFuture::new(ready.call(request), Some(plan))
    }
}
