//! Meshes with identities.

use std::{path::Path, time::Duration};

use http::{Request, Response, StatusCode};
use sinew::{
    Body, Mesh, Network, Peer, ResponseExt,
    model::{IdentitySource, Mtls},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::service_fn;

type Served = tokio::task::JoinHandle<Result<(), sinew::Error>>;

/// Tells each caller who it is.
async fn whoami(request: Request<Body>) -> Result<Response<Body>, sinew::BoxError> {
    let id = Peer::of(request.extensions()).and_then(|peer| peer.id().map(ToString::to_string));
    Ok(Response::new(Body::from(id.unwrap_or_else(|| "nobody".into()))))
}

fn builder(name: &str, dir: &Path) -> sinew::Builder {
    Mesh::builder(name).identity(IdentitySource::Dev, "dev.local").dev_dir(dir.join("dev"))
}

async fn serve(mesh: &Mesh, listen: impl Into<sinew::Listen>) -> (sinew::PeerAddr, Served) {
    let listener = mesh.listen(listen).await.unwrap();
    let addr = listener.addr().clone();
    let serve = listener.serve(service_fn(whoami)).with_graceful_shutdown(std::future::pending());
    (addr, tokio::spawn(serve.into_future()))
}

async fn plaintext(addr: &sinew::PeerAddr) -> String {
    let mut io = tokio::net::TcpStream::connect(addr.to_string()).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn one_line_makes_every_hop_mutual_tls() {
    let dir = tempfile::tempdir().unwrap();
    let server = builder("reviews", dir.path()).build().await.unwrap();
    let (addr, _served) = serve(&server, "127.0.0.1:0").await;
    let endpoint = addr.to_string();
    for protocol in [sinew::model::Protocol::Auto, sinew::model::Protocol::Http1, sinew::model::Protocol::Http2] {
        let with = |service: sinew::ServiceBuilder| service.endpoints([&endpoint]).protocol(protocol);
        let client = builder("web", dir.path()).service("reviews", with).build().await.unwrap();
        let response = client.client("reviews").get("/").send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), "spiffe://dev.local/ns/default/sa/web");
        let status = client.status();
        assert_eq!(status.identity.unwrap().id.as_deref(), Some("spiffe://dev.local/ns/default/sa/web"));
    }
    // This machine's curl and browsers may do without.
    assert!(plaintext(&addr).await.ends_with("nobody"));
}

#[tokio::test]
async fn a_service_is_only_answered_by_whom_it_belongs_to() {
    let dir = tempfile::tempdir().unwrap();
    let other = builder("ratings", dir.path()).build().await.unwrap();
    let (addr, _served) = serve(&other, "127.0.0.1:0").await;
    let endpoint = addr.to_string();
    let client =
        builder("web", dir.path()).service("reviews", |service| service.endpoints([&endpoint])).build().await.unwrap();
    let error = client.client("reviews").get("/").timeout(Duration::from_secs(5)).send().await.unwrap_err();
    assert!(error.never_processed() && error.code() == sinew::Code::TlsFailed, "{error}");
    let text = error.to_string();
    assert!(text.contains("identity_mismatch") && text.contains("sa/ratings"), "{text}");
}

#[tokio::test]
async fn strict_answers_plaintext_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let server = builder("reviews", dir.path()).mtls(Mtls::Strict).build().await.unwrap();
    let (addr, _served) = serve(&server, "127.0.0.1:0").await;
    let answer = plaintext(&addr).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("SINEW-E014"), "{answer}");
    assert!(answer.contains("mtls: permissive"), "{answer}");
    assert_eq!(server.status().mtls, "strict");
    // From outside of the mesh, in HTTP/2.
    let client = Mesh::builder("outside")
        .service("reviews", |service| service.endpoints([addr.to_string()]).protocol(sinew::model::Protocol::Http2));
    let client = client.build().await.unwrap();
    let error = client.client("reviews").get("/").timeout(Duration::from_secs(5)).send().await.unwrap_err();
    assert!(error.never_processed(), "{error}");
}

#[tokio::test]
async fn a_migration_goes_from_permissive_to_strict_without_a_failed_call() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sinew.yaml");
    let write = |mode: &str| {
        let text = format!("identity: {{source: dev}}\nmtls: {mode}\n");
        let part = dir.path().join("part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, &file).unwrap();
    };
    write("permissive");
    let server = Mesh::builder("reviews").dev_dir(dir.path().join("dev")).config_file(&file).build().await.unwrap();
    let (addr, _served) = serve(&server, "127.0.0.1:0").await;
    let endpoint = addr.to_string();
    let inside =
        builder("web", dir.path()).service("reviews", |service| service.endpoints([&endpoint])).build().await.unwrap();
    let call = async || inside.client("reviews").get("/").send().await.unwrap().status();
    assert_eq!(call().await, StatusCode::OK);
    assert!(plaintext(&addr).await.starts_with("HTTP/1.1 200"));
    let generation = server.snapshot().generation;
    write("strict");
    server.changed(generation).await;
    assert!(plaintext(&addr).await.starts_with("HTTP/1.1 400"));
    assert_eq!(call().await, StatusCode::OK);
}

#[tokio::test]
async fn a_development_identity_stays_on_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = builder("reviews", dir.path()).build().await.unwrap();
    let error = mesh.listen("0.0.0.0:0").await.unwrap_err();
    assert!(error.to_string().contains("loopback only"), "{error}");
    let mesh = builder("reviews", dir.path()).dev_identity_anywhere().build().await.unwrap();
    assert!(mesh.listen("0.0.0.0:0").await.is_ok());
}

/// A server of somebody else's authority, which tells the host it is asked for; and the authority's certificate.
async fn stranger(name: &str, dir: &Path) -> (std::net::SocketAddr, std::path::PathBuf) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "theirs");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let host = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
                    let host = request.headers()["host"].to_str().unwrap().to_owned();
                    Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::<bytes::Bytes>::from(host)))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, host).await;
            });
        }
    });
    let ca = dir.join("their-ca.pem");
    std::fs::write(&ca, root.pem()).unwrap();
    (addr, ca)
}

#[tokio::test]
async fn a_service_of_another_authority_is_known_by_the_name_in_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (addr, ca) = stranger("ledger.example", dir.path()).await;
    let client = async |name: &str| {
        let config = format!(
            "services: {{ledger: {{endpoints: {{static: [\"{addr}\"]}}, protocol: http1, \
             tls: {{private: {{ca: {ca:?}, server_name: {name}}}}}}}}}"
        );
        let mesh = Mesh::builder("web").config_str(&config).build().await.unwrap();
        let sent = mesh.client("ledger").get("/").timeout(Duration::from_secs(5)).send().await;
        (mesh, sent)
    };
    let (_mesh, answered) = client("ledger.example").await;
    assert_eq!(answered.unwrap().text().await.unwrap(), "ledger.example");
    let (_mesh, refused) = client("other.example").await;
    let error = refused.unwrap_err();
    assert!(error.code() == sinew::Code::TlsFailed && error.never_processed(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn identities_hold_in_memory_too() {
    let dir = tempfile::tempdir().unwrap();
    let network = Network::new();
    let server = builder("reviews", dir.path()).network(&network).build().await.unwrap();
    let _served = serve(&server, "memory:reviews").await;
    let client = builder("web", dir.path())
        .network(&network)
        .service("reviews", |service| service.endpoints(["memory:reviews"]))
        .build()
        .await
        .unwrap();
    let response = client.client("reviews").get("/").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "spiffe://dev.local/ns/default/sa/web");
}

#[tokio::test]
async fn the_callers_certificate_is_told_in_a_header_as_the_mode_says() {
    let dir = tempfile::tempdir().unwrap();
    let told = "URI=spiffe://elsewhere.example/before";
    let web = "spiffe://dev.local/ns/default/sa/web";
    let own = format!("By=spiffe://dev.local/ns/default/sa/reviews;URI={web}");
    let both = format!("{told},{own}");
    let rows = [
        ("sanitize", web, "none"),
        ("sanitize_set", web, own.as_str()),
        ("forward_only", web, told),
        ("append_forward", web, both.as_str()),
        // Only proxies that are named are believed.
        ("forward_only", "spiffe://dev.local/ns/default/sa/gateway", "none"),
        ("append_forward", "spiffe://dev.local/ns/default/sa/gateway", own.as_str()),
    ];
    for (mode, from, expected) in rows {
        let config =
            format!("inbound: {{authn: {{forward_client_cert: {mode}, forward_client_cert_from: \"{from}\"}}}}");
        let server = builder("reviews", dir.path()).config_str(&config).build().await.unwrap();
        let listener = server.listen("127.0.0.1:0").await.unwrap();
        let endpoint = listener.addr().to_string();
        let shows = |request: Request<Body>| async move {
            let all = request.headers().get_all("x-forwarded-client-cert").iter();
            let all: Vec<_> = all.map(|value| value.to_str().unwrap().to_owned()).collect();
            let text = if all.is_empty() { "none".to_owned() } else { all.join("|") };
            Ok::<_, sinew::BoxError>(Response::new(Body::from(text)))
        };
        let _served = tokio::spawn(
            listener.serve(service_fn(shows)).with_graceful_shutdown(std::future::pending()).into_future(),
        );
        let client = builder("web", dir.path())
            .service("reviews", |service| service.endpoints([&endpoint]))
            .build()
            .await
            .unwrap();
        let response = client.client("reviews").get("/").header("x-forwarded-client-cert", told).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), expected, "{mode} from {from}");
    }
}
