//! Limits on what may be in flight, and who is told when there is room again.

use std::time::Duration;

use axum::{Router, routing::get};
use sinew::{Mesh, Network};

use crate::world::status_of;

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_makes_room_for_one_that_waits_for_its_connection() {
    let network = Network::new();
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let listener = server.listen("memory:s").await.unwrap();
    let app = Router::new().route("/slow", get(std::future::pending::<()>)).route("/", get(|| async { "ok" }));
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let yaml = "services: { s: { protocol: http1, endpoints: { static: [\"memory:s\"] }, \
                circuit_breakers: { max_connections: 1 } } }";
    let mesh = Mesh::builder("c").network(&network).config_str(yaml).build().await.unwrap();
    let client = mesh.client("s");
    client.wait_ready(Duration::from_secs(1)).await.unwrap();
    let slow = tokio::spawn(client.get("/slow").send());
    while status_of(&mesh, "s").requests.0 == 0 {
        tokio::task::yield_now().await;
    }
    let waiting = tokio::spawn(client.get("/").send());
    while status_of(&mesh, "s").pending.0 == 0 {
        tokio::task::yield_now().await;
    }
    let begun = tokio::time::Instant::now();
    slow.abort();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}
