//! Limits on what may be in flight, and who is told when there is room again.

use std::time::Duration;

use axum::{Router, routing::get};
use sinew::{Mesh, Network};

use crate::world::status_of;

#[tokio::test(start_paused = true)]
async fn calls_that_hang_for_long_make_room_within_the_limit_on_streams() {
    let network = Network::new();
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let listener = server.listen("memory:s").await.unwrap();
    let app = Router::new().route("/slow", get(std::future::pending::<()>)).route("/", get(|| async { "ok" }));
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let yaml = "services: { s: { endpoints: { static: [\"memory:s\"] }, \
                circuit_breakers: { max_requests: 3, max_streams: 2 } } }";
    let mesh = Mesh::builder("c").network(&network).config_str(yaml).build().await.unwrap();
    let client = mesh.client("s");
    client.wait_ready(Duration::from_secs(1)).await.unwrap();
    let slow = || tokio::spawn(client.get("/slow").header("prefer", "wait=900").send());
    let first: Vec<_> = (0..3).map(|_| slow()).collect();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let counts = || {
        let cluster = status_of(&mesh, "s");
        (cluster.requests.0, cluster.streams.0)
    };
    assert_eq!(counts(), (3, 0));
    assert_eq!(client.get("/").send().await.unwrap_err().code(), sinew::Code::Overflow);
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(counts(), (1, 2), "one more than there is room for");
    assert_eq!(client.get("/").send().await.unwrap().status(), 200);
    let more = [slow(), slow()];
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.get("/").send().await.unwrap_err().code(), sinew::Code::Overflow);
    for call in first.iter().chain(&more) {
        call.abort();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(counts(), (0, 0));
}

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
