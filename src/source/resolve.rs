//! From the merged documents to a snapshot: precedence inside a service, defaults, provenance.
//!
//! What a service says wins over `defaults`, and a pin wins over everything, a pinned default over a service's own
//! value included: code that pins means "whatever any source says".

use std::{collections::BTreeMap, sync::Arc};

use super::{
    authn, authz,
    document::{
        Document, Drafts, Field, PartialAuthn, PartialAuthz, PartialInbound, PartialRoute, PartialService,
        PartialTimeouts, Tunables,
    },
    floor, order,
    security::{self, SecurityOrigins},
    switches, unnamed_route,
};
use crate::{
    balance::BalancePolicy,
    breaker::BreakerPolicy,
    enforcement::Mode,
    model::{InboundSpec, Origin, PolicySet, Protocol, Provenance, ServiceSpec, Snapshot},
    name::{RouteName, ServiceName},
    timeout::TimeoutPolicy,
};

/// A service in effect, with the partial documents that its parts came from.
pub(super) struct Resolved {
    pub(super) spec: ServiceSpec,
    pub(super) partial: PartialService,
    /// Own values and defaults, laid over each other.
    pub(super) tunables: Tunables,
    /// For each route of `spec`, its index in the document.
    pub(super) indices: Vec<usize>,
}

/// Everything in effect, without generation and lints.
pub(super) struct Resolution {
    pub(super) snapshot: Snapshot,
    pub(super) security: SecurityOrigins,
    /// The rules of `inbound.authz` without those that code pinned.
    pub(super) authz: PartialAuthz,
    pub(super) authn: PartialAuthn,
    pub(super) services: Vec<Resolved>,
}

/// Lays pins over the merged document and both over the crate's defaults in `base`.
pub(super) fn resolve(base: &Snapshot, merged: Document, pins: &Document, previous: &Snapshot) -> Resolution {
    let document = pins.clone().over(merged.clone());
    let mut provenance = Provenance::default();
    let mut snapshot = Snapshot { services: BTreeMap::new(), ..base.clone() };

    let mesh = document.mesh;
    take(&mut provenance, "mesh.service", mesh.service, |value| snapshot.mesh.service = value);
    take(&mut provenance, "mesh.version", mesh.version, |value| snapshot.mesh.version = Some(value));
    take(&mut provenance, "mesh.namespace", mesh.namespace, |value| snapshot.mesh.namespace = value);
    take(&mut provenance, "mesh.trust_domain", mesh.trust_domain, |value| snapshot.mesh.trust_domain = Some(value));
    take(&mut provenance, "mesh.zone", mesh.zone, |value| snapshot.mesh.locality.zone = value);
    take(&mut provenance, "mesh.region", mesh.region, |value| snapshot.mesh.locality.region = value);
    take(&mut provenance, "mesh.labels", mesh.labels, |value| snapshot.mesh.labels = Arc::new(value));
    let security =
        security::resolve(&mut snapshot, &mut provenance, document.identity, document.mtls, document.listeners);
    floor::raise(&mut snapshot, &mut provenance);
    take(&mut provenance, "drain.lame_duck", document.drain.lame_duck, |value| snapshot.drain.lame_duck = value);
    take(&mut provenance, "drain.deadline", document.drain.deadline, |value| snapshot.drain.deadline = value);

    let mut inbound = inbound(&document.inbound, &previous.inbound, &mut provenance);
    inbound.authn = authn::resolve(&document.inbound.authn, &mut provenance);
    // Pinned rules do not replace others: each policy has to allow on its own.
    let authz = merged.inbound.authz.clone();
    inbound.pinned_authz = authz::resolve(&pins.inbound.authz, &mut Provenance::default());
    inbound.authz = authz::resolve(&authz, &mut provenance);
    switches::apply_inbound(&mut inbound, &mut provenance, base.switches);
    snapshot.inbound = if inbound == *previous.inbound { Arc::clone(&previous.inbound) } else { Arc::new(inbound) };

    let mut services = Vec::new();
    for (name, partial) in document.services {
        let pinned = pins.services.get(&name).map(|service| service.tunables.clone()).unwrap_or_default();
        let own = merged.services.get(&name).map(|service| service.tunables.clone()).unwrap_or_default();
        let tunables = pinned.over(pins.defaults.clone()).over(own).over(merged.defaults.clone());
        let before = previous.services.get(&name);
        let (mut spec, indices) = service(&name, &partial, &tunables, before.map(|spec| &**spec), &mut provenance);
        security::service(&mut spec, &partial, snapshot.identity.as_ref(), &mut provenance);
        switches::apply(&mut spec, &mut provenance, base.switches);
        floor::raise_service(&mut spec, &base.floor, &mut provenance);
        let shared = match before {
            Some(before) if **before == spec => before.clone(),
            _ => Arc::new(spec.clone()),
        };
        snapshot.services.insert(name, shared);
        services.push(Resolved { spec, partial, tunables, indices });
    }
    snapshot.provenance = Arc::new(provenance);
    Resolution { snapshot, security, authz, authn: document.inbound.authn, services }
}

fn take<T>(provenance: &mut Provenance, path: &str, field: Field<T>, set: impl FnOnce(T)) {
    if let Some(field) = field {
        provenance.record(path, field.origin);
        set(field.value);
    }
}

fn inbound(partial: &PartialInbound, before: &InboundSpec, provenance: &mut Provenance) -> InboundSpec {
    let level = &partial.path_normalization;
    InboundSpec {
        load_shed: optional(provenance, "inbound.load_shed".into(), &partial.load_shed),
        adaptive_concurrency: optional(
            provenance,
            "inbound.adaptive_concurrency".into(),
            &partial.adaptive_concurrency,
        ),
        rate_limit: optional(provenance, "inbound.rate_limit".into(), &partial.rate_limit),
        audit_log: optional(provenance, "inbound.audit_log".into(), &partial.audit_log),
        path_normalization: effective(provenance, "inbound.path_normalization".into(), level, Default::default()),
        policies: seated(&partial.policies, &before.policies, provenance, "inbound"),
        ..InboundSpec::default()
    }
}

fn service(
    name: &ServiceName,
    partial: &PartialService,
    tunables: &Tunables,
    before: Option<&ServiceSpec>,
    provenance: &mut Provenance,
) -> (ServiceSpec, Vec<usize>) {
    let path = format!("services.{name}");
    provenance.record(path.as_str(), partial.origin.clone());
    let mut spec = ServiceSpec::new(name.clone());
    if let Some(endpoints) = &partial.endpoints {
        provenance.record(format!("{path}.endpoints"), endpoints.origin.clone());
        for (index, source) in endpoints.value.iter().enumerate() {
            provenance.record(format!("{path}.endpoints[{index}]"), source.origin.clone());
            spec.endpoints.push(source.source.clone());
        }
    }
    if let Some(hosts) = &partial.hosts {
        provenance.record(format!("{path}.hosts"), hosts.origin.clone());
        spec.hosts = hosts.value.iter().map(|host| host.value.clone()).collect();
    }
    let origin = partial.protocol.as_ref().map_or(&Origin::Default, |set| &set.origin);
    provenance.record(format!("{path}.protocol"), origin.clone());
    spec.protocol = partial.protocol.as_ref().map_or(Protocol::default(), |set| set.value);
    for (subset, labels) in &partial.subsets {
        provenance.record(format!("{path}.subsets.{subset}"), labels.origin.clone());
        spec.subsets.insert(subset.clone(), labels.value.clone());
    }
    spec.load_balancer =
        effective(provenance, format!("{path}.load_balancer"), &tunables.load_balancer, BalancePolicy::default());
    spec.failover = tunables.failover.resolve(provenance, &path);
    spec.slow_start = tunables.slow_start.resolve(provenance, &path);
    spec.locality = tunables.locality.resolve(provenance, &path);
    spec.timeouts = timeouts(provenance, &path, &tunables.timeouts);
    spec.throttle = optional(provenance, format!("{path}.throttle"), &tunables.throttle);
    spec.rate_limit = optional(provenance, format!("{path}.rate_limit"), &tunables.rate_limit);
    let limits = &tunables.circuit_breakers;
    let base = BreakerPolicy::default();
    let at = |key| format!("{path}.circuit_breakers.{key}");
    spec.circuit_breakers = BreakerPolicy {
        max_connections: effective(provenance, at("max_connections"), &limits.max_connections, base.max_connections),
        max_pending_requests: effective(
            provenance,
            at("max_pending_requests"),
            &limits.max_pending_requests,
            base.max_pending_requests,
        ),
        max_requests: effective(provenance, at("max_requests"), &limits.max_requests, base.max_requests),
        max_streams: effective(provenance, at("max_streams"), &limits.max_streams, base.max_streams),
        queue: effective(provenance, at("queue"), &limits.queue, base.queue),
        per_endpoint: base.per_endpoint,
    };
    let each = &limits.per_endpoint;
    spec.circuit_breakers.per_endpoint.max_requests =
        optional(provenance, at("per_endpoint.max_requests"), &each.max_requests);
    spec.circuit_breakers.per_endpoint.max_connections =
        optional(provenance, at("per_endpoint.max_connections"), &each.max_connections);
    spec.breaker = optional(provenance, at("breaker"), &limits.breaker);
    spec.health_checks = effective(provenance, format!("{path}.health_checks"), &tunables.health_checks, Vec::new());
    spec.health_checks.retain(|check| check.enforcement != Mode::Off);
    spec.outlier_detection = tunables.outlier_detection.resolve(provenance, &format!("{path}.outlier_detection"));
    spec.retries = tunables.retries.resolve(provenance, &path);
    let none = PolicySet::default();
    spec.policies = seated(&tunables.policies, before.map_or(&none, |before| &before.policies), provenance, &path);
    let indices = routes(&mut spec, partial, before, provenance, &path);
    (spec, indices)
}

/// The value of a field, and a record of who set it; that nobody did hides what encloses it.
pub(super) fn effective<T: Clone>(provenance: &mut Provenance, path: String, field: &Field<T>, default: T) -> T {
    match field {
        Some(set) => {
            provenance.record(path, set.origin.clone());
            set.value.clone()
        }
        None => {
            provenance.record(path, Origin::Default);
            default
        }
    }
}

/// A policy that is there only where somebody sets it.
fn optional<T: Clone>(provenance: &mut Provenance, path: String, field: &Field<T>) -> Option<T> {
    let set = field.as_ref()?;
    provenance.record(path, set.origin.clone());
    Some(set.value.clone())
}

fn timeouts(provenance: &mut Provenance, path: &str, partial: &PartialTimeouts) -> TimeoutPolicy {
    let base = TimeoutPolicy::default();
    let at = |key| format!("{path}.timeouts.{key}");
    TimeoutPolicy {
        request: effective(provenance, at("request"), &partial.request, base.request),
        per_try: effective(provenance, at("per_try"), &partial.per_try, base.per_try),
        response: effective(provenance, at("response"), &partial.response, base.response),
        connect: effective(provenance, at("connect"), &partial.connect, base.connect),
        connect_wait: effective(provenance, at("connect_wait"), &partial.connect_wait, base.connect_wait),
        limit_wait: effective(provenance, at("limit_wait"), &partial.limit_wait, base.limit_wait),
        per_try_idle: effective(provenance, at("per_try_idle"), &partial.per_try_idle, base.per_try_idle),
        stream_idle: effective(provenance, at("stream_idle"), &partial.stream_idle, base.stream_idle),
        upgrade_idle: effective(provenance, at("upgrade_idle"), &partial.upgrade_idle, base.upgrade_idle),
        max_stream_duration: effective(
            provenance,
            at("max_stream_duration"),
            &partial.max_stream_duration,
            base.max_stream_duration,
        ),
        grpc_timeout_header_max: effective(
            provenance,
            at("grpc_timeout_header_max"),
            &partial.grpc_timeout_header_max,
            base.grpc_timeout_header_max,
        ),
        grpc_timeout_header_offset: effective(
            provenance,
            at("grpc_timeout_header_offset"),
            &partial.grpc_timeout_header_offset,
            base.grpc_timeout_header_offset,
        ),
        honor_inbound_deadline: effective(
            provenance,
            at("honor_inbound_deadline"),
            &partial.honor_inbound_deadline,
            base.honor_inbound_deadline,
        ),
        enforcement: effective(provenance, at("enforcement"), &partial.enforcement, base.enforcement),
        percentage: effective(provenance, at("percentage"), &partial.percentage, base.percentage),
    }
}

/// The name of a route: as written, else by its place among the routes.
pub(super) fn route_name(index: usize, route: &PartialRoute) -> RouteName {
    route.name.as_ref().map_or_else(|| unnamed_route(index), |name| name.value.clone())
}

fn routes(
    spec: &mut ServiceSpec,
    partial: &PartialService,
    before: Option<&ServiceSpec>,
    provenance: &mut Provenance,
    path: &str,
) -> Vec<usize> {
    let base = path;
    let Some(written) = &partial.routes else { return Vec::new() };
    provenance.record(format!("{path}.routes"), written.origin.clone());
    let mut order: Vec<usize> = (0..written.value.len()).collect();
    order.sort_by_key(|index| order::rank(&written.value[*index].route));
    for (position, index) in order.iter().enumerate() {
        let partial = &written.value[*index];
        let mut route = partial.route.clone();
        route.name = route_name(*index, partial);
        // A route is the same one as long as its name is; its place among the others may change.
        let same = before
            .and_then(|before| before.routes.iter().position(|old| old.name == route.name).map(|at| (before, at)));
        let path = format!("{path}.routes[{position}]");
        provenance.record(path.as_str(), partial.origin.clone());
        let none = PolicySet::default();
        let old = same.and_then(|(before, at)| before.route_policies.get(at)).unwrap_or(&none);
        for (key, origin) in &partial.options_at {
            provenance.record(format!("{path}.{key}"), origin.clone());
        }
        let mut options = partial.options.clone();
        options.retries =
            options.retries.or_else(|| partial.retries.resolve_over(&spec.retries, provenance, &path, base));
        spec.route_options.push(options);
        spec.route_policies.push(seated(&partial.policies, old, provenance, &path));
        spec.routes.push(match same {
            Some((before, at)) if *before.routes[at] == route => before.routes[at].clone(),
            _ => Arc::new(route),
        });
    }
    order
}

/// The policies of a place with their seats; equal ones keep the seat they had.
fn seated(drafts: &Drafts, before: &PolicySet, provenance: &mut Provenance, path: &str) -> PolicySet {
    let mut set = PolicySet::default();
    for (name, draft) in drafts {
        provenance.record(format!("{path}.{name}"), draft.origin.clone());
        set.insert(name.clone(), draft.value.seated(before.get(name)));
    }
    set
}
