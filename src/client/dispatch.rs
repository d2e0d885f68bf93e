//! The bottom of the client stack: hands an attempt to the cluster.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use tower_service::Service;

use super::outbound::Outbound;
use crate::{
    body::GuardedBody,
    cluster::{DispatchContext, DispatchFuture, Observe},
    error::{Code, Error},
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
        match cx.entry.cluster() {
            Some(cluster) => Attempted::Dispatched(cluster.dispatch(
                request,
                DispatchContext {
                    subset: cx.subset,
                    grpc: cx.grpc,
                    kind: cx.kind,
                    per_try: cx.entry.retry.as_ref().and_then(|retry| retry.attempt_timeout(&cx.call)),
                    tried: cx.tried,
                    asked: cx.asked,
                    deadline: cx.deadline.as_ref().map(|deadline| deadline.at),
                },
            )),
            None => Attempted::Nowhere,
        }
    }
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
