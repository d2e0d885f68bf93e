//! One allowance for a whole tree of calls: whatever its depth, a leaf sees at most two attempts more for each that it would
//! see without failures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Request, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use sinew::{Client, Mesh, Network, ResponseExt};

/// What a hop does when it is called.
#[derive(Clone)]
enum Does {
    /// Answers with this status and these headers.
    Leaf(u16, &'static [(&'static str, &'static str)]),
    /// Calls the next hop once, and fails if that fails.
    Pass(Client),
    /// Calls it twice, one after the other or at the same time.
    Twice(Client, bool),
    /// Calls it as if nobody had called: as software does that passes no headers on.
    Forget(Client),
    /// Calls it in a task that goes on after the response.
    Detach(Client),
    /// Answers with this status as long as it is not told to be slow, then after so long.
    Moody(Arc<AtomicBool>, u16, Duration),
    /// Calls it, and then gives no answer to each so many-th call, counted over all hops.
    Lose(Client, Arc<AtomicUsize>, usize),
}

#[derive(Clone)]
struct Hop {
    does: Does,
    seen: Arc<AtomicUsize>,
    contexts: Arc<std::sync::Mutex<Vec<Option<String>>>>,
}

async fn status_of(client: &Client) -> StatusCode {
    match client.get("/").send().await {
        Ok(response) => response.status(),
        Err(_) => StatusCode::BAD_GATEWAY,
    }
}

async fn handle(State(hop): State<Hop>) -> Response {
    hop.seen.fetch_add(1, Relaxed);
    let status = match &hop.does {
        Does::Leaf(status, headers) => {
            let builder = Response::builder().status(*status);
            let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
            return builder.body(Body::empty()).unwrap();
        }
        Does::Moody(slow, status, after) => {
            if !slow.load(Relaxed) {
                return StatusCode::OK.into_response();
            }
            tokio::time::sleep(*after).await;
            StatusCode::from_u16(*status).unwrap()
        }
        Does::Pass(next) => status_of(next).await,
        Does::Twice(next, together) => {
            let (a, b) = match together {
                true => tokio::join!(status_of(next), status_of(next)),
                false => (status_of(next).await, status_of(next).await),
            };
            a.max(b)
        }
        Does::Forget(next) => {
            let next = next.clone();
            tokio::spawn(async move { status_of(&next).await }).await.unwrap()
        }
        Does::Detach(next) => {
            let next = next.clone();
            sinew::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                status_of(&next).await
            });
            StatusCode::OK
        }
        Does::Lose(next, calls, each) => {
            let status = status_of(next).await;
            if calls.fetch_add(1, Relaxed) % each == each - 1 {
                std::future::pending::<()>().await;
            }
            status
        }
    };
    status.into_response()
}

/// Hops in memory, made from the leaf up.
struct World {
    network: Network,
    meshes: Vec<Mesh>,
    hops: Vec<Hop>,
    retry: String,
}

impl World {
    fn new(retry: &str) -> Self {
        Self { network: Network::new(), meshes: Vec::new(), hops: Vec::new(), retry: retry.into() }
    }

    /// A hop that does this with the one made before it.
    async fn hop(&mut self, does: impl FnOnce(Client) -> Does) -> &mut Self {
        let depth = self.hops.len();
        let client = self.client().await;
        let hop = Hop { does: does(client), seen: Arc::default(), contexts: Arc::default() };
        let app = Router::new().route("/", get(handle)).with_state(hop.clone());
        let mesh = Mesh::builder("hop").network(&self.network).build().await.unwrap();
        // Under three names, so that there are other endpoints to go to.
        for end in ["", "b", "c"] {
            let listener = mesh.listen(format!("memory:hop{depth}{end}").as_str()).await.unwrap();
            let served = listener.serve(app.clone()).with_graceful_shutdown(std::future::pending());
            tokio::spawn(served.into_future());
        }
        self.meshes.push(mesh);
        self.hops.push(hop);
        self
    }

    async fn leaf(&mut self, status: u16) -> &mut Self {
        self.hop(|_| Does::Leaf(status, &[])).await
    }

    /// A client of the uppermost hop.
    async fn client(&mut self) -> Client {
        let above = self.hops.len().saturating_sub(1);
        let retry = self.retry.replace("{per_try}", &format!("{}ms", 100 * 4_u64.pow(above as u32)));
        let yaml = format!(
            "services: {{ next: {{ endpoints: {{ static: [\"memory:hop{above}\", \"memory:hop{above}b\", \"memory:hop{above}c\"] }}, outlier_detection: off, \
             timeouts: {{ response: off }}, retry: {retry} }} }}"
        );
        let mesh = Mesh::builder("caller").network(&self.network).config_str(&yaml).build().await.unwrap();
        let client = mesh.client("next");
        if !self.hops.is_empty() {
            client.wait_ready(Duration::from_secs(1)).await.unwrap();
        }
        self.meshes.push(mesh);
        client
    }

    fn leaf_attempts(&self) -> usize {
        self.hops[0].seen.load(Relaxed)
    }

    /// Calls the tree once.
    async fn call(&mut self) -> StatusCode {
        let client = self.client().await;
        status_of(&client).await
    }
}

const RETRY: &str = "{ retry_on: [5xx], num_retries: 3 }";

#[tokio::test(start_paused = true)]
async fn a_chain_of_any_length_makes_three_attempts_at_a_leaf_that_fails() {
    for length in 1..=6 {
        let mut world = World::new(RETRY);
        world.leaf(500).await;
        for _ in 1..length {
            world.hop(Does::Pass).await;
        }
        assert_eq!(world.call().await, 500);
        assert_eq!(world.leaf_attempts(), 3, "{length} hops");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hop_that_calls_twice_may_spend_the_allowance_on_each() {
    for together in [true, false] {
        let mut world = World::new(RETRY);
        world.leaf(500).await;
        world.hop(|next| Does::Twice(next, together)).await.hop(Does::Pass).await.hop(Does::Pass).await;
        assert_eq!(world.call().await, 500);
        // Two leaf calls of a run without failures.
        let attempts = world.leaf_attempts();
        assert!((3..=6).contains(&attempts), "{attempts}");
        // Fanning out at each of two hops: four.
        let mut world = World::new(RETRY);
        world.leaf(500).await;
        world.hop(|next| Does::Twice(next, together)).await.hop(|next| Does::Twice(next, together)).await;
        assert_eq!(world.call().await, 500);
        let attempts = world.leaf_attempts();
        assert!((4..=12).contains(&attempts), "{attempts}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hop_that_passes_nothing_on_begins_a_tree_of_its_own() {
    let mut world = World::new(RETRY);
    world.leaf(500).await;
    world.hop(Does::Pass).await.hop(Does::Forget).await.hop(Does::Pass).await;
    assert_eq!(world.call().await, 500);
    let attempts = world.leaf_attempts();
    assert!((3..=9).contains(&attempts), "{attempts}: three for each tree at most");
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_after_the_response_retries_nothing() {
    let mut world = World::new(RETRY);
    world.leaf(500).await;
    world.hop(Does::Detach).await.hop(Does::Pass).await;
    assert_eq!(world.call().await, 200);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.leaf_attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_nobody_to_retry_is_heard_at_the_root() {
    let mut world = World::new(RETRY);
    world.hop(|_| Does::Leaf(503, &[("sinew-no-retry", "1")])).await;
    world.hop(Does::Pass).await.hop(Does::Pass).await;
    assert_eq!(world.call().await, 503);
    assert_eq!(world.leaf_attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_response_claims_to_have_spent_takes_no_more_than_was_passed() {
    for (spent, attempts) in [("0", 3), ("1", 2), ("200", 2), ("-1", 2), ("x", 2)] {
        let mut world = World::new(RETRY);
        let headers: &'static [(&str, &str)] = Box::leak(Box::new([("sinew-spent", spent)]));
        world.hop(move |_| Does::Leaf(500, headers)).await;
        assert_eq!(world.call().await, 500);
        assert_eq!(world.leaf_attempts(), attempts, "{spent}");
    }
}

/// A stranger says what it likes over a socket: the hop it calls begins a tree of its own.
#[tokio::test]
async fn a_stranger_grants_nothing_and_takes_nothing() {
    for said in ["a=200", "a=0", "a=200;n=9", "nonsense"] {
        let mut world = World::new(RETRY);
        world.leaf(500).await;
        let next = world.client().await;
        let hop = Hop { does: Does::Pass(next), seen: Arc::default(), contexts: Arc::default() };
        let mesh = Mesh::builder("hop").build().await.unwrap();
        let listener = mesh.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let app = Router::new().route("/", get(handle)).with_state(hop);
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
        let caller = Mesh::builder("stranger")
            .service("hop", |service| service.endpoints([addr.to_string()]).retries(Default::default()))
            .build()
            .await
            .unwrap();
        let response = caller.client("hop").get("/").header("sinew-ctx", said).send().await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(world.leaf_attempts(), 3, "{said}");
        let _ = response.text().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_lost_responses_of_a_hundred_at_each_of_six_hops_fail_one_call_of_a_hundred() {
    let mut world = World::new("{ retry_on: [reset, gateway-error], num_retries: 3, per_try_timeout: {per_try} }");
    let counted = Arc::new(AtomicUsize::new(0));
    world.leaf(200).await;
    for _ in 1..6 {
        // Each its own count, so that losses of different hops meet in every combination.
        let calls = Arc::new(AtomicUsize::new(counted.fetch_add(7, Relaxed)));
        world.hop(move |next| Does::Lose(next, calls, 50)).await;
    }
    let client = world.client().await;
    let (calls, mut failed) = (1_000, 0);
    for _ in 0..calls {
        failed += usize::from(status_of(&client).await != 200);
    }
    assert!(failed * 100 <= calls, "{failed} of {calls} failed");
    let attempts = world.leaf_attempts();
    assert!(attempts <= calls * 12 / 10, "{attempts} attempts for {calls} calls");
}

/// Each hop may hedge, as often as its policy says; what all of them together send to a leaf is bounded all the same.
#[tokio::test(start_paused = true)]
async fn hedges_of_all_hops_draw_on_the_allowance_of_the_tree() {
    const HEDGES: &str = "{ retry_on: [5xx], num_retries: 3 }, \
        hedge: { delay: 50ms, max_hedged_attempts: 4, max_extra_load_percent: 99, require_idempotent: false }";
    // The leaf hangs, or fails when hedges are on their way, or answers late.
    for (status, after) in [(500, 3_600_000), (500, 220), (200, 220)] {
        for length in 1..=4 {
            let mut world = World::new(HEDGES);
            let slow = Arc::new(AtomicBool::new(false));
            let leaf = Does::Moody(Arc::clone(&slow), status, Duration::from_millis(after));
            world.hop(|_| leaf).await;
            for _ in 1..length {
                world.hop(Does::Pass).await;
            }
            let client = world.client().await;
            // Hedges are a share of the calls: some have to go by before there is one.
            for _ in 0..10 {
                assert_eq!(status_of(&client).await, 200);
            }
            let (before, mut most) = (world.leaf_attempts(), 0);
            slow.store(true, Relaxed);
            for call in 1..=3 {
                let begun = world.leaf_attempts();
                let ended = client.get("/").timeout(Duration::from_secs(5)).send().await;
                most = most.max(world.leaf_attempts() - begun);
                assert!(
                    (1..=3).contains(&(world.leaf_attempts() - begun)),
                    "{length} hops, {status} after {after} ms, call {call}: {}",
                    world.leaf_attempts() - begun
                );
                assert_eq!(ended.is_ok_and(|response| response.status() == 200), status == 200);
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            assert!(world.leaf_attempts() - before <= 9);
            // What one attempt was passed is not another's while it is in flight: a hop alone has one hedge.
            assert!(most >= 2, "{length} hops, {status} after {after} ms: nothing is hedged");
        }
    }
}

/// What the wire says of it, in this process: nothing where it is what everybody assumes.
#[tokio::test(start_paused = true)]
async fn only_what_is_not_assumed_is_said() {
    async fn note(State(hop): State<Hop>, headers: HeaderMap) -> StatusCode {
        let said = headers.get("sinew-ctx").map(|value| value.to_str().unwrap().to_owned());
        hop.contexts.lock().unwrap().push(said);
        StatusCode::INTERNAL_SERVER_ERROR
    }
    // The mesh takes its headers out before an application sees them.
    let network = Network::new();
    let hop = Hop { does: Does::Leaf(500, &[]), seen: Arc::default(), contexts: Arc::default() };
    let mesh = Mesh::builder("s").network(&network).build().await.unwrap();
    let listener = mesh.listen("memory:s").await.unwrap();
    let app = Router::new().route("/", get(note)).with_state(hop.clone());
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let yaml = "services: { s: { endpoints: { static: [\"memory:s\"] }, retry: { retry_on: [5xx] } } }";
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sent = Arc::clone(&seen);
    let seat = sinew::seat::seat_fn(move |request: Request<sinew::Body>, next: sinew::seat::Next| {
        let said = request.headers().get("sinew-ctx").map(|value| value.to_str().unwrap().to_owned());
        sent.lock().unwrap().push(said);
        next.run(request)
    });
    let caller = Mesh::builder("c").network(&network).config_str(yaml).attempt(seat).build().await.unwrap();
    assert_eq!(caller.client("s").get("/").send().await.unwrap().status(), 500);
    let sent = seen.lock().unwrap().clone();
    assert_eq!(sent, [None, Some("a=0;n=1".into()), Some("a=0;n=2".into())]);
    assert!(hop.contexts.lock().unwrap().iter().all(Option::is_none));
}
