//! TLS to an authority: known by a name, and by roots that are read for each connection.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use crate::identity::{
    dial::{Connect, Io},
    side::Clock,
};

/// Whom to believe.
pub(super) enum Trust<'a> {
    Roots(&'a [CertificateDer<'static>]),
    /// Whoever answers. Only for what proves itself by its hash.
    Anyone,
}

/// An authority as it is dialled.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) connect: Connect,
    pub(super) name: ServerName<'static>,
}

impl Tls {
    /// A connection, with our certificate where one is to be shown.
    pub(super) async fn open(
        &self,
        trust: Trust<'_>,
        own: Option<&CertifiedKey>,
        protocol: &[u8],
    ) -> Result<Box<dyn Io>, String> {
        let config = self.config(trust, own, protocol)?;
        let io = (self.connect)().await.map_err(|error| format!("it is not reached: {error}"))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(self.name.clone(), io).await;
        stream.map(|stream| Box::new(stream) as Box<dyn Io>).map_err(|error| format!("TLS fails: {error}"))
    }

    fn config(&self, trust: Trust<'_>, own: Option<&CertifiedKey>, protocol: &[u8]) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_details(Arc::clone(&self.provider), Arc::new(Clock))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match trust {
            Trust::Roots(roots) => {
                let mut store = RootCertStore::empty();
                let (taken, _) = store.add_parsable_certificates(roots.iter().cloned());
                if taken == 0 {
                    return Err("none of its roots can be used".into());
                }
                builder.with_root_certificates(store)
            }
            Trust::Anyone => {
                let anyone = Anyone(Arc::clone(&self.provider));
                builder.dangerous().with_custom_certificate_verifier(Arc::new(anyone))
            }
        };
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
