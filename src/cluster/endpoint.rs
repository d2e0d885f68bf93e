//! One endpoint of a cluster.

use std::sync::{Arc, Weak, atomic::AtomicU32};

use super::Cluster;
use crate::{
    balance::Candidate,
    model::{EndpointSpec, Protocol, SetKind},
    rt::TaskSet,
    transport::{ConnectionLimit, Dial, Pool, PoolPolicy, PoolTarget, Readiness},
};

/// An endpoint and its connections. Its attributes (weight, labels, priority) live with the cluster, since they change
/// without it.
pub(crate) struct Endpoint {
    pub(crate) id: Arc<str>,
    pub(crate) pool: Arc<Pool>,
}

impl Endpoint {
    pub(super) fn new(
        spec: &EndpointSpec,
        kind: SetKind,
        protocol: Protocol,
        policy: PoolPolicy,
        dial: Arc<dyn Dial>,
        connections: Arc<ConnectionLimit>,
        tasks: TaskSet,
        waiting: Arc<AtomicU32>,
        cluster: Weak<Cluster>,
    ) -> Self {
        let id: Arc<str> = spec.id.as_str().into();
        let on_event = move |event| {
            if let Some(cluster) = cluster.upgrade() {
                cluster.endpoint_event(event);
            }
        };
        let target = PoolTarget { addresses: Arc::clone(&spec.addresses), protocol, kind, label: Arc::clone(&id) };
        Self { pool: Pool::new(target, policy, dial, connections, tasks, waiting, on_event), id }
    }
}

impl Candidate for Endpoint {
    fn available(&self) -> bool {
        match self.pool.readiness() {
            Readiness::Ready => true,
            Readiness::Idle => {
                // Wakes it for the calls to come; this one goes elsewhere.
                self.pool.connect();
                false
            }
            Readiness::Connecting | Readiness::TransientFailure => false,
        }
    }
}
