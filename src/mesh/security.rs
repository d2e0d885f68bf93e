//! From configuration to identity in use: what listeners ask, how services are dialled, and what a change ends.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{control::Inner, dial::WhenIdentified};
use crate::{
    error::{Code, Error},
    identity::{
        CertificateAuthority, ClientSide, Cryptography, EdgeTls, Expected, FileLayout, Files, Identity, PrivateTls,
        Proven, PublicTls,
    },
    instrument::Registry,
    model::{AuthorityKind, EdgeSpec, IdentitySource, Mtls, Origin, ServiceSpec, Snapshot, TlsMode},
    name::TrustDomain,
    ops::{Condition, Readiness},
    rt::{self, Instant, TaskSet},
    transport::{
        Dial, ProxyDialer, ProxySettings, Roll, TlsDialer,
        accept::{InboundTls, Plaintext},
    },
};

/// The identity of a mesh while it runs, and what listeners make of it.
pub(super) struct Security {
    identity: ArcSwapOption<Identity>,
    inbound: ArcSwap<InboundTls>,
    running: Mutex<Option<Running>>,
    /// Connections that were dialled.
    dialled: Arc<Roll>,
    condition: Condition,
    dev: DevOptions,
    authorities: Authorities,
    pub(super) cryptography: Cryptography,
    /// Tasks of a mesh that was built outside of a runtime.
    waiting: Mutex<Vec<(TaskSet, Task)>>,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What code says about a development identity.
#[derive(Clone, Default)]
pub(super) struct DevOptions {
    /// It is used where it would be refused.
    pub(super) anywhere: bool,
    /// Where the authority lies, if not where the environment says.
    pub(super) directory: Option<PathBuf>,
}

/// Authorities that code knows, by name.
pub(super) type Authorities = BTreeMap<String, Arc<dyn CertificateAuthority>>;

/// A source of identity while it runs.
struct Running {
    source: IdentitySource,
    domain: TrustDomain,
    tasks: TaskSet,
}

impl Security {
    pub(super) fn new(
        readiness: &Readiness,
        dev: DevOptions,
        authorities: Authorities,
        cryptography: Cryptography,
    ) -> Arc<Self> {
        let condition = readiness.condition("identity", "no configuration yet");
        condition.met();
        Arc::new(Self {
            identity: ArcSwapOption::empty(),
            inbound: ArcSwap::default(),
            running: Mutex::default(),
            dialled: Arc::default(),
            condition,
            dev,
            authorities,
            cryptography,
            waiting: Mutex::default(),
        })
    }

    /// An authority that code registered.
    pub(super) fn authority(&self, name: &str) -> Option<Arc<dyn CertificateAuthority>> {
        self.authorities.get(name).cloned()
    }

    pub(super) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// What a listener asks of the peer that connects now.
    pub(super) fn inbound(&self) -> InboundTls {
        InboundTls::clone(&self.inbound.load())
    }

    fn holds(&self, proven: &Proven) -> bool {
        self.identity.load().as_ref().is_some_and(|identity| identity.holds(proven))
    }

    /// Why this address is not listened on, if it is not.
    pub(super) fn refuses_to_listen(&self, address: SocketAddr) -> Option<Error> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let dev = running.as_ref().is_some_and(|running| running.source == IdentitySource::Dev);
        if !dev || address.ip().to_canonical().is_loopback() || self.dev.anywhere {
            return None;
        }
        let message = format!(
            "a development identity listens on loopback only, not on {address}: use `identity: {{source: {{files: ..}}}}`, or \
             insist in code by `Builder::dev_identity_anywhere`"
        );
        Some(Error::new(Code::Denied, message))
    }
}

impl Inner {
    /// Brings the identity of a configuration into use.
    ///
    /// # Errors
    /// If it cannot be had at all; what is only late is waited for by readiness.
    pub(super) fn secure(self: &Arc<Self>, snapshot: &Snapshot) -> Result<(), Error> {
        let security = &self.security;
        let mut running = security.running.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = snapshot.mesh.trust_domain.as_deref().map(TrustDomain::new).transpose();
        let domain = domain.map_err(|error| Error::new(Code::BadRequest, format!("mesh.trust_domain: {error}")))?;
        let same = match (&*running, &snapshot.identity, &domain) {
            (Some(running), Some(source), Some(domain)) => running.source == *source && running.domain == *domain,
            (None, None, _) => true,
            _ => false,
        };
        if !same {
            let before = match (&snapshot.identity, domain) {
                (Some(source), Some(domain)) => {
                    let identity = Arc::new(Identity::new(domain.clone(), security.cryptography.provider()?));
                    let tasks = self.tasks.child();
                    self.start_source(source, &identity, snapshot, &tasks)?;
                    self.follow(&identity, &tasks);
                    security.identity.store(Some(identity));
                    running.replace(Running { source: source.clone(), domain, tasks })
                }
                _ => {
                    security.condition.met();
                    security.identity.store(None);
                    running.take()
                }
            };
            if let Some(before) = before {
                before.tasks.cancel();
            }
        }
        drop(running);
        security.inbound.store(Arc::new(self.inbound_tls(snapshot)));
        Ok(())
    }

    fn start_source(
        self: &Arc<Self>,
        source: &IdentitySource,
        identity: &Arc<Identity>,
        snapshot: &Snapshot,
        tasks: &TaskSet,
    ) -> Result<(), Error> {
        match source {
            IdentitySource::Dev => self.start_dev(identity, snapshot, tasks),
            IdentitySource::Files(paths) => {
                let layout = FileLayout::resolve(&paths.cert, &paths.key, &paths.bundle, paths.crl.as_deref());
                let layout =
                    layout.map_err(|why| Error::new(Code::BadRequest, format!("identity.source.files: {why}")))?;
                let mut files = Files::new(layout, Identity::clone(identity));
                // Now, so that what is there already is in use before anything is served or called.
                files.round();
                if let Some(trouble) = identity.trouble() {
                    tracing::warn!("no identity from files yet, it is waited for: {}", trouble.why);
                }
                self.in_background(tasks, files.run());
                Ok(())
            }
            IdentitySource::WorkloadApi(address) => self.start_workload_api(address, identity, tasks),
            IdentitySource::Ca(spec) => self.start_authority(spec, identity, snapshot, tasks),
        }
    }

    #[cfg(feature = "tonic")]
    fn start_workload_api(&self, address: &str, identity: &Arc<Identity>, tasks: &TaskSet) -> Result<(), Error> {
        use crate::identity::workload_api::{Endpoint, WorkloadApi};
        let endpoint = Endpoint::parse(address)
            .map_err(|why| Error::new(Code::BadRequest, format!("identity.source.workload_api: {why}")))?;
        let api = WorkloadApi::new(endpoint.connect(), Identity::clone(identity), None);
        self.in_background(tasks, api.run());
        Ok(())
    }

    #[cfg(not(feature = "tonic"))]
    fn start_workload_api(&self, _address: &str, _identity: &Arc<Identity>, _tasks: &TaskSet) -> Result<(), Error> {
        Err(Error::new(Code::Internal, "identity.source.workload_api needs the feature `tonic`"))
    }

    /// Runs a task of the identity, once there is a runtime.
    pub(super) fn in_background(&self, tasks: &TaskSet, task: impl Future<Output = ()> + Send + 'static) {
        if self.has_started() || tokio::runtime::Handle::try_current().is_ok() {
            tasks.spawn(task);
        } else {
            let mut waiting = self.security.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push((tasks.clone(), Box::pin(task)));
        }
    }

    /// Runs what has waited for a runtime.
    pub(super) fn start_security(&self) {
        let waiting = std::mem::take(&mut *self.security.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for (tasks, task) in waiting {
            tasks.spawn(task);
        }
    }

    #[cfg(all(feature = "dev-ca", any(feature = "aws-lc", feature = "ring")))]
    fn start_dev(
        self: &Arc<Self>,
        identity: &Arc<Identity>,
        snapshot: &Snapshot,
        tasks: &TaskSet,
    ) -> Result<(), Error> {
        use crate::identity::dev;
        let refused = |why: String| Error::new(Code::Internal, format!("identity.source: dev: {why}"));
        let directory = self.security.dev.directory.as_ref().map(|path| path.to_string_lossy().into_owned());
        let env = |name: &str| match (name, &directory) {
            ("SINEW_DEV_DIR", Some(directory)) => Some(directory.clone()),
            _ => std::env::var(name).ok(),
        };
        if let Some(why) = dev::refusal(env).filter(|_| !self.security.dev.anywhere) {
            let cure = "use files or a Workload API there, or insist in code by `Builder::dev_identity_anywhere`";
            return Err(refused(format!("{why}: {cure}")));
        }
        let authority = dev::DevAuthority::open(env).map_err(refused)?;
        let (namespace, service) = (Arc::clone(&snapshot.mesh.namespace), snapshot.mesh.service.clone());
        let issue = {
            let identity = Arc::clone(identity);
            move || {
                let issued = authority.issue(identity.domain(), &namespace, service.as_str(), identity.provider());
                issued.map_err(|why| Error::new(Code::Internal, why)).and_then(|material| identity.publish(material))
            }
        };
        issue()?;
        if let Some(own) = identity.own() {
            tracing::warn!(id = %own.id(), "a DEVELOPMENT identity: anyone who can read this user's files can be anyone");
        }
        let identity = Arc::clone(identity);
        self.in_background(tasks, async move {
            loop {
                let wait = identity.own().map_or(RETRY, |own| dev::renewal(&own, rt::wall()).max(RETRY));
                rt::sleep(wait).await;
                if let Err(error) = issue() {
                    tracing::warn!("the development identity was not renewed: {error}");
                }
            }
        });
        Ok(())
    }

    #[cfg(not(all(feature = "dev-ca", any(feature = "aws-lc", feature = "ring"))))]
    fn start_dev(&self, _identity: &Arc<Identity>, _snapshot: &Snapshot, _tasks: &TaskSet) -> Result<(), Error> {
        Err(Error::new(Code::Internal, "identity.source: dev needs the features `dev-ca` and `aws-lc` or `ring`"))
    }

    /// Does what a change of identity asks for: connections are replaced, or ended.
    fn follow(self: &Arc<Self>, identity: &Arc<Identity>, tasks: &TaskSet) {
        let (this, identity) = (Arc::downgrade(self), Arc::clone(identity));
        let mut changes = identity.changes();
        let mut seen = *changes.borrow_and_update();
        let mut late = self.report_identity(&identity);
        self.in_background(tasks, async move {
            loop {
                tokio::select! {
                    changed = changes.changed() => match changed {
                        Ok(()) => {}
                        // The sender lives in `identity`.
                        Err(_) => return,
                    },
                    () = rt::sleep_until(late.unwrap_or_else(rt::now)), if late.is_some() => {
                        let Some(inner) = this.upgrade() else { return };
                        inner.security.condition.not_met(LATE);
                        tracing::error!("{LATE}");
                        late = None;
                        continue;
                    }
                }
                let change = *changes.borrow_and_update();
                let Some(inner) = this.upgrade() else { return };
                late = inner.report_identity(&identity);
                let security = &inner.security;
                let cut = inner.acceptor.recheck(|proven| security.holds(proven))
                    + security.dialled.recheck(|proven| security.holds(proven));
                if change.own != seen.own {
                    // What is said of this process in `x-forwarded-client-cert` is who it is now.
                    let callers = inner.callers(&inner.snapshot());
                    inner.server.change(&inner.tasks, |policy| policy.set_callers(callers));
                    inner.renew_connections();
                }
                tracing::info!(generation = change.generation, cut, "identity changed");
                seen = change;
            }
        });
    }

    /// Until when its certificate is fresh enough to be ready.
    fn report_identity(&self, identity: &Identity) -> Option<Instant> {
        let registry: &Registry = &self.registry;
        registry.gauge("sinew_identity_generation", &[]).set(identity.changes().borrow().generation as i64);
        match identity.own() {
            None => {
                self.security.condition.not_met("no certificate yet");
                None
            }
            Some(own) => {
                self.security.condition.met();
                let ends = own.not_after().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
                registry.gauge("sinew_certificate_expiry_timestamp_seconds", &[]).set(ends.as_secs() as i64);
                // Of its life, or of what was left when it came: authorities set the beginning back.
                let left = own.not_after().duration_since(rt::wall()).unwrap_or_default();
                Some(rt::at(own.passed(LATE_PERCENT)).max(rt::now() + left / 100 * LATE_PERCENT))
            }
        }
    }

    fn inbound_tls(self: &Arc<Self>, snapshot: &Snapshot) -> InboundTls {
        if self.security.identity().is_none() {
            return InboundTls::Off;
        }
        let plaintext = match snapshot.listeners.mesh.unwrap_or(snapshot.mtls) {
            Mtls::Off => return InboundTls::Off,
            Mtls::Strict => Plaintext::Refused,
            // What development admits by default is this machine; what was asked for is what was asked for.
            Mtls::Permissive
                if snapshot.identity == Some(IdentitySource::Dev)
                    && snapshot.listeners.mesh.is_none()
                    && *snapshot.provenance.of("mtls") == Origin::Default =>
            {
                Plaintext::Loopback
            }
            Mtls::Permissive => Plaintext::Allowed,
        };
        let (handshake, judge) = (Arc::clone(&self.security), Arc::clone(&self.security));
        InboundTls::On {
            side: Arc::new(move || handshake.identity().ok_or_else(gone)?.server_side()),
            holds: Arc::new(move |proven| judge.holds(proven)),
            plaintext,
        }
    }

    /// How the endpoints of a service are dialled.
    pub(super) fn dialer(self: &Arc<Self>, spec: &ServiceSpec, snapshot: &Snapshot) -> Arc<dyn Dial> {
        match &spec.tls {
            TlsMode::Off => Arc::clone(&self.dial),
            TlsMode::Mesh => {
                let expected = self.expected(spec, snapshot);
                let (handshake, judge) = (Arc::clone(&self.security), Arc::clone(&self.security));
                let side = move || match &expected {
                    Ok(expected) => handshake.identity().ok_or_else(gone)?.client_side(expected),
                    Err(why) => Err(Error::new(Code::TlsFailed, why.clone())),
                };
                let (roll, tasks) = (Arc::clone(&self.security.dialled), self.tasks.clone());
                let holds = move |proven: &Proven| judge.holds(proven);
                let dialer = TlsDialer::new(Arc::clone(&self.dial), side, holds, roll, tasks);
                Arc::new(WhenIdentified::new(dialer, Arc::clone(&self.security)))
            }
            TlsMode::Public => {
                let host = spec.outside_name();
                let (name, made) = (host.clone(), OnceLock::new());
                let cryptography = self.security.cryptography.clone();
                let side = move || {
                    if let Some(made) = made.get() {
                        return Ok(Arc::clone(made));
                    }
                    // What fails is tried again: the trust store may be there by then.
                    let public = PublicTls::new(&cryptography.provider()?)?;
                    let side = Arc::new(public.side(name.as_deref().unwrap_or_default())?);
                    Ok(Arc::clone(made.get_or_init(|| side)))
                };
                self.outside(host, side)
            }
            TlsMode::Private(private) => {
                let name = private.server_name.clone().or_else(|| spec.outside_name());
                let client = private.client.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
                let made = self
                    .security
                    .cryptography
                    .provider()
                    .and_then(|provider| PrivateTls::new(provider, &private.ca, name.as_deref(), client));
                let side = move || match &made {
                    Ok(made) => made.side(),
                    Err(error) => Err(Error::new(error.code(), error.message().to_owned())),
                };
                self.tls(Arc::clone(&self.dial), side)
            }
        }
    }

    /// Out of the mesh, through the proxy that the environment names.
    fn outside(
        &self,
        host: Option<Arc<str>>,
        side: impl Fn() -> Result<Arc<ClientSide>, Error> + Send + Sync + 'static,
    ) -> Arc<dyn Dial> {
        let direct = Arc::clone(&self.dial);
        let (bytes, wrong): (Arc<dyn Dial>, _) = match ProxySettings::from_env(|name| std::env::var(name).ok()) {
            Ok(Some(settings)) => (Arc::new(ProxyDialer::new(direct, settings, host.unwrap_or_default())), None),
            Ok(None) => (direct, None),
            Err(why) => (direct, Some(why)),
        };
        let side = move || match &wrong {
            Some(why) => Err(Error::new(Code::ConnectFailed, why.clone())),
            None => side(),
        };
        self.tls(bytes, side)
    }

    fn tls(
        &self,
        bytes: Arc<dyn Dial>,
        side: impl Fn() -> Result<Arc<ClientSide>, Error> + Send + Sync + 'static,
    ) -> Arc<dyn Dial> {
        let (roll, tasks) = (Arc::clone(&self.security.dialled), self.tasks.clone());
        Arc::new(TlsDialer::new(bytes, side, |_| true, roll, tasks))
    }

    /// Who may answer for a service.
    fn expected(&self, spec: &ServiceSpec, snapshot: &Snapshot) -> Result<Expected, String> {
        if !spec.identities.is_empty() {
            return Ok(Expected::Ids(spec.identities.clone().into()));
        }
        let domain = snapshot.mesh.trust_domain.as_deref().unwrap_or_default();
        let domain = TrustDomain::new(domain).map_err(|error| error.to_string())?;
        if mints(snapshot.identity.as_ref()) {
            let id = domain.workload(&snapshot.mesh.namespace, spec.name.as_str());
            return id.map(|id| Expected::Ids([id].into())).map_err(|error| error.to_string());
        }
        tracing::warn!(
            service = %spec.name,
            "any member of `{domain}` may answer for this service: name who it is by `identities`"
        );
        self.registry.gauge("sinew_peer_identity_unpinned", &[("service", spec.name.as_str())]).set(1);
        Ok(Expected::Domain(domain))
    }

    /// Connections made with the certificate before give way to new ones.
    fn renew_connections(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for service in running.values() {
            service.cluster().renew();
        }
    }
}

/// Whether identities are made by the rule of names, so that a service is known by its own.
fn mints(source: Option<&IdentitySource>) -> bool {
    match source {
        Some(IdentitySource::Dev) => true,
        // Istio's names service accounts, whatever is asked for.
        Some(IdentitySource::Ca(spec)) => !matches!(spec.kind, AuthorityKind::Istio(_)),
        _ => false,
    }
}

/// What the edge asks of its peers: TLS if it has a certificate, and never one of theirs.
///
/// # Errors
/// If its files cannot be used.
pub(super) fn edge(spec: &EdgeSpec, cryptography: &Cryptography) -> Result<InboundTls, Error> {
    let Some((cert, key)) = spec.tls.clone() else { return Ok(InboundTls::Off) };
    let made = EdgeTls::new(cryptography.provider()?, &cert, &key);
    let side = move || made.side();
    side()?;
    Ok(InboundTls::On { side: Arc::new(side), holds: Arc::new(|_| true), plaintext: Plaintext::Refused })
}

/// How much of a certificate's life passes before requests had better go elsewhere.
const LATE_PERCENT: u32 = 90;
const LATE: &str = "the certificate is not renewed, and nine tenths of its life are over";

/// The least wait before a certificate is made again.
#[cfg(all(feature = "dev-ca", any(feature = "aws-lc", feature = "ring")))]
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

fn gone() -> Error {
    Error::new(Code::TlsFailed, "no identity is configured any more")
}
