//! Fetches from a server that misbehaves, on loopback.

use std::time::Duration;

use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server on loopback that answers each connection with these bytes, the last one for ever; and who trusts it.
async fn serve(answers: Vec<String>) -> (u16, HttpsFetch) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let provider = crate::identity::default_provider().unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        for number in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let answer = answers.get(number).or(answers.last()).unwrap().clone();
            let _ = stream.write_all(answer.as_bytes()).await;
            if answer.ends_with("...") {
                std::future::pending::<()>().await;
            }
            let _ = stream.shutdown().await;
        }
    });
    (port, HttpsFetch::trusting(client))
}

fn request(uri: String) -> FetchRequest {
    FetchRequest {
        uri: uri.parse().unwrap(),
        limit: 64,
        timeout: Duration::from_secs(5),
        networks: vec!["127.0.0.0/8".parse().unwrap()],
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nlocation: https://127.0.0.1/\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_document_is_fetched_whole_or_not_at_all() {
    let long = "x".repeat(65);
    let answers = vec![
        answer("200 OK", "{\"keys\":[]}"),
        answer("302 Found", ""),
        answer("500 Oops", ""),
        answer("200 OK", &long),
        "HTTP/1.1 200 OK\r\ncontent-length: 60\r\n\r\nshort".to_owned(),
        "nonsense".to_owned(),
    ];
    let (port, fetch) = serve(answers).await;
    let uri = || format!("https://127.0.0.1:{port}/keys");
    assert_eq!(fetch.fetch(request(uri())).await.unwrap(), "{\"keys\":[]}");
    for expected in ["302", "500", "more than 64", "reading the answer", "HTTP with"] {
        let error = fetch.fetch(request(uri())).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn the_timeout_covers_the_whole_body() {
    let (port, fetch) = serve(vec!["HTTP/1.1 200 OK\r\ncontent-length: 60\r\n\r\n{...".to_owned()]).await;
    let slow = FetchRequest { timeout: Duration::from_millis(300), ..request(format!("https://127.0.0.1:{port}/")) };
    assert!(fetch.fetch(slow).await.unwrap_err().contains("within"));
}

#[tokio::test]
async fn inner_addresses_and_plaintext_are_not_dialled() {
    let (port, fetch) = serve(vec![answer("200 OK", "{}")]).await;
    for host in
        ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "localhost", "0.0.0.0", "[64:ff9b::7f00:1]"]
    {
        let inner = FetchRequest { networks: Vec::new(), ..request(format!("https://{host}:{port}/")) };
        let error = fetch.fetch(inner).await.unwrap_err();
        assert!(error.contains("which is not public") || error.contains("resolving"), "{host}: {error}");
    }
    assert!(fetch.fetch(request(format!("http://127.0.0.1:{port}/"))).await.unwrap_err().contains("not an https URI"));
    // Nobody that we trust vouches for this name.
    let other = FetchRequest {
        networks: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        ..request(format!("https://localhost:{port}/"))
    };
    assert!(fetch.fetch(other).await.unwrap_err().contains("127.0.0.1") || cfg!(not(unix)));
}
