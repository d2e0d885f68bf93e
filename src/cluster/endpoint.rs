//! One endpoint of a cluster.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Cluster, lines::Lines, slow_start::Warmth};
use crate::{
    balance::Candidate,
    breaker::{EndpointLimits, Limit},
    context::Tag,
    health::{Availability, Ejection, Flag, SuccessRate, Unanswered, Vitals},
    model::{EndpointSpec, SetKind, TlsMode},
    rt::{self, Instant},
    transport::{Pool, PoolEvent, PoolPolicy, PoolTarget, Readiness},
};

/// An endpoint and its connections. Its attributes (weight, labels, priority) live with the cluster, since they change
/// without it.
pub(crate) struct Endpoint {
    pub(crate) id: Arc<str>,
    pub(super) tag: Tag,
    pub(crate) pool: Arc<Pool>,
    /// Whether calls may go here, as far as health is concerned; the pool knows whether they can.
    pub(crate) availability: Availability,
    /// What its failures add to the cost of a call, in 256ths of it.
    surcharge: AtomicU32,
    success_rate: SuccessRate,
    /// What its calls left behind.
    pub(super) vitals: Vitals,
    /// Calls that have no answer yet.
    pub(super) unanswered: Unanswered,
    ejection: Mutex<Ejection>,
    /// Its connections, where those are judged instead of it.
    pub(super) lines: Lines,
    /// Whether it is new.
    pub(super) warmth: Arc<Warmth>,
    /// Calls in flight to it, where those are limited.
    pub(super) places: Arc<Limit>,
    /// How many endpoints of the cluster are connecting.
    connecting: Arc<AtomicU32>,
}

/// How many endpoints of a cluster connect at the same time because picks came across them. A set of thousands would
/// otherwise be connected whole by its first call.
const MAX_CONNECTING: u32 = 100;

impl Endpoint {
    /// `places` are those of the one that it takes the place of.
    pub(super) fn new(of: &Arc<Cluster>, spec: &EndpointSpec, kind: SetKind, places: Option<Arc<Limit>>) -> Self {
        let (policy, cluster) = (of.policy.load(), Arc::downgrade(of));
        let id: Arc<str> = spec.id.as_str().into();
        let warmth = Arc::<Warmth>::default();
        let is_new = Arc::clone(&warmth);
        let on_event = move |event| {
            if let Some(cluster) = cluster.upgrade() {
                if let PoolEvent::Changed { from, to: Readiness::Ready } = event
                    && is_new.connected(from == Readiness::TransientFailure)
                {
                    cluster.begin_slowly(&is_new);
                }
                cluster.endpoint_event(event);
            }
        };
        let target = PoolTarget {
            addresses: Arc::clone(&spec.addresses),
            protocol: policy.protocol,
            kind,
            label: Arc::clone(&id),
            authority: None,
        };
        let connecting = PoolPolicy {
            connect_timeout: policy.timeouts.connect,
            // Whoever answers has proved to be a member.
            trusted: policy.tls == TlsMode::Mesh,
        };
        let pool = Pool::new(
            target,
            connecting,
            Arc::clone(&of.dial.load().0),
            Arc::clone(&of.connections),
            of.tasks.clone(),
            Arc::clone(&of.waiting),
            on_event,
        );
        let endpoint = Self {
            pool,
            availability: Availability::default(),
            surcharge: AtomicU32::new(0),
            success_rate: SuccessRate::default(),
            vitals: Vitals::default(),
            unanswered: Unanswered::default(),
            ejection: Mutex::default(),
            lines: Lines::default(),
            warmth,
            connecting: Arc::clone(&of.connecting),
            places: places.unwrap_or_else(|| Limit::new(u32::MAX)),
            tag: Tag::of(&id),
            id,
        };
        endpoint.limit(policy.circuit_breakers.per_endpoint);
        endpoint
    }

    /// Moves its limits; what is held stays held.
    pub(super) fn limit(&self, to: EndpointLimits) {
        self.places.set_max(to.max_requests.unwrap_or(u32::MAX));
        self.pool.set_most(to.max_connections.unwrap_or(u32::MAX));
    }
}

impl Endpoint {
    /// Begins to connect an idle endpoint, unless many are connecting already.
    pub(super) fn wake(&self) {
        if self.connecting.load(Relaxed) < MAX_CONNECTING {
            self.pool.connect();
        }
    }

    /// Takes in a call for what calls cost here.
    pub(super) fn weigh(&self, succeeded: bool, at: Duration) {
        self.surcharge.store(self.success_rate.took(succeeded, at), Relaxed);
    }

    /// How well its calls have gone lately.
    pub(super) fn success_rate(&self, at: Duration) -> f64 {
        self.success_rate.at(at)
    }

    /// Whether all its calls have gone well lately.
    #[inline]
    pub(super) fn is_good(&self) -> bool {
        self.success_rate.is_whole()
    }

    /// Lets time pass. True once what it failed is forgotten.
    pub(super) fn relax(&self, at: Duration) -> bool {
        if !self.is_good() {
            self.surcharge.store(self.success_rate.relax(at), Relaxed);
        }
        self.is_good()
    }

    /// It is judged anew.
    pub(super) fn forget(&self) {
        self.vitals.forget();
        self.success_rate.reset();
        self.surcharge.store(0, Relaxed);
    }

    pub(super) fn ejection(&self) -> MutexGuard<'_, Ejection> {
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call may go there; `repeatable` says whether it could be sent again if it failed.
    #[inline]
    pub(super) fn admits(&self, panic: bool, repeatable: bool) -> bool {
        self.availability.admits(panic) || self.wants_probe(repeatable)
    }

    #[cold]
    fn wants_probe(&self, repeatable: bool) -> bool {
        self.availability.is_only(Flag::PROBATION) && self.ejection().wants_probe(repeatable, rt::now())
    }

    /// It takes the place of another that had the same id, and what is held against that one.
    pub(super) fn inherit(&self, from: &Endpoint) {
        *self.ejection() = from.ejection().handed_on();
        self.availability.copy(&from.availability);
        self.warmth.inherit(&from.warmth);
    }

    /// What speaks against it, for people.
    pub(super) fn account(&self, now: Instant) -> Option<String> {
        let mut against: Vec<String> = Vec::new();
        if let Some(account) = self.ejection().account() {
            let (cause, ago) = (account.cause, rounded(now.saturating_duration_since(account.since)));
            against.push(match account.until {
                Some(until) => {
                    let left = rounded(until.saturating_duration_since(now));
                    format!("ejected {ago} ago by `{cause}`, for {left} more")
                }
                None => format!("ejected {ago} ago by `{cause}`, on probation"),
            });
        }
        let others = self.availability.names().filter(|name| !["ejected", "probation"].contains(name));
        against.extend(others.map(|name| name.replace('_', " ")));
        (!against.is_empty()).then(|| format!("`{}` {}", self.id, against.join(", ")))
    }

    /// Whether it counts where usable endpoints are counted: nothing is known against it, and its connections do not
    /// fail.
    pub(super) fn is_usable(&self) -> bool {
        self.availability.is_usable() && self.pool.readiness() != Readiness::TransientFailure
    }
}

impl Candidate for Endpoint {
    fn available(&self) -> bool {
        match self.pool.readiness() {
            Readiness::Ready => true,
            Readiness::Idle => {
                // For the calls to come; this one goes elsewhere.
                self.wake();
                false
            }
            Readiness::Connecting | Readiness::TransientFailure => false,
        }
    }

    fn surcharge(&self) -> u32 {
        self.surcharge.load(Relaxed)
    }
}

/// To the tenth of a second: what people can use.
fn rounded(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}
