//! One endpoint of a cluster.

use std::sync::{Arc, Weak};

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
        cluster: Weak<Cluster>,
    ) -> Self {
        let id: Arc<str> = spec.id.as_str().into();
        let on_change = Arc::new(move || {
            if let Some(cluster) = cluster.upgrade() {
                cluster.endpoint_changed();
            }
        });
        let target = PoolTarget { addresses: Arc::clone(&spec.addresses), protocol, kind, label: Arc::clone(&id) };
        Self { pool: Pool::new(target, policy, dial, connections, tasks, on_change), id }
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
