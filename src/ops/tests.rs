//! The ops listener over real sockets.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::*;
use crate::{
    instrument::Registry,
    rt::TaskSet,
    transport::accept::{Drain, Listener},
};

struct Ops {
    server: OpsServer,
    address: SocketAddr,
    drain: Drain,
    configuration: Condition,
    registry: Registry,
    _tasks: TaskSet,
}

fn ops() -> Ops {
    let (drain, registry, tasks) = (Drain::new(), Registry::default(), TaskSet::new());
    let readiness = Readiness::new(&drain);
    let configuration = readiness.condition("configuration", "no configuration was received yet");
    readiness.condition("listeners", "").met();
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.socket_addr().unwrap();
    let server = OpsServer::serve(listener, "reviews", readiness, &registry, &tasks);
    Ops { server, address, drain, configuration, registry, _tasks: tasks }
}

impl Ops {
    async fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path).await
    }

    async fn request(&self, method: &str, path: &str) -> (u16, String) {
        let io = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder().method(method).uri(path).header("host", "a");
        let response = send.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    async fn health(&self) -> HealthClient<tonic::transport::Channel> {
        let address = format!("http://{}", self.address).parse::<tonic::transport::Endpoint>().unwrap();
        HealthClient::new(address.connect().await.unwrap())
    }
}

fn ask(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn readiness_names_its_reasons_and_liveness_has_none() {
    let ops = ops();
    assert_eq!(ops.get("/livez").await, (200, "ok\n".into()));
    let (status, body) = ops.get("/readyz").await;
    assert_eq!(status, 503);
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["conditions"].as_array().unwrap().len(), 1);
    assert_eq!(json["conditions"][0]["reason"], "no configuration was received yet");
    ops.configuration.met();
    assert_eq!(ops.get("/readyz").await, (200, "ok\n".into()));
    let (status, body) = ops.get("/readyz?verbose").await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &json["ready"]), (200, &true.into()));
    assert_eq!(json["conditions"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn there_is_nothing_else() {
    let ops = ops();
    for path in ["/", "/livez/", "/metricsx", "/debug/pprof", "/grpc.reflection.v1.ServerReflection/x"] {
        assert_eq!(ops.get(path).await.0, 404, "{path}");
    }
    assert_eq!(ops.request("POST", "/livez").await.0, 405);
    assert_eq!(ops.request("HEAD", "/livez").await, (200, String::new()));
}

#[tokio::test]
async fn http2_without_tls_is_spoken_too() {
    let ops = ops();
    let io = TokioIo::new(TcpStream::connect(ops.address).await.unwrap());
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://a/livez").body(Empty::<bytes::Bytes>::new()).unwrap();
    assert_eq!(send.send_request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn metrics_are_ours_and_each_scrape_is_complete() {
    let ops = ops();
    ops.registry.counter("sinew_requests_total", &[("service", "x")]).add(3);
    let latency = ops.registry.histogram("sinew_request_duration_seconds", &[]);
    latency.record(Duration::from_millis(3));
    // Another recorder takes its samples without taking them from the scrape.
    let foreign = metrics_util::debugging::DebuggingRecorder::new();
    ::metrics::with_local_recorder(&foreign, || ops.registry.flush());
    let (status, text) = ops.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("sinew_requests_total{service=\"x\"} 3"), "{text}");
    assert!(text.contains("sinew_request_duration_seconds_bucket{le=\"0.005\"} 1"), "{text}");
    assert!(text.contains("sinew_connections{direction=\"inbound\",listener=\"ops\"} 1"), "{text}");
    latency.record(Duration::from_millis(3));
    let (_, text) = ops.get("/metrics").await;
    assert!(text.contains("sinew_request_duration_seconds_count 2"), "{text}");
}

#[tokio::test]
async fn grpc_health_follows_readiness_and_the_drain() {
    let ops = ops();
    let mut client = ops.health().await;
    for service in ["", "reviews"] {
        assert_eq!(client.check(ask(service)).await.unwrap().into_inner().status, 2, "not serving before ready");
    }
    assert_eq!(client.check(ask("other")).await.unwrap_err().code(), tonic::Code::NotFound);
    let mut watch = client.watch(ask("reviews")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    ops.configuration.met();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    assert_eq!(client.check(ask("")).await.unwrap().into_inner().status, 1);
    let drain = ops.drain.clone();
    let draining = tokio::spawn(async move { drain.start(Duration::from_millis(200), Duration::from_secs(5)).await });
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    assert_eq!(ops.get("/readyz").await.0, 503);
    assert_eq!(ops.get("/livez").await.0, 200);
    draining.await.unwrap();
    // The mesh is gone, the ops listener answers until it is closed itself.
    assert_eq!(client.check(ask("")).await.unwrap().into_inner().status, 2);
    assert_eq!(ops.get("/livez").await.0, 200);
    let report = ops.server.close().await;
    assert!(report.took < Duration::from_secs(2), "{report:?}");
    assert!(TcpStream::connect(ops.address).await.is_err());
}
