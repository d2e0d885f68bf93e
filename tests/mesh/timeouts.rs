//! What ends a call besides its deadline, and what does not.

use std::time::Duration;

use axum::{
    Router,
    body::Body as AxumBody,
    extract::ws::{WebSocket, WebSocketUpgrade},
    response::IntoResponse,
    routing::{any, get},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use sinew::{Code, Context, Mesh, Network, ResponseExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;

use crate::echo::{Echo, EchoClient};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// One frame, then one every `every`; the last after `count`.
fn frames(every: Duration, count: usize) -> AxumBody {
    let first = tokio_stream::iter([Bytes::from_static(b"first")]);
    let more = tokio_stream::iter(0..count).then(move |_| async move {
        tokio::time::sleep(every).await;
        Bytes::from_static(b"more")
    });
    AxumBody::from_stream(first.chain(more).map(Ok::<_, std::convert::Infallible>))
}

async fn remaining(context: Context) -> String {
    format!("{:?}", context.remaining().map(|left| left.as_millis()))
}

async fn quiet_socket(mut socket: WebSocket) {
    // Pings are answered by reading.
    while let Some(Ok(_)) = socket.recv().await {}
}

fn app() -> Router {
    let events = || async { ([("content-type", "text/event-stream")], frames(20 * MINUTE, 1)).into_response() };
    Router::new()
        .route("/remaining", any(remaining))
        .route("/test.Left/Remaining", any(remaining))
        .route("/test.Left/Never", any(std::future::pending::<()>))
        .route("/silent", get(|| async { frames(20 * MINUTE, 1) }))
        .route("/steady", get(|| async { frames(4 * MINUTE, 5) }))
        .route("/events", get(events))
        .route("/never", get(std::future::pending::<()>))
        .route("/ws", get(|upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(quiet_socket) }))
        .merge(Echo::new("s").routes().into_axum_router())
}

async fn world(service: &str) -> (Mesh, Mesh) {
    let network = Network::new();
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let listener = server.listen("memory:s").await.unwrap();
    tokio::spawn(listener.serve(app()).with_graceful_shutdown(std::future::pending()).into_future());
    let yaml = format!("services: {{ s: {{ endpoints: {{ static: [\"memory:s\"] }}{service} }} }}");
    let mesh = Mesh::builder("client").network(&network).config_str(&yaml).build().await.unwrap();
    mesh.client("s").wait_ready(SECOND).await.unwrap();
    (mesh, server)
}

/// Reads a body to its end, and says how that was and how long it took.
async fn read(mesh: &Mesh, path: &str) -> (Option<Code>, Duration) {
    let begun = tokio::time::Instant::now();
    let mut body = mesh.client("s").get(path).send().await.unwrap().into_body();
    loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return (Some(error.code()), begun.elapsed()),
            None => return (None, begun.elapsed()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_response_may_be_silent_for_five_minutes_an_event_stream_for_ever() {
    let (mesh, _server) = world("").await;
    assert_eq!(read(&mesh, "/silent").await, (Some(Code::Idle), 5 * MINUTE));
    assert_eq!(read(&mesh, "/steady").await, (None, 20 * MINUTE));
    assert_eq!(read(&mesh, "/events").await, (None, 20 * MINUTE));
    // Who says how long a call may take says it for silence as well.
    let (mesh, _server) = world(", timeout: 30m").await;
    assert_eq!(read(&mesh, "/silent").await, (None, 20 * MINUTE));
    let (mesh, _server) = world(", timeouts: { stream_idle: off }").await;
    assert_eq!(read(&mesh, "/silent").await, (None, 20 * MINUTE));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_may_be_silent_for_per_try_idle_whatever_its_kind() {
    let (mesh, _server) = world(", timeouts: { per_try_idle: 5s }").await;
    let begun = tokio::time::Instant::now();
    let error = mesh.client("s").get("/never").send().await.unwrap_err();
    assert_eq!((error.code(), begun.elapsed()), (Code::TimeoutRequest, 5 * SECOND));
    assert_eq!(read(&mesh, "/events").await, (Some(Code::Idle), 5 * SECOND));
    let mut stream = EchoClient::new(mesh.client("s")).feed(3, 20_000).await.unwrap();
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended"),
            Err(status) => break status,
        }
    };
    assert!(status.message().starts_with("SINEW-E022"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_longest_life_and_peers_know_of_it() {
    let (mesh, _server) = world(", timeouts: { max_stream_duration: 10m }").await;
    assert_eq!(read(&mesh, "/events").await, (Some(Code::MaxDuration), 10 * MINUTE));
    let left = mesh.client("s").get("/remaining").send().await.unwrap().text().await.unwrap();
    assert_eq!(left, "Some(600000)");
}

#[tokio::test(start_paused = true)]
async fn a_written_grpc_timeout_is_cut_and_shortened_as_configured() {
    for (timeouts, written, expected) in [
        ("{}", "20S", "Some(20000)"),
        ("{ grpc_timeout_header_max: 15s }", "20S", "Some(15000)"),
        ("{ grpc_timeout_header_max: 15s }", "3S", "Some(3000)"),
        ("{ grpc_timeout_header_offset: 2s }", "20S", "Some(18000)"),
        ("{ grpc_timeout_header_max: 15s, grpc_timeout_header_offset: 2s }", "20S", "Some(15000)"),
    ] {
        let (mesh, _server) = world(&format!(", timeouts: {timeouts}")).await;
        let request = mesh.client("s").post("/test.Left/Remaining").header("content-type", "application/grpc");
        let response = request.header("grpc-timeout", written).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), expected, "{timeouts}");
    }
    let (mesh, _server) = world(", timeouts: { grpc_timeout_header_offset: 30s }").await;
    let request = mesh.client("s").post("/test.Left/Never").header("content-type", "application/grpc");
    let response = request.header("grpc-timeout", "20S").send().await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
}

#[tokio::test(start_paused = true)]
async fn an_inbound_deadline_is_left_behind_where_that_is_said() {
    for (timeouts, expected) in [("{}", "Some(2950)"), ("{ honor_inbound_deadline: false }", "None")] {
        let (mesh, _leaf) = world(&format!(", timeouts: {timeouts}")).await;
        let s = mesh.client("s");
        let network = Network::new();
        let app = Router::new().fallback(any(move || {
            let s = s.clone();
            async move { s.get("/remaining").send().await.unwrap().text().await.unwrap() }
        }));
        let middle = Mesh::builder("middle").network(&network).build().await.unwrap();
        tokio::spawn(middle.listen("memory:middle").await.unwrap().serve(app).into_future());
        let caller = Mesh::builder("caller")
            .network(&network)
            .service("middle", |service| service.endpoints(["memory:middle"]))
            .build()
            .await
            .unwrap();
        let left = caller.client("middle").get("/").timeout(3 * SECOND).send().await.unwrap().text().await.unwrap();
        assert_eq!(left, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_may_be_silent_for_an_hour() {
    let (mesh, _server) = world("").await;
    let request = mesh
        .client("s")
        .get("/ws")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 101);
    let mut socket = hyper_util::rt::TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    // A ping every 50 minutes, each of which is answered, keeps it.
    for _ in 0..3 {
        tokio::time::sleep(50 * MINUTE).await;
        socket.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.unwrap();
        let mut pong = [0; 2];
        socket.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [0x8a, 0]);
    }
    let begun = tokio::time::Instant::now();
    let error = socket.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!((error.kind(), begun.elapsed()), (std::io::ErrorKind::TimedOut, 60 * MINUTE));
}
