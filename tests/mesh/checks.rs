//! Health checks against real servers.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use sinew::{Mesh, ResponseExt};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    echo::{Echo, EchoClient},
    world::{Instance, mesh, status_of},
};

/// A server by tonic alone, with its own health service.
async fn tonic_server(name: &'static str) -> (SocketAddr, HealthReporter) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("echo", ServingStatus::Serving).await;
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(health)
            .add_service(Echo::new(name))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
    );
    (addr, reporter)
}

/// Waits for a state of the mesh that is bound to come.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let comes = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), comes).await.unwrap_or_else(|_| panic!("{what}"));
}

fn failed(mesh: &Mesh, addr: SocketAddr) -> bool {
    let endpoints = status_of(mesh, "echo").endpoints;
    let endpoint = endpoints.iter().find(|endpoint| endpoint.id == addr.to_string()).unwrap();
    endpoint.health == ["health_check_failed"]
}

fn is(mesh: &Mesh, status: &str) -> bool {
    let endpoints = status_of(mesh, "echo").endpoints;
    endpoints.len() == 2 && endpoints.iter().all(|endpoint| endpoint.health_checks[0].status == status)
}

#[tokio::test]
async fn a_tonic_server_is_believed_what_it_says_of_itself() {
    let ((a, of_a), (b, _of_b)) = (tonic_server("a").await, tonic_server("b").await);
    // Nothing but the stream can be the reason within this test: the next question comes in a minute.
    let mesh = mesh(&format!(
        "services:\n  echo:\n    endpoints: {{ static: [\"{a}\", \"{b}\"] }}\n    health_checks: {{ grpc: {{ service: \
         echo }}, initial_jitter: 0s, interval: 60s, healthy_threshold: 1 }}\n"
    ))
    .await;
    until("both are healthy", async || is(&mesh, "healthy")).await;
    let mut client = EchoClient::new(mesh.client("echo"));
    of_a.set_service_status("echo", ServingStatus::NotServing).await;
    until("the stream told", async || failed(&mesh, a)).await;
    for _ in 0..20 {
        assert_eq!(client.say("hi").await.unwrap().text, "b: hi");
    }
    let status = status_of(&mesh, "echo");
    let ill = status.endpoints.iter().find(|endpoint| endpoint.id == a.to_string()).unwrap();
    assert_eq!(ill.health_checks[0].last, "it says NOT_SERVING");
    of_a.set_service_status("echo", ServingStatus::Serving).await;
    until("the stream told", async || !failed(&mesh, a)).await;
    until("it is called again", async || client.say("hi").await.unwrap().text == "a: hi").await;
}

#[tokio::test]
async fn a_check_in_shadow_reports_and_no_endpoint_is_passed_over() {
    let ((a, of_a), (b, _of_b)) = (tonic_server("a").await, tonic_server("b").await);
    let mesh = mesh(&format!(
        "services:\n  echo:\n    endpoints: {{ static: [\"{a}\", \"{b}\"] }}\n    health_checks: {{ grpc: {{ service: \
         echo }}, initial_jitter: 0s, interval: 60s, healthy_threshold: 1, enforcement: shadow }}\n"
    ))
    .await;
    until("both are healthy", async || is(&mesh, "healthy")).await;
    of_a.set_service_status("echo", ServingStatus::NotServing).await;
    until("it is reported", async || {
        status_of(&mesh, "echo").endpoints.iter().any(|endpoint| endpoint.health_checks[0].status == "unhealthy")
    })
    .await;
    assert!(status_of(&mesh, "echo").endpoints.iter().all(|endpoint| endpoint.health.is_empty()));
    let mut client = EchoClient::new(mesh.client("echo"));
    until("it is called all the same", async || client.say("hi").await.unwrap().text == "a: hi").await;
}

/// An instance that can be told to be ill: to checks, or to whoever calls.
async fn instance() -> (Instance, tokio::sync::watch::Sender<Illness>) {
    let (ill, illness) = tokio::sync::watch::channel(Illness::None);
    let (asked, called) = (illness.clone(), illness);
    let check = move || {
        let status = match *asked.borrow() {
            Illness::Quiet => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::NO_CONTENT,
        };
        async move { status }
    };
    let call = move || {
        let ill = *called.borrow() == Illness::Loud;
        async move {
            let header = ill.then_some([("x-envoy-immediate-health-check-fail", "true")]);
            (header, "hi").into_response()
        }
    };
    let app = Router::new().route("/healthz", get(check)).route("/", get(call));
    (Instance::start("echo", "127.0.0.1:0", app).await, ill)
}

#[derive(Clone, Copy, PartialEq)]
enum Illness {
    None,
    /// Checks see it.
    Quiet,
    /// Its answers say so.
    Loud,
}

#[tokio::test]
async fn http_checks_and_the_word_of_an_answer_take_an_endpoint_out_and_passes_bring_it_back() {
    let ((a, ill), (b, _well)) = (instance().await, instance().await);
    let (at, other) = (a.addr, b.addr);
    for protocol in ["http1", "http2", "auto"] {
        let mesh = mesh(&format!(
            "services:\n  echo:\n    endpoints: {{ static: [\"{at}\", \"{other}\"] }}\n    protocol: {protocol}\n    \
             health_checks:\n    - http: {{ path: /healthz, expected_statuses: 2xx }}\n      initial_jitter: 0s\n      \
             interval: 20ms\n      no_traffic_interval: 20ms\n"
        ))
        .await;
        until("both are healthy", async || is(&mesh, "healthy")).await;
        ill.send_replace(Illness::Quiet);
        until("checks fail", async || failed(&mesh, at)).await;
        ill.send_replace(Illness::None);
        until("checks pass", async || !failed(&mesh, at)).await;
        let client = mesh.client("echo");
        ill.send_replace(Illness::Loud);
        until("its answer says so", async || {
            client.get("/").send().await.unwrap().text().await.unwrap();
            failed(&mesh, at)
        })
        .await;
        ill.send_replace(Illness::None);
        until("checks pass", async || !failed(&mesh, at)).await;
        mesh.shutdown(Duration::from_secs(5)).await;
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_any_more_is_found_by_a_connection() {
    let ((a, _), (b, _)) = (instance().await, instance().await);
    let (at, other) = (a.addr, b.addr);
    let mesh = mesh(&format!(
        "services:\n  echo:\n    endpoints: {{ static: [\"{at}\", \"{other}\"] }}\n    health_checks: {{ tcp: {{}}, \
         initial_jitter: 0s, interval: 20ms, no_traffic_interval: 20ms }}\n"
    ))
    .await;
    until("both are healthy", async || is(&mesh, "healthy")).await;
    a.stop().await;
    until("nobody is there", async || failed(&mesh, at)).await;
    let counted = Router::new().route("/", get(|| async { "back" }));
    let again = Instance::start("echo", at.to_string().as_str(), counted).await;
    until("it is there again", async || !failed(&mesh, at)).await;
    again.stop().await;
    b.stop().await;
}
