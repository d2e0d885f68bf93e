//! Many endpoints, many calls, and limits that hold for all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use sinew::{Client, Code, Mesh, Network, ResponseExt};
use tokio::{sync::Barrier, task::JoinSet, time::sleep};

use crate::world::status_of;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Serves under each of these names, all of them in one mesh; whoever is asked tells its name.
async fn serve(network: &Network, names: impl Iterator<Item = String>) -> Mesh {
    let mesh = Mesh::builder("s").network(network).build().await.unwrap();
    for name in names {
        let listener = mesh.listen(format!("memory:{name}").as_str()).await.unwrap();
        let app = Router::new().route("/", get(move || async move { name }));
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    }
    mesh
}

/// So many calls, 50 at a time, each of which has to succeed: how often each endpoint answered.
async fn calls(client: &Client, count: usize) -> BTreeMap<String, usize> {
    let mut answered = BTreeMap::new();
    for _ in 0..count / 50 {
        let mut batch = JoinSet::new();
        for _ in 0..50 {
            let client = client.clone();
            batch.spawn(async move { client.get("/").send().await.unwrap().text().await.unwrap() });
        }
        while let Some(name) = batch.join_next().await {
            *answered.entry(name.unwrap()).or_default() += 1;
        }
    }
    answered
}

/// The limit is passed by one connection for each endpoint and by no more, and nobody is left out.
#[tokio::test(start_paused = true)]
async fn two_thousand_endpoints_under_a_limit_of_a_thousand_connections_are_all_reached() {
    const ENDPOINTS: usize = 2_000;
    for protocol in ["http1", "http2"] {
        let network = Network::new();
        let server = serve(&network, (0..ENDPOINTS).map(|n| format!("s{n}"))).await;
        let list: Vec<_> = (0..ENDPOINTS).map(|n| format!("\"memory:s{n}\"")).collect();
        let yaml = format!(
            "services: {{ s: {{ protocol: {protocol}, load_balancer: round_robin, circuit_breakers: {{ max_connections: \
             1000 }}, endpoints: {{ static: [{}] }} }} }}",
            list.join(", ")
        );
        let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
        assert!(mesh.status().lints.iter().any(|lint| lint.contains("SINEW-W004")), "{:?}", mesh.status().lints);
        let client = mesh.client("s");
        let mut seen = BTreeSet::new();
        // Only who is connected is called, and at most a hundred connect at the same time.
        for _ in 0..40 {
            seen.extend(calls(&client, ENDPOINTS).await.into_keys());
            assert!(server.status().connections <= ENDPOINTS, "{protocol}: {}", server.status().connections);
            if seen.len() == ENDPOINTS {
                break;
            }
            sleep(100 * MS).await;
        }
        assert_eq!(seen.len(), ENDPOINTS, "{protocol}");
        // Once all are there each has its turn.
        let answered = calls(&client, 2 * ENDPOINTS).await;
        assert_eq!(answered.len(), ENDPOINTS, "{protocol}");
        assert!(server.status().connections <= ENDPOINTS, "{protocol}: {}", server.status().connections);
    }
}

/// A service that answers as soon as `together` calls are there.
async fn meeting(network: &Network, together: usize) -> (Mesh, Arc<AtomicUsize>) {
    let (barrier, most) = (Arc::new(Barrier::new(together)), Arc::<AtomicUsize>::default());
    let seen = Arc::clone(&most);
    let app = Router::new()
        .route(
            "/meet",
            get(move || {
                let barrier = Arc::clone(&barrier);
                seen.fetch_add(1, Relaxed);
                async move {
                    barrier.wait().await;
                    "met"
                }
            }),
        )
        .route("/", get(|| async { "served" }));
    let mesh = Mesh::builder("s").network(network).build().await.unwrap();
    let listener = mesh.listen("memory:s").await.unwrap();
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    (mesh, most)
}

/// Each needs a connection of its own, and none waits for another to end.
#[tokio::test(start_paused = true)]
async fn a_thousand_http1_calls_at_once_have_a_thousand_connections_and_all_are_answered() {
    const CALLS: usize = 1_000;
    let network = Network::new();
    let (server, arrived) = meeting(&network, CALLS).await;
    let yaml = "services: { s: { protocol: http1, endpoints: { static: [\"memory:s\"] } } }";
    let mesh = Mesh::builder("c").network(&network).config_str(yaml).build().await.unwrap();
    let client = mesh.client("s");
    client.wait_ready(SECOND).await.unwrap();
    let mut batch = JoinSet::new();
    for _ in 0..CALLS {
        let client = client.clone();
        batch.spawn(async move { client.get("/meet").send().await.unwrap().text().await.unwrap() });
    }
    while let Some(answer) = batch.join_next().await {
        assert_eq!(answer.unwrap(), "met");
    }
    assert_eq!(arrived.load(Relaxed), CALLS);
    let cluster = status_of(&mesh, "s");
    assert_eq!((cluster.requests.0, cluster.pending.0, cluster.endpoints[0].in_flight), (0, 0, 0));
    assert!(server.status().connections <= 1_024, "{}", server.status().connections);
    // What is idle for four seconds ends.
    sleep(6 * SECOND).await;
    assert!(server.status().connections <= 1, "{}", server.status().connections);
    assert_eq!(client.get("/").send().await.unwrap().text().await.unwrap(), "served");
}

/// With fewer connections than calls the rest waits for one that ends, in time.
#[tokio::test(start_paused = true)]
async fn a_thousand_http1_calls_share_a_hundred_connections() {
    let network = Network::new();
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let app = Router::new().route("/", get(|| async { sleep(100 * MS).await }));
    let listener = server.listen("memory:s").await.unwrap();
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let yaml = "services: { s: { protocol: http1, circuit_breakers: { max_connections: 100 }, endpoints: { static: \
                [\"memory:s\"] } } }";
    let mesh = Mesh::builder("c").network(&network).config_str(yaml).build().await.unwrap();
    let client = mesh.client("s");
    client.wait_ready(SECOND).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut batch = JoinSet::new();
    for _ in 0..1_000 {
        let client = client.clone();
        batch.spawn(async move { client.get("/").send().await.unwrap().status() });
    }
    while let Some(status) = batch.join_next().await {
        assert_eq!(status.unwrap(), 200);
        assert!(server.status().connections <= 100, "{}", server.status().connections);
    }
    let took = begun.elapsed();
    assert!((SECOND..1_200 * MS).contains(&took), "ten rounds of 100 ms: {took:?}");
    assert_eq!(status_of(&mesh, "s").pending.0, 0);
}

/// What is in work at the service, and the most that ever was.
#[derive(Clone, Default)]
struct InWork(Arc<Mutex<(u32, u32)>>);

impl InWork {
    async fn work(self) {
        {
            let mut counts = self.0.lock().unwrap();
            counts.0 += 1;
            counts.1 = counts.1.max(counts.0);
        }
        sleep(7 * MS).await;
        self.0.lock().unwrap().0 -= 1;
    }
}

/// The limit is the backend's, whoever reloads: what is in flight counts against the new one.
#[tokio::test(start_paused = true)]
async fn a_limit_of_37_holds_for_a_thousand_tasks_through_twenty_reloads() {
    let network = Network::new();
    let in_work = InWork::default();
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let work = in_work.clone();
    let app = Router::new().route("/", get(move || work.clone().work()));
    let listener = server.listen("memory:s").await.unwrap();
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sinew.yaml");
    let write = |limit: u32, timeout: u64| {
        let text = format!(
            "services: {{ s: {{ endpoints: {{ static: [\"memory:s\"] }}, circuit_breakers: {{ max_requests: {limit} }}, \
             timeout: {timeout}s }} }}"
        );
        let next = directory.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &file).unwrap();
    };
    write(37, 60);
    let mesh = Mesh::builder("c").network(&network).config_file(&file).build().await.unwrap();
    mesh.client("s").wait_ready(SECOND).await.unwrap();
    let (served, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let mut tasks = JoinSet::new();
    for _ in 0..1_000 {
        let (client, served, refused) = (mesh.client("s"), Arc::clone(&served), Arc::clone(&refused));
        tasks.spawn(async move {
            loop {
                match client.get("/").send().await {
                    Ok(_) => served.fetch_add(1, Relaxed),
                    Err(error) => {
                        assert_eq!(error.code(), Code::Overflow, "{error}");
                        refused.fetch_add(1, Relaxed)
                    }
                };
                sleep(40 * MS).await;
            }
        });
    }
    for reload in 1..=20 {
        let generation = mesh.status().generation;
        write(37, 60 + reload);
        while mesh.status().generation == generation {
            sleep(50 * MS).await;
            std::thread::yield_now();
        }
    }
    assert_eq!(in_work.0.lock().unwrap().1, 37, "the limit was reached and never passed");
    assert!(served.load(Relaxed) > 0 && refused.load(Relaxed) > 0);
    // Lowered, it admits nothing until less is in flight.
    let generation = mesh.status().generation;
    write(10, 60);
    while mesh.status().generation == generation {
        sleep(50 * MS).await;
        std::thread::yield_now();
    }
    sleep(100 * MS).await;
    in_work.0.lock().unwrap().1 = 0;
    sleep(SECOND).await;
    assert_eq!(in_work.0.lock().unwrap().1, 10);
    tasks.shutdown().await;
    sleep(SECOND).await;
    assert_eq!(status_of(&mesh, "s").requests.0, 0);
}
