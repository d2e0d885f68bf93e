//! nginx as a server of the world, with a certificate by a name, and a plain rustls server that asks for ours.

use std::{convert::Infallible, process::Command, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sinew::ResponseExt;

use super::*;
use crate::peer::{Running, peer, text};

/// The store of trust is read from the environment, which belongs to the process: the calls are made in one of their own.
const CHILD: &str = "SINEW_INTEROP_PUBLIC";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_calls_nginx_as_a_browser_would() {
    let Some(program) = peer("nginx") else { return };
    let world = World::new();
    let d = world.dir.path().display();
    let leaf = world.root.leaf("https://web.example.test/", &["web.example.test"], HOUR);
    world.write("web.pem", &pem("CERTIFICATE", &leaf.cert));
    world.write("web.key", &pem("PRIVATE KEY", &leaf.key));
    let (old, new) = (port(), port());
    let server = |port: u16, version: &str, h2: &str| {
        format!(
            "server {{ listen 127.0.0.1:{port} ssl {h2}; ssl_protocols {version};
               location / {{ return 200 \"$ssl_protocol $server_protocol $ssl_server_name [$ssl_client_s_dn]\"; }} }}"
        )
    };
    let configuration = format!(
        "daemon off; pid {d}/pid; error_log {d}/error.log; worker_processes 1;
         events {{ worker_connections 256; }}
         http {{
           access_log off; client_body_temp_path {d}/1; proxy_temp_path {d}/2; fastcgi_temp_path {d}/3;
           uwsgi_temp_path {d}/4; scgi_temp_path {d}/5;
           ssl_certificate {d}/web.pem; ssl_certificate_key {d}/web.key; ssl_verify_client optional_no_ca;
           {}
           {}
         }}",
        server(old, "TLSv1.2", ""),
        server(new, "TLSv1.3", "http2")
    );
    let file = world.write("nginx.conf", &configuration).display().to_string();
    let log = world.path("error.log");
    let nginx = Running::start(&program, &["-p", &d.to_string(), "-e", &log, "-c", &file]);
    listens(new, "nginx", Path::new(&log)).await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture", "identity::nginx::calls_of_the_process_of_its_own"])
        .env(CHILD, format!("{old} {new}"))
        .env("SSL_CERT_FILE", world.path("root.pem"))
        .env_remove("SSL_CERT_DIR");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success() && text(&output).contains("1 passed"), "{}", text(&output));
    // Who is not in the store of trust is not believed.
    let mesh = public(new, "web.example.test").await;
    let error = mesh.client("web").get("/").timeout(Duration::from_secs(5)).send().await.unwrap_err();
    assert_eq!(error.code(), sinew::Code::TlsFailed, "{error:?}");
    drop(nginx);
}

async fn public(port: u16, host: &str) -> Mesh {
    let yaml = format!(
        "services: {{ web: {{ endpoints: {{ static: [\"127.0.0.1:{port}\"] }}, hosts: [\"{host}\"], tls: public }} }}"
    );
    Mesh::builder("client").config_str(&yaml).build().await.unwrap()
}

#[tokio::test]
async fn calls_of_the_process_of_its_own() {
    let Ok(ports) = std::env::var(CHILD) else { return };
    let ports: Vec<u16> = ports.split(' ').map(|port| port.parse().unwrap()).collect();
    for (port, expected) in
        [(ports[0], "TLSv1.2 HTTP/1.1 web.example.test []"), (ports[1], "TLSv1.3 HTTP/2.0 web.example.test []")]
    {
        let mesh = public(port, "web.example.test").await;
        let response = mesh.client("web").get("/").send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), expected);
        let mesh = public(port, "other.example.test").await;
        let error = mesh.client("web").get("/").timeout(Duration::from_secs(5)).send().await.unwrap_err();
        assert_eq!(error.code(), sinew::Code::TlsFailed, "{error:?}");
    }
}

/// No peer has to be installed for this one: a server of nothing but rustls and hyper.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_calls_a_plain_rustls_server_that_asks_for_its_certificate() {
    let world = World::new();
    let leaf = world.member("plain", &[]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(world.root.cert.clone())).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let key = PrivatePkcs8KeyDer::from(leaf.key.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(vec![CertificateDer::from(leaf.cert)], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(io).await else { return };
                let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
                let service = hyper::service::service_fn(move |_| {
                    let shown = http_body_util::Full::new(bytes::Bytes::from(shown.clone()));
                    async move { Ok::<_, Infallible>(http::Response::new(shown)) }
                });
                // No ALPN there: HTTP/1.1.
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let mesh = world
        .builder("caller", &[])
        .service("web", |service| service.endpoints([addr.to_string()]).identities([id("plain").parse().unwrap()]));
    let mesh = mesh.build().await.unwrap();
    let shown = mesh.client("web").get("/").send().await.unwrap().bytes().await.unwrap();
    let uri = id("caller");
    assert!(shown.windows(uri.len()).any(|window| window == uri.as_bytes()));
}
