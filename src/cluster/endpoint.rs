//! One endpoint of a cluster.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::Cluster;
use crate::{
    balance::Candidate,
    health::Availability,
    model::{EndpointSpec, SetKind},
    transport::{Pool, PoolPolicy, PoolTarget, Readiness},
};

/// An endpoint and its connections. Its attributes (weight, labels, priority) live with the cluster, since they change
/// without it.
pub(crate) struct Endpoint {
    pub(crate) id: Arc<str>,
    pub(crate) pool: Arc<Pool>,
    /// Whether calls may go here, as far as health is concerned; the pool knows whether they can.
    pub(crate) availability: Availability,
    /// How many endpoints of the cluster are connecting.
    connecting: Arc<AtomicU32>,
}

/// How many endpoints of a cluster connect at the same time because picks came across them. A set of thousands would
/// otherwise be connected whole by its first call.
const MAX_CONNECTING: u32 = 100;

impl Endpoint {
    pub(super) fn new(of: &Arc<Cluster>, spec: &EndpointSpec, kind: SetKind) -> Self {
        let (policy, cluster) = (of.policy.load(), Arc::downgrade(of));
        let id: Arc<str> = spec.id.as_str().into();
        let on_event = move |event| {
            if let Some(cluster) = cluster.upgrade() {
                cluster.endpoint_event(event);
            }
        };
        let target = PoolTarget {
            addresses: Arc::clone(&spec.addresses),
            protocol: policy.protocol,
            kind,
            label: Arc::clone(&id),
            authority: policy.outside_name().and_then(|name| name.parse().ok()),
        };
        let pool = Pool::new(
            target,
            PoolPolicy { connect_timeout: policy.timeouts.connect },
            Arc::clone(&of.dial.load().0),
            Arc::clone(&of.connections),
            of.tasks.clone(),
            Arc::clone(&of.waiting),
            on_event,
        );
        Self { pool, availability: Availability::default(), connecting: Arc::clone(&of.connecting), id }
    }
}

impl Endpoint {
    /// Begins to connect an idle endpoint, unless many are connecting already.
    pub(super) fn wake(&self) {
        if self.connecting.load(Relaxed) < MAX_CONNECTING {
            self.pool.connect();
        }
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
}
