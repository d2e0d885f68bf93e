//! Putting a mesh together.

use std::{
    any::Any,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tower_layer::Layer;

use super::{
    Mesh,
    audit::Audit,
    control::{Inner, Origins, Seats},
    fetch::HttpsFetch,
    limits,
    security::{Authorities, DevOptions, Security},
    tokens::Tokens,
};
use crate::{
    authn,
    authz::{self, audit::AuditLog},
    canon::PathNormalization,
    client::{ServiceHandle, ServiceRuntime, Services},
    cluster::Home,
    discover::{Discover, DnsSettings, Sources},
    error::{Code, Error},
    identity::{CertificateAuthority, Cryptography},
    instrument::Registry,
    limit::{KeyFn, RateLimitPolicy, Subject},
    model::{Floor, IdentitySource, ListenerLimits, Mtls, Policy, PolicyRegistry, Snapshot},
    name::ServiceName,
    ops::Readiness,
    rt::TaskSet,
    seat::{LayerSeat, NextService, Seat},
    server::ServerShared,
    shed::{AdaptivePolicy, ShedPolicy},
    source::{
        self, Rejection, Store,
        builder::{DocumentBuilder, ServiceBuilder},
    },
    switch::Switches,
    telemetry::{CallSeries, Direction},
    transport::{
        Dial, Dialer,
        accept::{Acceptor, Drain, Limits},
        memory::MemoryNetwork,
    },
};

/// Collects what a mesh is made of. Mistakes are told by [`build`](Builder::build), all at once.
#[must_use = "a mesh is made by `build`"]
pub struct Builder {
    service: String,
    pub(super) document: DocumentBuilder,
    pub(super) policies: PolicyRegistry,
    pub(super) mistakes: Vec<String>,
    pub(super) origins: Origins,
    seats: Seats,
    discovery: Vec<(String, Arc<dyn Discover>)>,
    dns: DnsSettings,
    network: Network,
    dev: DevOptions,
    authorities: Authorities,
    cryptography: Cryptography,
    floor: Floor,
}

impl Builder {
    pub(super) fn new(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            document: DocumentBuilder::new(),
            policies: PolicyRegistry::default(),
            mistakes: Vec::new(),
            origins: Origins::default(),
            seats: Seats::default(),
            discovery: Vec::new(),
            dns: DnsSettings::system(),
            network: Network::default(),
            dev: DevOptions::default(),
            authorities: Authorities::new(),
            cryptography: Cryptography::default(),
            floor: Floor::default(),
        }
    }

    /// Adds a service, or more about one: what code sets is a default that the file may change, except inside `pin`.
    pub fn service(mut self, name: &str, build: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> Self {
        self.document.service(name, build);
        self
    }

    /// Defaults for every service: balancing, timeouts, limits, policies.
    pub fn defaults(mut self, build: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> Self {
        self.document.defaults(build);
        self
    }

    /// The version of this service, free text, shown in status and metrics.
    pub fn version(mut self, version: &str) -> Self {
        self.document.version(version);
        self
    }

    /// The namespace of this service. Default `default`.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.document.namespace(namespace);
        self
    }

    /// The zone this process runs in, for `locality`.
    pub fn zone(mut self, zone: &str) -> Self {
        self.document.zone(zone);
        self
    }

    /// The region this process runs in, for `locality`.
    pub fn region(mut self, region: &str) -> Self {
        self.document.region(region);
        self
    }

    /// The labels of this process, for `locality.failover_priority`.
    pub fn labels<K, V>(mut self, labels: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<Arc<str>>,
        V: Into<Arc<str>>,
    {
        self.document.labels(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect());
        self
    }

    /// The ops listener's address: `/livez`, `/readyz`, `/metrics`, `grpc.health.v1`. Default off.
    pub fn ops(mut self, listen: SocketAddr) -> Self {
        self.document.ops(listen);
        self
    }

    /// What the mesh listeners allow, as far as it is not the default: `listeners.mesh.limits`.
    pub fn listener_limits(mut self, limits: ListenerLimits) -> Self {
        self.document.listener_limits(limits);
        self
    }

    /// Where this process gets its identity from; with one, services are called and listeners ask for mutual TLS.
    /// `trust_domain` is the domain it belongs to.
    pub fn identity(mut self, source: IdentitySource, trust_domain: &str) -> Self {
        self.document.identity(source, trust_domain);
        self
    }

    /// What listeners ask of their peers. Default with an identity: strict (development: permissive on loopback).
    pub fn mtls(mut self, mode: Mtls) -> Self {
        self.document.mtls(mode);
        self
    }

    /// What no source of configuration lowers: a document that does is refused, what nobody sets is raised to it. The last
    /// one counts.
    pub fn floor(mut self, floor: Floor) -> Self {
        self.floor = floor;
        self
    }

    /// As [`mtls`](Builder::mtls), and no source overrides it.
    pub fn pin_mtls(mut self, mode: Mtls) -> Self {
        self.document.pin_mtls(mode);
        self
    }

    /// Makes an authority known that signs requests, under a name that configuration uses:
    /// `identity: {source: {ca: {custom: NAME}}}`, in code [`AuthorityKind::Custom`](crate::model::AuthorityKind::Custom).
    pub fn certificate_authority(mut self, name: &str, authority: impl CertificateAuthority) -> Self {
        self.authorities.insert(name.to_owned(), Arc::new(authority));
        self
    }

    /// The cryptography of every TLS connection and of the keys that are made here, instead of what is built in: a
    /// `rustls::crypto::CryptoProvider` of rustls 0.23, such as `Arc::new(rustls::crypto::default_fips_provider())`. Never
    /// that of the process. Tokens, and the authority of development, keep to what is built in.
    pub fn crypto_provider(mut self, provider: Arc<dyn Any + Send + Sync>) -> Self {
        match Cryptography::given(provider) {
            Some(given) => self.cryptography = given,
            None => self.mistakes.push("crypto_provider: it is no `CryptoProvider` of rustls 0.23".into()),
        }
        self
    }

    /// Uses a development identity where it is refused: off loopback, and under Kubernetes. Anyone who can read this
    /// user's files can then be anyone in this mesh.
    pub fn dev_identity_anywhere(mut self) -> Self {
        self.dev.anywhere = true;
        self
    }

    /// Where the authority of development identities lies. Default: `SINEW_DEV_DIR`, else `sinew` in the user's runtime
    /// directory, else `sinew-<uid>` in the temporary directory.
    pub fn dev_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.dev.directory = Some(directory.into());
        self
    }

    /// How long connections are still accepted while draining, and when what is left is closed. Defaults: 5 s under
    /// Kubernetes, else 0; 25 s.
    pub fn drain(mut self, lame_duck: Duration, deadline: Duration) -> Self {
        self.document.lame_duck(lame_duck);
        self.document.drain_deadline(deadline);
        self
    }

    /// Makes a policy type known, so that configuration can use it by its name.
    pub fn policy<P: Policy>(mut self) -> Self {
        match source::check_policy_name(P::NAME) {
            Ok(()) => self.policies.register::<P>(),
            Err(reason) => self.mistakes.push(reason),
        }
        self
    }

    /// How the paths of requests are made to have one meaning. Default: what can be read in two ways is refused with
    /// E055.
    pub fn path_normalization(mut self, level: PathNormalization) -> Self {
        self.document.path_normalization(level);
        self
    }

    /// What callers prove besides a certificate: tokens, API keys, addresses that proxies vouch for. A default that the
    /// file may change.
    pub fn authn(mut self, policy: authn::Authn) -> Self {
        self.document.authn(policy);
        self
    }

    /// Who may ask for what: a default that the file may change, list by list.
    pub fn authz(mut self, policy: authz::Policy) -> Self {
        self.document.authz(policy);
        self
    }

    /// As [`authz`](Builder::authz), and no source takes it away: a request has to be allowed by these rules and by the
    /// others.
    pub fn pin_authz(mut self, policy: authz::Policy) -> Self {
        self.document.pin_authz(policy);
        self
    }

    /// Where decisions are written: a default that the file may change, by `inbound.audit_log`.
    pub fn audit_log(mut self, log: AuditLog) -> Self {
        self.document.audit_log(log);
        self
    }

    /// As [`audit_log`](Builder::audit_log), and no source takes it away.
    pub fn pin_audit_log(mut self, log: AuditLog) -> Self {
        self.document.pin_audit_log(log);
        self
    }

    /// When a request is refused because too much is asked: `inbound.load_shed`.
    pub fn load_shed(mut self, policy: ShedPolicy) -> Self {
        self.document.load_shed(policy);
        self
    }

    /// A limit on what is in work that finds itself: `inbound.adaptive_concurrency`.
    pub fn adaptive_concurrency(mut self, policy: AdaptivePolicy) -> Self {
        self.document.adaptive_concurrency(policy);
        self
    }

    /// How much may be asked for in a time: `inbound.rate_limit`.
    pub fn rate_limit(mut self, policy: RateLimitPolicy) -> Self {
        self.document.rate_limit(policy);
        self
    }

    /// A function from a request to the key of a rate limit, under a name that configuration uses: `key: {custom: NAME}`.
    pub fn rate_limit_key(
        mut self,
        name: &str,
        function: impl Fn(&Subject<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.policies.register_rate_limit_key(KeyFn::new(name, function));
        self
    }

    /// A policy value for everything that is served, at the server seat.
    pub fn inbound<P: Policy>(mut self, policy: &P) -> Self {
        self.document.inbound_policy(policy);
        self
    }

    /// As [`inbound`](Builder::inbound), and no source overrides it.
    pub fn pin_inbound<P: Policy>(mut self, policy: &P) -> Self {
        self.document.pin_inbound_policy(policy);
        self
    }

    /// A source of endpoints under a name that services refer to: `endpoints: [{custom: NAME}]`.
    pub fn source(mut self, name: &str, source: impl Discover) -> Self {
        self.discovery.push((name.to_owned(), Arc::new(source)));
        self
    }

    /// How names are resolved. Default: as the system does.
    pub fn dns(mut self, settings: DnsSettings) -> Self {
        self.dns = settings;
        self
    }

    /// Code around each call of each client, once per call.
    pub fn outer(mut self, seat: impl Seat) -> Self {
        self.seats.outer.push(Arc::new(seat));
        self
    }

    /// Code around each attempt of each call.
    pub fn attempt(mut self, seat: impl Seat) -> Self {
        self.seats.attempt.push(Arc::new(seat));
        self
    }

    /// Code around the application, for each request that was admitted.
    pub fn server(mut self, seat: impl Seat) -> Self {
        self.seats.server.push(Arc::new(seat));
        self
    }

    /// A Tower layer at the `outer` seat.
    pub fn outer_layer<L, S>(self, layer: L) -> Self
    where
        L: Layer<NextService, Service = S>,
        LayerSeat<S>: Seat,
    {
        self.outer(LayerSeat::new(&layer))
    }

    /// A Tower layer at the `attempt` seat.
    pub fn attempt_layer<L, S>(self, layer: L) -> Self
    where
        L: Layer<NextService, Service = S>,
        LayerSeat<S>: Seat,
    {
        self.attempt(LayerSeat::new(&layer))
    }

    /// A Tower layer at the `server` seat.
    pub fn server_layer<L, S>(self, layer: L) -> Self
    where
        L: Layer<NextService, Service = S>,
        LayerSeat<S>: Seat,
    {
        self.server(LayerSeat::new(&layer))
    }

    /// The in-memory network that `memory:name` addresses belong to. Meshes that share it reach each other. Default: a
    /// network of its own.
    pub fn network(mut self, network: &Network) -> Self {
        self.network = network.clone();
        self
    }

    /// Joins: checks everything, then begins to discover endpoints and to watch the configuration.
    ///
    /// # Errors
    /// Everything that is wrong, with dotted paths, and places where a file is concerned.
    pub async fn build(self) -> Result<Mesh, BuildError> {
        let mesh = self.build_lazy()?;
        mesh.inner.start();
        Ok(mesh)
    }

    /// Checks everything and joins with the first call, in the runtime of that call. For libraries, which own no
    /// runtime.
    ///
    /// # Errors
    /// As [`build`](Builder::build).
    pub fn build_lazy(self) -> Result<Mesh, BuildError> {
        let Self {
            service,
            document,
            policies,
            mistakes,
            origins,
            seats,
            discovery,
            dns,
            network,
            dev,
            authorities,
            cryptography,
            floor,
        } = self;
        let service = ServiceName::new(&service).map_err(|error| BuildError { report: error.to_string() })?;
        let mut base = Snapshot::new(service.clone());
        base.switches = Switches::of_process();
        base.floor = Arc::new(floor);
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            base = base.under_kubernetes();
        }
        let mut store = Store::new(base);
        let mut report = mistakes;
        match document.build() {
            Ok(update) => report.extend(store.apply(update).rejected.iter().map(Rejection::to_string)),
            Err(rejected) => report.extend(rejected.iter().map(Rejection::to_string)),
        }
        if !report.is_empty() {
            return Err(BuildError { report: report.join("\n") });
        }
        let registry = Registry::default();
        let tasks = TaskSet::new();
        let drain = Drain::new();
        let readiness = Readiness::new(&drain);
        let security = Security::new(&readiness, dev, authorities, cryptography.clone());
        let names = registry.clone();
        let services = Services::new(move |name| {
            let name = ServiceName::new(name).map_err(|error| Error::new(Code::UnknownService, error.to_string()))?;
            Ok(ServiceHandle::new(name.clone(), ServiceRuntime::unknown(&name, &names)))
        });
        let mut discover = Sources::new(dns);
        for (name, source) in discovery {
            discover.insert(name, source);
        }
        let dial: Arc<dyn Dial> = Dialer::new(network.inner.clone());
        let home = Home::new(Arc::clone(&dial));
        let fleet = limits::fleet(&registry, &services, home.members());
        let inner = Arc::new_cyclic(|this| Inner {
            snapshot: ArcSwap::new(Arc::clone(store.snapshot())),
            generation: watch::Sender::new(0),
            store: Arc::new(Mutex::new(store)),
            policies,
            services,
            running: Mutex::default(),
            issuers: Mutex::default(),
            fetch: Arc::new(HttpsFetch::new(cryptography.clone())),
            fleet,
            server: ServerShared::new(CallSeries::new(&registry, Direction::Inbound, service.as_str(), "_inbound")),
            acceptor: Acceptor::new("mesh", Limits::default(), drain.clone(), tasks.clone(), &registry),
            edge: OnceLock::new(),
            drain,
            drained: watch::Sender::new(false),
            draining: AtomicBool::new(false),
            serving: readiness.condition("listeners", "nothing is served yet"),
            readiness,
            security,
            audit: Audit::default(),
            memory: network.inner.clone(),
            dial,
            tasks,
            registry,
            seats,
            tokens: Tokens::default(),
            home,
            discovery: discover,
            followed: Mutex::default(),
            started: AtomicBool::new(false),
            ops: Mutex::default(),
            this: this.clone(),
        });
        origins.load(&inner)?;
        let snapshot = Arc::clone(inner.lock_store().snapshot());
        inner.secure(&snapshot).map_err(|error| BuildError { report: error.message().to_owned() })?;
        if snapshot.identity.is_none() {
            tracing::warn!("no identity is configured: calls are plaintext and everyone is admitted");
        }
        inner.take(snapshot);
        Ok(Mesh { inner })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("service", &self.service).finish_non_exhaustive()
    }
}

/// An in-memory network: `memory:name` addresses of meshes that share it reach each other without sockets.
#[derive(Clone, Default)]
pub struct Network {
    inner: MemoryNetwork,
}

impl Network {
    /// A network on which nobody listens.
    pub fn new() -> Self {
        Self::default()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn memory(&self) -> &MemoryNetwork {
        &self.inner
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

/// Why a mesh could not be built: everything that is wrong, one paragraph each.
#[derive(Clone, PartialEq, Eq)]
pub struct BuildError {
    pub(super) report: String,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report)
    }
}

impl fmt::Debug for BuildError {
    /// As `Display`: `main` prints errors by `Debug`, and carets want their own lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\n")?;
        f.write_str(&self.report)
    }
}

impl std::error::Error for BuildError {}
