//! `circuit_breakers.per_endpoint`: what one endpoint is asked for at a time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, response::IntoResponse, routing::get};
use sinew::{Client, Code, Mesh, Network};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::world::status_of;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Calls that an instance works on, and the most there ever were.
#[derive(Clone, Default)]
struct InWork(Arc<Mutex<(u32, u32)>>);

struct Working(InWork);

impl InWork {
    fn begin(&self) -> Working {
        let mut counts = self.0.lock().unwrap();
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        Working(self.clone())
    }

    fn now(&self) -> u32 {
        self.0.lock().unwrap().0
    }

    /// The most since the last time.
    fn most(&self) -> u32 {
        let mut counts = self.0.lock().unwrap();
        let most = counts.1;
        counts.1 = counts.0;
        most
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().0 -= 1;
    }
}

/// Instances of `s` that take 100 ms for a call, for ever for one to `/hangs`, and whose `/events` have no end.
async fn instances(network: &Network, names: &[&str]) -> (Vec<Mesh>, Vec<InWork>) {
    let (mut meshes, mut works) = (Vec::new(), Vec::new());
    for name in names {
        let work = InWork::default();
        let (all, hanging) = (work.clone(), work.clone());
        let works_on = move || {
            let working = all.begin();
            async move {
                sleep(100 * MS).await;
                drop(working);
            }
        };
        let hangs = move || {
            let working = hanging.begin();
            async move {
                std::future::pending::<()>().await;
                drop(working);
            }
        };
        let events = || async {
            let body = axum::body::Body::from_stream(tokio_stream::pending::<Result<bytes::Bytes, std::io::Error>>());
            ([("content-type", "text/event-stream")], body).into_response()
        };
        let app = Router::new().route("/", get(works_on)).route("/hangs", get(hangs)).route("/events", get(events));
        let mesh = Mesh::builder("s").network(network).build().await.unwrap();
        let listener = mesh.listen(&*format!("memory:{name}")).await.unwrap();
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
        meshes.push(mesh);
        works.push(work);
    }
    (meshes, works)
}

fn document(names: &[&str], more: &str) -> String {
    let endpoints: Vec<_> = names.iter().map(|name| format!("\"memory:{name}\"")).collect();
    format!("services: {{ s: {{ endpoints: {{ static: [{}] }}, {more} }} }}", endpoints.join(", "))
}

async fn mesh(network: &Network, names: &[&str], more: &str) -> Mesh {
    let yaml = document(names, more);
    let mesh = Mesh::builder("c").network(network).config_str(&yaml).build().await.unwrap();
    all_ready(&mesh).await;
    mesh
}

async fn all_ready(mesh: &Mesh) {
    mesh.client("s").wait_ready(SECOND).await.unwrap();
    let ready = async {
        while status_of(mesh, "s").endpoints.iter().any(|endpoint| endpoint.state != "ready") {
            sleep(MS).await;
        }
    };
    timeout(10 * SECOND, ready).await.expect("all are connected");
}

/// So many callers that call again and again.
fn callers(client: &Client, many: usize) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..many {
        let client = client.clone();
        tasks.spawn(async move {
            loop {
                if let Err(error) = client.get("/").send().await {
                    assert_eq!(error.code(), Code::Overflow, "{error}");
                    sleep(40 * MS).await;
                }
            }
        });
    }
    tasks
}

async fn becomes(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            sleep(MS).await;
        }
    };
    timeout(10 * SECOND, waits).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(start_paused = true)]
async fn no_endpoint_is_asked_for_more_at_a_time_and_all_for_as_much() {
    for protocol in ["http2", "http1"] {
        let (network, names) = (Network::new(), ["a", "b", "c"]);
        let (_servers, works) = instances(&network, &names).await;
        let more = format!("protocol: {protocol}, circuit_breakers: {{ per_endpoint: {{ max_requests: 5 }} }}");
        let mesh = mesh(&network, &names, &more).await;
        let mut tasks = callers(&mesh.client("s"), 200);
        sleep(5 * SECOND).await;
        assert_eq!(works.iter().map(InWork::most).collect::<Vec<_>>(), [5, 5, 5], "{protocol}");
        tasks.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_an_endpoint_holds_through_reloads_and_new_connections() {
    let (network, names) = (Network::new(), ["a", "b"]);
    let (_servers, works) = instances(&network, &names).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sinew.yaml");
    // Another timeout of connecting makes every connection anew.
    let write = |limit: u32, connect: u64| {
        let limits = format!("circuit_breakers: {{ per_endpoint: {{ max_requests: {limit} }} }}");
        let next = directory.path().join("next");
        std::fs::write(&next, document(&names, &format!("{limits}, timeouts: {{ connect: {connect}s }}"))).unwrap();
        std::fs::rename(&next, &file).unwrap();
    };
    write(7, 5);
    let mesh = Mesh::builder("c").network(&network).config_file(&file).build().await.unwrap();
    all_ready(&mesh).await;
    let reloaded = async |limit, connect| {
        let generation = mesh.status().generation;
        write(limit, connect);
        while mesh.status().generation == generation {
            sleep(50 * MS).await;
            std::thread::yield_now();
        }
    };
    let mut tasks = callers(&mesh.client("s"), 100);
    for connect in 6..16 {
        reloaded(7, connect).await;
    }
    assert_eq!(works.iter().map(InWork::most).collect::<Vec<_>>(), [7, 7]);
    reloaded(2, 15).await;
    sleep(SECOND).await;
    works.iter().for_each(|work| _ = work.most());
    sleep(SECOND).await;
    assert_eq!(works.iter().map(InWork::most).collect::<Vec<_>>(), [2, 2], "lowered");
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_a_place_and_goes_as_soon_as_there_is_one() {
    let network = Network::new();
    let (_servers, works) = instances(&network, &["a"]).await;
    let limits = "circuit_breakers: { per_endpoint: { max_requests: 1 }, max_pending_requests: 1 }";
    let mesh = mesh(&network, &["a"], limits).await;
    let client = mesh.client("s");
    let hangs = tokio::spawn(client.get("/hangs").send());
    becomes("it is served", || works[0].now() == 1).await;
    let waits = tokio::spawn(client.get("/").send());
    becomes("it waits", || status_of(&mesh, "s").pending.0 == 1).await;
    assert_eq!(status_of(&mesh, "s").endpoints[0].places, Some((1, 1)));
    let refused = client.get("/").send().await.unwrap_err();
    assert!(refused.code() == Code::Overflow && refused.to_string().contains("per_endpoint"), "{refused}");
    // A client without policies is not held up, and holds nobody up.
    assert_eq!(client.bare().get("/").send().await.unwrap().status(), 200);
    assert_eq!(status_of(&mesh, "s").pending.0, 1, "it still waits");
    let begun = Instant::now();
    hangs.abort();
    assert_eq!(waits.await.unwrap().unwrap().status(), 200);
    assert!(begun.elapsed() < 110 * MS, "{:?}", begun.elapsed());
    // Nobody makes room: it is told so when its time in line is over.
    let hangs = tokio::spawn(client.get("/hangs").send());
    becomes("it is served", || works[0].now() == 1).await;
    let begun = Instant::now();
    let late = client.get("/").send().await.unwrap_err();
    assert_eq!((late.code(), begun.elapsed().as_secs()), (Code::Overflow, 3), "{late}");
    hangs.abort();
}

#[tokio::test(start_paused = true)]
async fn what_is_open_for_long_needs_no_place() {
    let network = Network::new();
    let (_servers, works) = instances(&network, &["a"]).await;
    let mesh = mesh(&network, &["a"], "circuit_breakers: { per_endpoint: { max_requests: 1 } }").await;
    let client = mesh.client("s");
    let events = client.get("/events").send().await.unwrap();
    assert_eq!(client.get("/").send().await.unwrap().status(), 200);
    let hangs = tokio::spawn(client.get("/hangs").header("prefer", "wait=900").send());
    becomes("it is served", || works[0].now() == 1).await;
    let begun = Instant::now();
    let waits = client.get("/").timeout(60 * SECOND).send();
    assert_eq!(waits.await.unwrap_err().code(), Code::Overflow);
    sleep(33 * SECOND).await;
    assert_eq!(client.get("/").send().await.unwrap().status(), 200, "after {:?}", begun.elapsed());
    hangs.abort();
    drop(events);
}

#[tokio::test(start_paused = true)]
async fn no_endpoint_has_more_connections() {
    let (network, names) = (Network::new(), ["a", "b"]);
    let (_servers, works) = instances(&network, &names).await;
    let limits = "protocol: http1, circuit_breakers: { per_endpoint: { max_connections: 3 } }";
    let mesh = mesh(&network, &names, limits).await;
    let mut tasks = callers(&mesh.client("s"), 50);
    sleep(5 * SECOND).await;
    // One call at a time over each.
    assert_eq!(works.iter().map(InWork::most).collect::<Vec<_>>(), [3, 3]);
    tasks.shutdown().await;
}
