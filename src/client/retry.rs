//! Retries and hedges in the client stack: the policy is the route's, the budget the backend's.

use std::sync::Arc;

use tower_layer::Layer;

use super::outbound::{CallContext, Outbound};
use crate::{
    body::Body,
    cluster::{Asked, Went},
    context::Tree,
    error::Error,
    retry::{Beginning, Handle, Head, Kept, Next, Repeat, Repeating},
    rt::Instant,
};

/// Sends again what the route's policy says.
#[derive(Clone, Debug)]
pub(crate) struct CallRetryLayer;

impl<S> Layer<S> for CallRetryLayer {
    type Service = Repeating<S, CallRetry>;

    fn layer(&self, inner: S) -> Self::Service {
        Repeating::new(inner, CallRetry)
    }
}

/// Finds in the call what its repetition needs.
#[derive(Clone, Debug)]
pub(crate) struct CallRetry;

impl Repeat<Outbound> for CallRetry {
    type Kept = KeptCall;

    #[inline]
    fn keep(&self, call: &mut Outbound) -> Option<(KeptCall, Beginning)> {
        let handle = call.cx.entry.retry.as_ref()?;
        // Behind one address what is asked is a connection, which an error does not name.
        let vip = call.cx.entry.cluster().is_some_and(|cluster| cluster.is_vip());
        let asked = (vip || handle.asks_who_was_asked(&call.cx.call)).then(Asked::new);
        let hedge_after = handle.hedge_after(&call.cx.call, call.cx.started);
        let cx = call.cx.clone();
        let kept = KeptCall { head: Head::of(&call.request), handle: Arc::clone(handle), cx, asked };
        call.cx.asked = kept.asked.as_ref().and_then(Asked::note);
        let started = call.cx.started;
        Some((kept, Beginning { started, waited: true, hedge_after }))
    }
}

/// What is kept of a call.
pub(crate) struct KeptCall {
    head: Head,
    handle: Arc<Handle>,
    cx: CallContext,
    /// Who was asked so far.
    asked: Option<Asked>,
}

impl KeptCall {
    fn tree(&self) -> Option<&Tree> {
        self.cx.context.as_ref()?.tree()
    }
}

impl Kept<Outbound> for KeptCall {
    fn handle(&self) -> &Handle {
        &self.handle
    }

    fn body(call: &mut Outbound) -> &mut Body {
        call.request.body_mut()
    }

    fn deadline(&self) -> Option<Instant> {
        self.cx.deadline.as_ref().and_then(|deadline| deadline.fixed())
    }

    fn is_grpc(&self) -> bool {
        self.cx.grpc
    }

    fn is_idempotent(&self) -> bool {
        self.cx.call.idempotent.unwrap_or_else(|| self.head.is_idempotent())
    }

    fn is_eligible(&self) -> bool {
        self.head.is_eligible(&self.handle.policy().retriable_request_headers)
    }

    fn no_retry(&self) -> bool {
        self.cx.call.no_retry == Some(true)
    }

    fn allowance(&self) -> u8 {
        let own = self.handle.policy().tree_allowance;
        self.tree().map_or(own, |tree| tree.allowance(own))
    }

    fn is_of_the_mesh(&self) -> bool {
        self.cx.entry.cluster().is_some_and(|cluster| cluster.is_of_the_mesh())
    }

    fn grant(&self, call: &mut Outbound, grant: u8) {
        call.cx.grant = self.is_of_the_mesh().then_some(grant);
    }

    fn reports(&self) -> bool {
        self.tree().is_some_and(Tree::has_parent)
    }

    fn spent(&self, spent: u8) {
        if let Some(tree) = self.tree() {
            tree.spend(spent);
        }
    }

    fn asked_not_to_retry(&self) {
        if let Some(tree) = self.tree() {
            tree.ask_not_to_retry();
        }
    }

    fn avoid_asked(&mut self, failed: Option<&Error>) {
        if let Some(asked) = &self.asked {
            asked.add_to(&mut self.cx.tried);
        } else if let Some(endpoint) = failed.and_then(Error::endpoint) {
            self.cx.tried.push(Went::to(Arc::from(endpoint)));
        }
    }

    fn elsewhere(&self) -> bool {
        self.cx.entry.cluster().is_some_and(|cluster| cluster.has_other(self.cx.subset, &self.cx.tried))
    }

    fn is_crowded(&self, now: Instant) -> bool {
        self.cx.entry.cluster().is_some_and(|cluster| cluster.has_queue())
            || self.cx.entry.throttle.as_ref().is_some_and(|throttle| throttle.throttler.is_refusing(now))
    }

    /// The cluster knows how each attempt ended.
    fn counts(&self) -> bool {
        false
    }

    fn again(&mut self, next: Next, body: Body) -> Outbound {
        let mut cx = self.cx.clone();
        cx.asked = self.asked.as_ref().and_then(Asked::note);
        (cx.kind, cx.attempt, cx.grant) = (next.kind, next.before, self.is_of_the_mesh().then_some(next.grant));
        Outbound { request: self.head.request(body), cx }
    }
}
