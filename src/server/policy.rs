//! What the stack goes by: one configuration, pinned by each request when it arrives.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use arc_swap::ArcSwap;

use super::{
    access::{Access, Audience},
    body_limit::MaxBody,
    callers::Callers,
    inbound::Served,
    open::Open,
};
use crate::{
    canon::PathNormalization,
    instrument::Registry,
    limit::{self, Fleet, RateLimitPolicy, RateLimiter},
    model::ListenersSpec,
    peer::PeerAddr,
    provide::Provide,
    retry::Arrivals,
    rt::{self, TaskSet},
    seat::Seat,
    shed::{self, Admission, Policies},
    telemetry::CallSeries,
};

/// What every connection of one mesh shares.
pub(crate) struct ServerShared {
    pub(super) series: Arc<CallSeries>,
    /// How many of the requests are repetitions of others.
    pub(super) arrivals: Arrivals,
    policy: ArcSwap<ServerPolicy>,
    /// How often the rules have changed, as the policy in use has it.
    pub(super) changes: AtomicU64,
    pub(super) open: Open,
}

/// One configuration. A request that met it goes by it to its end, whatever is reloaded meanwhile.
#[derive(Clone, Default)]
pub(crate) struct ServerPolicy {
    /// How often the rules had changed by then.
    pub(super) changes: u64,
    seat: Option<Arc<dyn Seat>>,
    normalization: PathNormalization,
    /// Who may ask for what; nothing while everyone may ask for everything.
    pub(super) access: Option<Arc<Access>>,
    /// What is asked of callers; nothing while nothing is.
    pub(super) callers: Option<Arc<Callers>>,
    rate_limit: Option<Arc<RateLimiter>>,
    admission: Option<Arc<Admission>>,
    /// Bytes of a request body, at the mesh listeners and at the edge.
    max_body: [Option<u32>; 2],
}

impl ServerShared {
    pub(crate) fn new(series: Arc<CallSeries>) -> Arc<Self> {
        Arc::new(Self {
            series,
            arrivals: Arrivals::default(),
            policy: ArcSwap::default(),
            changes: AtomicU64::new(0),
            open: Open::default(),
        })
    }

    #[inline]
    pub(super) fn pin(&self) -> Arc<ServerPolicy> {
        self.policy.load_full()
    }

    /// Brings a changed configuration into use, all of it at once, and holds what is open to it within a second. Callers
    /// are ordered by whoever reloads.
    pub(crate) fn change(&self, tasks: &TaskSet, change: impl FnOnce(&mut ServerPolicy)) {
        let mut policy = (*self.pin()).clone();
        change(&mut policy);
        let policy = Arc::new(policy);
        self.policy.store(Arc::clone(&policy));
        // After the rules are there, before anybody is woken: who sees the number sees them.
        if self.changes.swap(policy.changes, SeqCst) != policy.changes {
            self.open.judge(policy.access.as_ref(), tasks);
        }
    }

    /// Whether a connection from there is accepted at all.
    pub(crate) fn admits_address(&self, remote: &PeerAddr, local: &PeerAddr) -> bool {
        self.policy.load().access.as_ref().is_none_or(|access| access.admits_address(remote, local))
    }

    /// The name under which it is counted.
    pub(crate) fn service(&self) -> &str {
        self.series.service()
    }

    /// For the gauges.
    pub(crate) fn report(&self) {
        if let Some(admission) = &self.policy.load().admission {
            admission.shedder().report();
        }
    }
}

impl ServerPolicy {
    pub(crate) fn set_seat(&mut self, seat: Option<Arc<dyn Seat>>) {
        self.seat = seat;
    }

    pub(crate) fn set_normalization(&mut self, level: PathNormalization) {
        self.normalization = level;
    }

    pub(crate) fn set_max_body(&mut self, listeners: &ListenersSpec) {
        let edge = listeners.edge.as_ref().and_then(|edge| edge.limits.max_request_bytes);
        self.max_body = [listeners.mesh_limits.max_request_bytes, edge];
    }

    pub(crate) fn set_access(&mut self, access: Access) {
        let access = (!access.is_open()).then(|| Arc::new(access));
        if access.is_some() || self.access.is_some() {
            self.changes += 1;
        }
        self.access = access;
    }

    pub(crate) fn set_callers(&mut self, callers: Option<Callers>) {
        self.callers = callers.map(Arc::new);
    }

    /// What is in work stays counted, and a limit that was found is where the next begins.
    pub(crate) fn set_admission(&mut self, policies: Policies, service: &str, tasks: &TaskSet, registry: &Registry) {
        let before = self.admission.take();
        if before.as_ref().map(|before| *before.shedder().policies()).unwrap_or_default() == policies {
            self.admission = before;
            return;
        }
        self.admission = (!policies.is_empty())
            .then(|| Admission::make(policies, before.as_deref(), shed::Series::new(registry, service), tasks));
    }

    /// A changed limit keeps what was counted.
    pub(crate) fn set_rate_limit(
        &mut self,
        policy: Option<&RateLimitPolicy>,
        service: &str,
        registry: &Registry,
        fleet: &Fleet,
    ) {
        let before = self.rate_limit.take();
        if before.as_ref().map(|before| before.policy()) == policy {
            self.rate_limit = before;
            return;
        }
        self.rate_limit = policy.map(|policy| {
            let what = "the rate limit of this service (`inbound.rate_limit`)".into();
            let series = limit::Series::new(registry, ["inbound", service, "_inbound"], what, policy.global.is_some());
            RateLimiter::make(policy.clone(), before.as_deref(), series, fleet, rt::now())
        });
    }
}

/// What a layer of the stack goes by: the configuration that the request met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pinned;

impl Provide<Arc<dyn Seat>, Served> for Pinned {
    #[inline]
    fn provide(&self, served: &Served) -> Option<Arc<dyn Seat>> {
        served.cx.policy.seat.clone()
    }
}

impl Provide<PathNormalization, Served> for Pinned {
    #[inline]
    fn provide(&self, served: &Served) -> Option<PathNormalization> {
        Some(served.cx.policy.normalization)
    }
}

impl Provide<MaxBody, Served> for Pinned {
    #[inline]
    fn provide(&self, served: &Served) -> Option<MaxBody> {
        let [mesh, edge] = served.cx.policy.max_body;
        if served.cx.audience == Audience::Edge { edge } else { mesh }.map(MaxBody)
    }
}

impl Provide<Arc<RateLimiter>, Served> for Pinned {
    #[inline]
    fn provide(&self, served: &Served) -> Option<Arc<RateLimiter>> {
        served.cx.policy.rate_limit.clone()
    }
}

impl Provide<Arc<Admission>, Served> for Pinned {
    #[inline]
    fn provide(&self, served: &Served) -> Option<Arc<Admission>> {
        served.cx.policy.admission.clone()
    }
}
