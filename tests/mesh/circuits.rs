//! A service that is left alone while most calls to it fail, take too long, or are not answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use metrics_util::debugging::DebuggingRecorder;
use sinew::{Code, Error, Mesh, Network, breaker::CircuitState};
use tokio::time::Instant;

use crate::{
    echo::{Echo, EchoClient},
    world::Counters,
};

const SECOND: Duration = Duration::from_secs(1);

/// Answers with whatever status it is told to; 0 never answers, 1 answers after two seconds.
#[derive(Clone)]
struct Upstream {
    status: Arc<AtomicU16>,
    served: Arc<AtomicU32>,
}

async fn upstream(network: &Network) -> (Mesh, Upstream) {
    let upstream = Upstream { status: Arc::new(AtomicU16::new(200)), served: Arc::default() };
    let told = upstream.clone();
    let app = Router::new().route(
        "/",
        get(move || {
            told.served.fetch_add(1, Relaxed);
            let status = told.status.load(Relaxed);
            async move {
                match status {
                    0 => std::future::pending().await,
                    1 => tokio::time::sleep(SECOND * 2).await,
                    _ => {}
                }
                StatusCode::from_u16(status.max(200)).unwrap()
            }
        }),
    );
    let app = app.merge(Echo::new("s").routes().into_axum_router());
    let mesh = Mesh::builder("s").network(network).build().await.unwrap();
    tokio::spawn(mesh.listen("memory:s").await.unwrap().serve(app).into_future());
    (mesh, upstream)
}

async fn client(network: &Network, breaker: &str) -> Mesh {
    let yaml = format!(
        "services: {{ s: {{ endpoints: {{ static: [\"memory:s\"] }}, timeout: 10s, retry: off, outlier_detection: off, \
         circuit_breakers: {{ breaker: {breaker} }} }} }}"
    );
    let mesh = Mesh::builder("c").network(network).config_str(&yaml).build().await.unwrap();
    mesh.client("s").wait_ready(SECOND).await.unwrap();
    mesh
}

async fn call(mesh: &Mesh) -> Result<u16, Error> {
    mesh.client("s").get("/").send().await.map(|response| response.status().as_u16())
}

fn state(mesh: &Mesh) -> (&'static str, &'static str) {
    let circuit = mesh.status().services["s"].circuit.clone().unwrap();
    (circuit.state, circuit.control)
}

async fn fails(mesh: &Mesh, upstream: &Upstream, calls: u32) {
    upstream.status.store(500, Relaxed);
    for _ in 0..calls {
        assert_eq!(call(mesh).await.unwrap(), 500);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_service_is_left_alone_then_asked_by_one_and_by_more_until_it_is_well() {
    let network = Network::new();
    let (_server, upstream) = upstream(&network).await;
    let mesh = client(&network, "{}").await;
    for _ in 0..10 {
        assert_eq!(call(&mesh).await.unwrap(), 200);
    }
    fails(&mesh, &upstream, 9).await;
    assert_eq!(state(&mesh), ("closed", "calls"));
    fails(&mesh, &upstream, 1).await;
    assert_eq!(state(&mesh), ("open", "calls"));
    let begun = Instant::now();
    let error = call(&mesh).await.unwrap_err();
    assert_eq!((error.code(), begun.elapsed()), (Code::CircuitOpen, Duration::ZERO));
    assert!(error.never_processed() && error.retry_after().is_some_and(|after| after <= SECOND * 5), "{error}");
    assert_eq!(upstream.served.load(Relaxed), 20);

    // Still bad: one finds out, and it is left alone for twice as long.
    tokio::time::sleep(SECOND * 5).await;
    fails(&mesh, &upstream, 1).await;
    tokio::time::sleep(SECOND * 9).await;
    assert_eq!(call(&mesh).await.unwrap_err().code(), Code::CircuitOpen);
    tokio::time::sleep(SECOND).await;
    upstream.status.store(200, Relaxed);
    for n in 0..15 {
        assert_eq!(state(&mesh).0, if n == 0 { "open" } else { "half_open" }, "{n}");
        assert_eq!(call(&mesh).await.unwrap(), 200);
    }
    assert_eq!(state(&mesh), ("closed", "calls"));
    assert_eq!(upstream.served.load(Relaxed), 36);

    let recorder = DebuggingRecorder::new();
    let recording = metrics::set_default_local_recorder(&recorder);
    mesh.shutdown(SECOND).await;
    drop(recording);
    let counted = Counters::of(&recorder);
    let changes = |to| counted.sum("sinew_circuit_changes_total", ("to", to));
    assert_eq!([changes("open"), changes("half_open"), changes("closed")], [2, 2, 1]);
    assert_eq!(counted.sum("sinew_circuit_refused_total", ("mode", "enforce")), 2);
}

#[tokio::test(start_paused = true)]
async fn while_it_is_half_open_one_of_many_callers_is_sent() {
    let network = Network::new();
    let (_server, upstream) = upstream(&network).await;
    let mesh = client(&network, "{ minimum_calls: 2, window: { calls: 2 } }").await;
    fails(&mesh, &upstream, 2).await;
    tokio::time::sleep(SECOND * 5).await;
    upstream.status.store(1, Relaxed);
    let client = mesh.client("s");
    let calls: Vec<_> = (0..64).map(|_| tokio::spawn(client.get("/").send())).collect();
    let mut sent = 0;
    for call in calls {
        sent += u32::from(call.await.unwrap().is_ok());
    }
    assert_eq!((sent, upstream.served.load(Relaxed)), (1, 3));
    // Two may go now. One that is given up leaves its place to another.
    let given_up = tokio::spawn(client.get("/").send());
    tokio::time::sleep(SECOND / 2).await;
    given_up.abort();
    let calls: Vec<_> = (0..9).map(|_| tokio::spawn(client.get("/").send())).collect();
    let mut sent = 0;
    for call in calls {
        sent += u32::from(call.await.unwrap().is_ok());
    }
    assert_eq!(sent, 2);
}

#[tokio::test(start_paused = true)]
async fn slow_answers_and_silence_open_it_too() {
    let network = Network::new();
    let (_server, upstream) = upstream(&network).await;
    let breaker = "{ minimum_calls: 4, slow_call_duration: 1s, slow_call_rate_threshold: 75% }";
    let mesh = client(&network, breaker).await;
    assert_eq!(call(&mesh).await.unwrap(), 200);
    upstream.status.store(1, Relaxed);
    for _ in 0..3 {
        assert_eq!(state(&mesh).0, "closed");
        assert_eq!(call(&mesh).await.unwrap(), 200);
    }
    assert_eq!(state(&mesh).0, "open");

    mesh.circuit("s").unwrap().reset();
    upstream.status.store(0, Relaxed);
    for _ in 0..4 {
        assert_eq!(state(&mesh).0, "closed");
        // Whoever gives up: here the caller, after a second and a half.
        let given_up = tokio::time::timeout(SECOND * 3 / 2, mesh.client("s").get("/").send()).await;
        assert!(given_up.is_err());
    }
    assert_eq!(state(&mesh).0, "open");
}

#[tokio::test(start_paused = true)]
async fn an_operator_opens_closes_and_resets_it_and_reloads_change_nothing_about_that() {
    let network = Network::new();
    let (_server, upstream) = upstream(&network).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sinew.yaml");
    let write = |breaker: &str| {
        let yaml = format!(
            "services: {{ s: {{ endpoints: {{ static: [\"memory:s\"] }}, retry: off, outlier_detection: off, \
             circuit_breakers: {{ breaker: {breaker} }} }} }}"
        );
        std::fs::write(folder.path().join("next"), yaml).unwrap();
        std::fs::rename(folder.path().join("next"), &path).unwrap();
    };
    write("{}");
    let mesh = Mesh::builder("c").network(&network).config_file(&path).build().await.unwrap();
    mesh.client("s").wait_ready(SECOND).await.unwrap();
    let circuit = mesh.circuit("s").unwrap();
    circuit.open();
    let error = call(&mesh).await.unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (Code::CircuitOpen, None));
    assert!(error.message().contains("by hand"), "{error}");
    let generation = mesh.snapshot().generation;
    write("{ minimum_calls: 5 }");
    mesh.changed(generation).await;
    assert_eq!((state(&mesh), circuit.state()), (("open", "held_open"), CircuitState::Open));
    assert!(call(&mesh).await.is_err());
    circuit.close();
    fails(&mesh, &upstream, 30).await;
    assert_eq!(state(&mesh), ("closed", "held_closed"));
    circuit.reset();
    fails(&mesh, &upstream, 5).await;
    assert_eq!(state(&mesh), ("open", "calls"));
    let generation = mesh.snapshot().generation;
    write("{ mode: off }");
    mesh.changed(generation).await;
    assert!(mesh.circuit("s").is_none() && mesh.status().services["s"].circuit.is_none());
    assert_eq!(call(&mesh).await.unwrap(), 500);
}

#[tokio::test(start_paused = true)]
async fn grpc_is_judged_by_its_status_and_a_bare_client_knows_no_circuit() {
    let network = Network::new();
    let (_server, _) = upstream(&network).await;
    let mesh = client(&network, "{ minimum_calls: 4 }").await;
    let mut echo = EchoClient::new(mesh.client("s"));
    for _ in 0..4 {
        let _ = echo.say("status:5").await.unwrap_err();
    }
    assert_eq!(state(&mesh).0, "closed", "a caller's mistake");
    for _ in 0..4 {
        let _ = echo.say("status:13").await.unwrap_err();
    }
    assert_eq!(state(&mesh).0, "open");
    let status = echo.say("x").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("SINEW-E031"), "{status}");
    assert_eq!(mesh.client("s").bare().get("/").send().await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn in_shadow_it_opens_and_refuses_nothing() {
    let network = Network::new();
    let (_server, upstream) = upstream(&network).await;
    let mesh = client(&network, "{ minimum_calls: 4, mode: shadow }").await;
    fails(&mesh, &upstream, 10).await;
    assert_eq!((state(&mesh).0, upstream.served.load(Relaxed)), ("open", 10));
}
