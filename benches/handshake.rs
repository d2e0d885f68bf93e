//! CPU of a full mutual TLS handshake, through our listener and through our connector, beside rustls as it comes with the same
//! provider and the same certificates.
//!
//! ```text
//! cargo bench --bench handshake                          # a table
//! cargo bench --bench handshake -- --rounds 30 --count 500
//! cargo bench --bench handshake -- --test                # a few connections of each
//! ```
//!
//! A connection carries one request. What a connection in plaintext costs is taken off what one with TLS costs, so that what
//! is left is the handshake and not the stack above it; client and server share the process, so it is that of both. `cold`
//! shows the listener certificates that it has not seen lately, the others always the same one. All variants run in each round,
//! their order alternates, and each figure is a median over rounds. Read the ratios: `listener` and `connector` are to be at most
//! 1.03, cold as well. Seen on two cores: 386 us for rustls, 0.985 and 1.00 of it for ours, 1.03 cold.

#![allow(clippy::disallowed_methods, reason = "a bench measures the clock that the rule forbids")]

use std::{
    future::{IntoFuture, pending},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustix::time::{ClockId, clock_gettime};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sinew::{
    Body, Client, Mesh,
    model::{IdentityFiles, IdentitySource, Mtls, Protocol, TlsMode},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower::service_fn;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// More than the listener remembers.
const STRANGERS: usize = 1_500;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";

/// A certificate and its key, as the mesh and as rustls want them.
struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

struct Authority {
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Result<Self, Failed> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::OrganizationName, "bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key)?.der().clone();
        Ok(Self { root, issuer: Issuer::new(params, key) })
    }

    /// With an identity for us and an address for rustls.
    fn pair(&self) -> Result<Pair, Failed> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([])?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let id = "spiffe://bench.example/ns/default/sa/bench";
        params.subject_alt_names = vec![SanType::URI(id.try_into()?), SanType::IpAddress([127, 0, 0, 1].into())];
        Ok(Pair { chain: vec![params.signed_by(&key, &self.issuer)?.der().clone()], key })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, Failed> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone())?;
        Ok(Arc::new(roots))
    }

    fn acceptor(&self, pair: &Pair) -> Result<TlsAcceptor, Failed> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider)).build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(pair.chain.clone(), PrivateKeyDer::try_from(pair.key.serialize_der())?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config).into())
    }

    fn connector(&self, pair: &Pair, roots: &Arc<RootCertStore>) -> Result<TlsConnector, Failed> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(Arc::clone(roots))
            .with_client_auth_cert(pair.chain.clone(), PrivateKeyDer::try_from(pair.key.serialize_der())?)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config).into())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Who connects.
enum Caller {
    Bare { addr: SocketAddr, tls: Vec<TlsConnector>, next: usize },
    Sinew(Client),
}

impl Caller {
    async fn call(&mut self) -> Result<(), Failed> {
        match self {
            Self::Sinew(client) => {
                let response = client.get("/").send().await?;
                assert_eq!(response.status(), 204);
            }
            Self::Bare { addr, tls, next } => {
                let stream = TcpStream::connect(*addr).await?;
                stream.set_nodelay(true)?;
                *next += 1;
                match tls.get(*next % tls.len().max(1)) {
                    Some(tls) => ask(tls.connect(ServerName::IpAddress(addr.ip().into()), stream).await?).await?,
                    None => ask(stream).await?,
                }
            }
        }
        Ok(())
    }
}

async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Failed> {
    io.write_all(REQUEST).await?;
    let mut answer = Vec::with_capacity(256);
    io.read_to_end(&mut answer).await?;
    assert!(answer.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Failed> {
    let (mut head, mut read) = ([0; 1024], 0);
    while !head[..read].ends_with(b"\r\n\r\n") {
        let n = io.read(&mut head[read..]).await?;
        if n == 0 {
            return Ok(());
        }
        read += n;
    }
    io.write_all(RESPONSE).await?;
    Ok(io.shutdown().await?)
}

async fn serve_bare(tls: Option<TlsAcceptor>) -> Result<SocketAddr, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                match tls {
                    Some(tls) => answer(tls.accept(stream).await?).await,
                    None => answer(stream).await,
                }
            });
        }
    });
    Ok(addr)
}

async fn serve_sinew(mesh: Mesh) -> Result<SocketAddr, Failed> {
    let listener = mesh.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    let app = service_fn(|_: Request<Body>| async {
        let response = Response::builder().status(204).header("connection", "close");
        Ok::<_, Failed>(response.body(Body::empty())?)
    });
    let serve = listener.serve(app).with_graceful_shutdown(pending()).into_future();
    tokio::spawn(async move {
        let _ = serve.await;
        drop(mesh);
    });
    Ok(addr)
}

/// Plaintext and TLS of one variant.
struct Variant {
    name: &'static str,
    plain: Caller,
    tls: Caller,
}

async fn variants(strangers: usize, directory: &std::path::Path) -> Result<Vec<Variant>, Failed> {
    let authority = Authority::new()?;
    let pair = authority.pair()?;
    for (name, text) in [
        ("cert.pem", pem("CERTIFICATE", &pair.chain[0])),
        ("key.pem", pem("PRIVATE KEY", &pair.key.serialize_der())),
        ("ca.pem", pem("CERTIFICATE", &authority.root)),
    ] {
        std::fs::write(directory.join(name), text)?;
    }
    let mesh = |name: &str, mtls| {
        let files = ["cert.pem", "key.pem", "ca.pem"].map(|name| directory.join(name));
        let [cert, key, ca] = files;
        let identity = IdentitySource::Files(IdentityFiles::new(cert, key, ca));
        Mesh::builder(name).identity(identity, "bench.example").mtls(mtls)
    };
    let roots = authority.roots()?;
    let one = vec![authority.connector(&pair, &roots)?];
    let many =
        (0..strangers).map(|_| authority.connector(&authority.pair()?, &roots)).collect::<Result<Vec<_>, Failed>>()?;
    let bare = |addr, tls: &[TlsConnector]| Caller::Bare { addr, tls: tls.to_vec(), next: 0 };

    let bare_plain = serve_bare(None).await?;
    let bare_tls = serve_bare(Some(authority.acceptor(&pair)?)).await?;
    let sinew_plain = serve_sinew(mesh("plain", Mtls::Off).build().await?).await?;
    let sinew_tls = serve_sinew(mesh("tls", Mtls::Strict).build().await?).await?;
    let client = mesh("client", Mtls::Strict)
        .service("plain", |service| {
            service.endpoints([bare_plain.to_string()]).protocol(Protocol::Http1).tls(TlsMode::Off)
        })
        .service("tls", |service| service.endpoints([bare_tls.to_string()]).protocol(Protocol::Http1))
        .build()
        .await?;
    let (plain, tls) = (client.client("plain"), client.client("tls"));
    tokio::spawn(async move {
        pending::<()>().await;
        drop(client);
    });
    Ok(vec![
        Variant { name: "bare", plain: bare(bare_plain, &[]), tls: bare(bare_tls, &one) },
        Variant { name: "listener", plain: bare(sinew_plain, &[]), tls: bare(sinew_tls, &one) },
        Variant { name: "connector", plain: Caller::Sinew(plain), tls: Caller::Sinew(tls) },
        Variant { name: "bare cold", plain: bare(bare_plain, &[]), tls: bare(bare_tls, &many) },
        Variant { name: "listener cold", plain: bare(sinew_plain, &[]), tls: bare(sinew_tls, &many) },
    ])
}

/// Microseconds of CPU per connection.
async fn cost(caller: &mut Caller, count: usize) -> Result<f64, Failed> {
    let before = cpu();
    for _ in 0..count {
        caller.call().await?;
    }
    Ok((cpu() - before).as_secs_f64() * 1e6 / count as f64)
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below a second"))
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

async fn run(rounds: usize, count: usize, strangers: usize) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let mut variants = variants(strangers, directory.path()).await?;
    // By variant, then by round: the handshake alone, and the connection in plaintext.
    let mut shakes = vec![Vec::new(); variants.len()];
    let mut plains = vec![Vec::new(); variants.len()];
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..variants.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let variant = &mut variants[index];
            let plain = cost(&mut variant.plain, count).await?;
            let tls = cost(&mut variant.tls, count).await?;
            // The first is for warming up.
            if round > 0 {
                shakes[index].push(tls - plain);
                plains[index].push(plain);
            }
        }
    }
    println!("{:<14} {:>12} {:>12} {:>8}", "", "handshake us", "plaintext us", "ratio");
    for (index, variant) in variants.iter().enumerate() {
        let beside = if variant.name.ends_with("cold") { 3 } else { 0 };
        let ratios = shakes[index].iter().zip(&shakes[beside]).map(|(ours, bare)| ours / bare).collect();
        let (shake, plain) = (median(shakes[index].clone()), median(plains[index].clone()));
        println!("{:<14} {shake:>12.1} {plain:>12.1} {:>8.3}", variant.name, median(ratios));
    }
    Ok(())
}

fn main() -> ExitCode {
    let (mut rounds, mut count, mut strangers) = (20, 300, STRANGERS);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok());
        match arg.as_str() {
            "--bench" => {}
            "--test" => (rounds, count, strangers) = (1, 3, 3),
            "--rounds" => rounds = number().unwrap_or(rounds),
            "--count" => count = number().unwrap_or(count),
            _ => {
                eprintln!("usage: cargo bench --bench handshake -- [--rounds N] [--count CONNECTIONS] [--test]");
                return ExitCode::from(2);
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Failed::from).and_then(|runtime| runtime.block_on(run(rounds.max(1), count, strangers))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
