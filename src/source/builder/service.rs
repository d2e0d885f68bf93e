//! One service, made by code.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use super::super::{
    dns_name,
    document::{
        Drafts, Field, PartialBreakers, PartialEndpointLimits, PartialRoute, PartialService, PartialSource,
        PartialTimeouts, Set, Tunables,
    },
    failover::{PartialFailover, PartialLocality, PartialSlowStart},
    outlier::PartialOutlier,
    retry::PartialRetries,
    store::Rejection,
    unnamed_route,
};
use super::{draft, rejection};
use crate::{
    balance::{BalancePolicy, FailoverPolicy, LocalityPolicy, SlowStartPolicy},
    breaker::{BreakerPolicy, CircuitPolicy},
    fault::FaultPolicy,
    health::{HealthCheck, OutlierPolicy},
    limit::RateLimitPolicy,
    matching::HostPattern,
    model::{
        Address, EndpointSource, EndpointSpec, JwtSvidSpec, Labels, Origin, Policy, Protocol, RouteOptions, SourceKind,
        TlsMode,
    },
    name::{RouteName, SpiffeId, SubsetName},
    retry::RetrySpec,
    route::{Route, RouteAction, WeightedTarget},
    seat::Position,
    shed::throttle::ThrottlePolicy,
    timeout::TimeoutPolicy,
};

/// One service made by code.
#[derive(Clone, Debug)]
pub struct ServiceBuilder {
    pub(super) path: String,
    pub(super) service: PartialService,
    pub(super) pins: PartialService,
    /// Whether anything is pinned.
    pub(super) pinned: bool,
    /// Whether what is set now is pinned.
    pinning: bool,
    pub(super) rejected: Vec<Rejection>,
}

impl ServiceBuilder {
    pub(super) fn new(path: &str) -> Self {
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
