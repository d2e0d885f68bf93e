//! The whole configuration.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    EdgeSpec, Floor, IdentitySource, InboundSpec, Labels, Lint, ListenerLimits, Mtls, Provenance, ProxySpec,
    ServiceSpec,
};
use crate::{
    name::{Locality, ServiceName},
    switch::Switches,
};

/// The whole configuration at one moment: validated, immutable, swapped as one.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Grows by one with each applied change.
    pub generation: u64,
    /// Who this process is.
    pub mesh: MeshSpec,
    /// Where its identity comes from. `None`: plaintext, and everyone is admitted.
    pub identity: Option<IdentitySource>,
    /// What its listeners ask of peers, unless one says otherwise.
    pub mtls: Mtls,
    /// Its listeners.
    pub listeners: ListenersSpec,
    /// How it stops.
    pub drain: DrainSpec,
    /// What it can call. A service whose spec did not change is the same `Arc` in the next snapshot.
    pub services: BTreeMap<ServiceName, Arc<ServiceSpec>>,
    /// What it serves.
    pub inbound: Arc<InboundSpec>,
    /// What no source lowers.
    pub floor: Arc<Floor>,
    /// Where each value came from.
    pub provenance: Arc<Provenance>,
    /// What the environment turns off.
    pub(crate) switches: Switches,
    /// The process runs under Kubernetes.
    pub(crate) kubernetes: bool,
    /// What is valid and probably not meant.
    pub lints: Arc<Vec<Lint>>,
}

/// `mesh`: who this process is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MeshSpec {
    /// The service this process is an instance of.
    pub service: ServiceName,
    /// Its version, free text.
    pub version: Option<Arc<str>>,
    /// Its namespace. Default `default`.
    pub namespace: Arc<str>,
    /// The trust domain. Only used with an identity.
    pub trust_domain: Option<Arc<str>>,
    /// Where it runs.
    pub locality: Locality,
    /// Its labels.
    pub labels: Arc<Labels>,
}

/// `listeners`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ListenersSpec {
    /// The ops listener: `/livez`, `/readyz`, `/metrics`, `grpc.health.v1`. Default off.
    pub ops: Option<SocketAddr>,
    /// What the mesh listeners ask of peers, if not what `mtls` says.
    pub mesh: Option<Mtls>,
    /// Who speaks for the callers of the mesh listeners.
    pub mesh_proxies: ProxySpec,
    /// What the mesh listeners allow.
    pub mesh_limits: ListenerLimits,
    /// The edge listener. Default off.
    pub edge: Option<EdgeSpec>,
}

/// `drain`: how the process stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DrainSpec {
    /// How long new connections are still served after readiness was withdrawn. Default 5 s under Kubernetes, else 0.
    pub lame_duck: Duration,
    /// After this everything left is closed. Default 25 s.
    pub deadline: Duration,
}

impl Snapshot {
    /// A configuration without services.
    pub fn new(service: ServiceName) -> Self {
        Self {
            generation: 0,
            mesh: MeshSpec {
                service,
                version: None,
                namespace: "default".into(),
                trust_domain: None,
                locality: Locality::default(),
                labels: Arc::default(),
            },
            identity: None,
            mtls: Mtls::Off,
            listeners: ListenersSpec::default(),
            drain: DrainSpec { lame_duck: Duration::ZERO, deadline: Duration::from_secs(25) },
            services: BTreeMap::new(),
            inbound: Arc::default(),
            floor: Arc::default(),
            provenance: Arc::default(),
            switches: Switches::default(),
            kubernetes: false,
            lints: Arc::default(),
        }
    }

    /// [`DrainSpec::lame_duck`] under Kubernetes, where endpoints are withdrawn some time after the signal.
    pub(crate) const LAME_DUCK: Duration = Duration::from_secs(5);

    /// For a process that runs under Kubernetes.
    pub(crate) fn under_kubernetes(mut self) -> Self {
        self.kubernetes = true;
        self.drain.lame_duck = Self::LAME_DUCK;
        self
    }
}
