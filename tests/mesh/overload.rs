//! What is asked of a process beyond what it can do, on both sides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    http::StatusCode,
    routing::{any, get},
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sinew::{Client, Code, Criticality, Mesh, Network, ResponseExt};
use tokio::sync::Semaphore;

use crate::echo::EchoClient;

const SECOND: Duration = Duration::from_secs(1);

/// A service whose `/slow` answers when it is told to, under this `inbound`.
async fn serve(network: &Network, inbound: &str) -> (Mesh, Arc<Semaphore>) {
    let go = Arc::new(Semaphore::new(0));
    let slow = {
        let go = Arc::clone(&go);
        move || {
            let go = Arc::clone(&go);
            async move {
                go.acquire().await.unwrap().forget();
                "slow"
            }
        }
    };
    let app = Router::new().route("/slow", any(slow)).fallback(get(|| async { "ok" }));
    let mesh = Mesh::builder("leaf").network(network).config_str(&format!("inbound: {inbound}")).build().await.unwrap();
    tokio::spawn(mesh.listen("memory:leaf").await.unwrap().serve(app).into_future());
    (mesh, go)
}

async fn client(network: &Network, service: &str) -> Mesh {
    let yaml = format!("services: {{ leaf: {{ endpoints: {{ static: [\"memory:leaf\"] }}, {service} }} }}");
    let mesh = Mesh::builder("client").network(network).config_str(&yaml).build().await.unwrap();
    mesh.client("leaf").wait_ready(SECOND).await.unwrap();
    mesh
}

/// Begins so many slow calls and waits until they are in work.
async fn occupy(leaf: &Client, calls: usize) -> Vec<tokio::task::JoinHandle<u16>> {
    let call = |_| {
        let leaf = leaf.clone();
        tokio::spawn(async move { leaf.get("/slow").send().await.unwrap().status().as_u16() })
    };
    let calls = (0..calls).map(call).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    calls
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_is_refused_before_it_begins() {
    let network = Network::new();
    let (server, go) = serve(&network, "{ load_shed: { max_in_flight: 2 } }").await;
    let mesh = client(&network, "").await;
    let leaf = mesh.client("leaf");
    let held = occupy(&leaf, 2).await;
    let response = leaf.get("/").send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().keys().all(|name| !name.as_str().starts_with("sinew-")));
    assert_eq!(response.error_for_status().unwrap_err().mesh_error(), Some("SINEW-E033; overload_shed"));
    let status = EchoClient::new(mesh.client("leaf")).say("x").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    // What watches over the process, and what stays open for long, is let in whatever the load.
    for (path, accept) in [("/livez", "*/*"), ("/readyz", "*/*"), ("/events", "text/event-stream")] {
        assert_eq!(leaf.get(path).header("accept", accept).send().await.unwrap().status(), 200, "{path}");
    }
    go.add_permits(2);
    for call in held {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(leaf.get("/").send().await.unwrap().status(), 200);
    let recorder = DebuggingRecorder::new();
    let recording = metrics::set_default_local_recorder(&recorder);
    server.shutdown(SECOND).await;
    drop(recording);
    let shed: u64 = recorder
        .snapshotter()
        .snapshot()
        .into_vec()
        .into_iter()
        .filter(|(key, ..)| key.key().name() == "sinew_shed_total")
        .map(|(.., value)| if let DebugValue::Counter(count) = value { count } else { 0 })
        .sum();
    assert_eq!(shed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_makes_room_at_once() {
    let network = Network::new();
    let (_server, _go) = serve(&network, "{ load_shed: { max_in_flight: 1 } }").await;
    let mesh = client(&network, "").await;
    let leaf = mesh.client("leaf");
    for call in occupy(&leaf, 1).await {
        call.abort();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(leaf.get("/").send().await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_last_tenth_is_for_what_is_most_critical() {
    let network = Network::new();
    let (_server, _go) = serve(&network, "{ load_shed: { max_in_flight: 10, max_lag: off } }").await;
    let mesh = client(&network, "").await;
    let leaf = mesh.client("leaf");
    let call = async |criticality| leaf.get("/").criticality(criticality).send().await.unwrap().status().as_u16();
    assert_eq!((call(Criticality::Critical).await, call(Criticality::Sheddable).await), (200, 200));
    let _held = occupy(&leaf, 9).await;
    // A tick later it is known that there are both.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(call(Criticality::Sheddable).await, 503);
    assert_eq!(call(Criticality::Critical).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_finds_itself_begins_where_it_is_told() {
    let network = Network::new();
    let adaptive = "adaptive_concurrency: { initial_limit: 3, min_limit: 2 }";
    let (_server, go) = serve(&network, &format!("{{ {adaptive} }}")).await;
    let mesh = client(&network, "").await;
    let leaf = mesh.client("leaf");
    let held = occupy(&leaf, 3).await;
    assert_eq!(leaf.get("/").send().await.unwrap().status(), 503);
    go.add_permits(3);
    for call in held {
        assert_eq!(call.await.unwrap(), 200);
    }
    let (_server, _go) =
        serve(&Network::new(), &format!("{{ {adaptive}, load_shed: {{ mode: shadow, max_in_flight: 1 }} }}")).await;
    assert_eq!(leaf.get("/").send().await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_refused_asks_less_and_all_again_once_it_is_served() {
    let network = Network::new();
    let (served, down) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(1)));
    let app = {
        let (served, down) = (Arc::clone(&served), Arc::clone(&down));
        Router::new().fallback(get(move || {
            served.fetch_add(1, Relaxed);
            let down = down.load(Relaxed) > 0;
            async move { if down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK } }
        }))
    };
    let server = Mesh::builder("leaf").network(&network).build().await.unwrap();
    tokio::spawn(server.listen("memory:leaf").await.unwrap().serve(app).into_future());
    let mesh = client(&network, "throttle: {}, outlier_detection: off").await;
    let leaf = mesh.client("leaf");
    let run = async |calls: u32| {
        let mut refused = 0;
        for _ in 0..calls {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if let Err(error) = leaf.get("/").send().await {
                assert_eq!(error.code(), Code::OverloadShed, "{error}");
                assert!(error.message().contains("`leaf` refuses most calls"), "{error}");
                refused += 1;
            }
        }
        refused
    };
    run(2_000).await;
    let before = served.load(Relaxed);
    let refused = run(1_000).await;
    assert!((720..880).contains(&refused), "{refused}");
    assert_eq!(served.load(Relaxed) - before, 1_000 - refused);
    down.store(0, Relaxed);
    run(2_000).await;
    assert_eq!(run(500).await, 0);
}
