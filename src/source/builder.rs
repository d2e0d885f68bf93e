//! Configuration made by code, as the same partial documents that a file makes.
//!
//! What code sets is a default that the file may change, unless it stands inside `pin`. Mistakes are collected and
//! returned together, with the dotted path a file would have.

mod service;

use std::{sync::Arc, time::Duration};

pub use self::service::ServiceBuilder;
use super::{
    document::{Document, PartialService, Set},
    store::{Rejection, Update},
};
use crate::{
    authn,
    authz::{self, audit::AuditLog},
    canon::PathNormalization,
    limit::RateLimitPolicy,
    model::{IdentitySource, Labels, ListenerLimits, Mtls, Origin, Policy, PolicyDraft},
    name::ServiceName,
    seat::Position,
    shed::{AdaptivePolicy, ShedPolicy},
};

/// The builder's whole document.
#[derive(Clone, Debug, Default)]
pub(crate) struct DocumentBuilder {
    document: Document,
    pins: Document,
    rejected: Vec<Rejection>,
}

impl DocumentBuilder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// `mesh.version`.
    pub(crate) fn version(&mut self, version: &str) {
        self.document.mesh.version = Some(Set::new(version.into(), Origin::Builder));
    }

    /// `mesh.namespace`.
    pub(crate) fn namespace(&mut self, namespace: &str) {
        self.document.mesh.namespace = Some(Set::new(namespace.into(), Origin::Builder));
    }

    /// `mesh.zone`.
    pub(crate) fn zone(&mut self, zone: &str) {
        self.document.mesh.zone = Some(Set::new(zone.into(), Origin::Builder));
    }

    /// `mesh.region`.
    pub(crate) fn region(&mut self, region: &str) {
        self.document.mesh.region = Some(Set::new(region.into(), Origin::Builder));
    }

    /// `mesh.labels`.
    pub(crate) fn labels(&mut self, labels: Labels) {
        self.document.mesh.labels = Some(Set::new(labels, Origin::Builder));
    }

    /// `listeners.ops.listen`.
    pub(crate) fn ops(&mut self, listen: std::net::SocketAddr) {
        self.document.listeners.ops = Some(Set::new(listen, Origin::Builder));
    }

    /// `listeners.mesh.limits`.
    pub(crate) fn listener_limits(&mut self, limits: ListenerLimits) {
        self.document.listeners.mesh_limits = Some(Set::new(limits, Origin::Builder));
    }

    /// `identity` and `mesh.trust_domain`.
    pub(crate) fn identity(&mut self, source: IdentitySource, trust_domain: &str) {
        self.document.identity = Some(Set::new(source, Origin::Builder));
        self.document.mesh.trust_domain = Some(Set::new(trust_domain.into(), Origin::Builder));
    }

    /// `mtls`.
    pub(crate) fn mtls(&mut self, mode: Mtls) {
        self.document.mtls = Some(Set::new(mode, Origin::Builder));
    }

    /// `mtls`, whatever any source says.
    pub(crate) fn pin_mtls(&mut self, mode: Mtls) {
        self.pins.mtls = Some(Set::new(mode, Origin::Pinned));
    }

    /// `drain.lame_duck`.
    pub(crate) fn lame_duck(&mut self, duration: Duration) {
        self.document.drain.lame_duck = Some(Set::new(duration, Origin::Builder));
    }

    /// `drain.deadline`.
    pub(crate) fn drain_deadline(&mut self, duration: Duration) {
        self.document.drain.deadline = Some(Set::new(duration, Origin::Builder));
    }

    /// `defaults`, by what a service has in common with them; endpoints, hosts, subsets and routes are refused.
    pub(crate) fn defaults(&mut self, build: impl FnOnce(ServiceBuilder) -> ServiceBuilder) {
        let built = build(ServiceBuilder::new("defaults"));
        let refuse = |service: &PartialService| {
            service.endpoints.is_some()
                || service.hosts.is_some()
                || service.routes.is_some()
                || !service.subsets.is_empty()
        };
        if refuse(&built.service) || refuse(&built.pins) {
            let reason = "endpoints, hosts, subsets and routes belong to a service, not to the defaults";
            self.rejected.push(rejection("defaults", "", reason.into()));
        }
        self.rejected.extend(built.rejected);
        let lower = std::mem::take(&mut self.document.defaults);
        self.document.defaults = built.service.tunables.over(lower);
        let lower = std::mem::take(&mut self.pins.defaults);
        self.pins.defaults = built.pins.tunables.over(lower);
    }

    /// `services.<name>`; called again for the same name, it adds to it.
    pub(crate) fn service(&mut self, name: &str, build: impl FnOnce(ServiceBuilder) -> ServiceBuilder) {
        let built = build(ServiceBuilder::new(&format!("services.{name}")));
        self.rejected.extend(built.rejected);
        let name = match ServiceName::new(name) {
            Ok(name) => name,
            Err(error) => {
                self.rejected.push(rejection(&built.path, "", error.to_string()));
                return;
            }
        };
        let merge = |document: &mut Document, service: PartialService| {
            let merged = match document.services.remove(&name) {
                Some(lower) => service.over(lower),
                None => service,
            };
            document.services.insert(name.clone(), merged);
        };
        merge(&mut self.document, built.service);
        if built.pinned {
            merge(&mut self.pins, built.pins);
        }
    }

    /// `inbound.path_normalization`.
    pub(crate) fn path_normalization(&mut self, level: PathNormalization) {
        self.document.inbound.path_normalization = Some(Set::new(level, Origin::Builder));
    }

    /// `inbound.authn`.
    pub(crate) fn authn(&mut self, policy: authn::Authn) {
        self.document.inbound.authn.set(policy, &Origin::Builder);
    }

    /// `inbound.authz`.
    pub(crate) fn authz(&mut self, policy: authz::Policy) {
        self.document.inbound.authz.add(policy, &Origin::Builder);
    }

    /// Rules that have to allow as well, whatever any source says.
    pub(crate) fn pin_authz(&mut self, policy: authz::Policy) {
        self.pins.inbound.authz.add(policy, &Origin::Pinned);
    }

    /// `inbound.audit_log`.
    pub(crate) fn audit_log(&mut self, log: AuditLog) {
        self.document.inbound.audit_log = Some(Set::new(log, Origin::Builder));
    }

    /// As [`audit_log`](Self::audit_log); no source overrides it.
    pub(crate) fn pin_audit_log(&mut self, log: AuditLog) {
        self.pins.inbound.audit_log = Some(Set::new(log, Origin::Pinned));
    }

    /// `inbound.load_shed`.
    pub(crate) fn load_shed(&mut self, policy: ShedPolicy) {
        match policy.check() {
            Ok(()) => self.document.inbound.load_shed = Some(Set::new(policy, Origin::Builder)),
            Err((field, reason)) => self.rejected.push(rejection("inbound.load_shed", field, reason.into())),
        }
    }

    /// `inbound.adaptive_concurrency`.
    pub(crate) fn adaptive_concurrency(&mut self, policy: AdaptivePolicy) {
        match policy.check() {
            Ok(()) => self.document.inbound.adaptive_concurrency = Some(Set::new(policy, Origin::Builder)),
            Err((field, reason)) => self.rejected.push(rejection("inbound.adaptive_concurrency", field, reason.into())),
        }
    }

    /// `inbound.rate_limit`.
    pub(crate) fn rate_limit(&mut self, policy: RateLimitPolicy) {
        match policy.check() {
            Ok(()) => self.document.inbound.rate_limit = Some(Set::new(policy, Origin::Builder)),
            Err((path, reason)) => self.rejected.push(rejection("inbound.rate_limit", &path, reason.into())),
        }
    }

    /// `inbound`: a policy at the server seat.
    pub(crate) fn inbound_policy<P: Policy>(&mut self, policy: &P) {
        match draft(policy, &[Position::Server]) {
            Ok((name, draft)) => {
                self.document.inbound.policies.insert(name, Set::new(draft, Origin::Builder));
            }
            Err(reason) => self.rejected.push(rejection("inbound", P::NAME, reason)),
        }
    }

    /// As [`inbound_policy`](Self::inbound_policy); no source overrides it.
    pub(crate) fn pin_inbound_policy<P: Policy>(&mut self, policy: &P) {
        match draft(policy, &[Position::Server]) {
            Ok((name, draft)) => {
                self.pins.inbound.policies.insert(name, Set::new(draft, Origin::Pinned));
            }
            Err(reason) => self.rejected.push(rejection("inbound", P::NAME, reason)),
        }
    }

    /// The update for the store.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn build(self) -> Result<Update, Vec<Rejection>> {
        if self.rejected.is_empty() {
            Ok(Update::Builder { document: self.document, pins: self.pins })
        } else {
            Err(self.rejected)
        }
    }
}

fn rejection(path: &str, key: &str, reason: String) -> Rejection {
    let resource = match path.strip_prefix("services.") {
        Some(name) => format!("service {name}"),
        None => path.to_owned(),
    };
    let path = if key.is_empty() { path.to_owned() } else { format!("{path}.{key}") };
    Rejection { resource, path, place: None, reason, help: None, related: None }
}

fn draft<P: Policy>(policy: &P, positions: &[Position]) -> Result<(Arc<str>, PolicyDraft), String> {
    super::check_policy_name(P::NAME)?;
    if !positions.contains(&P::SEAT) {
        return Err(format!("the policy acts at {:?}, which is not here", P::SEAT));
    }
    let draft = PolicyDraft::of(policy).map_err(|fault| match fault.path.as_str() {
        "" => fault.message,
        path => format!("{path}: {}", fault.message),
    })?;
    Ok((P::NAME.into(), draft))
}
