//! What is sent again, to whom, and what it costs, through the whole client stack.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body as AxumBody,
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use sinew::{Call, Client, Mesh, Network, ResponseExt};
use tokio::time::Instant;

/// What an instance does with each request.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Answer,
    Fail(u16),
    Hang,
    /// A gRPC response without a message whose trailers say UNAVAILABLE.
    Unavailable,
}

#[derive(Clone)]
struct Instance {
    does: Does,
    seen: Arc<AtomicUsize>,
    /// Handlers that are running.
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

async fn handle(State(instance): State<Instance>, headers: HeaderMap, body: AxumBody) -> Response {
    let nth = instance.seen.fetch_add(1, Relaxed);
    instance.running.fetch_add(1, Relaxed);
    let _running = Running(Arc::clone(&instance.running));
    let body = body.collect().await.unwrap().to_bytes();
    match instance.does {
        Does::Answer => {
            let attempt = headers.get("grpc-previous-rpc-attempts").cloned();
            let mut response = body.into_response();
            response.headers_mut().insert("nth", nth.into());
            response.headers_mut().insert("attempt", attempt.unwrap_or("0".parse().unwrap()));
            response
        }
        Does::Fail(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Does::Hang => std::future::pending().await,
        Does::Unavailable => {
            let trailers = [("grpc-status".parse().unwrap(), "14".parse().unwrap())].into_iter().collect();
            let frames = [Ok::<_, std::convert::Infallible>(http_body::Frame::trailers(trailers))];
            let body = AxumBody::new(http_body_util::StreamBody::new(tokio_stream::iter(frames)));
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        }
    }
}

struct World {
    mesh: Mesh,
    client: Client,
    instances: Vec<Instance>,
    _servers: Vec<Mesh>,
}

impl World {
    /// Instances in memory, and a client of them with this configuration of the service.
    async fn new(does: &[Does], service: &str) -> Self {
        let network = Network::new();
        let (mut instances, mut servers) = (Vec::new(), Vec::new());
        for (index, does) in does.iter().enumerate() {
            let instance = Instance { does: *does, seen: Arc::default(), running: Arc::default() };
            let app = Router::new().fallback(any(handle)).with_state(instance.clone());
            let server = Mesh::builder("s").network(&network).build().await.unwrap();
            let listener = server.listen(format!("memory:s{index}").as_str()).await.unwrap();
            tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
            instances.push(instance);
            servers.push(server);
        }
        let addresses: Vec<_> = (0..does.len()).map(|index| format!("\"memory:s{index}\"")).collect();
        let yaml = format!(
            "services: {{ s: {{ endpoints: {{ static: [{}] }}, load_balancer: round_robin, outlier_detection: off, {service} }} }}",
            addresses.join(", ")
        );
        let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
        let client = mesh.client("s");
        client.wait_ready(Duration::from_secs(1)).await.unwrap();
        Self { mesh, client, instances, _servers: servers }
    }

    fn seen(&self) -> Vec<usize> {
        self.instances.iter().map(|instance| instance.seen.load(Relaxed)).collect()
    }

    fn running(&self) -> usize {
        self.instances.iter().map(|instance| instance.running.load(Relaxed)).sum()
    }

    async fn settled(&self) {
        while self.running() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

const GATEWAY: &str = "retry: { retry_on: [gateway-error] }";

#[tokio::test(start_paused = true)]
async fn a_failing_instance_is_not_asked_again() {
    let world = World::new(&[Does::Fail(503), Does::Answer], GATEWAY).await;
    for _ in 0..10 {
        assert_eq!(world.client.get("/").send().await.unwrap().status(), 200);
    }
    let seen = world.seen();
    assert_eq!(seen[1], 10, "each call ends at the one that works");
    assert!((5..=10).contains(&seen[0]), "{seen:?}: at most once by each call");
    let cluster = world.mesh.status().services["s"].cluster.clone().unwrap();
    assert_eq!((cluster.requests.0, cluster.endpoints[0].in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_post_that_may_have_been_processed_is_sent_once_unless_it_says_that_twice_is_as_good() {
    let world = World::new(&[Does::Fail(503)], GATEWAY).await;
    let send = |call: Call, method: Method| world.client.request(method, "/").body("x").call(call).send();
    for (call, method, attempts) in [
        (Call::new(), Method::POST, 1),
        (Call::new().idempotent(true), Method::POST, 3),
        (Call::new(), Method::PUT, 3),
        (Call::new().no_retry(), Method::PUT, 1),
    ] {
        let before = world.seen()[0];
        assert_eq!(send(call, method.clone()).await.unwrap().status(), 503);
        assert_eq!(world.seen()[0] - before, attempts, "{method} {call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_whose_connection_is_refused_goes_to_another_instance() {
    let network = Network::new();
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let instance = Instance { does: Does::Answer, seen: Arc::clone(&seen), running: Arc::default() };
    let listener = server.listen("memory:there").await.unwrap();
    let app = Router::new().fallback(any(handle)).with_state(instance);
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    // HTTP/1.1 connects for each call that finds no idle connection.
    let yaml = "services: { s: { protocol: http1, endpoints: { static: [\"memory:gone\", \"memory:there\"] } } }";
    let gone = server.listen("memory:gone").await.unwrap();
    let mesh = Mesh::builder("c").network(&network).config_str(yaml).build().await.unwrap();
    let client = mesh.client("s");
    client.wait_ready(Duration::from_secs(1)).await.unwrap();
    drop(gone);
    for _ in 0..10 {
        assert_eq!(client.post("/").body("x").send().await.unwrap().text().await.unwrap(), "x");
    }
    assert_eq!(seen.load(Relaxed), 10);
}

#[tokio::test(start_paused = true)]
async fn a_retry_needs_no_permit_but_that_of_its_call() {
    let service = format!("{GATEWAY}, circuit_breakers: {{ max_requests: 1 }}");
    let world = World::new(&[Does::Fail(503), Does::Answer], &service).await;
    for _ in 0..4 {
        assert_eq!(world.client.get("/").send().await.unwrap().status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_late_is_given_up_and_sent_elsewhere() {
    let service = "retry: { retry_on: [reset], per_try_timeout: 100ms }";
    let world = World::new(&[Does::Hang, Does::Answer], service).await;
    for _ in 0..4 {
        let begun = Instant::now();
        assert_eq!(world.client.get("/").send().await.unwrap().status(), 200);
        assert!(begun.elapsed() < Duration::from_millis(150), "{:?}", begun.elapsed());
    }
    world.settled().await;
    // Only the timeout of the call is nobody's fault.
    let world = World::new(&[Does::Hang], "retry: { retry_on: [reset] }").await;
    let error = world.client.get("/").timeout(Duration::from_millis(100)).send().await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(world.seen(), [1]);
}

#[tokio::test(start_paused = true)]
async fn routes_share_the_budget_of_their_service() {
    let service = "retry: { retry_on: [5xx] }, subsets: {}, \
                   routes: [{ match: { path: { prefix: /a } }, retry: { num_retries: 1 } }, { name: rest }]";
    let world = World::new(&[Does::Fail(500)], service).await;
    for path in ["/a", "/b"] {
        for _ in 0..30 {
            assert_eq!(world.client.get(path).send().await.unwrap().status(), 500);
        }
    }
    assert_eq!(world.seen(), [60 + 10]);
}

#[tokio::test(start_paused = true)]
async fn a_budget_outlives_a_reload() {
    let network = Network::new();
    let yaml = |retries: u8| {
        format!(
            "services: {{ s: {{ endpoints: {{ static: [\"memory:s\"] }}, outlier_detection: off, \
             retry: {{ retry_on: [5xx], num_retries: {retries} }} }} }}"
        )
    };
    let instance = Instance { does: Does::Fail(500), seen: Arc::default(), running: Arc::default() };
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let listener = server.listen("memory:s").await.unwrap();
    let app = Router::new().fallback(any(handle)).with_state(instance.clone());
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml(1)).unwrap();
    let mesh = Mesh::builder("c").network(&network).config_file(file.path()).build().await.unwrap();
    let client = mesh.client("s");
    client.wait_ready(Duration::from_secs(1)).await.unwrap();
    for round in 1..=20 {
        for _ in 0..5 {
            let _ = client.get("/").send().await.unwrap();
        }
        let before = mesh.snapshot().generation;
        std::fs::write(file.path(), yaml(1 + round % 2)).unwrap();
        while mesh.snapshot().generation == before {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let retries = instance.seen.load(Relaxed) - 100;
    assert!((10..=20).contains(&retries), "{retries}: twenty reloads filled the budget");
}

fn grpc(client: &Client) -> sinew::RequestBuilder {
    client.post("/a.B/C").header("content-type", "application/grpc").body("x").call(Call::new().idempotent(true))
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_in_trailers_is_seen_by_retries() {
    let service = "protocol: http2, retry: { retry_on: [unavailable] }";
    let world = World::new(&[Does::Unavailable, Does::Answer], service).await;
    for _ in 0..4 {
        let response = grpc(&world.client).send().await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), Bytes::from("x"));
    }
    assert_eq!(world.seen()[1], 4);
    // Where all fail, the caller gets the status of the last.
    let world = World::new(&[Does::Unavailable], service).await;
    let response = grpc(&world.client).send().await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "14");
    assert_eq!(world.seen(), [3]);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_for_grpc_servers() {
    let service = "protocol: http2, retry: { retry_on: [unavailable] }";
    let world = World::new(&[Does::Unavailable, Does::Answer], service).await;
    // Which of the two is asked first is the balancer's choice.
    for _ in 0..3 {
        let before = world.seen()[0];
        let attempt = grpc(&world.client).send().await.unwrap().headers()["attempt"].clone();
        assert_eq!(attempt, if world.seen()[0] > before { "1" } else { "0" });
    }
    assert!(world.seen()[0] > 0);
}

/// Answers the first attempt at once, its body unread, and the second with what it got.
async fn early(State(seen): State<Arc<AtomicUsize>>, body: AxumBody) -> Response {
    if seen.fetch_add(1, Relaxed) % 2 == 0 {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    body.collect().await.unwrap().to_bytes().into_response()
}

/// A body in pieces, each after a pause, so that it is being sent when the answer comes.
fn slowly(pieces: Vec<Bytes>) -> sinew::Body {
    let pieces = tokio_stream::StreamExt::then(tokio_stream::iter(pieces), |piece| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece))
    });
    sinew::Body::new(http_body_util::StreamBody::new(Box::pin(pieces)))
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_follows_an_early_answer_sends_the_same_bytes() {
    for protocol in ["http1", "http2"] {
        let network = Network::new();
        let server = Mesh::builder("s").network(&network).build().await.unwrap();
        let listener = server.listen("memory:s").await.unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let app = Router::new().fallback(any(early)).with_state(Arc::clone(&seen));
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
        let yaml = format!(
            "services: {{ s: {{ endpoints: {{ static: [\"memory:s\"] }}, outlier_detection: off, protocol: {protocol}, {GATEWAY} }} }}"
        );
        let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
        let client = mesh.client("s");
        client.wait_ready(Duration::from_secs(1)).await.unwrap();
        let mut dice: u64 = 7;
        let mut below = |most: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) as usize % most
        };
        for case in 0..60 {
            let size = [0, 1, 100, 10_000, 64 * 1024][below(5)];
            let whole: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let mut pieces = Vec::new();
            let mut rest = &whole[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((1 + below(rest.len())).min(16 * 1024));
                pieces.push(Bytes::copy_from_slice(piece));
                rest = after;
            }
            seen.store(0, Relaxed);
            let response = client.put("/").body(slowly(pieces)).send().await.unwrap();
            assert_eq!(response.status(), 200, "{protocol}, case {case}, {size} bytes");
            let got = response.into_body().collect().await.unwrap().to_bytes();
            assert!(got == whole, "{protocol}, case {case}: {} of {size} bytes", got.len());
            // The budget bears one retry each ten seconds.
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_longer_than_what_is_kept_is_sent_once() {
    let service = format!("{GATEWAY}, protocol: http2");
    let world = World::new(&[Does::Fail(503)], &service).await;
    for (bytes, attempts) in [(64 * 1024, 3), (64 * 1024 + 1, 1)] {
        let before = world.seen()[0];
        let pieces = vec![7; bytes].chunks(4096).map(Bytes::copy_from_slice).collect();
        assert_eq!(world.client.put("/").body(slowly(pieces)).send().await.unwrap().status(), 503);
        assert_eq!(world.seen()[0] - before, attempts, "{bytes} bytes");
    }
}

/// The sum of a counter's series whose labels have all of these.
async fn counted(ops: std::net::SocketAddr, name: &str, labels: &[&str]) -> u64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(ops).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let of = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
    text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(feature = "prometheus")]
#[tokio::test]
async fn a_backend_that_refuses_connections_is_not_asked_more_than_it_is_called() {
    for protocol in ["http1", "http2"] {
        let instance =
            crate::world::Instance::start("s", "127.0.0.1:0", Router::new().route("/", any(|| async { "x" }))).await;
        let ops = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let yaml = format!(
            "services: {{ s: {{ endpoints: {{ static: [\"{}\"] }}, outlier_detection: off, protocol: {protocol}, \
             retry: {{ retry_on: [connect-failure, reset, 5xx], num_retries: 3 }} }} }}",
            instance.addr
        );
        let mesh = Mesh::builder("c").config_str(&yaml).ops(ops).build().await.unwrap();
        let client = mesh.client("s");
        assert_eq!(client.get("/").send().await.unwrap().text().await.unwrap(), "x");
        instance.stop().await;
        let begun = Instant::now();
        for _ in 0..500 {
            let error = client.get("/").send().await.unwrap_err();
            assert!(error.never_processed(), "{error}");
        }
        let again = counted(ops, "sinew_attempts_total", &["kind=\"transparent\""]).await
            + counted(ops, "sinew_attempts_total", &["kind=\"retry\""]).await;
        let bound = 10 + begun.elapsed().as_secs() / 10;
        assert!(again <= bound, "{protocol}: {again} repetitions of 500 calls, at most {bound}");
    }
}

const HEDGED: &str = "hedge: { delay: 50ms, max_extra_load_percent: 99 }";

/// Every call may be hedged once the share is saved up.
async fn warm(world: &World) {
    for _ in 0..4 {
        let _ = world.client.get("/").timeout(Duration::from_millis(1)).send().await;
    }
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_asked_of_another_instance_and_the_slow_one_is_given_up() {
    let world = World::new(&[Does::Hang, Does::Answer], HEDGED).await;
    warm(&world).await;
    for _ in 0..6 {
        let begun = Instant::now();
        assert_eq!(world.client.get("/").send().await.unwrap().status(), 200);
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(60), "{took:?}");
        assert!(took < Duration::from_millis(5) || took >= Duration::from_millis(50), "{took:?}");
        // The stream of the loser is reset, so its handler ends, and nothing of the call is left.
        world.settled().await;
        let cluster = world.mesh.status().services["s"].cluster.clone().unwrap();
        assert_eq!((cluster.requests.0, cluster.endpoints[0].in_flight), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_never_goes_where_the_call_was_sent_already() {
    for does in [&[Does::Hang][..], &[Does::Hang, Does::Hang]] {
        let service =
            "hedge: { delay: 10ms, max_hedged_attempts: 4, max_extra_load_percent: 99 }, retry: { num_retries: 0 }";
        let world = World::new(does, service).await;
        warm(&world).await;
        let before = world.seen();
        let error = world.client.get("/").timeout(Duration::from_secs(1)).send().await.unwrap_err();
        assert!(error.is_timeout());
        let asked: Vec<_> = world.seen().iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(asked, vec![1; does.len()]);
        world.settled().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_is_not_hedged_and_a_call_decides_for_itself() {
    let world = World::new(&[Does::Hang, Does::Answer], HEDGED).await;
    warm(&world).await;
    let hedged = |call: Call, method: Method| {
        let client = world.client.clone();
        async move {
            let mut late = 0;
            for _ in 0..2 {
                let call = call.timeout(Duration::from_secs(1));
                late += usize::from(client.request(method.clone(), "/").call(call).send().await.is_err());
            }
            late == 0
        }
    };
    assert!(hedged(Call::new(), Method::GET).await);
    assert!(!hedged(Call::new(), Method::POST).await);
    assert!(hedged(Call::new().idempotent(true), Method::POST).await);
    assert!(!hedged(Call::new().no_hedge(), Method::GET).await);
    let world = World::new(&[Does::Hang, Does::Answer], "protocol: auto").await;
    for _ in 0..2 {
        let call = Call::new().hedge(Duration::from_millis(5)).timeout(Duration::from_secs(1));
        assert!(world.client.get("/").call(call).send().await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn hedges_are_a_share_of_the_calls_and_draw_on_the_budget() {
    let world = World::new(&[Does::Hang, Does::Hang], "hedge: { delay: 10ms, max_extra_load_percent: 10 }").await;
    for _ in 0..100 {
        let _ = world.client.get("/").timeout(Duration::from_millis(30)).send().await;
    }
    // Ten of a hundred calls by their share.
    assert_eq!(world.seen().iter().sum::<usize>(), 100 + 10);
    let world = World::new(&[Does::Hang, Does::Hang], "hedge: { delay: 10ms, max_extra_load_percent: 99 }").await;
    for _ in 0..100 {
        let _ = world.client.get("/").timeout(Duration::from_millis(30)).send().await;
    }
    // Ten by the budget while nothing succeeds: one each ten seconds more.
    assert_eq!(world.seen().iter().sum::<usize>(), 100 + 10);
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_while_the_throttle_refuses() {
    // It refuses so few that hardly a call meets it, and is there all the same.
    for (throttle, expected) in [(", throttle: { multiplier: 1, max_rejection: 0.01%, window: 1m }", 1), ("", 0)] {
        let service = format!("{HEDGED}{throttle}, timeouts: {{ request: 1s }}");
        let world = World::new(&[Does::Hang, Does::Fail(503), Does::Answer], &service).await;
        for _ in 0..30 {
            let _ = world.client.get("/").timeout(Duration::from_millis(1)).send().await;
        }
        let mut late = 0;
        for _ in 0..3 {
            // That one of them was refused a moment ago is a reason of its own.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            late += usize::from(world.client.get("/").send().await.is_err());
        }
        assert_eq!(late, expected, "the one that asks the instance that hangs{throttle}");
        world.settled().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_while_calls_wait_and_a_hedge_waits_for_no_place() {
    let service =
        format!("{HEDGED}, circuit_breakers: {{ max_requests: 1 }}, timeouts: {{ request: 9s, limit_wait: 5s }}");
    let world = World::new(&[Does::Hang, Does::Answer], &service).await;
    for _ in 0..4 {
        let _ = world.client.get("/").timeout(Duration::from_millis(1)).send().await;
    }
    world.settled().await;
    // Alone, it has nobody to wait for it and no place for a hedge: it is as late as it is.
    let before = world.seen().iter().sum::<usize>();
    let call = |seconds| tokio::spawn(world.client.get("/").timeout(Duration::from_secs(seconds)).send());
    // Whoever waits has time left when the one before gives up.
    for call in [call(1), call(2), call(3)] {
        let _ = call.await.unwrap();
    }
    assert_eq!(world.seen().iter().sum::<usize>() - before, 3, "each was asked once");
    world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_attempt_goes_on_where_its_timeout_hedges() {
    let service = "timeouts: { per_try: 50ms }, hedge: { mode: per_try_timeout, max_extra_load_percent: 99 }";
    let world = World::new(&[Does::Hang, Does::Answer], service).await;
    warm(&world).await;
    for _ in 0..4 {
        assert_eq!(world.client.get("/").send().await.unwrap().status(), 200);
    }
    world.settled().await;
}
