//! Rules that change while exchanges and connections are open.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, time::Duration};

use axum::{Router, extract::ws::WebSocketUpgrade, routing::get};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use metrics_util::debugging::DebuggingRecorder;
use sinew::{Body, Client, Mesh};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::world::Counters;

/// A server whose rules are a file.
struct Server {
    mesh: Mesh,
    addr: SocketAddr,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start<S, B>(rules: &str, app: S) -> Self
    where
        S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<sinew::BoxError>,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<sinew::BoxError>,
    {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sinew.yaml");
        std::fs::write(&file, document(rules)).unwrap();
        let mesh = Mesh::builder("s").config_file(&file).build().await.unwrap();
        let listener = mesh.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
        Self { mesh, addr, file, _dir: dir }
    }

    /// Brings other rules into use, and says since when.
    async fn rules(&self, rules: &str) -> Instant {
        let generation = self.mesh.snapshot().generation;
        let part = self.file.with_extension("part");
        std::fs::write(&part, document(rules)).unwrap();
        std::fs::rename(part, &self.file).unwrap();
        self.mesh.changed(generation).await;
        Instant::now()
    }

    async fn client(&self, protocol: sinew::model::Protocol) -> (Mesh, Client) {
        let addr = self.addr.to_string();
        let with = |service: sinew::ServiceBuilder| service.endpoints([addr]).protocol(protocol);
        let mesh = Mesh::builder("c").service("s", with).build().await.unwrap();
        let client = mesh.client("s");
        (mesh, client)
    }
}

fn document(rules: &str) -> String {
    format!("inbound: {{ authz: {{ {rules} }} }}\n")
}

/// Sends one byte and no more, as gRPC if asked so.
async fn endless(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let first = tokio_stream::once(Ok::<_, sinew::BoxError>(Frame::data(Bytes::from_static(b"."))));
    let body = StreamBody::new(tokio_stream::StreamExt::chain(first, tokio_stream::pending()));
    let mut response = Response::new(Body::new(body));
    if let Some(kind) = request.headers().get("content-type") {
        response.headers_mut().insert("content-type", kind.clone());
    }
    Ok(response)
}

async fn open(client: &Client, path: &str, grpc: bool) -> Response<Body> {
    let request = client.post(path);
    let request = if grpc { request.header("content-type", "application/grpc") } else { request };
    let mut response = request.send().await.unwrap();
    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), ".");
    response
}

/// How it ends: with trailers, or without.
async fn end(response: &mut Response<Body>) -> Result<Option<HeaderMap>, sinew::Error> {
    match response.body_mut().frame().await {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_trailers().unwrap())),
        Some(Err(error)) => Err(error),
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// A second, and what a busy machine makes of it; by itself none of them would end for minutes.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn streams_that_a_new_rule_denies_end_and_others_go_on() {
    let server = Server::start("allow: [{}]", tower::service_fn(endless)).await;
    let (_mesh, client) = server.client(sinew::model::Protocol::Http2).await;
    let mut denied_grpc = open(&client, "/a.A/Watch", true).await;
    let mut allowed_grpc = open(&client, "/b.B/Watch", true).await;
    let mut denied = open(&client, "/a", false).await;
    let mut allowed = open(&client, "/b", false).await;
    let since = server.rules("deny: [{name: no-a, paths: [/a, /a.A/*]}]").await;
    let trailers = end(&mut denied_grpc).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "7");
    assert_eq!(trailers["sinew-error"], "SINEW-E051; denied");
    end(&mut denied).await.unwrap_err();
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    for open in [&mut allowed_grpc, &mut allowed] {
        assert!(tokio::time::timeout(Duration::from_millis(300), end(open)).await.is_err());
    }
}

#[tokio::test]
async fn an_upload_that_is_denied_while_it_runs_gets_the_status() {
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let app = tower::service_fn(move |request: Request<Body>| {
        let arrived = arrived.clone();
        async move {
            arrived.send(()).unwrap();
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    });
    let server = Server::start("allow: [{headers: {x-role: [a, b]}}]", app).await;
    let (_mesh, client) = server.client(sinew::model::Protocol::Http2).await;
    let upload = |role: &'static str| {
        let body = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, sinew::BoxError>>());
        let request = client.post("/upload").header("x-role", role);
        tokio::spawn(request.body(Body::new(body)).send())
    };
    let (a, b) = (upload("a"), upload("b"));
    arrivals.recv().await.unwrap();
    arrivals.recv().await.unwrap();
    let since = server.rules("allow: [{headers: {x-role: [a]}}]").await;
    assert_eq!(b.await.unwrap().unwrap().status(), 403);
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert!(!a.is_finished());
}

fn websockets() -> Router {
    let echo = |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        })
    };
    Router::new().route("/a", get(echo)).route("/b", get(echo))
}

/// A WebSocket by hand: what matters is what becomes of its bytes.
async fn websocket(addr: SocketAddr, path: &str) -> TcpStream {
    let mut io = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: s\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    io
}

#[tokio::test]
async fn an_upgraded_connection_that_is_denied_is_cut_and_another_goes_on() {
    let server = Server::start("allow: [{}]", websockets()).await;
    let (mut a, mut b) = (websocket(server.addr, "/a").await, websocket(server.addr, "/b").await);
    let since = server.rules("deny: [{paths: /a}]").await;
    let mut byte = [0];
    assert!(!matches!(a.read(&mut byte).await, Ok(1)));
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert!(tokio::time::timeout(Duration::from_millis(300), b.read(&mut byte)).await.is_err());
}

#[tokio::test]
async fn idle_connections_of_whom_everything_is_denied_are_cut_and_new_ones_are_not_accepted() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = Server::start("allow: [{}]", websockets()).await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET /c HTTP/1.1\r\nhost: s\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 404");
    let since = server.rules("deny: [{name: local, from: {ip_blocks: 127.0.0.0/8}}]").await;
    let _ = idle.read_to_end(&mut answer).await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let mut refused = TcpStream::connect(server.addr).await.unwrap();
    assert!(!matches!(refused.read(&mut [0]).await, Ok(1)));
    server.mesh.shutdown(SECOND).await;
    let counters = Counters::of(&recorder);
    assert_eq!(counters.sum("sinew_connections_closed_total", ("reason", "denied")), 1);
    assert_eq!(counters.sum("sinew_connections_refused_total", ("reason", "denied")), 1);
    assert_eq!(counters.sum("sinew_authz_revoked_total", ("what", "connection")), 1);
    assert_eq!(counters.sum("sinew_authz_decisions_total", ("rule", "local")), 1);
}

#[tokio::test]
async fn a_connection_that_has_said_nothing_yet_when_its_address_is_denied_is_cut() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = Server::start("allow: [{}]", websockets()).await;
    let mut early = TcpStream::connect(server.addr).await.unwrap();
    // So far it may become HTTP/2 as well.
    early.write_all(b"P").await.unwrap();
    // Accepted in the order in which they came: who is answered tells that the one before is in.
    let mut next = TcpStream::connect(server.addr).await.unwrap();
    next.write_all(b"GET /c HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n").await.unwrap();
    next.read_to_end(&mut Vec::new()).await.unwrap();
    server.rules("deny: [{name: local, from: {ip_blocks: 127.0.0.0/8}}]").await;
    let since = Instant::now();
    early.write_all(b"OST /c HTTP/1.1\r\nhost: s\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = early.read_to_end(&mut answer).await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 403"), "{}", answer.escape_ascii());
    server.mesh.shutdown(SECOND).await;
    assert_eq!(Counters::of(&recorder).sum("sinew_connections_closed_total", ("reason", "denied")), 1);
}

/// A connection from which nothing is allowed any more is left, not lost: each call gets its answer, be it a denial.
#[tokio::test]
async fn calls_while_everything_becomes_denied_are_answered() {
    for protocol in [sinew::model::Protocol::Http1, sinew::model::Protocol::Http2] {
        let server = Server::start("allow: [{}]", websockets()).await;
        let (_mesh, client) = server.client(protocol).await;
        for round in 0..3 {
            let mut denied = 0;
            server
                .rules(&format!("allow: [{{name: r{round}, paths: /nowhere, from: {{ip_blocks: 192.0.2.0/24}}}}]"))
                .await;
            let since = Instant::now();
            // Beyond the moment when it is cut.
            while since.elapsed() < SECOND {
                denied += u32::from(client.get("/c").send().await.unwrap().status() == 403);
            }
            assert!(denied > 0);
            server.rules("allow: [{}]").await;
            assert_eq!(client.get("/c").send().await.unwrap().status(), 404);
        }
    }
}

#[tokio::test]
async fn what_is_allowed_after_a_change_notices_nothing() {
    let server = Server::start("allow: [{}]", tower::service_fn(endless)).await;
    let (_mesh, client) = server.client(sinew::model::Protocol::Http1).await;
    let mut stream = open(&client, "/a", false).await;
    for round in 0..5 {
        server.rules(&format!("allow: [{{name: r{round}, methods: [POST], paths: /a}}]")).await;
    }
    assert!(tokio::time::timeout(Duration::from_millis(300), end(&mut stream)).await.is_err());
}
