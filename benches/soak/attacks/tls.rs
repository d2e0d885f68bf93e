//! A certificate of the edge, and who trusts it.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::BoxError;

#[derive(Clone)]
pub(crate) struct Trust {
    roots: Arc<RootCertStore>,
}

impl Trust {
    /// Writes certificate and key, and trusts them.
    pub(crate) fn make(cert: &Path, key: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["attacked.example".to_owned()]).unwrap();
        std::fs::write(cert, made.cert.pem()).unwrap();
        std::fs::write(key, made.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
        Self { roots: Arc::new(roots) }
    }

    pub(crate) async fn connect(&self, io: TcpStream, alpn: &'static [u8]) -> Result<TlsStream<TcpStream>, BoxError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("attacked.example")?, io).await?)
    }
}
