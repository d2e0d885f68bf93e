//! Streams and polls on which nothing happens for long.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body as AxumBody,
    http::header,
    response::{IntoResponse, Sse, sse::Event},
    routing::get,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use sinew::{Code, Mesh, Network, ResponseExt};
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;

use crate::{
    echo::{Echo, EchoClient},
    world::status_of,
};

const MINUTES_20: Duration = Duration::from_secs(20 * 60);

/// Two events, with twenty minutes before each.
fn events() -> impl tokio_stream::Stream<Item = Result<Event, Infallible>> + Send + 'static {
    tokio_stream::iter(["one", "two"]).then(|text| async move {
        sleep(MINUTES_20).await;
        Ok(Event::default().data(text))
    })
}

async fn seconds(after: u64) -> &'static str {
    sleep(Duration::from_secs(after)).await;
    "late"
}

fn app() -> Router {
    Router::new()
        .route("/events", get(|| async { Sse::new(events()) }))
        .route("/poll/20", get(|| seconds(20)))
        .route("/poll/1200", get(|| seconds(1200)))
        .route(
            "/headers_first",
            get(|| async {
                let chunks = tokio_stream::iter(["a", "b"]).then(|text| async move {
                    sleep(MINUTES_20).await;
                    Ok::<_, Infallible>(Bytes::from(text))
                });
                ([(header::CONTENT_TYPE, "text/plain")], AxumBody::from_stream(chunks)).into_response()
            }),
        )
        .merge(Echo::new("echo").routes().into_axum_router())
}

async fn world(protocol: &str) -> (Mesh, Mesh) {
    let network = Network::new();
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let listener = server.listen("memory:s").await.unwrap();
    tokio::spawn(listener.serve(app()).with_graceful_shutdown(std::future::pending()).into_future());
    let yaml = format!("services: {{ s: {{ protocol: {protocol}, endpoints: {{ static: [\"memory:s\"] }} }} }}");
    let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
    mesh.client("s").wait_ready(Duration::from_secs(1)).await.unwrap();
    (server, mesh)
}

async fn event_stream(protocol: &str) {
    let (_server, mesh) = world(protocol).await;
    let response = mesh.client("s").get("/events").header("accept", "text/event-stream").send().await.unwrap();
    let cluster = status_of(&mesh, "s");
    assert_eq!((cluster.requests.0, cluster.streams.0), (0, 1), "an event stream is not a request in flight");
    let begun = Instant::now();
    let text = response.text().await.unwrap();
    assert_eq!(text, "data: one\n\ndata: two\n\n");
    assert!(begun.elapsed() >= 2 * MINUTES_20);
    assert_eq!(status_of(&mesh, "s").streams.0, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_event_stream_lives_on_over_http2() {
    event_stream("http2").await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_event_stream_lives_on_over_http1() {
    event_stream("http1").await;
}

/// Headers end the default timeout; what comes after may take as long as it takes, if it is not silent for five minutes or
/// said that it will be.
#[tokio::test(start_paused = true)]
async fn a_response_that_has_begun_may_be_silent_for_as_long_as_it_says() {
    for protocol in ["http2", "http1"] {
        let (_server, mesh) = world(protocol).await;
        let begun = Instant::now();
        let mut body = mesh.client("s").get("/headers_first").send().await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap_err().code(), Code::Idle, "{protocol}");
        assert_eq!(begun.elapsed(), Duration::from_secs(300));
        let request = mesh.client("s").get("/headers_first").header("prefer", "wait=1500");
        let mut body = request.send().await.unwrap().into_body();
        for expected in ["a", "b"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), expected, "{protocol}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_announced_long_poll_waits_and_another_is_told_what_ended_it() {
    for protocol in ["http2", "http1"] {
        let (_server, mesh) = world(protocol).await;
        let client = mesh.client("s");
        for (path, prefer) in [("/poll/20", "wait=30"), ("/poll/1200", "respond-async, wait=1500")] {
            let response = client.get(path).header("prefer", prefer).send().await.unwrap();
            assert_eq!(response.text().await.unwrap(), "late", "{protocol} {path}");
        }
        let response = client.get("/poll/20").timeout(Duration::from_secs(25)).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), "late", "{protocol}");

        let begun = Instant::now();
        let error = client.get("/poll/20").send().await.unwrap_err();
        assert_eq!(error.code(), Code::TimeoutRequest, "{protocol}");
        assert!(
            error.to_string().contains("timeouts.response") && error.to_string().contains("prefer: wait"),
            "{error}"
        );
        assert_eq!(begun.elapsed().as_secs(), 15, "{protocol}");
        let cluster = status_of(&mesh, "s");
        assert_eq!((cluster.requests.0, cluster.endpoints[0].in_flight), (0, 0), "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_grpc_watch_lives_on_and_leaves_the_limit_on_requests() {
    let (_server, mesh) = world("http2").await;
    let every = u32::try_from(MINUTES_20.as_millis()).unwrap();
    let mut watch = EchoClient::new(mesh.client("s")).feed(3, every).await.unwrap();
    sleep(Duration::from_secs(29)).await;
    let cluster = status_of(&mesh, "s");
    assert_eq!((cluster.requests.0, cluster.streams.0), (1, 0));
    sleep(Duration::from_secs(7)).await;
    let cluster = status_of(&mesh, "s");
    assert_eq!((cluster.requests.0, cluster.streams.0, cluster.endpoints[0].in_flight), (0, 1, 1));
    for n in 0..3 {
        assert_eq!(watch.next().await.unwrap().unwrap().text, format!("echo: {n}"));
    }
    assert!(watch.next().await.is_none());
    let cluster = status_of(&mesh, "s");
    assert_eq!((cluster.requests.0, cluster.streams.0, cluster.endpoints[0].in_flight), (0, 0, 0));
}
