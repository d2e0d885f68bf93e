//! What each attempt tells the next hop: how much time is left, which attempt this is, whose request it serves.

use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName};
use tower_layer::Layer;
use tower_service::Service;

use super::outbound::{CallContext, Outbound};
use crate::{
    context::{GRPC_PREVIOUS_ATTEMPTS, SINEW_CTX, UNSAID, Wire, encode_grpc_timeout},
    rt,
    timeout::Deadline,
};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Clone, Debug)]
pub(crate) struct AttemptLayer;

impl<S> Layer<S> for AttemptLayer {
    type Service = Attempt<S>;

    fn layer(&self, inner: S) -> Attempt<S> {
        Attempt { inner }
    }
}

/// Writes the context headers.
#[derive(Clone, Debug)]
pub(crate) struct Attempt<S> {
    inner: S,
}

impl<S: Service<Outbound>> Service<Outbound> for Attempt<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut call: Outbound) -> S::Future {
        write(&call.cx, call.request.headers_mut());
        self.inner.call(call)
    }
}

/// At most two headers, and none for a call without deadline or inherited context: an indexed header costs more than
/// the rest of the stack.
pub(super) fn write(cx: &CallContext, headers: &mut HeaderMap) {
    let mut wire = Wire {
        attempt: cx.attempt,
        mirror: cx.mirrored,
        criticality: cx.call.criticality,
        grant: cx.grant.filter(|grant| *grant != UNSAID),
        ..Wire::default()
    };
    if cx.mirrored {
        // What nobody waits for is not repeated further down either.
        wire.grant = Some(0);
    }
    let enforced = cx.deadline.as_ref().and_then(Deadline::enforced);
    if let Some(deadline) = enforced.filter(|deadline| deadline.travels()) {
        let remaining = deadline.at.saturating_duration_since(rt::now());
        if cx.grpc {
            headers.insert(GRPC_TIMEOUT, encode_grpc_timeout(remaining));
        } else {
            wire.remaining = Some(remaining);
        }
    }
    if cx.grpc && cx.attempt > 0 {
        headers.insert(GRPC_PREVIOUS_ATTEMPTS, cx.attempt.into());
    }
    if let Some(context) = &cx.context {
        let inherited = context.inner();
        wire.criticality = wire.criticality.or(inherited.criticality);
        wire.fairness_key = inherited.fairness_key.as_deref();
        match inherited.request_id.as_deref() {
            Some(id) if inherited.x_request_id => {
                if !headers.contains_key(X_REQUEST_ID)
                    && let Ok(id) = http::HeaderValue::from_str(id)
                {
                    headers.insert(X_REQUEST_ID, id);
                }
            }
            id => wire.request_id = id,
        }
        if let Some(trace) = &inherited.trace {
            trace.child().write(headers);
        }
    }
    if let Some(value) = wire.encode() {
        headers.insert(SINEW_CTX, value);
    }
}
