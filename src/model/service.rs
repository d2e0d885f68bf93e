//! One service that can be called, and what is served.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{Address, EndpointSpec, JwtSvidSpec, Labels, PolicySet, SetKind, TlsMode};
use crate::{
    authn, authz,
    balance::{BalancePolicy, FailoverPolicy, LocalityPolicy, SlowStartPolicy},
    breaker::{BreakerPolicy, CircuitPolicy},
    canon::PathNormalization,
    fault::FaultPolicy,
    health::{HealthCheck, OutlierPolicy},
    limit::RateLimitPolicy,
    matching::HostPattern,
    mirror::MirrorPolicy,
    name::{Locality, ServiceName, SpiffeId, SubsetName},
    retry::RetrySpec,
    route::Route,
    shed::{AdaptivePolicy, ShedPolicy, throttle::ThrottlePolicy},
    timeout::TimeoutPolicy,
};

/// A service that can be called: one entry of `services`.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ServiceSpec {
    /// Its key.
    pub name: ServiceName,
    /// Where its endpoints come from; all of them together are its set. Without any, calls fail with E002.
    pub endpoints: Vec<EndpointSource>,
    /// Authorities by which [`Mesh::http`](crate::Mesh::http) finds it, besides its name.
    pub hosts: Vec<HostPattern>,
    /// The HTTP version spoken to its endpoints.
    pub protocol: Protocol,
    /// How connections to its endpoints are protected.
    pub tls: TlsMode,
    /// Who may answer for it. Empty: by the rule of the identity source.
    pub identities: Vec<SpiffeId>,
    /// The token by which this process is known there. `None`: none.
    pub jwt_svid: Option<JwtSvidSpec>,
    /// How an endpoint is chosen.
    pub load_balancer: BalancePolicy,
    /// How the share of an endpoint grows after it came, or came back.
    pub slow_start: SlowStartPolicy,
    /// When calls are refused here because the service refuses many. `None`: never.
    pub throttle: Option<ThrottlePolicy>,
    /// How priorities take over from each other, and when endpoints that are doubted are used.
    pub failover: FailoverPolicy,
    /// Which zones calls go to, and which endpoints come first.
    pub locality: LocalityPolicy,
    /// Endpoints by labels.
    pub subsets: BTreeMap<SubsetName, Labels>,
    /// Limits.
    pub circuit_breakers: BreakerPolicy,
    /// When the service is left alone because most calls fail: `circuit_breakers.breaker`. `None`: never.
    pub breaker: Option<CircuitPolicy>,
    /// When an endpoint is taken out because of what its calls show.
    pub outlier_detection: OutlierPolicy,
    /// What endpoints are asked, to know how they are; all of it has to pass.
    pub health_checks: Vec<HealthCheck>,
    /// Timeouts.
    pub timeouts: TimeoutPolicy,
    /// What is sent again, and what is asked twice.
    pub retries: RetrySpec,
    /// How much may be called in a time, all routes without a limit of their own together. `None`: as much as one likes.
    pub rate_limit: Option<RateLimitPolicy>,
    /// Rules in evaluation order; a service without rules sends everything to all its endpoints.
    pub routes: Vec<Arc<Route>>,
    /// Policies of the user's own for every route of the service.
    pub policies: PolicySet,
    /// Policies of the user's own by route, in the order of `routes`.
    pub route_policies: Vec<PolicySet>,
    /// Built-in policies by route, in the order of `routes`.
    pub route_options: Vec<RouteOptions>,
}

/// The built-in policies of one route.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct RouteOptions {
    /// `fault`: delays, aborts and slow responses on purpose.
    pub fault: Option<FaultPolicy>,
    /// `retry` and `hedge`, laid over the service's. `None` where the route says nothing.
    pub retries: Option<RetrySpec>,
    /// `mirror`: copies that nobody waits for.
    pub mirror: Option<RouteMirror>,
    /// `rate_limit`: how much may be called in a time, in place of the service's.
    pub rate_limit: Option<RateLimitPolicy>,
}

/// Where copies of a route's requests go, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteMirror {
    /// A subset of the service, or all of it.
    pub to: Option<SubsetName>,
    /// How many, how long, how large.
    pub policy: MirrorPolicy,
}

impl ServiceSpec {
    /// A service with defaults and no endpoints.
    pub fn new(name: ServiceName) -> Self {
        Self {
            name,
            endpoints: Vec::new(),
            hosts: Vec::new(),
            protocol: Protocol::default(),
            tls: TlsMode::default(),
            identities: Vec::new(),
            jwt_svid: None,
            load_balancer: BalancePolicy::default(),
            slow_start: SlowStartPolicy::default(),
            throttle: None,
            failover: FailoverPolicy::default(),
            locality: LocalityPolicy::default(),
            subsets: BTreeMap::new(),
            circuit_breakers: BreakerPolicy::default(),
            breaker: None,
            outlier_detection: OutlierPolicy::default(),
            health_checks: Vec::new(),
            timeouts: TimeoutPolicy::default(),
            retries: RetrySpec::default(),
            rate_limit: None,
            routes: Vec::new(),
            policies: PolicySet::default(),
            route_policies: Vec::new(),
            route_options: Vec::new(),
        }
    }
}

impl ServiceSpec {
    /// Whether all its endpoints are known, and on this machine.
    pub(crate) fn stays_here(&self) -> bool {
        self.endpoints.iter().all(|source| match &source.source {
            SourceKind::Static(endpoints) => {
                endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter()).all(|address| match address {
                    Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
                    Address::Memory(_) => true,
                })
            }
            _ => false,
        })
    }

    /// [`outside_name`](Self::outside_name) with its port, unless that is the one of HTTPS.
    pub(crate) fn outside_authority(&self) -> Option<String> {
        let name = self.outside_name()?;
        let port = self.endpoints.iter().find_map(|source| match &source.source {
            SourceKind::Dns { name: resolved, port } if resolved.trim_end_matches('.') == &*name => *port,
            _ => None,
        });
        Some(match port {
            Some(port) if port != 443 => format!("{name}:{port}"),
            _ => name.to_string(),
        })
    }

    /// The name by which a service outside of the mesh is known to its own TLS and virtual hosts: what `server_name` says,
    /// else the first name that is resolved, else the first host without a wildcard.
    pub(crate) fn outside_name(&self) -> Option<Arc<str>> {
        let given = match &self.tls {
            TlsMode::Off | TlsMode::Mesh => return None,
            TlsMode::Private(private) => private.server_name.clone(),
            TlsMode::Public => None,
        };
        let resolved = || {
            self.endpoints.iter().find_map(|source| match &source.source {
                SourceKind::Dns { name, .. } if !name.starts_with('_') => Some(name.trim_end_matches('.').into()),
                _ => None,
            })
        };
        let host = || {
            let plain = self.hosts.iter().map(ToString::to_string).find(|host| !host.contains('*'))?;
            Some(crate::matching::host_of(&plain).into())
        };
        given.or_else(resolved).or_else(host)
    }
}

/// The HTTP version spoken to the endpoints of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/2 where the endpoint speaks it, found out by its connection preface before any request is sent; HTTP/1.1
    /// elsewhere, and for upgrades. gRPC always takes HTTP/2.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// One source of endpoints, with what holds for all that it yields.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct EndpointSource {
    /// Where endpoints come from.
    pub source: SourceKind,
    /// Added to each endpoint's labels.
    pub labels: Labels,
    /// For endpoints without a locality of their own.
    pub locality: Locality,
    /// For endpoints without a weight of their own.
    pub weight: Option<u32>,
    /// For endpoints without a priority of their own.
    pub priority: Option<u32>,
    /// What the addresses stand for; by default one resolved DNS address is a VIP, everything else replicas.
    pub kind: Option<SetKind>,
}

impl EndpointSource {
    /// A source without further attributes.
    pub fn new(source: SourceKind) -> Self {
        Self { source, labels: Labels::new(), locality: Locality::default(), weight: None, priority: None, kind: None }
    }
}

/// Where endpoints come from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SourceKind {
    /// A fixed list.
    Static(Vec<EndpointSpec>),
    /// A name to resolve.
    Dns {
        /// The name; `_grpc._tcp.name` asks for SRV records.
        name: Arc<str>,
        /// The port; not needed with SRV.
        port: Option<u16>,
    },
    /// A watched file with a list of endpoints.
    File(PathBuf),
    /// A source registered with the builder under this name.
    Custom(Arc<str>),
}

/// What is served: `inbound`.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct InboundSpec {
    /// How paths are made to have one meaning. Default [`PathNormalization::Strict`].
    pub path_normalization: PathNormalization,
    /// What callers prove besides a certificate.
    pub authn: authn::Authn,
    /// Who may ask for what.
    pub authz: authz::Policy,
    /// What code pinned of that: it has to allow as well, whatever the rest says.
    pub pinned_authz: authz::Policy,
    /// Where decisions are written. `None`: nowhere but into events.
    pub audit_log: Option<authz::audit::AuditLog>,
    /// When a request is refused because too much is asked. `None`: never.
    pub load_shed: Option<ShedPolicy>,
    /// A limit on what is in work that finds itself. `None`: no limit.
    pub adaptive_concurrency: Option<AdaptivePolicy>,
    /// How much may be asked for in a time. `None`: as much as one likes.
    pub rate_limit: Option<RateLimitPolicy>,
    /// Policies of the user's own at the `server` seat.
    pub policies: PolicySet,
}
