//! Who this process is to others, and how its connections are protected.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::ListenerLimits;
use crate::matching::IpBlock;

/// `identity`: where this process gets its certificate and the bundles of trust from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IdentitySource {
    /// A certificate authority of one's own for development, one per user of this machine (feature `dev-ca`).
    Dev,
    /// Files that somebody else keeps fresh.
    Files(IdentityFiles),
    /// A SPIFFE Workload API: `unix:/path` or `tcp://IP:PORT`.
    WorkloadApi(Arc<str>),
    /// An authority that signs requests; the key is made here.
    Ca(Arc<AuthoritySpec>),
}

impl IdentitySource {
    /// The word that stands for it in configuration, status and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Files(_) => "files",
            Self::WorkloadApi(_) => "workload_api",
            Self::Ca(_) => "ca",
        }
    }
}

/// Files of an identity, PEM. Watched: renames, edits in place and Kubernetes' symlink flip.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct IdentityFiles {
    /// The certificate chain, leaf first. May hold the key as well, as `podCertificate` volumes lay it.
    pub cert: PathBuf,
    /// The private key. Default: the same file as `cert`.
    pub key: PathBuf,
    /// The trust bundle: certificates of the authorities of the own trust domain.
    pub bundle: PathBuf,
    /// A revocation list, or a directory of them.
    pub crl: Option<PathBuf>,
}

impl IdentityFiles {
    /// A certificate, its key and the bundle.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>, bundle: impl Into<PathBuf>) -> Self {
        Self { cert: cert.into(), key: key.into(), bundle: bundle.into(), crl: None }
    }
}

/// `identity.source.ca`: an authority that signs requests.
///
/// What is asked for is `spiffe://<trust domain>/ns/<namespace>/sa/<service>`, renewed at half of its life.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AuthoritySpec {
    /// Who it is.
    pub kind: AuthorityKind,
    /// How long certificates should live, at least 1 s. Default: as the authority has it, which may shorten this too.
    pub lifetime: Option<Duration>,
}

impl AuthoritySpec {
    /// An authority that decides how long its certificates live.
    pub fn new(kind: AuthorityKind) -> Self {
        Self { kind, lifetime: None }
    }
}

/// Which authority, and what it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AuthorityKind {
    /// Istio's: `istio.v1.auth.IstioCertificateService` (feature `tonic`).
    Istio(IstioCa),
    /// step-ca.
    Step(StepCa),
    /// One that code registers under this name by `Builder::certificate_authority`.
    Custom(Arc<str>),
}

impl AuthorityKind {
    /// The word that stands for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Istio(_) => "istio",
            Self::Step(_) => "step",
            Self::Custom(_) => "custom",
        }
    }
}

/// `identity.source.ca.istio`. The defaults are where Istio mounts things.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct IstioCa {
    /// `host:port`. Default `istiod.istio-system.svc:15012`.
    pub address: Arc<str>,
    /// The name in its certificate. Default: the host of `address`.
    pub server_name: Option<Arc<str>>,
    /// Its roots, PEM, read for each request. Default `/var/run/secrets/istio/root-cert.pem`.
    pub root: PathBuf,
    /// A projected token of a service account for the audience `istio-ca`, read for each request. Default
    /// `/var/run/secrets/tokens/istio-token`.
    pub token: PathBuf,
    /// The name of the cluster that the token is of. Default `Kubernetes`.
    pub cluster_id: Arc<str>,
}

impl Default for IstioCa {
    fn default() -> Self {
        Self {
            address: "istiod.istio-system.svc:15012".into(),
            server_name: None,
            root: "/var/run/secrets/istio/root-cert.pem".into(),
            token: "/var/run/secrets/tokens/istio-token".into(),
            cluster_id: "Kubernetes".into(),
        }
    }
}

/// `identity.source.ca.step`.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StepCa {
    /// `host:port`.
    pub address: Arc<str>,
    /// Whom to believe there.
    pub root: StepRoot,
    /// A one-time token of a JWK provisioner. Read when there is nothing to renew.
    pub token: PathBuf,
}

impl StepCa {
    /// An authority at `host:port`.
    pub fn new(address: impl Into<Arc<str>>, root: StepRoot, token: impl Into<PathBuf>) -> Self {
        Self { address: address.into(), root, token: token.into() }
    }
}

/// The root of step-ca.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StepRoot {
    /// A file, PEM.
    File(PathBuf),
    /// Its SHA-256: it is fetched once and has to have this fingerprint.
    Fingerprint([u8; 32]),
}

/// `mtls`: what a listener asks of its peers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Mtls {
    /// Plaintext only.
    Off,
    /// Mutual TLS or plaintext, told apart by the first byte. For migration.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl Mtls {
    /// The word that stands for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }
}

/// `tls`: how connections to the endpoints of a service are protected. There is no falling back from any of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum TlsMode {
    /// Plaintext. The default where no identity is configured.
    #[default]
    Off,
    /// Mutual TLS within the mesh: SPIFFE identities on both sides. The default with an identity.
    Mesh,
    /// TLS as browsers do it: the platform's trust store, the name of the service's host, no certificate of our own.
    Public,
    /// TLS to a private authority: databases, brokers, other teams.
    Private(Arc<PrivateTls>),
}

impl TlsMode {
    /// The word that stands for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Mesh => "mesh",
            Self::Public => "public",
            Self::Private(_) => "private",
        }
    }
}

/// `jwt_svid`: a JWT-SVID of ours as `authorization: Bearer` of each call, where mutual TLS does not reach who is to know us.
///
/// Fetched from a SPIFFE Workload API with the first call and anew at half of its life. A call that has an `authorization` of its
/// own keeps it; one for which no token can be had fails with E003 before anything of it leaves.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub struct JwtSvidSpec {
    /// For whom it is: what the service looks for in `aud`.
    pub audience: Arc<str>,
    /// The Workload API: `unix:/path` or `tcp://IP:PORT`. Default: the one that `identity` comes from.
    pub workload_api: Option<Arc<str>>,
}

impl JwtSvidSpec {
    /// A token for an audience, by the Workload API that `identity` comes from.
    pub fn new(audience: impl Into<Arc<str>>) -> Self {
        Self { audience: audience.into(), workload_api: None }
    }
}

/// `tls: {private: ...}`. Files are PEM and read when a connection is made with a changed file.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PrivateTls {
    /// Certificates of the authorities that may issue the server's certificate.
    pub ca: PathBuf,
    /// The DNS name or IP address in the server's certificate. Default: the address that is dialled.
    pub server_name: Option<Arc<str>>,
    /// Our certificate and its key, where the server asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl PrivateTls {
    /// A named authority, and nothing else.
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self { ca: ca.into(), server_name: None, client: None }
    }
}

/// `listeners.edge`: the same application for callers outside of the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EdgeSpec {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its certificate chain and key, PEM, watched. Without: plaintext, behind a balancer that ends TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Who speaks for its callers.
    pub proxies: ProxySpec,
    /// What it allows.
    pub limits: ListenerLimits,
}

/// Balancers and proxies in front of a listener.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ProxySpec {
    /// Those whose word on the client's address counts. They have no cap of connections of their own. Default none.
    pub trusted_proxies: Vec<IpBlock>,
    /// Whether each of their connections begins with a header of the PROXY protocol, and nobody else may connect. Default
    /// no.
    pub proxy_protocol: bool,
}
