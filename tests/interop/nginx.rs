//! nginx as a server behind our client, and as a proxy in front of our listener.
//!
//! Its reload is not tested: a worker that is told to go sometimes closes a connection early, probably with requests
//! unread on it, so that the kernel resets it and the GOAWAY is lost. Our client cannot tell such a request from one that
//! was processed.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use axum::{
    Router,
    body::Body as AxumBody,
    routing::{get, post},
};
use sinew::{Mesh, ResponseExt};

use crate::{
    echo::{Echo, EchoClient},
    peer::{Running, peer, port},
    world::{Instance, mesh},
};

const BIG: usize = 4 << 20;

struct Nginx {
    _running: Running,
    http1: u16,
    http2: u16,
    _dir: tempfile::TempDir,
}

/// `upstream` is where `/app/` and gRPC lead.
async fn start(program: &Path, upstream: Option<std::net::SocketAddr>) -> Nginx {
    let dir = tempfile::tempdir().unwrap();
    // Its workers run as another user where the tests run as root.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("big"), vec![b'x'; BIG]).unwrap();
    let (http1, http2) = (port(), port());
    let upstream = upstream.unwrap_or_else(|| ([127, 0, 0, 1], 1).into());
    let d = dir.path().display();
    let configuration = format!(
        "daemon off; pid {d}/pid; error_log {d}/error.log; worker_processes 1;
         events {{ worker_connections 1024; }}
         http {{
           access_log off; keepalive_requests 100; http2_max_concurrent_streams 16;
           client_body_temp_path {d}/1; proxy_temp_path {d}/2; fastcgi_temp_path {d}/3; uwsgi_temp_path {d}/4;
           scgi_temp_path {d}/5;
           upstream app {{ server {upstream}; keepalive 16; }}
           upstream grpc {{ server {upstream}; keepalive 4; }}
           server {{
             listen 127.0.0.1:{http1}; listen 127.0.0.1:{http2} http2;
             root {d};
             location = /hello {{ return 200 $server_protocol; }}
             location /app/ {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
             location /test.Echo/ {{ grpc_pass grpc://grpc; }}
           }}
         }}"
    );
    let file = dir.path().join("nginx.conf");
    std::fs::write(&file, configuration).unwrap();
    let log = dir.path().join("error.log");
    let running = Running::start(
        program,
        &["-p", dir.path().to_str().unwrap(), "-e", log.to_str().unwrap(), "-c", file.to_str().unwrap()],
    );
    let begun = tokio::time::Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", http2)).await.is_err() {
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(begun.elapsed() < Duration::from_secs(10), "nginx does not listen: {}", said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Nginx { _running: running, http1, http2, _dir: dir }
}

async fn client(port: u16, protocol: &str) -> Mesh {
    mesh(&format!("services: {{ web: {{ protocol: {protocol}, endpoints: {{ static: [\"127.0.0.1:{port}\"] }} }} }}"))
        .await
}

/// Calls in flight all the time; nginx ends each connection after 100 requests.
async fn calls(mesh: &Mesh, path: &'static str, expected: &'static str, callers: usize, each: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let web = mesh.client("web");
        tasks.spawn(async move {
            for _ in 0..each {
                let response = web.get(path).send().await.unwrap().error_for_status().unwrap();
                assert_eq!(response.text().await.unwrap(), expected);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_calls_nginx_in_each_version_and_survives_its_goaways() {
    let Some(program) = peer("nginx") else { return };
    let nginx = start(&program, None).await;
    for (port, protocol, expected) in [
        (nginx.http1, "http1", "HTTP/1.1"),
        (nginx.http1, "auto", "HTTP/1.1"),
        (nginx.http2, "http2", "HTTP/2.0"),
        (nginx.http2, "auto", "HTTP/2.0"),
    ] {
        let mesh = client(port, protocol).await;
        calls(&mesh, "/hello", expected, 32, 100).await;
        let big = mesh.client("web").get("/big").send().await.unwrap().bytes().await.unwrap();
        assert!(big.len() == BIG && big.iter().all(|b| *b == b'x'), "{protocol}: {} bytes", big.len());
        mesh.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_proxies_to_our_listener_over_http1_and_grpc() {
    let Some(program) = peer("nginx") else { return };
    let app = Router::new()
        .route("/app/hello", get(|| async { "hello" }))
        .route("/app/echo", post(|body: AxumBody| async { body }))
        .merge(Echo::new("v1").routes().into_axum_router());
    let instance = Instance::start("server", "127.0.0.1:0", app).await;
    let nginx = start(&program, Some(instance.addr)).await;
    let over1 = client(nginx.http1, "http1").await;
    calls(&over1, "/app/hello", "hello", 16, 50).await;
    let sent = vec![b'y'; 512 << 10];
    let web = over1.client("web");
    let echoed = web.post("/app/echo").body(sent.clone()).send().await.unwrap().error_for_status().unwrap();
    assert_eq!(echoed.bytes().await.unwrap(), sent);
    let over2 = client(nginx.http2, "http2").await;
    let mut echo = EchoClient::new(over2.client("web"));
    for _ in 0..200 {
        assert_eq!(echo.say("hi").await.unwrap().text, "v1: hi");
    }
    assert_eq!(echo.say("status:9").await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    let mut feed = echo.feed(30, 0).await.unwrap();
    let mut seen = 0;
    while let Some(message) = feed.message().await.unwrap() {
        assert_eq!(message.text, format!("v1: {seen}"));
        seen += 1;
    }
    assert_eq!(seen, 30);
    drop(nginx);
    instance.stop().await;
}
