//! Connections of a peer whose certificate is revoked, half of them with an answer under way.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response, routing::get};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use sinew::{
    Mesh,
    model::{IdentityFiles, IdentitySource},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    signer::{Leaf, Root, pem},
    support::{Checks, Instance, any},
};

const HOUR: Duration = Duration::from_secs(3_600);
const WITHIN: Duration = Duration::from_secs(1);

/// Written beside and renamed, as whoever keeps files fresh does.
fn write(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

fn app() -> Router {
    let endless = || async {
        let dripping = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Some((Ok::<_, std::convert::Infallible>("drop"), ()))
        });
        Response::new(Body::from_stream(dripping))
    };
    Router::new().route("/", get(|| async { "ok" })).route("/endless", get(endless))
}

async fn connect(config: &Arc<ClientConfig>, addr: std::net::SocketAddr, path: &str) -> TlsStream<TcpStream> {
    let io = TcpStream::connect(addr).await.unwrap();
    io.set_nodelay(true).unwrap();
    let name = ServerName::IpAddress(addr.ip().into());
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, io).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: s\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = [0; 512];
    let read = stream.read(&mut head).await.unwrap();
    assert!(head[..read].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&head[..read]));
    stream
}

/// Reads to the end, however it ends; when that was.
async fn ends(mut stream: TlsStream<TcpStream>) -> Instant {
    let mut bytes = [0; 1024];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    Instant::now()
}

fn member(leaf: &Leaf) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from(leaf.cert.clone())];
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_client_auth_cert(chain, PrivatePkcs8KeyDer::from(leaf.key.clone()).into())
        .unwrap();
    Arc::new(config)
}

pub(crate) async fn run(connections: usize, checks: &mut Checks) {
    let root = Root::new("revoking");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let own = root.leaf("spiffe://soak.example/s", &[], HOUR);
    write(&file("cert.pem"), &(pem("CERTIFICATE", &own.cert) + &pem("PRIVATE KEY", &own.key)));
    write(&file("bundle.pem"), &pem("CERTIFICATE", &root.cert));
    write(&file("crl.pem"), &pem("X509 CRL", &root.revokes(1, &[])));
    let mut files = IdentityFiles::new(file("cert.pem"), file("cert.pem"), file("bundle.pem"));
    files.crl = Some(file("crl.pem"));
    let mesh = Mesh::builder("s").identity(IdentitySource::Files(files), "soak.example").build().await.unwrap();
    let instance = Instance::start(mesh, any(), app()).await;

    let doomed = root.leaf("spiffe://soak.example/doomed", &[], HOUR);
    let (config, other) = (member(&doomed), member(&root.leaf("spiffe://soak.example/other", &[], HOUR)));
    let mut streams = Vec::new();
    while streams.len() < connections {
        let some = (0..16.min(connections - streams.len())).map(|index| {
            let path = if index % 2 == 0 { "/" } else { "/endless" };
            connect(&config, instance.addr, path)
        });
        streams.extend(futures_util::future::join_all(some).await);
    }
    let kept = connect(&other, instance.addr, "/endless").await;
    let kept = tokio::spawn(ends(kept));
    let ending: Vec<_> = streams.into_iter().map(|stream| tokio::spawn(ends(stream))).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let early = ending.iter().filter(|ending| ending.is_finished()).count();
    checks.hold(early == 0, || format!("{early} connections ended before the revocation"));

    let list = pem("X509 CRL", &root.revokes(2, &[&doomed]));
    let revoked = Instant::now();
    write(&file("crl.pem"), &list);
    let mut last = Duration::ZERO;
    for ending in ending {
        let ended = tokio::time::timeout_at(revoked + Duration::from_secs(30), ending).await;
        last = last.max(ended.map_or(Duration::from_secs(30), |ended| ended.unwrap() - revoked));
    }
    println!("a revocation ended the last of {connections} connections after {last:.1?}");
    checks.hold(last <= WITHIN, || format!("a revoked peer was connected for {last:?}"));
    checks.hold(!kept.is_finished(), || "the connection of another peer ended too".into());
    kept.abort();
    let refused = TlsConnector::from(config);
    let io = TcpStream::connect(instance.addr).await.unwrap();
    let name = ServerName::IpAddress(instance.addr.ip().into());
    // In TLS 1.3 the refusal comes after the client is done.
    let came = match refused.connect(name, io).await {
        Ok(mut stream) => stream.read(&mut [0; 16]).await.is_ok_and(|read| read > 0),
        Err(_) => false,
    };
    checks.hold(!came, || "a revoked peer was let in again".into());
    instance.stop().await;
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
