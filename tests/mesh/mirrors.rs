//! Copies that nobody waits for, seen by the endpoints that get them, by the callers that do not notice, and by metrics.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Uri},
    routing::any,
};
use metrics_util::debugging::DebuggingRecorder;
use sinew::{Body, Client, Context, Mesh, Network, ResponseExt};

use crate::{
    echo::{Echo, EchoClient, Message},
    world::{Counters, status_of},
};

const SECOND: Duration = Duration::from_secs(1);

/// One request as a version saw it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    host: String,
    credentials: bool,
    mirrored: bool,
    body: usize,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// A version of `s` that answers after `delay` and writes down what it was asked.
async fn version(network: &Network, name: &str, delay: Duration) -> Log {
    let log = Log::default();
    let seen = Arc::clone(&log);
    let app =
        Router::new().fallback(any(move |context: Context, uri: Uri, headers: HeaderMap, body: Bytes| async move {
            seen.lock().unwrap().push(Seen {
                host: uri.authority().unwrap().to_string(),
                credentials: headers.contains_key("authorization") || headers.contains_key("cookie"),
                mirrored: context.is_mirrored(),
                body: body.len(),
            });
            tokio::time::sleep(delay).await;
            "answered"
        }));
    let mesh = Mesh::builder("s").network(network).build().await.unwrap();
    let listener = mesh.listen(format!("memory:{name}").as_str()).await.unwrap();
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    log
}

async fn caller(network: &Network, service: &str, mirror: &str) -> Mesh {
    let yaml = format!(
        "services: {{ s: {{ endpoints: [ {{ static: [\"memory:v1\"], labels: {{ version: v1 }} }}, {{ static: [\"memory:v2\"], \
         labels: {{ version: v2 }} }} ], subsets: {{ v1: {{ version: v1 }}, v2: {{ version: v2 }} }}, {service} routes: [ {{ \
         name: all, to: v1, mirror: {mirror} }} ] }} }}"
    );
    let mesh = Mesh::builder("caller").network(network).config_str(&yaml).build().await.unwrap();
    mesh.client("s").wait_ready(SECOND).await.unwrap();
    mesh
}

async fn answered(client: &Client) {
    assert_eq!(client.get("/a").send().await.unwrap().text().await.unwrap(), "answered");
}

/// Lets everything happen that needs no time, and then some.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_marked_named_and_without_credentials_and_the_call_does_not_notice() {
    let network = Network::new();
    let (v1, v2) = (version(&network, "v1", Duration::ZERO).await, version(&network, "v2", 3600 * SECOND).await);
    let mesh = caller(&network, "", "{ to: v2 }").await;
    let begun = tokio::time::Instant::now();
    let request = mesh.client("s").post("/a").header("authorization", "secret").header("cookie", "a=b").body("body");
    assert_eq!(request.send().await.unwrap().text().await.unwrap(), "answered");
    // The copy hangs for an hour.
    assert_eq!(begun.elapsed(), Duration::ZERO);
    settle().await;
    let original = Seen { host: "s".into(), credentials: true, mirrored: false, body: 4 };
    let copy = Seen { host: "s-shadow".into(), credentials: false, mirrored: true, body: 4 };
    assert_eq!((v1.lock().unwrap().clone(), v2.lock().unwrap().clone()), (vec![original], vec![copy]));
}

#[tokio::test(start_paused = true)]
async fn what_serves_a_copy_is_not_copied_again() {
    let network = Network::new();
    let (v1, v2) = (version(&network, "v1", Duration::ZERO).await, version(&network, "v2", Duration::ZERO).await);
    let mesh = caller(&network, "", "{ to: v2 }").await;
    let s = mesh.client("s");
    let app = Router::new().fallback(any(move || {
        let s = s.clone();
        async move { answered(&s).await }
    }));
    let front = Mesh::builder("front").network(&network).build().await.unwrap();
    tokio::spawn(front.listen("memory:front").await.unwrap().serve(app).into_future());
    let yaml =
        "services: { front: { endpoints: { static: [\"memory:front\"] }, routes: [ { name: all, mirror: {} } ] } }";
    let outside = Mesh::builder("outside").network(&network).config_str(yaml).build().await.unwrap();
    outside.client("front").get("/").send().await.unwrap();
    settle().await;
    // `front` is called twice, once by a copy; of the two calls it makes only the original's is copied.
    let seen = |log: &Log| {
        let log = log.lock().unwrap();
        (log.len(), log.iter().filter(|seen| seen.mirrored).count())
    };
    assert_eq!((seen(&v1), seen(&v2)), ((2, 1), (1, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_copy_goes_on_when_the_call_is_given_up() {
    let network = Network::new();
    let (v1, v2) = (version(&network, "v1", 3600 * SECOND).await, version(&network, "v2", 5 * SECOND).await);
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let mesh = caller(&network, "", "{ to: v2 }").await;
    let error = mesh.client("s").get("/").timeout(SECOND).send().await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!((v1.lock().unwrap().len(), v2.lock().unwrap().len()), (1, 1));
    tokio::time::sleep(10 * SECOND).await;
    let counted = Counters::of(&recorder);
    assert_eq!(counted.sum("sinew_mirrored_total", ("result", "answered")), 1);
}

#[tokio::test(start_paused = true)]
async fn a_longer_body_is_not_copied_and_does_not_wait() {
    let network = Network::new();
    let (v1, v2) = (version(&network, "v1", Duration::ZERO).await, version(&network, "v2", Duration::ZERO).await);
    let mesh = caller(&network, "", "{ to: v2 }").await;
    let streamed = |chunks: usize| {
        let frames =
            (0..chunks).map(|_| Ok::<_, sinew::Error>(http_body::Frame::data(Bytes::from(vec![7; 16 * 1024]))));
        Body::new(http_body_util::StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>())))
    };
    for chunks in [4, 5] {
        let response = mesh.client("s").post("/").body(streamed(chunks)).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), "answered");
        settle().await;
    }
    let sizes = |log: &Log| log.lock().unwrap().iter().map(|seen| seen.body).collect::<Vec<_>>();
    // The second one's copy was cancelled: its handler never had the whole body.
    assert_eq!((sizes(&v1), sizes(&v2)), (vec![65_536, 81_920], vec![65_536]));
}

#[tokio::test(start_paused = true)]
async fn copies_take_no_place_of_calls_and_touch_no_statistic() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let network = Network::new();
    let (v1, v2) = (version(&network, "v1", Duration::ZERO).await, version(&network, "v2", 3600 * SECOND).await);
    let limits = "circuit_breakers: { max_requests: 1, max_pending_requests: 0 },";
    let mesh = caller(&network, limits, "{ to: v2, max_concurrent: 3, timeout: 10s }").await;
    // A limit that is reached leaves calls alone as well.
    for _ in 0..5 {
        answered(&mesh.client("s")).await;
    }
    settle().await;
    assert_eq!((v1.lock().unwrap().len(), v2.lock().unwrap().len()), (5, 3));
    let loads: Vec<_> = status_of(&mesh, "s").endpoints.iter().map(|endpoint| endpoint.in_flight).collect();
    assert_eq!(loads, [0, 3], "a copy is load of its endpoint");
    tokio::time::sleep(20 * SECOND).await;
    let counted = Counters::of(&recorder);
    assert_eq!(counted.sum("sinew_attempts_total", ("outcome", "success")), 5);
    assert_eq!(counted.sum("sinew_attempts_total", ("service", "s")), 5);
    assert_eq!(counted.sum("sinew_mirrored_total", ("result", "timeout")), 3);
    assert_eq!(counted.sum("sinew_mirrored_total", ("result", "over_limit")), 2);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_not_there_is_nobodys_failure() {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let network = Network::new();
    let v1 = version(&network, "v1", Duration::ZERO).await;
    let mesh = caller(&network, "", "{ to: v2 }").await;
    for _ in 0..10 {
        answered(&mesh.client("s")).await;
    }
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(v1.lock().unwrap().len(), 10);
    let counted = Counters::of(&recorder);
    assert_eq!(counted.sum("sinew_attempts_total", ("service", "s")), 10);
    assert_eq!(counted.sum("sinew_mirrored_total", ("result", "failed")), 10);
}

#[tokio::test(start_paused = true)]
async fn grpc_is_copied_like_everything_else() {
    let network = Network::new();
    for name in ["v1", "v2"] {
        let mesh = Mesh::builder("s").network(&network).build().await.unwrap();
        let listener = mesh.listen(format!("memory:{name}").as_str()).await.unwrap();
        tokio::spawn(listener.serve(Echo::new(name).routes().into_axum_router()).into_future());
    }
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let mesh = caller(&network, "", "{ to: v2 }").await;
    let answer = EchoClient::new(mesh.client("s")).unary(tonic::Request::new(Message::new("a"))).await.unwrap();
    assert_eq!(answer.text, "v1: a");
    tokio::time::sleep(10 * SECOND).await;
    let counted = Counters::of(&recorder);
    assert_eq!(counted.sum("sinew_mirrored_total", ("result", "answered")), 1);
}

#[tokio::test(start_paused = true)]
async fn a_share_is_copied_and_shadow_copies_nothing() {
    let network = Network::new();
    let (v1, v2) = (version(&network, "v1", Duration::ZERO).await, version(&network, "v2", Duration::ZERO).await);
    let mesh = caller(&network, "", "{ to: v2, percent: 30% }").await;
    let shadow = caller(&network, "", "{ to: v2, mode: shadow }").await;
    for _ in 0..1_000 {
        answered(&mesh.client("s")).await;
    }
    settle().await;
    // 99.9999 % of fair rolls.
    let copies = v2.lock().unwrap().len();
    assert!((230..370).contains(&copies), "{copies}");
    answered(&shadow.client("s")).await;
    settle().await;
    assert_eq!((v1.lock().unwrap().len(), v2.lock().unwrap().len()), (1_001, copies));
}
