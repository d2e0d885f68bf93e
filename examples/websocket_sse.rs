//! Do WebSockets and server-sent events pass through the mesh?
//!
//! Yes, with the routing, balancing and limits of every other call. A WebSocket is an upgraded connection, which any
//! WebSocket library takes over; an event stream is a response body that is read as it arrives.
//!
//! ```text
//! cargo run --example websocket_sse
//! ```

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    response::{Sse, sse::Event},
    routing::get,
};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use sinew::{Client, Mesh, ResponseExt};
use tokio_stream::{Stream, StreamExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ticker = Mesh::builder("ticker").build().await?;
    let listener = ticker.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    let app = Router::new().route("/ws", get(websocket)).route("/events", get(events));
    tokio::spawn(listener.serve(app).into_future());

    let mesh =
        Mesh::builder("visitor").service("ticker", |service| service.endpoints([addr.to_string()])).build().await?;
    let ticker = mesh.client("ticker");

    let mut socket = connect(&ticker, "/ws").await?;
    for _ in 0..3 {
        let Some(message) = socket.next().await else { break };
        println!("websocket: {}", message?.to_text()?);
    }
    // The other direction: the server stops to count when it is told so.
    socket.close(None).await?;
    while let Some(message) = socket.next().await {
        if message?.is_close() {
            println!("websocket: closed by both");
        }
    }

    let response = ticker.get("/events").header("accept", "text/event-stream").send().await?.error_for_status()?;
    let mut body = response.into_body();
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            text.push_str(&String::from_utf8_lossy(&data));
        }
        // An event ends with an empty line, wherever the frames are cut.
        while let Some((event, rest)) = text.split_once("\n\n") {
            println!("event: {}", event.trim_start_matches("data: "));
            text = rest.to_owned();
        }
    }
    println!("event stream ended");
    Ok(())
}

/// The client's side of a WebSocket handshake, over a sinew call.
async fn connect(
    client: &Client,
    path: &str,
) -> Result<WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>, Box<dyn std::error::Error>> {
    let key = generate_key();
    let mut response = client
        .get(path)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", key.as_str())
        .send()
        .await?;
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("no WebSocket: {}", response.status()).into());
    }
    let accept = response.headers().get("sec-websocket-accept").map(|accept| accept.as_bytes());
    if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err("the handshake was answered by something that is not a WebSocket server".into());
    }
    let upgraded = hyper::upgrade::on(&mut response).await?;
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}

async fn websocket(upgrade: WebSocketUpgrade) -> axum::response::Response {
    upgrade.on_upgrade(count)
}

/// Counts until the peer closes.
async fn count(mut socket: WebSocket) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for number in 1.. {
        tokio::select! {
            _ = ticks.tick() => {
                if socket.send(Message::text(format!("tick {number}"))).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => match message {
                // The answer to a close is sent by the next read.
                Some(Ok(Message::Close(_))) => {
                    socket.recv().await;
                    return;
                }
                Some(Ok(_)) => {}
                _ => return,
            },
        }
    }
}

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = tokio_stream::iter(1..=3).throttle(Duration::from_millis(20));
    Sse::new(ticks.map(|number| Ok(Event::default().data(format!("tick {number}")))))
}
