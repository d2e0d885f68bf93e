//! Configuration made by code, as the same partial documents that a file makes.
//!
//! What code sets is a default that the file may change, unless it stands inside `pin`. Mistakes are collected and
//! returned together, with the dotted path a file would have.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use super::{
    dns_name,
    document::{
        Document, Drafts, Field, PartialBreakers, PartialEndpointLimits, PartialRoute, PartialService, PartialSource,
        PartialTimeouts, Set, Tunables,
    },
    failover::{PartialFailover, PartialLocality, PartialSlowStart},
    outlier::PartialOutlier,
    retry::PartialRetries,
    store::{Rejection, Update},
    unnamed_route,
};
use crate::{
    authn,
    authz::{self, audit::AuditLog},
    balance::{BalancePolicy, FailoverPolicy, LocalityPolicy, SlowStartPolicy},
    breaker::{BreakerPolicy, CircuitPolicy},
    canon::PathNormalization,
    fault::FaultPolicy,
    health::{HealthCheck, OutlierPolicy},
    limit::RateLimitPolicy,
    matching::HostPattern,
    model::{
        Address, EndpointSource, EndpointSpec, IdentitySource, JwtSvidSpec, Labels, Mtls, Origin, Policy, PolicyDraft,
        Protocol, RouteOptions, SourceKind, TlsMode,
    },
    name::{RouteName, ServiceName, SpiffeId, SubsetName},
    retry::RetrySpec,
    route::{Route, RouteAction, WeightedTarget},
    seat::Position,
    shed::{AdaptivePolicy, ShedPolicy, throttle::ThrottlePolicy},
    timeout::TimeoutPolicy,
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

/// A limit on calls.
fn check_rate_limit(policy: &RateLimitPolicy) -> Result<(), (String, String)> {
    policy.check().map_err(|(path, reason)| (path, reason.to_owned()))?;
    match policy.unknown_of_calls() {
        Some(source) => {
            Err(("key".into(), format!("`{}` is known of requests that are served, not of calls", source.name())))
        }
        None => Ok(()),
    }
}

fn join(path: &str, field: &str) -> String {
    if field.is_empty() { path.to_owned() } else { format!("{path}.{field}") }
}

/// One service made by code.
#[derive(Clone, Debug)]
pub struct ServiceBuilder {
    path: String,
    service: PartialService,
    pins: PartialService,
    /// Whether anything is pinned.
    pinned: bool,
    /// Whether what is set now is pinned.
    pinning: bool,
    rejected: Vec<Rejection>,
}

impl ServiceBuilder {
    fn new(path: &str) -> Self {
        Self {
            path: path.into(),
            service: PartialService::new(Origin::Builder),
            pins: PartialService::new(Origin::Pinned),
            pinned: false,
            pinning: false,
            rejected: Vec::new(),
        }
    }

    /// What `build` sets wins over every source.
    pub fn pin(mut self, build: impl FnOnce(Self) -> Self) -> Self {
        let outer = std::mem::replace(&mut self.pinning, true);
        let mut built = build(self);
        (built.pinning, built.pinned) = (outer, true);
        built
    }

    fn origin(&self) -> Origin {
        if self.pinning { Origin::Pinned } else { Origin::Builder }
    }

    fn set<T>(&mut self, value: T, field: impl FnOnce(&mut PartialService) -> &mut Field<T>) {
        let origin = self.origin();
        *field(self.target()) = Some(Set::new(value, origin));
    }

    fn target(&mut self) -> &mut PartialService {
        if self.pinning { &mut self.pins } else { &mut self.service }
    }

    fn reject(&mut self, key: &str, reason: String) {
        self.rejected.push(rejection(&self.path, key, reason));
    }

    fn source(&mut self, source: EndpointSource, items: usize) {
        let origin = self.origin();
        let source = PartialSource { source, origin: origin.clone(), items: vec![origin.clone(); items] };
        let endpoints = &mut self.target().endpoints;
        endpoints.get_or_insert_with(|| Set::new(Vec::new(), origin)).value.push(source);
    }

    /// Adds a fixed list of addresses: `127.0.0.1:9080`.
    pub fn endpoints<A: AsRef<str>>(mut self, addresses: impl IntoIterator<Item = A>) -> Self {
        let mut specs = Vec::new();
        for (index, address) in addresses.into_iter().enumerate() {
            match address.as_ref().parse::<Address>() {
                Ok(address) => specs.push(EndpointSpec::new(address)),
                Err(reason) => self.reject(&format!("endpoints[{index}]"), reason),
            }
        }
        self.static_endpoints(specs)
    }

    /// Adds a fixed list of endpoints.
    pub fn static_endpoints(mut self, endpoints: impl IntoIterator<Item = EndpointSpec>) -> Self {
        let specs: Vec<_> = endpoints.into_iter().collect();
        let items = specs.len();
        self.source(EndpointSource::new(SourceKind::Static(specs)), items);
        self
    }

    /// Adds a name to resolve: `reviews.prod:9080`.
    pub fn dns(self, name: &str) -> Self {
        self.dns_with(name, |source| source)
    }

    /// Adds a name to resolve, with what holds for all it yields.
    pub fn dns_with(mut self, name: &str, with: impl FnOnce(EndpointSource) -> EndpointSource) -> Self {
        match dns_name(name) {
            Ok((name, port)) => self.source(with(EndpointSource::new(SourceKind::Dns { name, port })), 0),
            Err((reason, help)) => self.reject("endpoints", format!("{reason}: {help}")),
        }
        self
    }

    /// Adds a watched file of endpoints.
    pub fn endpoint_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.source(EndpointSource::new(SourceKind::File(path.into())), 0);
        self
    }

    /// Adds a source that is registered under this name.
    pub fn custom(mut self, name: &str) -> Self {
        self.source(EndpointSource::new(SourceKind::Custom(name.into())), 0);
        self
    }

    /// Adds a host by which the service is found.
    pub fn host(mut self, pattern: &str) -> Self {
        match HostPattern::new(pattern) {
            Ok(host) => {
                let origin = self.origin();
                let hosts = &mut self.target().hosts;
                let hosts = hosts.get_or_insert_with(|| Set::new(Vec::new(), origin.clone()));
                hosts.value.push(Set::new(host, origin));
            }
            Err(error) => self.reject("hosts", error.to_string()),
        }
        self
    }

    /// Sets how connections to the endpoints are protected. Default: `Mesh` with an identity, else `Off`.
    pub fn tls(mut self, mode: TlsMode) -> Self {
        self.set(mode, |service| &mut service.tls);
        self
    }

    /// Sets who may answer for the service, with [`TlsMode::Mesh`]. Default: by the rule of the identity's source.
    pub fn identities(mut self, ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        self.set(ids.into_iter().collect(), |service| &mut service.identities);
        self
    }

    /// Puts a JWT-SVID of ours into each call as `authorization: Bearer`. Default: none.
    pub fn jwt_svid(mut self, token: JwtSvidSpec) -> Self {
        self.set(token, |service| &mut service.jwt_svid);
        self
    }

    /// Sets the HTTP version towards the endpoints.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.set(protocol, |service| &mut service.protocol);
        self
    }

    /// Sets how an endpoint is chosen.
    pub fn load_balancer(mut self, policy: BalancePolicy) -> Self {
        match policy {
            BalancePolicy::LeastRequest { choice_count } if BalancePolicy::least_request(choice_count).is_err() => {
                self.reject("load_balancer.least_request.choice_count", format!("{choice_count} is not 2 to 10"));
            }
            policy => self.set(policy, |service| &mut service.tunables.load_balancer),
        }
        self
    }

    /// Sets how priorities take over from each other, and when endpoints that are doubted are used: parts of
    /// `load_balancer`.
    pub fn failover(mut self, policy: FailoverPolicy) -> Self {
        if let Err((key, reason)) = policy.check() {
            self.reject(&format!("load_balancer.{key}"), reason);
        }
        let partial = PartialFailover::of(&policy, &self.origin());
        self.target().tunables.failover = partial;
        self
    }

    /// Sets how the share of an endpoint grows after it came, or came back: `load_balancer.slow_start`.
    pub fn slow_start(mut self, policy: SlowStartPolicy) -> Self {
        if let Err((key, reason)) = policy.check() {
            self.reject(&format!("load_balancer.{key}"), reason);
        }
        let partial = PartialSlowStart::of(&policy, &self.origin());
        self.target().tunables.slow_start = partial;
        self
    }

    /// Sets which zones calls go to, and which endpoints come first: `locality`.
    pub fn locality(mut self, policy: LocalityPolicy) -> Self {
        let partial = PartialLocality::of(&policy, &self.origin());
        self.target().tunables.locality = partial;
        self
    }

    /// Adds a check of every endpoint: `health_checks`.
    pub fn health_check(mut self, check: HealthCheck) -> Self {
        for (key, reason) in check.faults() {
            self.reject(&format!("health_checks.{key}"), reason);
        }
        let origin = self.origin();
        let checks = &mut self.target().tunables.health_checks;
        checks.get_or_insert_with(|| Set::new(Vec::new(), origin)).value.push(check);
        self
    }

    /// Names the endpoints that have these labels.
    pub fn subset<K, V>(mut self, name: &str, labels: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<Arc<str>>,
        V: Into<Arc<str>>,
    {
        match SubsetName::new(name) {
            Ok(name) => {
                let labels: Labels = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
                let set = Set::new(labels, self.origin());
                self.target().subsets.insert(name, set);
            }
            Err(error) => self.reject("subsets", error.to_string()),
        }
        self
    }

    /// Sets every limit.
    pub fn circuit_breakers(mut self, policy: BreakerPolicy) -> Self {
        if policy.max_connections == 0 {
            self.reject("circuit_breakers.max_connections", "0 is out of bounds: it must be at least 1".into());
        }
        let each = policy.per_endpoint;
        for (key, limit) in [("max_requests", each.max_requests), ("max_connections", each.max_connections)] {
            if limit == Some(0) {
                let key = format!("circuit_breakers.per_endpoint.{key}");
                self.reject(&key, "0 is out of bounds: it must be at least 1".into());
            }
        }
        let origin = self.origin();
        let set = |value| Some(Set::new(value, origin.clone()));
        let breakers = &mut self.target().tunables.circuit_breakers;
        let limits = PartialBreakers {
            breaker: breakers.breaker.take(),
            max_connections: set(policy.max_connections),
            max_pending_requests: set(policy.max_pending_requests),
            max_requests: set(policy.max_requests),
            max_streams: set(policy.max_streams),
            queue: Some(Set::new(policy.queue, origin.clone())),
            per_endpoint: PartialEndpointLimits {
                max_requests: each.max_requests.and_then(set),
                max_connections: each.max_connections.and_then(set),
            },
        };
        *breakers = limits;
        self
    }

    /// Sets when the service is left alone because most calls to it fail: `circuit_breakers.breaker`.
    pub fn circuit_breaker(mut self, policy: CircuitPolicy) -> Self {
        match policy.check() {
            Ok(()) => self.set(policy, |service| &mut service.tunables.circuit_breakers.breaker),
            Err((field, reason)) => self.reject(&format!("circuit_breakers.breaker.{field}"), reason.into()),
        }
        self
    }

    /// Sets when an endpoint is taken out because of what its calls show.
    pub fn outlier_detection(mut self, policy: OutlierPolicy) -> Self {
        for (key, reason) in policy.faults() {
            self.reject(&format!("outlier_detection.{key}"), reason);
        }
        let partial = PartialOutlier::of(&policy, &self.origin());
        self.target().tunables.outlier_detection = partial;
        self
    }

    /// Sets what is sent again and what is asked twice.
    pub fn retries(mut self, spec: RetrySpec) -> Self {
        if let Err((path, reason)) = spec.validate() {
            self.reject(&path, reason);
        }
        let partial = PartialRetries::of(&spec, &self.origin());
        self.target().tunables.retries = partial;
        self
    }

    /// Sets the whole call's timeout: `timeouts.request`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        if timeout.is_zero() {
            self.reject("timeouts.request", "a timeout of zero fails every call".into());
        }
        self.set(Some(timeout), |service| &mut service.tunables.timeouts.request);
        self
    }

    /// Sets every timeout.
    pub fn timeouts(mut self, policy: TimeoutPolicy) -> Self {
        let zero = [
            ("request", policy.request),
            ("per_try", policy.per_try),
            ("per_try_idle", policy.per_try_idle),
            ("response", policy.response),
            ("stream_idle", policy.stream_idle),
            ("upgrade_idle", policy.upgrade_idle),
            ("max_stream_duration", policy.max_stream_duration),
            ("grpc_timeout_header_max", policy.grpc_timeout_header_max),
            ("connect", Some(policy.connect)),
        ];
        for (key, value) in zero {
            if value == Some(Duration::ZERO) {
                self.reject(&format!("timeouts.{key}"), "a timeout of zero fails every call".into());
            }
        }
        let origin = self.origin();
        let timeouts = PartialTimeouts {
            request: Some(Set::new(policy.request, origin.clone())),
            per_try: Some(Set::new(policy.per_try, origin.clone())),
            response: Some(Set::new(policy.response, origin.clone())),
            connect: Some(Set::new(policy.connect, origin.clone())),
            connect_wait: Some(Set::new(policy.connect_wait, origin.clone())),
            limit_wait: Some(Set::new(policy.limit_wait, origin.clone())),
            per_try_idle: Some(Set::new(policy.per_try_idle, origin.clone())),
            stream_idle: Some(Set::new(policy.stream_idle, origin.clone())),
            upgrade_idle: Some(Set::new(policy.upgrade_idle, origin.clone())),
            max_stream_duration: Some(Set::new(policy.max_stream_duration, origin.clone())),
            grpc_timeout_header_max: Some(Set::new(policy.grpc_timeout_header_max, origin.clone())),
            grpc_timeout_header_offset: Some(Set::new(policy.grpc_timeout_header_offset, origin.clone())),
            honor_inbound_deadline: Some(Set::new(policy.honor_inbound_deadline, origin.clone())),
            enforcement: Some(Set::new(policy.enforcement, origin.clone())),
            percentage: Some(Set::new(policy.percentage, origin)),
        };
        self.target().tunables.timeouts = timeouts;
        self
    }

    /// Adds a route that sends every request to one subset: `to`.
    pub fn to(self, subset: &str) -> Self {
        self.split([(subset, 1)])
    }

    /// Adds a route that sends every request to one of these subsets by relative weight, chosen once per call: `split`.
    ///
    /// A weight of 0 gets nothing. Routes with conditions come before it wherever they are added.
    pub fn split<'a>(mut self, subsets: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut targets = Vec::new();
        for (name, weight) in subsets {
            match SubsetName::new(name) {
                Ok(name) => targets.push(WeightedTarget::new(Some(name), weight)),
                Err(error) => self.reject("routes.split", error.to_string()),
            }
        }
        if targets.iter().all(|target| target.weight == 0) {
            self.reject("routes.split", "no target has a weight above 0: give at least one subset a weight".into());
        }
        let route = Route::new(unnamed_route(0), RouteAction::Forward(targets));
        self.partial_route(route, None, Drafts::new(), RouteOptions::default())
    }

    /// Sets when calls are refused here because the service refuses many.
    pub fn throttle(mut self, policy: ThrottlePolicy) -> Self {
        match policy.check() {
            Ok(()) => self.set(policy, |service| &mut service.tunables.throttle),
            Err((field, reason)) => self.reject(&format!("throttle.{field}"), reason.into()),
        }
        self
    }

    /// Sets how much may be called in a time.
    pub fn rate_limit(mut self, policy: RateLimitPolicy) -> Self {
        match check_rate_limit(&policy) {
            Ok(()) => self.set(policy, |service| &mut service.tunables.rate_limit),
            Err((path, reason)) => self.reject(&join("rate_limit", &path), reason),
        }
        self
    }

    /// Adds a route.
    pub fn route(self, route: Route) -> Self {
        self.route_with(route, Drafts::new(), RouteOptions::default())
    }

    /// Adds a route with built-in policies.
    pub fn route_options(mut self, route: Route, options: RouteOptions) -> Self {
        if let Some(Err((path, reason))) = options.fault.as_ref().map(FaultPolicy::check) {
            self.reject(&format!("routes.{}.fault.{path}", route.name), reason);
        }
        if let Some(Err((key, reason))) = options.mirror.as_ref().map(|mirror| mirror.policy.check()) {
            self.reject(&format!("routes.{}.mirror.{key}", route.name), reason.into());
        }
        if let Some(Err((path, reason))) = options.retries.as_ref().map(RetrySpec::validate) {
            self.reject(&format!("routes.{}.{path}", route.name), reason);
        }
        if let Some(Err((path, reason))) = options.rate_limit.as_ref().map(check_rate_limit) {
            self.reject(&join(&format!("routes.{}.rate_limit", route.name), &path), reason);
        }
        self.route_with(route, Drafts::new(), options)
    }

    fn route_with(self, route: Route, policies: Drafts, options: RouteOptions) -> Self {
        let name = Some(Set::new(route.name.clone(), self.origin()));
        self.partial_route(route, name, policies, options)
    }

    /// A route without a name has one by its place.
    fn partial_route(mut self, route: Route, name: Field<RouteName>, policies: Drafts, options: RouteOptions) -> Self {
        let origin = self.origin();
        let route = PartialRoute {
            name,
            targets: Vec::new(),
            timeout: route.timeout.map(|_| origin.clone()),
            origin: origin.clone(),
            route,
            policies,
            options,
            options_at: BTreeMap::new(),
            retries: PartialRetries::default(),
        };
        let routes = &mut self.target().routes;
        routes.get_or_insert_with(|| Set::new(Vec::new(), origin)).value.push(route);
        self
    }

    /// Adds a route with a policy of the user's own.
    pub fn route_policy<P: Policy>(mut self, route: Route, policy: &P) -> Self {
        let mut policies = Drafts::new();
        match draft(policy, &[Position::Outer, Position::Attempt]) {
            Ok((name, draft)) => {
                policies.insert(name, Set::new(draft, self.origin()));
            }
            Err(reason) => self.reject(&format!("routes.{}.{}", route.name, P::NAME), reason),
        }
        self.route_with(route, policies, RouteOptions::default())
    }

    /// Adds a policy of the user's own for every route.
    pub fn policy<P: Policy>(mut self, policy: &P) -> Self {
        match draft(policy, &[Position::Outer, Position::Attempt]) {
            Ok((name, draft)) => {
                let set = Set::new(draft, self.origin());
                let tunables: &mut Tunables = &mut self.target().tunables;
                tunables.policies.insert(name, set);
            }
            Err(reason) => self.reject(P::NAME, reason),
        }
        self
    }
}
