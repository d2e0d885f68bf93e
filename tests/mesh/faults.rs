//! Injected faults, seen by callers, by the service behind them and by the metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use metrics_util::debugging::DebuggingRecorder;
use sinew::{Code, Mesh, Network, ResponseExt};

use crate::{
    echo::{EchoClient, Message},
    world::Counters,
};

const SECOND: Duration = Duration::from_secs(1);

/// A service `leaf` that counts its requests, and a client of it whose route has this `fault`.
async fn world(service: &str, fault: &str) -> (Mesh, Network, Arc<AtomicU32>) {
    let network = Network::new();
    let served = Arc::<AtomicU32>::default();
    let count = Arc::clone(&served);
    let app = Router::new().route(
        "/",
        get(move || {
            count.fetch_add(1, Relaxed);
            async { "x".repeat(4096) }
        }),
    );
    let server = Mesh::builder("leaf").network(&network).build().await.unwrap();
    tokio::spawn(server.listen("memory:leaf").await.unwrap().serve(app).into_future());
    let yaml = format!(
        "services: {{ leaf: {{ endpoints: {{ static: [\"memory:leaf\"] }}, {service} routes: [ {{ name: all, fault: {fault} }} ] }} }}"
    );
    let mesh = Mesh::builder("client").network(&network).config_str(&yaml).build().await.unwrap();
    mesh.client("leaf").wait_ready(SECOND).await.unwrap();
    (mesh, network, served)
}

#[tokio::test(start_paused = true)]
async fn own_timeouts_begin_after_an_injected_delay() {
    let (mesh, _network, served) = world("timeout: 1s,", "{ delay: { fixed_delay: 7s } }").await;
    let begun = tokio::time::Instant::now();
    let response = mesh.client("leaf").get("/").send().await.unwrap();
    assert_eq!((response.status().as_u16(), begun.elapsed()), (200, 7 * SECOND));
    let response = mesh.client("leaf").get("/").timeout(SECOND).send().await.unwrap();
    assert_eq!((response.status().as_u16(), served.load(Relaxed)), (200, 2));
}

#[tokio::test(start_paused = true)]
async fn an_inherited_deadline_does_not_wait_for_an_injected_delay() {
    let (mesh, network, served) = world("", "{ delay: { fixed_delay: 7s } }").await;
    let leaf = mesh.client("leaf");
    let app = Router::new().route(
        "/",
        get(move || {
            let leaf = leaf.clone();
            async move {
                let begun = tokio::time::Instant::now();
                let code = leaf.get("/").send().await.unwrap_err().code();
                format!("{code} {:?}", begun.elapsed().as_secs_f64().round())
            }
        }),
    );
    tokio::spawn(mesh.listen("memory:middle").await.unwrap().serve(app).into_future());
    let caller = Mesh::builder("caller")
        .network(&network)
        .service("middle", |service| service.endpoints(["memory:middle"]))
        .build()
        .await
        .unwrap();
    let response = caller.client("middle").get("/").timeout(3 * SECOND).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "SINEW-E021 3.0");
    assert_eq!(served.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_abort_is_an_answer_that_the_service_never_sees() {
    let (mesh, _network, served) = world("", "{ abort: { http_status: 500 } }").await;
    let response = mesh.client("leaf").get("/").send().await.unwrap();
    assert_eq!(response.status(), 500);
    let error = response.error_for_status().unwrap_err();
    assert_eq!(error.mesh_error(), Some("SINEW-E060; fault_abort"));

    let (mesh, _network, also_served) = world("", "{ abort: { reset: true } }").await;
    let error = mesh.client("leaf").get("/").send().await.unwrap_err();
    assert_eq!(error.code(), Code::FaultAbort);
    assert_eq!((served.load(Relaxed), also_served.load(Relaxed)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn grpc_callers_are_aborted_with_a_grpc_status() {
    for (fault, status) in [
        ("{ abort: { grpc_status: 8 } }", tonic::Code::ResourceExhausted),
        ("{ abort: { http_status: 404 } }", tonic::Code::Unimplemented),
        ("{ abort: { reset: true } }", tonic::Code::Unavailable),
    ] {
        let (mesh, _network, _) = world("", fault).await;
        let error =
            EchoClient::new(mesh.client("leaf")).unary(tonic::Request::new(Message::new("a"))).await.unwrap_err();
        assert_eq!(error.code(), status, "{fault}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_asks_for_its_fault_by_header_within_the_cap() {
    let fault = "{ delay: { header_delay: { max: 2s } }, abort: { header_abort: {} } }";
    let (mesh, _network, served) = world("", fault).await;
    let begun = tokio::time::Instant::now();
    let response = mesh.client("leaf").get("/").header("sinew-fault", "delay=9s;abort=418").send().await.unwrap();
    assert_eq!((response.status().as_u16(), begun.elapsed(), served.load(Relaxed)), (418, 2 * SECOND, 0));
    assert_eq!(mesh.client("leaf").get("/").send().await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_slowed_response_comes_at_its_rate() {
    let (mesh, _network, _) = world("", "{ response_rate_limit: { kib_per_second: 1 } }").await;
    let begun = tokio::time::Instant::now();
    let body = mesh.client("leaf").get("/").send().await.unwrap().bytes().await.unwrap();
    // The first portion is not waited for; a timer is exact to a millisecond.
    let took = begun.elapsed();
    assert!(
        body.len() == 4096 && took > Duration::from_millis(3_800) && took < Duration::from_millis(4_100),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn faults_outlive_a_reload_and_keep_their_age() {
    let network = Network::new();
    let server = Mesh::builder("leaf").network(&network).build().await.unwrap();
    let app = Router::new().route("/", get(|| async { "ok" }));
    tokio::spawn(server.listen("memory:leaf").await.unwrap().serve(app).into_future());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sinew.yaml");
    let write = |timeout: &str| {
        let yaml = format!(
            "services:\n  leaf:\n    endpoints: {{ static: [\"memory:leaf\"] }}\n    timeout: {timeout}\n    routes:\n    \
             - {{ name: all, fault: {{ abort: {{ http_status: 503 }}, expires_after: 1m }} }}\n"
        );
        std::fs::write(&file, yaml).unwrap();
    };
    write("5s");
    let mesh = Mesh::builder("client").network(&network).config_file(&file).build().await.unwrap();
    let client = mesh.client("leaf");
    let status = || async { client.get("/").send().await.unwrap().status().as_u16() };
    assert_eq!(status().await, 503);
    tokio::time::sleep(Duration::from_secs(50)).await;
    let generation = mesh.snapshot().generation;
    write("6s");
    mesh.changed(generation).await;
    assert_eq!(status().await, 503);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(status().await, 200);
}

#[tokio::test(start_paused = true)]
async fn injected_outcomes_touch_no_statistic_of_the_service() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (mesh, _network, _) = world("", "{ abort: { http_status: 502 }, delay: { fixed_delay: 1s } }").await;
    for _ in 0..5 {
        assert_eq!(mesh.client("leaf").get("/").send().await.unwrap().status(), 502);
    }
    mesh.shutdown(SECOND).await;
    let counted = Counters::of(&recorder);
    assert_eq!(counted.sum("sinew_attempts_total", ("service", "leaf")), 0);
    for label in [("code", "502"), ("flag", "FI"), ("direction", "outbound")] {
        assert_eq!(counted.sum("sinew_requests_total", label), 5, "{label:?}");
    }
    for kind in ["delay", "abort"] {
        assert_eq!(counted.sum("sinew_faults_injected_total", ("kind", kind)), 5, "{kind}");
    }
}
