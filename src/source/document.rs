//! The partial document: what one source says, and nothing of what it leaves open.
//!
//! Builder, file and pins all make the same type, so there is one way to lay one over another and one place that
//! turns the result into a [`Snapshot`](crate::model::Snapshot). Every value remembers who set it. Groups overlay
//! field by field, maps by key, and lists (`endpoints`, `hosts`, `routes`) as a whole, because half a list of routes
//! from one author and half from another is what neither meant.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    failover::{PartialFailover, PartialLocality, PartialSlowStart},
    outlier::PartialOutlier,
    retry::PartialRetries,
};
use crate::{
    authn::{ApiKeys, Authn, ClientAddress, ClientCert, JwtIssuer},
    authz::{Action, Policy, Rule, audit::AuditLog},
    balance::BalancePolicy,
    breaker::{CircuitPolicy, QueueOrder},
    canon::PathNormalization,
    enforcement::{Mode, Percent},
    health::HealthCheck,
    limit::RateLimitPolicy,
    matching::HostPattern,
    model::{
        EdgeSpec, EndpointSource, IdentitySource, JwtSvidSpec, Labels, ListenerLimits, Mtls, Origin, Place,
        PolicyDraft, Protocol, ProxySpec, RouteOptions, TlsMode,
    },
    name::{RouteName, ServiceName, SpiffeId, SubsetName},
    route::Route,
    shed::{AdaptivePolicy, ShedPolicy, throttle::ThrottlePolicy},
};

/// A value and who set it.
#[derive(Clone, Debug)]
pub(crate) struct Set<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

impl<T> Set<T> {
    pub(crate) fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }

    /// Where it stands, if in a file.
    pub(crate) fn place(&self) -> Option<Place> {
        place_of(&self.origin)
    }
}

/// The place of an origin, if it is a file.
pub(crate) fn place_of(origin: &Origin) -> Option<Place> {
    match origin {
        Origin::File(place) => Some(place.clone()),
        _ => None,
    }
}

/// A value that a source may leave open.
pub(crate) type Field<T> = Option<Set<T>>;

/// Policies of the user's own at one place, by name.
pub(crate) type Drafts = BTreeMap<Arc<str>, Set<PolicyDraft>>;

/// Lays `self` over `lower`, field by field.
macro_rules! over {
    ($upper:expr, $lower:expr; fields: $($field:ident),* ; groups: $($group:ident),* ; maps: $($map:ident),* $(,)?) => {
        Self {
            $($field: $upper.$field.or($lower.$field),)*
            $($group: $upper.$group.over($lower.$group),)*
            $($map: map_over($upper.$map, $lower.$map),)*
        }
    };
}

fn map_over<K: Ord, V>(upper: BTreeMap<K, V>, mut lower: BTreeMap<K, V>) -> BTreeMap<K, V> {
    lower.extend(upper);
    lower
}

/// One source's word on everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    pub(crate) version: Field<u32>,
    pub(crate) mesh: PartialMesh,
    pub(crate) identity: Field<IdentitySource>,
    pub(crate) mtls: Field<Mtls>,
    pub(crate) listeners: PartialListeners,
    pub(crate) drain: PartialDrain,
    pub(crate) defaults: Tunables,
    pub(crate) services: BTreeMap<ServiceName, PartialService>,
    pub(crate) inbound: PartialInbound,
}

impl Document {
    pub(crate) fn over(self, lower: Self) -> Self {
        let mut services = lower.services;
        for (name, upper) in self.services {
            let merged = match services.remove(&name) {
                Some(lower) => upper.over(lower),
                None => upper,
            };
            services.insert(name, merged);
        }
        Self {
            version: self.version.or(lower.version),
            mesh: self.mesh.over(lower.mesh),
            identity: self.identity.or(lower.identity),
            mtls: self.mtls.or(lower.mtls),
            listeners: self.listeners.over(lower.listeners),
            drain: self.drain.over(lower.drain),
            defaults: self.defaults.over(lower.defaults),
            services,
            inbound: self.inbound.over(lower.inbound),
        }
    }
}

/// `mesh`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialMesh {
    pub(crate) service: Field<ServiceName>,
    pub(crate) version: Field<Arc<str>>,
    pub(crate) namespace: Field<Arc<str>>,
    pub(crate) trust_domain: Field<Arc<str>>,
    pub(crate) zone: Field<Arc<str>>,
    pub(crate) region: Field<Arc<str>>,
    pub(crate) labels: Field<Labels>,
}

impl PartialMesh {
    fn over(self, lower: Self) -> Self {
        over!(self, lower;
            fields: service, version, namespace, trust_domain, zone, region, labels; groups: ; maps: )
    }
}

/// `listeners`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialListeners {
    /// `ops.listen`.
    pub(crate) ops: Field<SocketAddr>,
    /// `mesh.mtls`.
    pub(crate) mesh: Field<Mtls>,
    /// `mesh.trusted_proxies` and `mesh.proxy_protocol`.
    pub(crate) mesh_proxies: Field<ProxySpec>,
    pub(crate) mesh_limits: Field<ListenerLimits>,
    pub(crate) edge: Field<EdgeSpec>,
}

impl PartialListeners {
    fn over(self, lower: Self) -> Self {
        over!(self, lower; fields: ops, mesh, mesh_proxies, mesh_limits, edge; groups: ; maps: )
    }
}

/// `drain`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialDrain {
    pub(crate) lame_duck: Field<Duration>,
    pub(crate) deadline: Field<Duration>,
}

impl PartialDrain {
    fn over(self, lower: Self) -> Self {
        over!(self, lower; fields: lame_duck, deadline; groups: ; maps: )
    }
}

/// `inbound.authn`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialAuthn {
    pub(crate) jwt: Field<Vec<Set<JwtIssuer>>>,
    pub(crate) api_keys: Field<ApiKeys>,
    pub(crate) client_address: Field<ClientAddress>,
    pub(crate) forward_client_cert: Field<ClientCert>,
    pub(crate) forward_client_cert_from: Field<Vec<SpiffeId>>,
}

impl PartialAuthn {
    fn over(self, lower: Self) -> Self {
        over!(self, lower;
            fields: jwt, api_keys, client_address, forward_client_cert, forward_client_cert_from; groups: ; maps: )
    }

    /// Says everything that a policy says.
    pub(crate) fn set(&mut self, policy: Authn, origin: &Origin) {
        let issuers = policy.jwt.into_iter().map(|issuer| Set::new(issuer, origin.clone())).collect::<Vec<_>>();
        self.jwt = (!issuers.is_empty()).then(|| Set::new(issuers, origin.clone()));
        self.api_keys = policy.api_keys.map(|keys| Set::new(keys, origin.clone()));
        self.client_address = policy.client_address.map(|client| Set::new(client, origin.clone()));
        self.forward_client_cert = Some(Set::new(policy.forward_client_cert, origin.clone()));
        self.forward_client_cert_from = Some(Set::new(policy.forward_client_cert_from, origin.clone()));
    }
}

/// `inbound.authz`. A rule without a name is named by its place.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialAuthz {
    pub(crate) allow: Field<Vec<Set<Rule>>>,
    pub(crate) deny: Field<Vec<Set<Rule>>>,
    pub(crate) audit: Field<Vec<Set<Rule>>>,
    pub(crate) custom: Field<Vec<Set<Rule>>>,
}

impl PartialAuthz {
    /// Adds the rules of a policy.
    pub(crate) fn add(&mut self, policy: Policy, origin: &Origin) {
        if policy.exclusive {
            self.allow.get_or_insert_with(|| Set::new(Vec::new(), origin.clone()));
        }
        for rule in policy.rules {
            let list = match rule.action {
                Action::Allow => &mut self.allow,
                Action::Deny => &mut self.deny,
                Action::Audit => &mut self.audit,
                Action::Custom => &mut self.custom,
            };
            let list = list.get_or_insert_with(|| Set::new(Vec::new(), origin.clone()));
            list.value.push(Set::new(rule, origin.clone()));
        }
    }

    fn over(self, lower: Self) -> Self {
        over!(self, lower; fields: allow, deny, audit, custom; groups: ; maps: )
    }
}

/// `inbound`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialInbound {
    pub(crate) load_shed: Field<ShedPolicy>,
    pub(crate) adaptive_concurrency: Field<AdaptivePolicy>,
    pub(crate) path_normalization: Field<PathNormalization>,
    pub(crate) authn: PartialAuthn,
    pub(crate) authz: PartialAuthz,
    pub(crate) audit_log: Field<AuditLog>,
    pub(crate) rate_limit: Field<RateLimitPolicy>,
    /// Policies at the server seat.
    pub(crate) policies: Drafts,
}

impl PartialInbound {
    fn over(self, lower: Self) -> Self {
        over!(self, lower; fields: load_shed, adaptive_concurrency, path_normalization, audit_log, rate_limit; groups: authn, authz; maps: policies)
    }
}

/// What `defaults` and a service have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tunables {
    pub(crate) load_balancer: Field<BalancePolicy>,
    pub(crate) throttle: Field<ThrottlePolicy>,
    pub(crate) rate_limit: Field<RateLimitPolicy>,
    pub(crate) failover: PartialFailover,
    pub(crate) slow_start: PartialSlowStart,
    pub(crate) locality: PartialLocality,
    pub(crate) timeouts: PartialTimeouts,
    pub(crate) circuit_breakers: PartialBreakers,
    pub(crate) outlier_detection: PartialOutlier,
    pub(crate) retries: PartialRetries,
    pub(crate) health_checks: Field<Vec<HealthCheck>>,
    pub(crate) policies: Drafts,
}

impl Tunables {
    pub(crate) fn over(self, lower: Self) -> Self {
        over!(self, lower;
            fields: load_balancer, throttle, rate_limit, health_checks;
            groups: failover, slow_start, locality, timeouts, circuit_breakers, outlier_detection, retries;
            maps: policies)
    }
}

/// `timeouts`. The outer `Option` is "not said", the inner "off".
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialTimeouts {
    pub(crate) request: Field<Option<Duration>>,
    pub(crate) per_try: Field<Option<Duration>>,
    pub(crate) response: Field<Option<Duration>>,
    pub(crate) connect: Field<Duration>,
    pub(crate) connect_wait: Field<Duration>,
    pub(crate) limit_wait: Field<Duration>,
    pub(crate) per_try_idle: Field<Option<Duration>>,
    pub(crate) stream_idle: Field<Option<Duration>>,
    pub(crate) upgrade_idle: Field<Option<Duration>>,
    pub(crate) max_stream_duration: Field<Option<Duration>>,
    pub(crate) grpc_timeout_header_max: Field<Option<Duration>>,
    pub(crate) grpc_timeout_header_offset: Field<Duration>,
    pub(crate) honor_inbound_deadline: Field<bool>,
    pub(crate) enforcement: Field<Mode>,
    pub(crate) percentage: Field<Percent>,
}

impl PartialTimeouts {
    pub(crate) fn over(self, lower: Self) -> Self {
        over!(self, lower;
            fields: request, per_try, response, connect, connect_wait, limit_wait, per_try_idle, stream_idle, upgrade_idle, max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset, honor_inbound_deadline, enforcement, percentage; groups: ; maps: )
    }
}

/// `circuit_breakers`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialBreakers {
    pub(crate) max_connections: Field<u32>,
    pub(crate) max_pending_requests: Field<u32>,
    pub(crate) max_requests: Field<u32>,
    pub(crate) max_streams: Field<u32>,
    pub(crate) queue: Field<QueueOrder>,
    pub(crate) per_endpoint: PartialEndpointLimits,
    pub(crate) breaker: Field<CircuitPolicy>,
}

/// `circuit_breakers.per_endpoint`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialEndpointLimits {
    pub(crate) max_requests: Field<u32>,
    pub(crate) max_connections: Field<u32>,
}

impl PartialEndpointLimits {
    fn over(self, lower: Self) -> Self {
        over!(self, lower; fields: max_requests, max_connections; groups: ; maps: )
    }
}

impl PartialBreakers {
    fn over(self, lower: Self) -> Self {
        over!(self, lower;
            fields: max_connections, max_pending_requests, max_requests, max_streams, queue, breaker; groups: per_endpoint; maps: )
    }
}

/// One entry of `services`.
#[derive(Clone, Debug)]
pub(crate) struct PartialService {
    /// Who mentioned the service.
    pub(crate) origin: Origin,
    /// Part of it could not be read, so that cross checks on it would report what is not so.
    pub(crate) tainted: bool,
    pub(crate) endpoints: Field<Vec<PartialSource>>,
    pub(crate) hosts: Field<Vec<Set<HostPattern>>>,
    pub(crate) protocol: Field<Protocol>,
    pub(crate) tls: Field<TlsMode>,
    pub(crate) identities: Field<Vec<SpiffeId>>,
    pub(crate) jwt_svid: Field<JwtSvidSpec>,
    pub(crate) subsets: BTreeMap<SubsetName, Set<Labels>>,
    pub(crate) tunables: Tunables,
    pub(crate) routes: Field<Vec<PartialRoute>>,
}

impl PartialService {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            tainted: false,
            endpoints: None,
            hosts: None,
            protocol: None,
            tls: None,
            identities: None,
            jwt_svid: None,
            subsets: BTreeMap::new(),
            tunables: Tunables::default(),
            routes: None,
        }
    }

    pub(crate) fn over(self, lower: Self) -> Self {
        Self {
            origin: self.origin,
            tainted: self.tainted || lower.tainted,
            endpoints: self.endpoints.or(lower.endpoints),
            hosts: self.hosts.or(lower.hosts),
            protocol: self.protocol.or(lower.protocol),
            tls: self.tls.or(lower.tls),
            identities: self.identities.or(lower.identities),
            jwt_svid: self.jwt_svid.or(lower.jwt_svid),
            subsets: map_over(self.subsets, lower.subsets),
            tunables: self.tunables.over(lower.tunables),
            routes: self.routes.or(lower.routes),
        }
    }
}

/// One source of endpoints.
#[derive(Clone, Debug)]
pub(crate) struct PartialSource {
    pub(crate) source: EndpointSource,
    /// Who set it.
    pub(crate) origin: Origin,
    /// For a static source, who set each endpoint, in order.
    pub(crate) items: Vec<Origin>,
}

/// One route.
#[derive(Clone, Debug)]
pub(crate) struct PartialRoute {
    /// The rule; its name stands in for a missing one until translation.
    pub(crate) route: Route,
    /// Who set it.
    pub(crate) origin: Origin,
    /// Its name as written, if it has one.
    pub(crate) name: Field<RouteName>,
    /// `to`, or the keys of `split`: who set each target, in the order of the action's targets.
    pub(crate) targets: Vec<Origin>,
    /// Who set `timeout`.
    pub(crate) timeout: Option<Origin>,
    pub(crate) policies: Drafts,
    pub(crate) options: RouteOptions,
    /// Who set what of the options, by path inside the route.
    pub(crate) options_at: BTreeMap<&'static str, Origin>,
    pub(crate) retries: PartialRetries,
}
