//! `tls: public` on real sockets. The platform's trust store and the way out are of the whole process, so who calls is a
//! process of its own: this test binary once more.

use std::{
    env,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{ServerConfig, SupportedProtocolVersion, version};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sinew::{Mesh, ResponseExt, model::IdentitySource};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::signer::{Leaf, Root, pem, self_signed};

const HOUR: Duration = Duration::from_secs(3_600);
const HOST: &str = "api.partner.example";
const ID: &str = "spiffe://dev.local/ns/default/sa/out";

/// Calls once, and prints what comes of it.
#[tokio::test]
#[ignore = "half of a test: the other half runs it"]
async fn who_calls_outside() {
    let Ok(endpoint) = env::var("SINEW_TEST_ENDPOINT") else { return };
    let dir = tempfile::tempdir().unwrap();
    // It has a certificate, so it could give one.
    let config = format!(
        "services: {{ out: {{ endpoints: {{ static: [\"{endpoint}\"] }}, hosts: [\"{HOST}\"], tls: public }} }}"
    );
    let mesh = Mesh::builder("web").identity(IdentitySource::Dev, "dev.local").dev_dir(dir.path().join("dev"));
    let mesh = mesh.config_str(&config).build().await.unwrap();
    match mesh.client("out").get("/").timeout(Duration::from_secs(10)).send().await {
        Ok(response) => println!("\nsaid {}", response.text().await.unwrap()),
        Err(error) => println!("\nsaid {} {error:?}", error.never_processed()),
    }
    println!("\nknows {}", format!("{:?}", mesh.status()).contains(ID));
}

/// What it prints, with these variables and no others of the kind.
async fn call(endpoint: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "outside::who_calls_outside", "--ignored", "--nocapture", "--test-threads=1"]);
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command.env("SINEW_TEST_ENDPOINT", endpoint).envs(variables.iter().copied()).stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let word = |before: &str| text.lines().find_map(|line| line.strip_prefix(before)).map(str::to_owned);
    assert_eq!(word("knows ").as_deref(), Some("false"), "who is outside has no identity: {text}");
    word("said ").unwrap_or_else(|| panic!("{text}"))
}

/// Asks everybody for a certificate, and tells each what the handshake came to.
async fn serve(leaf: &Leaf, versions: &[&'static SupportedProtocolVersion], trusts: &Root) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(trusts.cert.clone())).unwrap();
    let asks = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(asks.allow_unauthenticated().build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from(leaf.cert.clone())],
            PrivatePkcs8KeyDer::from(leaf.key.clone()).into(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut io) = acceptor.accept(io).await else { return };
                head(&mut io).await;
                let session = io.get_ref().1;
                let (name, version) = (session.server_name().unwrap_or("-"), session.protocol_version().unwrap());
                let text = format!("{name} {version:?} {}", session.peer_certificates().map_or(0, <[_]>::len));
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                let _ = io.write_all(answer.as_bytes()).await;
                let _ = io.shutdown().await;
            });
        }
    });
    addr
}

async fn head(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// A proxy that takes everybody to one place, and who asked it for what.
async fn proxy(to: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:word@{}", listener.local_addr().unwrap());
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (to, seen) = (to.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let asks = head(&mut near).await;
                seen.lock().unwrap().push(asks);
                let mut far = TcpStream::connect(to).await.unwrap();
                near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (url, asked)
}

/// A public authority, and the file that makes it one.
fn authority() -> (Root, tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new("public authority");
    let file = dir.path().join("roots.pem");
    std::fs::write(&file, pem("CERTIFICATE", &root.cert)).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (root, dir, file)
}

#[tokio::test]
async fn a_public_server_of_either_version_is_asked_for_by_name_and_given_no_certificate() {
    let (root, _dir, file) = authority();
    // That its certificate names an id of ours as well means nothing.
    let leaf = root.leaf(ID, &[HOST], HOUR);
    for (versions, version) in [(&version::TLS12, "TLSv1_2"), (&version::TLS13, "TLSv1_3")] {
        let endpoint = serve(&leaf, &[versions], &root).await;
        assert_eq!(call(&endpoint, &[("SSL_CERT_FILE", &file)]).await, format!("{HOST} {version} 0"));
    }
}

#[tokio::test]
async fn a_public_server_is_reached_through_the_proxy_of_the_environment_unless_it_is_exempt() {
    let (root, _dir, file) = authority();
    let endpoint = serve(&root.leaf(ID, &[HOST], HOUR), &[&version::TLS13], &root).await;
    let port = endpoint.rsplit_once(':').unwrap().1;
    let (url, asked) = proxy(endpoint.clone()).await;
    let said = format!("{HOST} TLSv1_3 0");
    let through = [("SSL_CERT_FILE", &*file), ("HTTPS_PROXY", &url)];
    assert_eq!(call(&endpoint, &through).await, said);
    let asks = asked.lock().unwrap().clone();
    let credentials = "Proxy-Authorization: Basic dXNlcjp3b3Jk\r\n";
    assert!(asks[0].starts_with(&format!("CONNECT {HOST}:{port} HTTP/1.1\r\n")), "{asks:?}");
    assert!(asks[0].contains(credentials), "{asks:?}");
    let exempt = [&through[..], &[("NO_PROXY", "other.example,partner.example")]].concat();
    assert_eq!(call(&endpoint, &exempt).await, said);
    assert_eq!(asked.lock().unwrap().len(), asks.len(), "it went by itself");
    let wrong = call(&endpoint, &[("SSL_CERT_FILE", &file), ("HTTPS_PROXY", "socks5://127.0.0.1:1")]).await;
    assert!(wrong.starts_with("true ") && wrong.contains("HTTPS_PROXY"), "nothing goes around it: {wrong}");
}

#[tokio::test]
async fn a_public_server_that_is_not_believed_is_refused_with_its_reason() {
    let (root, _dir, file) = authority();
    for (reason, leaf) in [
        ("identity_mismatch", root.leaf(ID, &["other.example"], HOUR)),
        // An id is no name.
        ("identity_mismatch", root.leaf(ID, &[], HOUR)),
        ("unknown_ca", self_signed(HOST)),
        ("unknown_ca", Root::new("another").leaf(ID, &[HOST], HOUR)),
        ("expired", root.ended_for(ID, &[HOST])),
    ] {
        let endpoint = serve(&leaf, &[&version::TLS12, &version::TLS13], &root).await;
        let said = call(&endpoint, &[("SSL_CERT_FILE", &file)]).await;
        assert!(said.starts_with("true ") && said.contains("TlsFailed") && said.contains(reason), "{reason}: {said}");
    }
    // Nor is one of the platform's own authorities any of these.
    let endpoint = serve(&root.leaf(ID, &[HOST], HOUR), &[&version::TLS13], &root).await;
    let nobody = call(&endpoint, &[("SSL_CERT_FILE", "/nonexistent/roots.pem")]).await;
    assert!(nobody.starts_with("true ") && nobody.contains("SSL_CERT_FILE"), "{nobody}");
}
