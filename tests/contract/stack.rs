//! The whole client stack against a whole server, in memory and on paused time: a call that is dropped, wherever it
//! stands, returns every permit at once, and the server's side ends with it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body as AxumBody, routing::post};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, StreamBody};
use sinew::{Body, Client, Mesh, Network};
use tokio_stream::StreamExt;
use tower::Service;

use crate::probe::Reached;

const STEP: Duration = Duration::from_millis(10);
const CHUNKS: usize = 8;

/// Handlers and their bodies that are alive.
#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

struct One(Arc<AtomicUsize>);

impl Alive {
    fn one(&self) -> One {
        self.0.fetch_add(1, Relaxed);
        One(self.0.clone())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// One chunk every step.
fn slowly(chunks: usize, held: One) -> impl tokio_stream::Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    tokio_stream::iter(0..chunks).then(move |_| {
        let _ = &held;
        async {
            tokio::time::sleep(STEP).await;
            Ok(Bytes::from_static(&[7; 1000]))
        }
    })
}

/// Reads the request whole, waits, and answers slowly.
fn app(alive: Alive) -> Router {
    Router::new().route(
        "/",
        post(move |body: AxumBody| {
            let handler = alive.one();
            async move {
                body.collect().await.ok();
                tokio::time::sleep(STEP * 3).await;
                AxumBody::from_stream(slowly(CHUNKS, handler))
            }
        }),
    )
}

struct World {
    alive: Alive,
    uploads: Alive,
    mesh: Mesh,
    client: Client,
    /// A call has one attempt, from its first poll to its end.
    single: bool,
    _server: Mesh,
}

async fn world(protocol: &str) -> World {
    let alive = Alive::default();
    let app = app(alive.clone());
    world_of(protocol, "", alive, app).await
}

async fn world_of(protocol: &str, settings: &str, alive: Alive, app: Router) -> World {
    let network = Network::new();
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    for name in ["memory:s", "memory:t"] {
        let listener = server.listen(name).await.unwrap();
        let served = listener.serve(app.clone()).with_graceful_shutdown(std::future::pending());
        tokio::spawn(served.into_future());
    }
    let endpoints = if settings.is_empty() { "\"memory:s\"" } else { "\"memory:s\", \"memory:t\"" };
    let yaml = format!(
        "services: {{ s: {{ protocol: {protocol}, endpoints: {{ static: [{endpoints}] }}, outlier_detection: off{settings} }} }}"
    );
    let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
    let client = mesh.client("s");
    client.wait_ready(Duration::from_secs(1)).await.unwrap();
    World { alive, uploads: Alive::default(), mesh, client, single: settings.is_empty(), _server: server }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Upload {
    Whole,
    Streamed,
}

impl World {
    fn request(&self, upload: Upload) -> http::Request<Body> {
        let body = match upload {
            Upload::Whole => Body::from("hello"),
            Upload::Streamed => {
                Body::new(StreamBody::new(slowly(4, self.uploads.one()).map(|chunk| chunk.map(Frame::data))))
            }
        };
        http::Request::post("/").body(body).unwrap()
    }

    /// What the client's mesh still holds: calls, waiting calls, streams, load of the endpoint.
    fn held(&self) -> [u32; 4] {
        let cluster = self.mesh.status().services["s"].cluster.clone().unwrap();
        let in_flight = cluster.endpoints.iter().map(|endpoint| endpoint.in_flight).sum();
        [cluster.requests.0, cluster.pending.0, cluster.streams.0, in_flight]
    }

    /// Polls future and body once a step, and drops what there is after `polls` polls.
    async fn drop_after(&mut self, upload: Upload, polls: usize) -> Reached {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let request = self.request(upload);
        let mut future = Box::pin(self.client.call(request));
        let mut left = polls;
        let response = loop {
            if left == 0 {
                assert!(!self.single || self.held()[0] == 1, "the call is counted while it runs");
                return Reached::Future;
            }
            left -= 1;
            if let Poll::Ready(response) = future.as_mut().poll(&mut cx) {
                break response.unwrap();
            }
            tokio::time::sleep(STEP / 2).await;
        };
        drop(future);
        let mut body = response.into_body();
        while left > 0 {
            left -= 1;
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Ready(Some(frame)) => _ = frame.unwrap(),
                Poll::Ready(None) => return Reached::End,
                Poll::Pending => tokio::time::sleep(STEP / 2).await,
            }
        }
        // A body that says that nothing more comes has ended, whether or not it is asked again.
        let counted = u32::from(!body.is_end_stream());
        assert_eq!(self.held()[0], counted, "the call is counted while its body is read");
        Reached::Body
    }
}

async fn dropped_at_every_poll(protocol: &str, upload: Upload) {
    dropped_in(world(protocol).await, protocol, upload).await;
}

async fn dropped_in(mut world: World, protocol: &str, upload: Upload) {
    assert_eq!(world.drop_after(upload, usize::MAX).await, Reached::End);
    let tasks = world.mesh.status().tasks;
    let mut points = Vec::new();
    for polls in 0.. {
        let reached = world.drop_after(upload, polls).await;
        let place = format!("{protocol}, {upload:?}, dropped after {polls} polls ({reached:?})");
        assert_eq!(world.held(), [0; 4], "{place}");
        points.push(reached);
        // The reset, or the closed connection, reaches the handler.
        let ended = tokio::time::timeout(Duration::from_secs(1), async {
            while world.alive.0.load(Relaxed) + world.uploads.0.load(Relaxed) > 0 {
                tokio::time::sleep(STEP).await;
            }
        });
        assert!(ended.await.is_ok(), "{place}: the server works on for nobody");
        if reached == Reached::End {
            break;
        }
        assert!(polls < 200, "the call does not end");
    }
    let count = |reached| points.iter().filter(|point| **point == reached).count();
    assert!(count(Reached::Future) >= 6 && count(Reached::Body) >= 12, "{points:?}");
    // What is left serves the next call, and no task was left behind.
    assert_eq!(world.drop_after(upload, usize::MAX).await, Reached::End);
    let settled = tokio::time::timeout(Duration::from_secs(10), async {
        while world.mesh.status().tasks > tasks {
            tokio::time::sleep(STEP).await;
        }
    });
    assert!(settled.await.is_ok(), "{} tasks, {tasks} before", world.mesh.status().tasks);
}

#[tokio::test(start_paused = true)]
async fn an_http2_call_with_a_whole_body() {
    dropped_at_every_poll("http2", Upload::Whole).await;
}

#[tokio::test(start_paused = true)]
async fn an_http2_call_with_a_streamed_body() {
    dropped_at_every_poll("http2", Upload::Streamed).await;
}

#[tokio::test(start_paused = true)]
async fn an_http1_call_with_a_whole_body() {
    dropped_at_every_poll("http1", Upload::Whole).await;
}

#[tokio::test(start_paused = true)]
async fn an_http1_call_with_a_streamed_body() {
    dropped_at_every_poll("http1", Upload::Streamed).await;
}

/// Every other request is answered with 503, and the rest slowly enough for a hedge.
fn moody(alive: Alive) -> Router {
    let asked = Arc::<AtomicUsize>::default();
    Router::new().route(
        "/",
        post(move |body: AxumBody| {
            let (handler, asked) = (alive.one(), asked.fetch_add(1, Relaxed));
            async move {
                body.collect().await.ok();
                tokio::time::sleep(STEP * 3).await;
                let status = if asked.is_multiple_of(2) { 503 } else { 200 };
                http::Response::builder().status(status).body(AxumBody::from_stream(slowly(CHUNKS, handler))).unwrap()
            }
        }),
    )
}

/// Attempts in flight, in back-off and beside each other: whatever is there when the call is given up.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_sent_again_and_hedged() {
    const SETTINGS: &str = ", retry: { retry_on: [5xx], num_retries: 2, require_idempotent: false, retry_back_off: { \
        base_interval: 40ms, max_interval: 40ms, jitter: equal } }, hedge: { delay: 20ms, max_extra_load_percent: 99, \
        require_idempotent: false }";
    for protocol in ["http2", "http1"] {
        for upload in [Upload::Whole, Upload::Streamed] {
            let alive = Alive::default();
            let app = moody(alive.clone());
            let world = world_of(protocol, SETTINGS, alive, app).await;
            dropped_in(world, protocol, upload).await;
        }
    }
}

/// Calls that stand in the line at `max_requests`, in each order and at each moment: nobody behind them is forgotten.
#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_their_turn() {
    for queue in ["fifo", "lifo", "codel"] {
        let alive = Alive::default();
        let settings =
            format!(", timeouts: {{ limit_wait: 10s }}, circuit_breakers: {{ max_requests: 1, queue: {queue} }}");
        let app = app(alive.clone());
        let mut world = world_of("http2", &settings, alive, app).await;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for polls in 1..40 {
            // One is in flight and three wait; one of those is given up after so many polls, then all.
            let mut calls: Vec<_> =
                (0..4).map(|_| Some(Box::pin(world.client.call(world.request(Upload::Whole))))).collect();
            for step in 0..polls {
                for call in &mut calls {
                    if call.as_mut().is_some_and(|call| call.as_mut().poll(&mut cx).is_ready()) {
                        *call = None;
                    }
                }
                if step == 0 {
                    assert_eq!(world.held()[..2], [1, 3], "{queue}");
                }
                tokio::time::sleep(STEP / 2).await;
            }
            calls[2] = None;
            tokio::time::sleep(STEP / 2).await;
            drop(calls);
            assert_eq!(world.held(), [0; 4], "{queue}, {polls}");
        }
        assert_eq!(world.drop_after(Upload::Whole, usize::MAX).await, Reached::End, "{queue}");
    }
}

/// Calls that wait for a connection, and calls that nobody polls.
#[tokio::test(start_paused = true)]
async fn waiting_and_unpolled_calls_hold_nothing_once_dropped() {
    let yaml = "services: { s: { endpoints: { static: [\"memory:nobody\"] } } }";
    let mesh = Mesh::builder("c").config_str(yaml).build().await.unwrap();
    let mut client = mesh.client("s");
    let held = || {
        let cluster = mesh.status().services["s"].cluster.clone().unwrap();
        (cluster.requests.0, cluster.pending.0)
    };
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let mut call = Box::pin(client.call(http::Request::new(Body::empty())));
            // Every other one is waiting, the rest were never polled.
            (n % 2 == 0).then(|| assert!(call.as_mut().poll(&mut cx).is_pending()));
            call
        })
        .collect();
    assert_eq!(held(), (100, 50));
    drop(calls);
    assert_eq!(held(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_clones_hold_nothing() {
    let mut world = world("http2").await;
    let tasks = world.mesh.status().tasks;
    let mut clones: Vec<_> = (0..10_000).map(|_| world.client.clone()).collect();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for clone in &mut clones {
        assert!(Service::<http::Request<Body>>::poll_ready(clone, &mut cx).is_ready());
    }
    assert_eq!(world.held(), [0; 4]);
    drop(clones);
    assert_eq!((world.held(), world.mesh.status().tasks), ([0; 4], tasks));
    assert_eq!(world.drop_after(Upload::Whole, usize::MAX).await, Reached::End);
}
