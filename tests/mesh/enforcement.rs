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
