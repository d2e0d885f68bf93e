//! What travels with a request: deadline, criticality, request id, trace, retry allowance.
//!
//! A server decodes it once and runs the handler inside it; clients read it from there, so a deadline or a request id
//! reaches the next hop without a line of application code. It is found, in this order, in the request's extensions
//! (a [`Call`]), in the task ([`Context::current`]), or not at all.
//!
//! # Tasks
//! Task-locals do not cross `tokio::spawn`; [`spawn`](crate::spawn) and [`Context::scope`] carry the context over.

mod call;
mod deadline;
mod local;
mod task;
mod trace;
mod tree;
mod wire;

pub(crate) use self::{
    call::Tag,
    deadline::{decode_grpc_timeout, encode_grpc_timeout},
    local::with_current,
    tree::{Tree, UNSAID},
    wire::{GRPC_PREVIOUS_ATTEMPTS, SINEW_CTX, SINEW_NO_RETRY, SINEW_SHED, SINEW_SPENT, Wire},
};
pub use self::{
    call::{Call, Criticality},
    local::Scoped,
    task::{Task, TaskError, spawn},
    trace::TraceContext,
};

use std::{fmt, sync::Arc, time::Duration};

use crate::{caller::Caller, peer::Peer, rt::Instant};

/// The context of the request that is being served or made. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) deadline: Option<Instant>,
    pub(crate) criticality: Option<Criticality>,
    /// The tree of calls that the request being served belongs to.
    pub(crate) tree: Option<Tree>,
    /// The context this one was made from, if its tree is there.
    pub(crate) root: Option<Context>,
    /// Which attempt of the caller this is, 0 for the first.
    pub(crate) attempt: u32,
    /// Whether this is a copy of a request, or serves one: it is not copied again.
    pub(crate) mirror: bool,
    pub(crate) request_id: Option<Arc<str>>,
    /// Whether the id came as `x-request-id`, and so goes on as that.
    pub(crate) x_request_id: bool,
    pub(crate) fairness_key: Option<Arc<str>>,
    pub(crate) trace: Option<TraceContext>,
    /// Per-call options set by [`Call::scope`].
    pub(crate) call: Call,
}

impl Context {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The context this task runs in: of the request it serves, or of an enclosing [`Call::scope`].
    pub fn current() -> Option<Context> {
        with_current(|context| context.cloned())
    }

    /// The context in a request's extensions: of the request that is served, or at a client's seat of the one that is
    /// made.
    pub fn of(extensions: &http::Extensions) -> Option<Context> {
        Inbound::of(extensions).map(|inbound| &inbound.context).or_else(|| extensions.get()).cloned()
    }

    /// How much time is left before the caller stops waiting; `None` without a deadline, zero if it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.inner.deadline.map(|deadline| deadline.saturating_duration_since(crate::rt::now()))
    }

    /// When the caller stops waiting, on the monotonic clock.
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.inner.deadline.map(Instant::into_std)
    }

    /// How important the caller says this request is. [`Criticality::Critical`] unless an allowed peer said otherwise.
    pub fn criticality(&self) -> Criticality {
        self.inner.criticality.unwrap_or_default()
    }

    /// The request id, if the caller sent one.
    pub fn request_id(&self) -> Option<&str> {
        self.inner.request_id.as_deref()
    }

    /// The trace this request belongs to, if the caller sent one.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.inner.trace.as_ref()
    }

    /// Which attempt of the caller this is: 0 for the first, 1 for its first retry.
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// Whether this request is a copy that nobody waits for, or is made to serve one.
    pub fn is_mirrored(&self) -> bool {
        self.inner.mirror
    }

    /// Runs a future inside this context, across its awaits.
    pub fn scope<F: Future>(&self, future: F) -> Scoped<F> {
        Scoped::new(future, Some(self.clone()))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// The tree of calls that calls made in this context belong to; `None` if each of them begins its own.
    pub(crate) fn tree(&self) -> Option<&Tree> {
        self.inner.root.as_ref().unwrap_or(self).inner.tree.as_ref()
    }

    /// The same with other options.
    fn with_call(&self, call: Call) -> Self {
        let inner = &*self.inner;
        Self::new(Inner {
            deadline: inner.deadline,
            criticality: inner.criticality,
            tree: None,
            root: Some(inner.root.clone().unwrap_or_else(|| self.clone())),
            attempt: inner.attempt,
            request_id: inner.request_id.clone(),
            x_request_id: inner.x_request_id,
            fairness_key: inner.fairness_key.clone(),
            mirror: inner.mirror,
            trace: inner.trace.clone(),
            call,
        })
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("remaining", &self.remaining())
            .field("criticality", &self.criticality())
            .field("request_id", &self.request_id())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// The one extension a server listener inserts: the context and who sent it.
#[derive(Clone, Debug)]
pub(crate) struct Inbound {
    pub(crate) context: Context,
    pub(crate) peer: Peer,
    pub(crate) caller: Caller,
}

impl Inbound {
    pub(crate) fn of(extensions: &http::Extensions) -> Option<&Inbound> {
        extensions.get()
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }
}
