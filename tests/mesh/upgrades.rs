//! WebSockets through both stacks.

use std::time::Duration;

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    routing::get,
};
use futures_util::SinkExt;
use hyper_util::rt::TokioIo;
use sinew::{Client, Mesh, Network};
use tokio_stream::StreamExt;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as Sent,
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};

use crate::world::{Instance, mesh, status_of};

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Sends back what it receives, until it is closed.
async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

fn app() -> Router {
    Router::new()
        .route("/ws", get(|upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(echo) }))
        .route("/", get(|| async { "plain" }))
}

async fn connect(client: &Client) -> Socket {
    let key = generate_key();
    let request = client
        .get("/ws")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", key.as_str());
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-accept"], derive_accept_key(key.as_bytes()));
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

/// One message there and back.
async fn turn(socket: &mut Socket, text: &str) {
    socket.send(Sent::text(text)).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), text);
}

#[tokio::test]
async fn a_websocket_is_a_long_lived_stream_not_a_request() {
    let instance = Instance::start("s", "127.0.0.1:0", app()).await;
    // Detection finds HTTP/2; the upgrade still gets a connection of HTTP/1.1.
    let mesh = mesh(&format!("services: {{ s: {{ endpoints: {{ static: [\"{}\"] }} }} }}", instance.addr)).await;
    let client = mesh.client("s");
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(connect(&client).await);
    }
    for socket in &mut sockets {
        for n in 0..10 {
            turn(socket, &n.to_string()).await;
        }
    }
    let cluster = status_of(&mesh, "s");
    assert_eq!((cluster.requests.0, cluster.streams.0), (0, 3));
    assert_eq!(cluster.endpoints[0].in_flight, 3, "an upgraded connection is load of its endpoint");
    for mut socket in sockets {
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
    }
    let cluster = status_of(&mesh, "s");
    assert_eq!((cluster.requests.0, cluster.streams.0, cluster.endpoints[0].in_flight), (0, 0, 0));
    assert_eq!(sinew::ResponseExt::text(client.get("/").send().await.unwrap()).await.unwrap(), "plain");
    instance.stop().await;
}

#[tokio::test]
async fn upgraded_connections_count_toward_max_connections_and_max_streams() {
    let instance = Instance::start("s", "127.0.0.1:0", app()).await;
    let yaml = format!(
        "services: {{ s: {{ protocol: http1, endpoints: {{ static: [\"{}\"] }}, \
         circuit_breakers: {{ max_connections: 2, max_pending_requests: 0 }} }} }}",
        instance.addr
    );
    let mesh = mesh(&yaml).await;
    let client = mesh.client("s");
    client.wait_ready(Duration::from_secs(5)).await.unwrap();
    let mut sockets = vec![connect(&client).await, connect(&client).await];
    let refused = client.get("/").send().await.unwrap_err();
    assert_eq!(refused.code(), sinew::Code::Overflow, "{refused}");
    for socket in &mut sockets {
        turn(socket, "still here").await;
    }
    drop(sockets.pop());
    assert_eq!(sinew::ResponseExt::text(client.get("/").send().await.unwrap()).await.unwrap(), "plain");
    drop(sockets);
    instance.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_websocket_outlives_every_timeout_and_the_age_of_connections() {
    let network = Network::new();
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let listener = server.listen("memory:s").await.unwrap();
    tokio::spawn(listener.serve(app()).with_graceful_shutdown(std::future::pending()).into_future());
    let mesh = Mesh::builder("c").network(&network).service("s", |s| s.endpoints(["memory:s"])).build().await.unwrap();
    let mut socket = connect(&mesh.client("s")).await;
    turn(&mut socket, "before").await;
    tokio::time::sleep(Duration::from_secs(40 * 60)).await;
    turn(&mut socket, "after").await;
}
