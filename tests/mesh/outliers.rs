//! Instances that fail, that go silent, and what their callers notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::any,
};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use sinew::{Mesh, Network, ResponseExt};
use tokio::{task::JoinSet, time::sleep};

use crate::world::status_of;

/// How an instance answers.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Well,
    Failing,
    Silent,
    /// By gRPC: 200, and the status in trailers.
    Serving,
    Unavailable,
}

/// A gRPC answer without a message.
fn by_trailers(status: &str) -> Response {
    let trailers = [("grpc-status".parse().unwrap(), status.parse().unwrap())].into_iter().collect();
    let frames = [Ok::<_, std::convert::Infallible>(Frame::trailers(trailers))];
    let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

/// Three instances in memory, of which one is of a kind, and how many calls that one got.
async fn world(kind: Kind, settings: &str) -> (Vec<Mesh>, Mesh, Arc<AtomicU32>) {
    let (network, calls) = (Network::new(), Arc::new(AtomicU32::new(0)));
    let mut servers = Vec::new();
    let others = if kind == Kind::Unavailable { Kind::Serving } else { Kind::Well };
    for (name, kind) in [("a", kind), ("b", others), ("c", others)] {
        let (server, counted) = (Mesh::builder("s").network(&network).build().await.unwrap(), Arc::clone(&calls));
        let answer = move || {
            let counted = Arc::clone(&counted);
            async move {
                counted.fetch_add(u32::from(!matches!(kind, Kind::Well | Kind::Serving)), Relaxed);
                match kind {
                    Kind::Well | Kind::Serving => sleep(Duration::from_millis(20)).await,
                    Kind::Failing => return StatusCode::BAD_GATEWAY.into_response(),
                    Kind::Silent => std::future::pending().await,
                    Kind::Unavailable => return by_trailers("14"),
                }
                if kind == Kind::Serving { by_trailers("0") } else { StatusCode::OK.into_response() }
            }
        };
        let listener = server.listen(format!("memory:{name}").as_str()).await.unwrap();
        let app = Router::new().fallback(any(answer));
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
        servers.push(server);
    }
    let yaml = format!(
        "services: {{ s: {{ protocol: http2, retry: off, {settings} endpoints: {{ static: [\"memory:a\", \"memory:b\", \
         \"memory:c\"] }} }} }}"
    );
    let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
    mesh.client("s").wait_ready(Duration::from_secs(1)).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    (servers, mesh, calls)
}

fn health_of(mesh: &Mesh) -> Vec<&'static str> {
    let endpoints = status_of(mesh, "s").endpoints;
    endpoints.into_iter().find(|endpoint| endpoint.id == "memory:a").unwrap().health
}

#[tokio::test(start_paused = true)]
async fn a_failing_instance_costs_five_calls_and_then_one_each_time_it_is_tried() {
    let (_servers, mesh, calls) = world(Kind::Failing, "").await;
    let mut failed = 0;
    for _ in 0..1_000 {
        failed += u32::from(mesh.client("s").get("/").send().await.unwrap().status() != StatusCode::OK);
    }
    assert_eq!((failed, calls.load(Relaxed)), (5, 5), "within 20 s");
    assert_eq!(health_of(&mesh), ["ejected"]);
    let account = status_of(&mesh, "s").endpoints[0].health_account.clone().unwrap();
    assert!(account.contains("by `consecutive_gateway_failure`"), "{account}");
    for _ in 0..2_000 {
        failed += u32::from(mesh.client("s").get("/").send().await.unwrap().status() != StatusCode::OK);
    }
    assert_eq!(failed, 6, "one call on probation within the next 40 s");
    assert_eq!(health_of(&mesh), ["ejected"], "for twice as long");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_fails_by_grpc_trailers_under_a_200_is_ejected_as_well() {
    let (_servers, mesh, calls) = world(Kind::Unavailable, "").await;
    let client = mesh.client("s");
    let mut failed = 0;
    for _ in 0..1_000 {
        let response = client.post("/s.S/Get").header("content-type", "application/grpc").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let answer = response.into_body().collect().await.unwrap();
        failed += u32::from(answer.trailers().unwrap()["grpc-status"] != "0");
    }
    assert_eq!((failed, calls.load(Relaxed)), (5, 5), "within 20 s");
    assert_eq!(health_of(&mesh), ["ejected"]);
    let account = status_of(&mesh, "s").endpoints[0].health_account.clone().unwrap();
    assert!(account.contains("by `consecutive_gateway_failure`"), "{account}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_instance_without_any_timeout_costs_five_calls_and_those_in_flight() {
    let (_servers, mesh, calls) = world(Kind::Silent, "timeouts: { response: off }, load_balancer: round_robin,").await;
    let mut open = JoinSet::new();
    let mut when_ejected = None;
    // In turn, since least request would hardly ask an instance that has calls open. Ten seconds at 50 calls a second, whether or not earlier ones were answered.
    for _ in 0..500 {
        let client = mesh.client("s");
        open.spawn(async move { client.get("/").send().await.unwrap().status() });
        sleep(Duration::from_millis(20)).await;
        if when_ejected.is_none() && health_of(&mesh).contains(&"ejected") {
            when_ejected = Some(calls.load(Relaxed));
        }
    }
    let when_ejected = when_ejected.expect("it is found by the age of its calls");
    let lost = calls.load(Relaxed);
    assert_eq!(lost, when_ejected, "nothing goes there any more");
    assert!(lost <= 30, "{lost} calls lost: five, and what was in flight by then");
    let mut answered = 0;
    while answered + lost < 500 {
        let status = open.join_next().await.unwrap().unwrap();
        assert_eq!(status, StatusCode::OK);
        answered += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn switched_off_every_third_call_or_so_goes_on_failing() {
    let (_servers, mesh, calls) = world(Kind::Failing, "load_balancer: round_robin, outlier_detection: off,").await;
    for _ in 0..300 {
        mesh.client("s").get("/").send().await.unwrap().bytes().await.unwrap();
    }
    assert_eq!(calls.load(Relaxed), 100);
    assert!(health_of(&mesh).is_empty());
}
