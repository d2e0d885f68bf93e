//! Policies that only count, or act on a share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use metrics_util::debugging::DebuggingRecorder;
use sinew::{Mesh, Network};

use crate::world::Counters;

const SECOND: Duration = Duration::from_secs(1);

async fn world(network: &Network, policies: &str) -> (Vec<Mesh>, Mesh, Arc<AtomicU32>) {
    let served = Arc::<AtomicU32>::default();
    let mut servers = Vec::new();
    for name in ["a", "b"] {
        let count = Arc::clone(&served);
        let slow = Arc::clone(&served);
        let app = Router::new()
            .route(
                "/fails",
                get(move || {
                    count.fetch_add(1, Relaxed);
                    async { StatusCode::BAD_GATEWAY }
                }),
            )
            .route(
                "/slow",
                get(move || {
                    slow.fetch_add(1, Relaxed);
                    async { tokio::time::sleep(SECOND).await }
                }),
            );
        let mesh = Mesh::builder("s").network(network).build().await.unwrap();
        tokio::spawn(mesh.listen(&*format!("memory:{name}")).await.unwrap().serve(app).into_future());
        servers.push(mesh);
    }
    let yaml = format!(
        "services: {{ s: {{ endpoints: {{ static: [\"memory:a\", \"memory:b\"] }}, outlier_detection: off, {policies} }} }}"
    );
    let mesh = Mesh::builder("c").network(network).config_str(&yaml).build().await.unwrap();
    mesh.client("s").wait_ready(SECOND).await.unwrap();
    // Both.
    tokio::time::sleep(SECOND).await;
    (servers, mesh, served)
}

async fn counters(mesh: &Mesh) -> Counters {
    let recorder = DebuggingRecorder::new();
    let recording = metrics::set_default_local_recorder(&recorder);
    mesh.shutdown(SECOND).await;
    drop(recording);
    Counters::of(&recorder)
}

#[tokio::test(start_paused = true)]
async fn retries_and_hedges_in_shadow_are_counted_and_not_sent() {
    let network = Network::new();
    let (_servers, mesh, served) = world(
        &network,
        "retry: { retry_on: [gateway-error], enforcement: shadow }, hedge: { delay: 100ms, enforcement: shadow }",
    )
    .await;
    for _ in 0..5 {
        assert_eq!(mesh.client("s").get("/fails").send().await.unwrap().status(), 502);
    }
    assert_eq!(served.load(Relaxed), 5);
    mesh.client("s").get("/slow").send().await.unwrap();
    assert_eq!(served.load(Relaxed), 6);
    let counted = counters(&mesh).await;
    let result = |result| counted.sum("sinew_retries_total", ("result", result));
    assert_eq!([result("shadow"), result("hedge_shadow"), result("not_enforced")], [5, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_retries_is_made() {
    let network = Network::new();
    let (_servers, mesh, served) = world(
        &network,
        "retry: { retry_on: [gateway-error], num_retries: 1, percentage: 0% }, hedge: { delay: 100ms, max_extra_load_percent: 99 }",
    )
    .await;
    for _ in 0..5 {
        assert_eq!(mesh.client("s").get("/fails").send().await.unwrap().status(), 502);
    }
    assert_eq!(served.load(Relaxed), 5);
    mesh.client("s").get("/slow").send().await.unwrap();
    assert_eq!(served.load(Relaxed), 7, "the hedge is sent");
    let counted = counters(&mesh).await;
    assert_eq!(counted.sum("sinew_retries_total", ("result", "not_enforced")), 5);
}

/// A service whose timeouts are not enforced: what calls see, and what is counted.
#[tokio::test(start_paused = true)]
async fn timeouts_in_shadow_are_counted_and_end_nothing() {
    let network = Network::new();
    let timeouts = "timeouts: { request: 300ms, enforcement: shadow }";
    let (_servers, mesh, _) = world(&network, timeouts).await;
    let client = mesh.client("s");
    for _ in 0..3 {
        assert_eq!(client.get("/slow").send().await.unwrap().status(), 200);
    }
    assert_eq!(client.get("/fails").send().await.unwrap().status(), 502);
    // What a call asks for itself holds, before the timeout that is tried out and after it.
    for (own, passed) in [(100, 0), (500, 1)] {
        let begun = tokio::time::Instant::now();
        let error = client.get("/slow").timeout(Duration::from_millis(own)).send().await.unwrap_err();
        assert!(error.is_timeout());
        assert_eq!(begun.elapsed(), Duration::from_millis(own), "{passed}");
    }
    let counted = counters(&mesh).await;
    let shadow = |timeout| counted.sum("sinew_timeouts_shadow_total", ("timeout", timeout));
    // A timeout that is passed with a call stands in place of `request`.
    assert_eq!([shadow("request"), shadow("response"), shadow("max_stream_duration")], [3, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn each_of_the_timeouts_of_a_call_can_be_tried_out_or_off() {
    for (timeouts, key) in [
        ("response: 300ms, enforcement: shadow", Some("response")),
        ("max_stream_duration: 300ms, enforcement: shadow", Some("max_stream_duration")),
        ("request: 300ms, percentage: 0%", Some("request")),
        ("request: 300ms, response: 300ms, max_stream_duration: 300ms, enforcement: off", None),
    ] {
        let network = Network::new();
        let (_servers, mesh, _) = world(&network, &format!("timeouts: {{ {timeouts} }}")).await;
        for body in [sinew::Body::empty(), sinew::Body::from("hello")] {
            let sent = mesh.client("s").get("/slow").body(body).send().await;
            assert_eq!(sent.unwrap().status(), 200, "{timeouts}");
        }
        let counted = counters(&mesh).await;
        for known in ["request", "response", "max_stream_duration"] {
            let expected = if key == Some(known) { 2 } else { 0 };
            let found = counted.sum("sinew_timeouts_shadow_total", ("timeout", known));
            assert_eq!(found, expected, "{timeouts}: {known}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_calls_is_held_to_the_timeout_and_peers_hear_of_no_other() {
    let network = Network::new();
    let app = Router::new().route(
        "/",
        get(|context: sinew::Context| async move {
            let told = context.remaining().is_some();
            tokio::time::sleep(SECOND).await;
            if told { StatusCode::IM_A_TEAPOT } else { StatusCode::OK }
        }),
    );
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    tokio::spawn(server.listen("memory:s").await.unwrap().serve(app).into_future());
    let yaml =
        "services: { s: { endpoints: { static: [\"memory:s\"] }, timeouts: { request: 300ms, percentage: 25% } } }";
    let mesh = Mesh::builder("c").network(&network).config_str(yaml).build().await.unwrap();
    mesh.client("s").wait_ready(SECOND).await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..400 {
        calls.spawn(mesh.client("s").get("/").send());
    }
    let mut ended = 0;
    while let Some(call) = calls.join_next().await {
        match call.unwrap() {
            Ok(response) => assert_eq!(response.status(), 200, "who is not held to it tells nobody of it"),
            Err(error) => {
                assert!(error.is_timeout(), "{error}");
                ended += 1;
            }
        }
    }
    assert!((50..150).contains(&ended), "{ended} of 400");
    let counted = counters(&mesh).await;
    assert_eq!(counted.sum("sinew_timeouts_shadow_total", ("timeout", "request")), 400 - ended);
}
