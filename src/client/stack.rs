//! The order of the client stack. One of the two files that name an order.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    attempt::AttemptLayer, deadline::CallDeadline, dispatch::Dispatch, enter::EnterLayer, mirror::CallMirror,
    outbound::Outbound, retry::CallRetryLayer,
};
use crate::{
    body::ErasableLayer,
    error::Error,
    fault::{InjectLayer, Injected},
    limit::{RateLimitLayer, RateLimiter},
    mirror::CopyLayer,
    provide::Provide,
    rescue::{Reader, Rescue, RescueLayer},
    seat::{Seat, SeatLayer},
    shed::throttle::{ThrottleHandle, ThrottleLayer},
    telemetry::{Record, TelemetryLayer},
    timeout::TimeoutLayer,
};

/// The stack between the client's edge and the endpoint, outermost last. It has no state of its own: everything a
/// layer needs is found in the call, so the stack is zero bytes and made for each call at no cost.
pub(crate) fn stack() -> impl Service<
    Outbound,
    Response = Response<impl HttpBody<Data = Bytes, Error = Error> + Send + 'static>,
    Error = Error,
    Future: Send,
> + Clone
+ Send {
    // The bottom: exact limits, then the pick, so that every attempt re-picks, then the endpoint's own stack.
    let stack = Dispatch;
    let stack = ErasableLayer.layer(stack);
    // Above admission, so that user code runs before a permit is held; below the attempt's headers, so that it sees
    // what is sent.
    let stack = SeatLayer::with(AttemptSeat).layer(stack);
    // Below the repetition: the remaining time and the attempt's number differ from attempt to attempt.
    let stack = AttemptLayer.layer(stack);
    // Above the pick, so that each attempt goes elsewhere; below the deadline, which bounds all attempts and the waits
    // between them.
    let stack = CallRetryLayer.layer(stack);
    let stack = ErasableLayer.layer(stack);
    // Above repetition, so that a call is copied once; below the fault, so that what never leaves is not copied.
    let stack = CopyLayer::with(CallMirror).layer(stack);
    // Above repetition, so that an injected abort is not repeated and a delay is paid once; below the limits, which count
    // calls whatever becomes of them, and below the deadline, which was worked out with the delay in it.
    let stack = InjectLayer::with(CallFault).layer(stack);
    // Once per call, whatever is injected into it and however often it is sent; below user code, which may answer
    // without asking anybody.
    let stack = RateLimitLayer::with(CallRate).layer(stack);
    // Above the rate limit: what the service would refuse uses up nothing.
    let stack = ThrottleLayer::with(CallThrottle).layer(stack);
    // Below the deadline: user code may not outlive it. Once per call.
    let stack = SeatLayer::with(OuterSeat).layer(stack);
    // Above everything that waits: connecting, queueing, user code, repeated attempts and the body.
    let stack = TimeoutLayer::with(CallDeadline).layer(stack);
    let stack = ErasableLayer.layer(stack);
    // Above the deadline, since a route that answers by itself needs none; below the rescue, since it can refuse.
    let stack = EnterLayer.layer(stack);
    // Above all that can fail; below the metrics, which find the cause in the answer.
    let stack = RescueLayer::with(GrpcOnly).layer(stack);
    // Above all: routing failures, waiting, repeats and cancellations are inside one record.
    TelemetryLayer::with(CallRecord).layer(stack)
}

/// gRPC callers get an answer with a status, since their library would guess one; plain callers get the error.
#[derive(Clone)]
struct GrpcOnly;

impl Provide<Rescue, Outbound> for GrpcOnly {
    fn provide(&self, call: &Outbound) -> Option<Rescue> {
        call.cx.grpc.then_some(Rescue { grpc: true, reader: Reader::Own })
    }
}

#[derive(Clone)]
struct CallRecord;

impl Provide<Record, Outbound> for CallRecord {
    fn provide(&self, call: &Outbound) -> Option<Record> {
        Some(Record::open(Arc::clone(&call.cx.entry.series), call.cx.started, call.cx.grpc))
    }
}

#[derive(Clone)]
struct CallFault;

impl Provide<Injected, Outbound> for CallFault {
    fn provide(&self, call: &Outbound) -> Option<Injected> {
        let injection = call.cx.fault.clone()?;
        Some(Injected { injection, grpc: call.cx.grpc })
    }
}

#[derive(Clone)]
struct CallThrottle;

impl Provide<Arc<ThrottleHandle>, Outbound> for CallThrottle {
    #[inline]
    fn provide(&self, call: &Outbound) -> Option<Arc<ThrottleHandle>> {
        call.cx.entry.throttle.clone()
    }
}

#[derive(Clone)]
struct CallRate;

impl Provide<Arc<RateLimiter>, Outbound> for CallRate {
    #[inline]
    fn provide(&self, call: &Outbound) -> Option<Arc<RateLimiter>> {
        call.cx.entry.rate_limit.clone()
    }
}

#[derive(Clone)]
struct OuterSeat;

impl Provide<Arc<dyn Seat>, Outbound> for OuterSeat {
    fn provide(&self, call: &Outbound) -> Option<Arc<dyn Seat>> {
        call.cx.entry.outer.clone()
    }
}

#[derive(Clone)]
struct AttemptSeat;

impl Provide<Arc<dyn Seat>, Outbound> for AttemptSeat {
    fn provide(&self, call: &Outbound) -> Option<Arc<dyn Seat>> {
        call.cx.entry.attempt.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_has_no_state() {
        assert_eq!(size_of_val(&stack()), 0);
    }
}
