//! One attempt: admission, pick, send.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, Request, Response, header::UPGRADE};

use super::{
    Cluster, Note, SubsetId, Went,
    observe::{Begun, Observe},
    wait::{Ask, Chosen, Ready},
};
use crate::{
    body::{Body, GuardedBody},
    breaker::{CircuitHandle, Judge, Permit},
    classify,
    context::Tag,
    error::{Code, Error},
    retry::AttemptKind,
    rt::{self, Instant},
    timeout::{Cause, Deadline},
    transport::{SlotBody, Upgraded, Want},
};

/// What an attempt needs to know.
pub(crate) struct DispatchContext {
    pub(crate) subset: Option<SubsetId>,
    pub(crate) grpc: bool,
    pub(crate) kind: AttemptKind,
    /// The timeout of this attempt.
    pub(crate) per_try: Option<Duration>,
    pub(crate) tried: Vec<Went>,
    /// Where to note the endpoint.
    pub(crate) asked: Option<Arc<Note>>,
    /// When the call began.
    pub(crate) started: Instant,
    /// Whether the call said that its answer may take long.
    pub(crate) patient: bool,
    /// An endpoint to take if it can be, and one to pass over.
    pub(crate) prefer: Tag,
    pub(crate) avoid: Tag,
    /// Whether limits on calls hold.
    pub(crate) limited: bool,
    /// Whether the service is left alone.
    pub(crate) circuit: Option<CircuitHandle>,
    /// Says how the service does, once there is an outcome.
    pub(crate) judge: Option<Judge>,
    /// When the caller stops waiting.
    pub(crate) deadline: Option<Instant>,
}

impl DispatchContext {
    /// It could not be sent.
    fn failed(&mut self, error: &Error) {
        if let Some(judge) = &mut self.judge {
            judge.close(classify::error(error));
        }
    }
}

type Sent = Pin<Box<dyn Future<Output = Result<Response<SlotBody>, Error>> + Send>>;
type Waited = Pin<Box<dyn Future<Output = Result<(Permit, Chosen), Error>> + Send>>;

/// An attempt on its way. Dropping it resets the stream, or leaves the queue.
pub(crate) struct DispatchFuture {
    state: State,
}

enum State {
    Refused(Option<Error>),
    /// Boxed: it holds the request, and every layer above moves this future.
    Waiting(Option<Box<Waiting>>),
    Sending {
        sent: Sent,
        observe: Option<Observe>,
    },
}

struct Waiting {
    waited: Waited,
    request: Request<Body>,
    cluster: Arc<Cluster>,
    cx: DispatchContext,
}

impl Cluster {
    /// Sends a request to one endpoint. Nothing waits on the common path: the permit, the endpoint and the stream are
    /// taken here, before the future exists.
    pub(crate) fn dispatch(self: &Arc<Self>, request: Request<Body>, mut cx: DispatchContext) -> DispatchFuture {
        if let Some(circuit) = cx.circuit.take() {
            match circuit.admit(rt::now()) {
                Ok(judge) => cx.judge = judge,
                Err(error) => return DispatchFuture { state: State::Refused(Some(error)) },
            }
        }
        let ask = ask(&request, &cx);
        let limit = if cx.limited { &self.requests } else { &self.unlimited };
        let Some(permit) = limit.try_acquire() else {
            // A hedge that has to wait comes too late.
            let state = match cx.kind {
                AttemptKind::Hedge => State::Refused(Some(self.over_limit(Duration::ZERO))),
                _ => self.at_limit(request, cx),
            };
            return DispatchFuture { state };
        };
        let state = match self.try_ready(ask) {
            // The same endpoint twice would be load without a chance.
            Ready::Go(Chosen { picked, slot, .. })
                if cx.kind == AttemptKind::Hedge
                    && cx.tried.iter().any(|went| went.is(&picked.id, slot.connection())) =>
            {
                State::Refused(Some(self.nowhere_else()))
            }
            Ready::Go(chosen) => send(Arc::clone(self), chosen, permit, request, &mut cx, false),
            // A hedge that has to wait comes too late.
            Ready::Wait(_) if cx.kind == AttemptKind::Hedge => State::Refused(Some(self.nowhere_else())),
            Ready::Wait(reason) => {
                let (cluster, owned) = (Arc::clone(self), Ask { tried: &[], ..ask });
                let tried = cx.tried.clone();
                let waited = async move {
                    let chosen = cluster.wait_send(Ask { tried: &tried, ..owned }, reason).await?;
                    Ok((permit, chosen))
                };
                let cluster = Arc::clone(self);
                State::Waiting(Some(Box::new(Waiting { waited: Box::pin(waited), request, cluster, cx })))
            }
            Ready::Fail(error) => {
                cx.failed(&error);
                State::Refused(Some(error))
            }
        };
        DispatchFuture { state }
    }
}

impl Cluster {
    /// `max_requests` is reached: refuses, or waits for `limit_wait`.
    fn at_limit(self: &Arc<Self>, request: Request<Body>, cx: DispatchContext) -> State {
        let limit = self.policy.load().timeouts.limit_wait;
        if limit.is_zero() {
            return State::Refused(Some(self.over_limit(limit)));
        }
        if let Some(error) = self.too_late_to_wait(cx.deadline) {
            return State::Refused(Some(error));
        }
        let Some(pending) = self.pending.try_acquire() else { return State::Refused(Some(self.too_many_wait())) };
        let (cluster, tried, deadline) = (Arc::clone(self), cx.tried.clone(), cx.deadline);
        let owned = Ask { tried: &[], ..ask(&request, &cx) };
        let waited = async move {
            let begun = rt::now();
            let until = deadline.into_iter().chain([begun + limit]).min();
            let permit = match rt::timeout(limit, cluster.requests.wait(until)).await.flatten() {
                Some(permit) => permit,
                None => return Err(cluster.over_limit(rt::now().saturating_duration_since(begun))),
            };
            drop(pending);
            let ask = Ask { tried: &tried, ..owned };
            let chosen = match cluster.try_ready(ask) {
                Ready::Go(chosen) => chosen,
                Ready::Wait(reason) => cluster.wait_send(ask, reason).await?,
                Ready::Fail(error) => return Err(error),
            };
            Ok((permit, chosen))
        };
        let cluster = Arc::clone(self);
        State::Waiting(Some(Box::new(Waiting { waited: Box::pin(waited), request, cluster, cx })))
    }

    fn nowhere_else(&self) -> Error {
        Error::new(Code::NoHealthyEndpoint, format!("no other endpoint of `{}` is ready for a hedge", self.name))
    }

    fn too_many_wait(&self) -> Error {
        let message = format!(
            "{} calls wait for `{}` already, its `max_pending_requests`; raise it, or call less at a time",
            self.pending.max(),
            self.name
        );
        Error::new(Code::Overflow, message)
    }

    fn over_limit(&self, waited: Duration) -> Error {
        let waited = if waited.is_zero() { String::new() } else { format!(", also after {waited:?}") };
        let message = format!(
            "{} calls to `{}` are in flight{waited}, its `max_requests`; raise it, or call less at a time",
            self.requests.max(),
            self.name
        );
        Error::new(Code::Overflow, message)
    }
}

fn ask<'a>(request: &Request<Body>, cx: &'a DispatchContext) -> Ask<'a> {
    Ask {
        subset: cx.subset,
        want: want(request, cx.grpc),
        tried: &cx.tried,
        prefer: cx.prefer,
        avoid: cx.avoid,
        repeatable: request.method().is_idempotent(),
        deadline: cx.deadline,
        limited: cx.limited,
    }
}

/// gRPC needs HTTP/2, upgrades need HTTP/1.1.
pub(super) fn want(request: &Request<Body>, grpc: bool) -> Want {
    if grpc {
        Want::Http2
    } else if request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE) {
        Want::Http1
    } else {
        Want::Any
    }
}

fn send(
    cluster: Arc<Cluster>,
    chosen: Chosen,
    permit: Permit,
    request: Request<Body>,
    cx: &mut DispatchContext,
    waited: bool,
) -> State {
    cluster.watch_calls();
    let Chosen { picked, slot, place, probe } = chosen;
    if let Some(asked) = &cx.asked {
        let id = Arc::clone(&picked.id);
        asked.push(if cluster.is_vip() { Went::over(id, slot.connection()) } else { Went::to(id) });
    }
    let line = if cluster.is_vip() { picked.lines.of(&slot) } else { None };
    let sent = slot.send(request);
    let sent = match cx.per_try {
        None => sent,
        Some(after) => {
            let deadline = Deadline::new(rt::now() + after, Cause::PerTry { after });
            Box::pin(async move { rt::timeout(after, sent).await.unwrap_or_else(|| Err(deadline.error())) })
        }
    };
    let begun = Begun {
        started: if waited || cx.kind != AttemptKind::First { rt::now() } else { cx.started },
        sent: if cx.patient { Default::default() } else { cluster.watch.ages.now() },
    };
    // Above the attempt's timeout, so that a timeout counts against the endpoint.
    let observe = Observe::new(cluster, picked, permit, probe, begun, cx.grpc, cx.kind)
        .over(line)
        .judged_by(cx.judge.take())
        .in_place(place);
    State::Sending { sent, observe: Some(observe) }
}

impl Future for DispatchFuture {
    type Output = Result<Response<GuardedBody<SlotBody, Observe>>, Error>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::Refused(error) => {
                    let error = error.take().unwrap_or_else(ended);
                    return Poll::Ready(Err(error));
                }
                State::Waiting(waiting) => {
                    let ready = match waiting {
                        Some(waiting) => ready!(waiting.waited.as_mut().poll(task)),
                        None => return Poll::Ready(Err(ended())),
                    };
                    let Some(waiting) = waiting.take() else { return Poll::Ready(Err(ended())) };
                    let Waiting { request, cluster, mut cx, .. } = *waiting;
                    let next = match ready {
                        Ok((permit, chosen)) => send(cluster, chosen, permit, request, &mut cx, true),
                        Err(error) => {
                            cx.failed(&error);
                            State::Refused(Some(error))
                        }
                    };
                    self.state = next;
                }
                State::Sending { sent, observe } => {
                    let result = ready!(sent.as_mut().poll(task));
                    let Some(mut observe) = observe.take() else { return Poll::Ready(Err(ended())) };
                    return Poll::Ready(match result {
                        Ok(response) => {
                            let (mut parts, body) = response.into_parts();
                            observe.answered(&parts);
                            if let Some(upgraded) = parts.extensions.remove::<Upgraded>() {
                                observe.upgraded(&upgraded);
                            }
                            Ok(Response::from_parts(parts, GuardedBody::new(body, observe)))
                        }
                        Err(error) => {
                            let error = match observe.endpoint() {
                                Some(endpoint) => error.with_endpoint(endpoint),
                                None => error,
                            };
                            observe.failed(&error);
                            Err(error)
                        }
                    });
                }
            }
        }
    }
}

fn ended() -> Error {
    Error::new(Code::Internal, "an attempt was polled after its end")
}
