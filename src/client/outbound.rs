//! A call inside the client stack.

use std::sync::Arc;

use http::{HeaderMap, Request, header};

use super::runtime::RouteEntry;
use crate::{
    body::Body,
    classify::is_grpc,
    cluster::{Note, SubsetId, Went},
    context::{Call, Context, with_current},
    fault::Injection,
    limit::{Limited, Subject},
    retry::AttemptKind,
    rt::Instant,
    seat::Carrier,
    shed::throttle::Throttled,
    timeout::Deadline,
};

/// A request and what the stack knows about it. An extension is inserted only before a user's seat: the first insert
/// into a request costs three allocations.
pub(crate) struct Outbound {
    pub(crate) request: Request<Body>,
    pub(crate) cx: CallContext,
}

/// What the stack knows about a call. Worked out once, above everything that can fail.
#[derive(Clone)]
pub(crate) struct CallContext {
    /// The route, of the configuration that was current when the call began.
    pub(crate) entry: Arc<RouteEntry>,
    /// Which endpoints of the cluster, chosen once: a second roll on a retry would shift traffic off a failing canary.
    pub(crate) subset: Option<SubsetId>,
    pub(crate) started: Instant,
    pub(crate) deadline: Option<Deadline>,
    /// What is injected into this call.
    pub(crate) fault: Option<Arc<Injection>>,
    pub(crate) grpc: bool,
    /// The context of the request that is being served, or of an enclosing scope.
    pub(crate) context: Option<Context>,
    pub(crate) call: Call,
    /// Retries and hedges that were sent before: 0 for the first.
    pub(crate) attempt: u32,
    pub(crate) kind: AttemptKind,
    /// What this attempt may spend of its tree's allowance.
    pub(crate) grant: Option<u8>,
    /// The call is a copy, or serves one.
    pub(crate) mirrored: bool,
    /// Where this call went already. Empty on the first attempt.
    pub(crate) tried: Vec<Went>,
    /// Where this attempt's endpoint is noted, if an answer or silence may lead elsewhere.
    pub(crate) asked: Option<Arc<Note>>,
}

impl CallContext {
    pub(crate) fn new(
        request: &Request<Body>,
        entry: Arc<RouteEntry>,
        subset: Option<SubsetId>,
        started: Instant,
    ) -> Self {
        // What stands on the request wins over the task.
        let context = match request.extensions().is_empty() {
            false => Context::of(request.extensions()).or_else(Context::current),
            true => with_current(|context| context.cloned()),
        };
        let scoped = context.as_ref().map(|context| context.inner().call).unwrap_or_default();
        let mirrored = context.as_ref().is_some_and(|context| context.inner().mirror);
        let call = request.extensions().get::<Call>().copied().unwrap_or_default().or(scoped);
        Self {
            entry,
            subset,
            started,
            deadline: None,
            fault: None,
            grpc: is_grpc(request.headers()),
            context,
            call,
            attempt: 0,
            kind: AttemptKind::First,
            grant: None,
            mirrored,
            tried: Vec::new(),
            asked: None,
        }
    }
}

impl CallContext {
    /// From when the call's own timeouts count: an injected delay is not the service's.
    pub(crate) fn sent_from(&self) -> Instant {
        let delay = self.fault.as_ref().and_then(|fault| fault.rolled.delay);
        delay.map_or(self.started, |delay| self.started + delay)
    }
}

/// Whether a plain HTTP call may take as long as it likes: upgrades, CONNECT, event streams, announced long polls.
pub(crate) fn is_open_ended(request: &Request<Body>) -> bool {
    let headers = request.headers();
    let has = |name: header::HeaderName, part: &str| {
        let contains = |value: &[u8]| value.windows(part.len()).any(|at| at.eq_ignore_ascii_case(part.as_bytes()));
        headers.get_all(name).iter().any(|value| contains(value.as_bytes()))
    };
    request.method() == http::Method::CONNECT
        || headers.contains_key(header::UPGRADE)
        || has(header::ACCEPT, "text/event-stream")
        || has(header::HeaderName::from_static("prefer"), "wait")
}

impl Throttled for Outbound {
    fn is_grpc(&self) -> bool {
        self.cx.grpc
    }

    fn at(&self) -> std::time::Instant {
        self.cx.started.into_std()
    }
}

impl Limited for Outbound {
    fn subject(&self) -> Subject<'_> {
        Subject::of(&self.request)
    }

    fn at(&self) -> std::time::Instant {
        self.cx.started.into_std()
    }

    fn headers_mut(&mut self) -> Option<&mut HeaderMap> {
        Some(self.request.headers_mut())
    }
}

impl Carrier for Outbound {
    type Context = CallContext;

    fn open(mut self) -> (Request<Body>, CallContext) {
        if let Some(context) = &self.cx.context {
            self.request.extensions_mut().insert(context.clone());
        }
        (self.request, self.cx)
    }

    fn close(request: Request<Body>, cx: CallContext) -> Self {
        Self { request, cx }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_streams_and_announced_long_polls_are_open_ended_in_any_case() {
        let with = |name: &str, value: &str| {
            is_open_ended(&Request::get("/").header(name, value).body(Body::empty()).unwrap())
        };
        assert!(with("accept", "text/html, Text/Event-Stream;q=0.9"));
        assert!(with("prefer", "Wait=60"));
        assert!(with("upgrade", "websocket"));
        assert!(!with("accept", "*/*") && !with("prefer", ""));
    }
}
