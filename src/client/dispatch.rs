//! The bottom of the client stack: hands an attempt to the cluster.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::outbound::{CallContext, Outbound, is_open_ended};
use crate::{
    body::{Body, GuardedBody},
    cluster::{DispatchContext, DispatchFuture, Observe},
    error::{Code, Error},
    timeout::Deadline,
    transport::SlotBody,
};

#[derive(Clone, Debug)]
pub(crate) struct Dispatch;

impl Service<Outbound> for Dispatch {
    type Response = Response<GuardedBody<SlotBody, Observe>>;
    type Error = Error;
    type Future = Attempted;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, call: Outbound) -> Attempted {
        let Outbound { request, cx } = call;
        let (patient, started) = (is_patient(&request, &cx), cx.sent_from());
        // Silence before the headers, where all that can be waited for is the answer.
        let silence = cx.entry.timeouts.per_try_idle.filter(|_| request.body().is_full());
        let per_try = cx.entry.retry.as_ref().and_then(|retry| retry.attempt_timeout(&cx.call));
        match cx.entry.cluster() {
            Some(cluster) => Attempted::Dispatched(cluster.dispatch(
                request,
                DispatchContext {
                    subset: cx.subset,
                    grpc: cx.grpc,
                    kind: cx.kind,
                    per_try: per_try.into_iter().chain(silence).min(),
                    tried: cx.tried,
                    asked: cx.asked,
                    started,
                    patient,
                    prefer: cx.call.prefer,
                    avoid: cx.call.avoid,
                    limited: !cx.entry.bare,
                    circuit: cx.entry.circuit.clone(),
                    judge: None,
                    deadline: cx.deadline.as_ref().and_then(Deadline::enforced).map(|deadline| deadline.at),
                },
            )),
            None => Attempted::Nowhere,
        }
    }
}

/// Whether the answer may take long by the call's own doing: it says so, or its body is still on its way. A call with
/// the default deadline was asked before.
fn is_patient(request: &Request<Body>, cx: &CallContext) -> bool {
    let asked = cx.deadline.as_ref().is_some_and(|deadline| !deadline.covers_body());
    !cx.grpc && (!request.body().is_full() || (!asked && is_open_ended(request)))
}

pub(crate) enum Attempted {
    Dispatched(DispatchFuture),
    /// A route without a cluster answers above; only user code that invents a call could come here.
    Nowhere,
}

impl Future for Attempted {
    type Output = <DispatchFuture as Future>::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Attempted::Dispatched(future) => Pin::new(future).poll(cx),
            Attempted::Nowhere => {
                Poll::Ready(Err(Error::new(Code::Internal, "the route of this call has no cluster behind it")))
            }
        }
    }
}
