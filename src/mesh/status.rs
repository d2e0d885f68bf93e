//! What the mesh knows and does, as plain data.

use std::collections::BTreeMap;

use serde::Serialize;

use super::control::Inner;
use crate::{breaker::CircuitHandle, cluster::ClusterStatus, switch::Feature};

/// A snapshot of the mesh, for logs, tests and pages. Its JSON form may gain fields.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MeshStatus {
    /// The service this process is an instance of.
    pub service: String,
    /// Whether it is ready to be sent requests.
    pub ready: bool,
    /// What it still waits for.
    pub waiting_for: Vec<String>,
    /// What listeners ask of their peers: `strict`, `permissive` or `off`. Without an identity: `off`.
    pub mtls: &'static str,
    /// Who this process is; `None` without an identity.
    pub identity: Option<IdentityStatus>,
    /// The configuration in use.
    pub generation: u64,
    /// What the environment turns off: `SINEW_DISABLE`, `SINEW_DEBUGGER`.
    pub switched_off: Vec<&'static str>,
    /// Each source of configuration: what it last delivered, and why its last change was refused, if it was.
    pub sources: Vec<SourceStatus>,
    /// What is valid and probably not meant.
    pub lints: Vec<String>,
    /// Connections accepted and open.
    pub connections: usize,
    /// Background tasks.
    pub tasks: usize,
    /// Every service that is configured or was asked for.
    pub services: BTreeMap<String, ServiceStatus>,
}

/// Who a process is.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct IdentityStatus {
    /// `dev`, `files`, `workload_api`, `ca`.
    pub source: &'static str,
    /// The SPIFFE ID in its certificate; `None` until there is one.
    pub id: Option<String>,
    /// When that certificate ends.
    pub expires: Option<std::time::SystemTime>,
    /// Why its source has nothing new, if it should have.
    pub error: Option<String>,
    /// Grows with each change of certificate, bundles or revocations.
    pub generation: u64,
}

/// A source of configuration.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SourceStatus {
    /// `file sinew.yaml`.
    pub name: String,
    /// The generation it last brought into use.
    pub generation: u64,
    /// Why its last change is not in use; the one before still is.
    pub error: Option<String>,
    /// How long this has been so.
    pub since: std::time::Duration,
}

/// A service.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// False if it was asked for and nothing is known about it.
    pub configured: bool,
    /// Its routes in evaluation order.
    pub routes: Vec<String>,
    /// The last complaint of discovery; the endpoints below are the last good ones.
    pub discovery_error: Option<String>,
    /// Its circuit, with `circuit_breakers.breaker`.
    pub circuit: Option<CircuitStatus>,
    /// Its endpoints and limits.
    pub cluster: Option<ClusterStatus>,
}

/// The circuit of a service.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CircuitStatus {
    /// `closed`, `half_open` or `open`.
    pub state: &'static str,
    /// Who decides that: `calls`, or an operator by `held_open` and `held_closed`.
    pub control: &'static str,
    /// Calls that it remembers.
    pub calls: u32,
    /// Those of them that failed.
    pub failed: u32,
    /// Those of them that were slow.
    pub slow: u32,
}

impl CircuitStatus {
    fn of(circuit: &CircuitHandle) -> Self {
        let (calls, failed, slow) = circuit.remembers();
        Self { state: circuit.state().as_str(), control: circuit.control().as_str(), calls, failed, slow }
    }
}

pub(super) fn collect(inner: &Inner) -> MeshStatus {
    let snapshot = inner.snapshot();
    let services = inner
        .services
        .all()
        .into_iter()
        .map(|handle| {
            let runtime = handle.runtime();
            let status = ServiceStatus {
                configured: runtime.spec.is_some(),
                routes: runtime
                    .spec
                    .iter()
                    .flat_map(|spec| spec.routes.iter().map(|route| route.name.to_string()))
                    .collect(),
                discovery_error: inner.discovery_error(&handle.name),
                circuit: runtime.circuit.as_ref().map(CircuitStatus::of),
                cluster: runtime.cluster.as_ref().map(|cluster| cluster.status()),
            };
            (handle.name.to_string(), status)
        })
        .collect();
    let unmet = |(name, reason): (&str, Option<_>)| reason.map(|reason| format!("{name}: {reason}"));
    let waiting_for: Vec<_> = inner.readiness.report().into_iter().filter_map(unmet).collect();
    MeshStatus {
        service: snapshot.mesh.service.to_string(),
        ready: waiting_for.is_empty(),
        waiting_for,
        mtls: snapshot.listeners.mesh.unwrap_or(snapshot.mtls).as_str(),
        identity: inner.security.identity().map(|identity| IdentityStatus {
            source: snapshot.identity.as_ref().map_or("-", |source| source.as_str()),
            id: identity.own().map(|own| own.id().to_string()),
            expires: identity.own().map(|own| own.not_after()),
            error: identity.trouble().map(|trouble| trouble.why),
            generation: identity.changes().borrow().generation,
        }),
        generation: snapshot.generation,
        switched_off: {
            let deadlines = snapshot.switches.debugger().then_some("deadlines");
            snapshot.switches.off().map(Feature::as_str).chain(deadlines).collect()
        },
        sources: inner.sources(),
        lints: snapshot.lints.iter().map(ToString::to_string).collect(),
        connections: inner.acceptor.open(),
        tasks: inner.tasks.len(),
        services,
    }
}
