//! Limits on what may be in flight, and who is told when there is room again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

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

/// A service that works on one call at a time for 100 ms, and the paths it saw.
async fn one_at_a_time(queue: &str) -> (Mesh, Mesh, Arc<Mutex<Vec<String>>>) {
    let limits = format!("timeouts: {{ limit_wait: 10s }}, circuit_breakers: {{ max_requests: 1, {queue} }}");
    one_at_a_time_by(&limits).await
}

async fn one_at_a_time_by(limits: &str) -> (Mesh, Mesh, Arc<Mutex<Vec<String>>>) {
    let network = Network::new();
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let paths = Arc::clone(&seen);
    let app = Router::new().fallback(get(move |uri: http::Uri| {
        paths.lock().unwrap().push(uri.path().to_owned());
        tokio::time::sleep(Duration::from_millis(100))
    }));
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    tokio::spawn(server.listen("memory:s").await.unwrap().serve(app).into_future());
    let yaml = format!("services: {{ s: {{ endpoints: {{ static: [\"memory:s\"] }}, {limits} }} }}");
    let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
    mesh.client("s").wait_ready(Duration::from_secs(1)).await.unwrap();
    (server, mesh, seen)
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_max_requests_are_served_in_the_order_of_the_queue() {
    served_in_order("timeouts: { limit_wait: 10s }, circuit_breakers: { max_requests: 1, ").await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_a_connection_are_served_in_the_order_of_the_queue() {
    served_in_order("protocol: http1, circuit_breakers: { max_connections: 1, ").await;
}

async fn served_in_order(limits: &str) {
    for (queue, order) in [
        ("queue: fifo", ["/0", "/1", "/2", "/3"]),
        ("queue: lifo", ["/0", "/3", "/2", "/1"]),
        ("queue: codel", ["/0", "/1", "/2", "/3"]),
    ] {
        let (_server, mesh, seen) = one_at_a_time_by(&format!("{limits}{queue} }}")).await;
        let client = mesh.client("s");
        let mut calls = Vec::new();
        for n in 0..4 {
            calls.push(tokio::spawn(client.get(format!("/{n}")).send()));
            // As soon as it waits, the next comes.
            while status_of(&mesh, "s").endpoints[0].in_flight + status_of(&mesh, "s").pending.0 <= n {
                tokio::task::yield_now().await;
            }
        }
        let mut sent = 0;
        for call in calls {
            sent += usize::from(call.await.unwrap().is_ok());
        }
        let seen = seen.lock().unwrap().clone();
        // A queue that stands for 100 ms sends away who has waited for 5.
        let served = if queue == "queue: codel" { 1 } else { 4 };
        assert_eq!((seen.as_slice(), sent), (&order.map(str::to_owned)[..served], served), "{queue}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_count_as_pending_and_leave_with_their_deadline() {
    let (_server, mesh, seen) = one_at_a_time("max_pending_requests: 2").await;
    let client = mesh.client("s");
    let first = tokio::spawn(client.get("/first").send());
    while status_of(&mesh, "s").requests.0 == 0 {
        tokio::task::yield_now().await;
    }
    let brief = tokio::spawn(client.get("/brief").timeout(Duration::from_millis(50)).send());
    let patient = tokio::spawn(client.get("/patient").send());
    while status_of(&mesh, "s").pending.0 < 2 {
        tokio::task::yield_now().await;
    }
    let error = client.get("/more").send().await.unwrap_err();
    assert_eq!(error.code(), sinew::Code::Overflow);
    assert!(error.message().contains("`max_pending_requests`"), "{error}");
    let begun = tokio::time::Instant::now();
    assert!(brief.await.unwrap().unwrap_err().is_timeout());
    assert_eq!(begun.elapsed(), Duration::from_millis(50));
    assert_eq!(status_of(&mesh, "s").pending.0, 1);
    assert!(first.await.unwrap().is_ok() && patient.await.unwrap().is_ok());
    assert_eq!(*seen.lock().unwrap(), ["/first", "/patient"]);
    assert_eq!((status_of(&mesh, "s").pending.0, status_of(&mesh, "s").requests.0), (0, 0));
}

/// What takes long before anything is connected is no queue that stands.
#[tokio::test(start_paused = true)]
async fn nobody_is_sent_away_for_having_waited_for_the_first_connection() {
    let world = sinew::testing::World::seeded(21)
        .service("s", 2, |_| Router::new().route("/", get(|| async { "served" })))
        .configure(|builder| {
            builder.config_str("services: { s: { protocol: http2, circuit_breakers: { queue: codel } } }")
        })
        .start()
        .await
        .unwrap();
    for instance in world.instances("s") {
        instance.fault(sinew::testing::Fault::Silent);
    }
    let client = world.client("s");
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(client.get("/").send())).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(status_of(world.mesh(), "s").pending.0, 50);
    world.instance("s-0").heal();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
}

/// Half of the calls take 100 ms: whoever has less has no use for a place.
#[tokio::test(start_paused = true)]
async fn a_call_without_time_enough_for_half_of_the_calls_does_not_wait() {
    for limits in [
        "timeouts: { limit_wait: 10s }, circuit_breakers: { max_requests: 1 }",
        "protocol: http1, circuit_breakers: { max_connections: 1 }",
    ] {
        // Times are kept where there are endpoints to tell apart.
        let two = format!("{limits}, outlier_detection: {{ interval: 10s }}");
        let network = Network::new();
        let app = Router::new().route("/", get(|| async { tokio::time::sleep(Duration::from_millis(100)).await }));
        let server = Mesh::builder("s").network(&network).build().await.unwrap();
        for name in ["memory:a", "memory:b"] {
            let served = server.listen(name).await.unwrap().serve(app.clone());
            tokio::spawn(served.into_future());
        }
        let yaml = format!("services: {{ s: {{ endpoints: {{ static: [\"memory:a\", \"memory:b\"] }}, {two} }} }}");
        let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
        let client = mesh.client("s");
        client.wait_ready(Duration::from_secs(1)).await.unwrap();
        for _ in 0..20 {
            assert_eq!(client.get("/").send().await.unwrap().status(), 200);
        }
        let busy: Vec<_> = (0..2).map(|_| tokio::spawn(client.get("/").send())).collect();
        tokio::task::yield_now().await;
        while status_of(&mesh, "s").endpoints.iter().map(|endpoint| endpoint.in_flight).sum::<u32>() == 0 {
            tokio::task::yield_now().await;
        }
        let begun = tokio::time::Instant::now();
        let error = client.get("/").timeout(Duration::from_millis(60)).send().await.unwrap_err();
        assert_eq!((error.code(), begun.elapsed()), (sinew::Code::Overflow, Duration::ZERO), "{limits}: {error}");
        assert!(error.message().contains("half of the calls"), "{error}");
        let patient = client.get("/").timeout(Duration::from_millis(350)).send().await;
        assert_eq!(patient.unwrap().status(), 200, "{limits}");
        for call in busy {
            assert_eq!(call.await.unwrap().unwrap().status(), 200, "{limits}");
        }
    }
}
