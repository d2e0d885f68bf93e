//! The two sides of a handshake, made of one generation: what it is judged by is what the peer is recorded with.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{
    bundle::Bundle,
    material::{Expected, Generation},
    path::Path,
    revocation::Revocations,
    verify::{OutsideTrust, verify_server},
};
use crate::{name::SpiffeId, rt};

/// Who a peer proved to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Proven {
    pub(crate) id: SpiffeId,
    /// When its certificate began.
    pub(crate) not_before: SystemTime,
    /// When its certificate ends, and with it what it proved.
    pub(crate) not_after: SystemTime,
    /// Whether it is of our own trust domain: its word on criticality, allowance and fairness counts.
    pub(crate) member: bool,
    /// What it was judged by.
    pub(crate) generation: u64,
    /// What it is judged by again when something changes.
    pub(crate) path: Option<Arc<Path>>,
}

/// TLS on the accepting side, one generation of it.
pub(crate) struct ServerSide {
    pub(crate) config: Arc<ServerConfig>,
    /// Reads the peer from a finished handshake; `None` if it showed no certificate.
    pub(crate) prove: Box<dyn Fn(&rustls::ServerConnection) -> Option<Proven> + Send + Sync>,
}

/// TLS on the connecting side, one generation of it.
pub(crate) struct ClientSide {
    pub(crate) config: Arc<ClientConfig>,
    /// The name that the server's certificate must carry; `None` where it is judged otherwise.
    pub(crate) name: Option<ServerName<'static>>,
    /// When our own certificate begins and ends.
    pub(crate) validity: Option<(SystemTime, SystemTime)>,
    /// Reads the peer from a finished handshake; `None` outside of the mesh.
    pub(crate) prove: Box<dyn Fn(&rustls::ClientConnection) -> Option<Proven> + Send + Sync>,
}

impl fmt::Debug for ServerSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSide")
    }
}

impl fmt::Debug for ClientSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSide")
    }
}

/// The clock of certificates, for rustls.
#[derive(Debug)]
pub(super) struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        rt::wall().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// Accepts or refuses peers, and shows our own certificate.
#[derive(Clone)]
pub(super) struct Judge {
    generation: Arc<Generation>,
    expected: Option<Expected>,
}

impl Judge {
    pub(super) fn new(generation: Arc<Generation>, expected: Option<Expected>) -> Self {
        Self { generation, expected }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let verified = self.generation.verify(leaf, intermediates, now)?;
        match &self.expected {
            Some(expected) => Ok(expected.check(&verified.id)?),
            None => Ok(()),
        }
    }

    fn provider(&self) -> &CryptoProvider {
        &self.generation.provider
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// Accepts or refuses servers outside of the mesh: by the same core, with their names.
pub(super) struct OutsideJudge {
    provider: Arc<CryptoProvider>,
    anchors: Bundle,
    revocations: Revocations,
}

impl OutsideJudge {
    pub(super) fn new(provider: Arc<CryptoProvider>, anchors: Bundle) -> Self {
        Self { provider, anchors, revocations: Revocations::default() }
    }

    fn provider(&self) -> &CryptoProvider {
        &self.provider
    }
}

impl fmt::Debug for OutsideJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutsideJudge").field("anchors", &self.anchors).finish_non_exhaustive()
    }
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, cert, dss, &self.provider().signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, dss, &self.provider().signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Which bundle counts is known from the peer's certificate only.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    signatures!();
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    signatures!();
}

impl ServerCertVerifier for OutsideJudge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let trust = OutsideTrust {
            anchors: &self.anchors,
            revocations: &self.revocations,
            algorithms: &self.provider.signature_verification_algorithms,
        };
        verify_server(end_entity, intermediates, server_name, &trust, now)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ResolvesServerCert for Judge {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.generation.material.own.key))
    }
}

impl ResolvesClientCert for Judge {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.generation.material.own.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// TLS 1.3, a certificate asked of the peer, and no resumption: a ticket would outlive a revocation.
pub(super) fn server(judge: &Judge) -> Result<ServerSide, rustls::Error> {
    let verifier = Arc::new(judge.clone());
    let mut config = ServerConfig::builder_with_details(Arc::clone(&judge.generation.provider), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.clone())
        .with_cert_resolver(verifier);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    let generation = Arc::clone(&judge.generation);
    let prove = move |connection: &rustls::ServerConnection| generation.prove(connection.peer_certificates());
    Ok(ServerSide { config: Arc::new(config), prove: Box::new(prove) })
}

/// TLS 1.3, our certificate shown, no name sent, no resumption.
pub(super) fn client(judge: &Judge) -> Result<ClientSide, rustls::Error> {
    let verifier = Arc::new(judge.clone());
    let mut config = ClientConfig::builder_with_details(Arc::clone(&judge.generation.provider), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(verifier);
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    let generation = Arc::clone(&judge.generation);
    let own = &generation.material.own;
    let validity = Some((own.not_before, own.not_after));
    let prove = move |connection: &rustls::ClientConnection| generation.prove(connection.peer_certificates());
    Ok(ClientSide { config: Arc::new(config), name: None, validity, prove: Box::new(prove) })
}
