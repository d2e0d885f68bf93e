//! The one deadline of a call.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::Request;

use super::outbound::{CallContext, Outbound, is_open_ended};
use crate::{
    body::{Body, End, Guard, GuardedBody},
    context::decode_grpc_timeout,
    enforcement::{Mode, Percent},
    instrument::{Counter, Registry},
    provide::Provide,
    rt::{self, Instant, Rng},
    switch::Switches,
    timeout::{Cause, Deadline, Idle, RequestSent, TimeoutPolicy},
};

/// The deadline in the call's context.
#[derive(Clone, Debug)]
pub(crate) struct CallDeadline;

impl Provide<Deadline, Outbound> for CallDeadline {
    fn provide(&self, call: &Outbound) -> Option<Deadline> {
        call.cx.deadline.clone()
    }
}

/// The nearest of: the call's own timeout, else the route's, else the service's; the life of a call of any kind; what the
/// caller of the request being served still waits, less a margin for the way back. Timeouts of this hop begin after an
/// injected delay, what the caller waits does not. A plain HTTP call without any of them gets the default for its response
/// headers, and one for the silence of its body. Under a debugger there is none.
pub(crate) fn decide(cx: &CallContext, request: &mut Request<Body>) -> Option<Deadline> {
    if Switches::of_process().debugger() {
        return None;
    }
    let timeouts = &cx.entry.timeouts;
    let idle = timeouts.per_try_idle.and_then(|after| Idle::new(after, true));
    let from = cx.sent_from();
    let own = call_timeout(cx, request).map(|after| Deadline::new(from + after, Cause::Call { after })).or_else(|| {
        timeouts.request.map(|after| Deadline::new(from + after, Cause::Request { after, key: "timeouts.request" }))
    });
    let life = timeouts.max_stream_duration.map(|after| Deadline::new(from + after, Cause::MaxDuration { after }));
    let inherited = cx
        .context
        .as_ref()
        .filter(|_| timeouts.honor_inbound_deadline)
        .and_then(|context| context.inner().deadline)
        .map(|at| Deadline::new(at - margin(at.saturating_duration_since(cx.started)), Cause::Inbound));
    let stream_idle = || timeouts.stream_idle.and_then(|after| Idle::new(after, false));
    if let Some(watch) = cx.entry.watch_timeouts.as_ref().filter(|watch| !watch.enforces()) {
        let (passed, asked) = match own {
            Some(own) if matches!(own.cause, Cause::Call { .. }) => (None, Some(own)),
            own => (own, None),
        };
        let bound = nearer(asked, inherited);
        let would = nearer(passed, life);
        let (would, idle) = match (&bound, would) {
            (None, None) if watch.mode != Mode::Off => {
                (timeouts.response.and_then(|after| default(cx, request, after)), idle.or_else(stream_idle))
            }
            (_, would) => (would, idle),
        };
        let deadline = match would {
            Some(would) => watch.over(would, bound),
            None => bound,
        };
        return match deadline {
            Some(deadline) => Some(deadline.with_idle(idle)),
            None => idle.map(|idle| Deadline::idle_only(from, idle)),
        };
    }
    match nearer(nearer(own, life), inherited) {
        Some(deadline) => Some(deadline.with_idle(idle)),
        None => {
            let default = timeouts.response.and_then(|after| default(cx, request, after));
            match default {
                Some(deadline) => Some(deadline.with_idle(idle.or_else(stream_idle))),
                None => idle.map(|idle| Deadline::idle_only(from, idle)),
            }
        }
    }
}

/// Timeouts that are not enforced, or not for all calls.
#[derive(Debug)]
pub(crate) struct WatchTimeouts {
    mode: Mode,
    percentage: Percent,
    /// What passed, by key.
    passed: [(&'static str, Counter); 3],
}

impl WatchTimeouts {
    pub(crate) fn new(policy: &TimeoutPolicy, registry: &Registry, service: &str) -> Option<Self> {
        if policy.is_whole() {
            return None;
        }
        let passed = ["request", "response", "max_stream_duration"].map(|key| {
            let labels = [("service", service), ("timeout", key)];
            (key, registry.counter("sinew_timeouts_shadow_total", &labels))
        });
        Some(Self { mode: policy.enforcement, percentage: policy.percentage, passed })
    }

    /// Whether this call is held to them.
    fn enforces(&self) -> bool {
        self.mode == Mode::Enforce && self.percentage.hit(&mut Rng::local())
    }

    /// What would end the call over what does.
    fn over(&self, would: Deadline, bound: Option<Deadline>) -> Option<Deadline> {
        if self.mode == Mode::Off {
            return bound;
        }
        let key = would.cause.key();
        let counter = self.passed.iter().find(|(of, _)| *of == key).map(|(_, counter)| counter.clone());
        Some(would.watched(counter.unwrap_or_default(), bound))
    }
}

fn nearer(a: Option<Deadline>, b: Option<Deadline>) -> Option<Deadline> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.at <= b.at { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// A `grpc-timeout` that the application's gRPC library wrote is the call's own timeout, within what the service allows;
/// it is written anew for each attempt, with what is left then.
fn call_timeout(cx: &CallContext, request: &Request<Body>) -> Option<Duration> {
    let written = if cx.grpc { request.headers().get("grpc-timeout") } else { None };
    let written = written.and_then(|value| decode_grpc_timeout(value.as_bytes())).map(|written| {
        let timeouts = &cx.entry.timeouts;
        let written = written.saturating_sub(timeouts.grpc_timeout_header_offset);
        timeouts.grpc_timeout_header_max.map_or(written, |max| written.min(max))
    });
    match (cx.call.timeout, written) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// One part in so many of what remains, at least, at most.
pub(crate) const MARGIN: (u32, Duration, Duration) = (20, Duration::from_millis(5), Duration::from_millis(50));

/// 5 % of what remains, at least 5 ms, at most 50 ms.
fn margin(remaining: Duration) -> Duration {
    (remaining / MARGIN.0).clamp(MARGIN.1, MARGIN.2).min(remaining)
}

fn default(cx: &CallContext, request: &mut Request<Body>, after: Duration) -> Option<Deadline> {
    if cx.grpc || is_open_ended(request) {
        return None;
    }
    let sent = if request.body().as_full().is_some() {
        RequestSent::Always
    } else {
        let sent = Arc::new(OnceLock::new());
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::request(GuardedBody::new(body, Sent(Arc::clone(&sent))));
        RequestSent::When(sent)
    };
    Some(Deadline::new(cx.sent_from() + after, Cause::Response { after, sent }))
}

struct Sent(Arc<OnceLock<Instant>>);

impl Guard for Sent {
    fn end(&mut self, _end: End<'_>) {
        let _ = self.0.set(rt::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_a_twentieth_between_5_and_50_ms() {
        let ms = Duration::from_millis;
        assert_eq!(margin(ms(40)), ms(5));
        assert_eq!(margin(ms(400)), ms(20));
        assert_eq!(margin(ms(4000)), ms(50));
        assert_eq!(margin(ms(3)), ms(3));
    }
}
