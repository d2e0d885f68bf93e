//! Envoy's rate limit service with Redis behind it: counting, slow, down and back.

use std::{net::SocketAddr, path::Path, time::Duration};

use axum::{Router, routing::get};
use sinew::Mesh;
use tokio::time::Instant;

use crate::peer::{Running, peer, port};

/// How long the service may take here: a busy machine is slow, a stopped Redis is slower.
const TIMEOUT: Duration = Duration::from_millis(400);

fn redis(program: &Path, port: u16) -> Running {
    Running::start(program, &["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
}

/// Five a day for each tenant.
fn ratelimit(program: &Path, redis: u16, grpc: u16, root: &Path) -> Running {
    let config = root.join("ratelimit/config");
    std::fs::create_dir_all(&config).unwrap();
    let yaml =
        "domain: shop\ndescriptors:\n  - key: header.x-tenant\n    rate_limit: { unit: day, requests_per_unit: 5 }\n";
    std::fs::write(config.join("shop.yaml"), yaml).unwrap();
    let (redis, grpc) = (format!("127.0.0.1:{redis}"), grpc.to_string());
    let (http, debug, root) = (port().to_string(), port().to_string(), root.display().to_string());
    let env = [
        ("REDIS_SOCKET_TYPE", "tcp"),
        ("REDIS_URL", redis.as_str()),
        ("RUNTIME_ROOT", &root),
        ("RUNTIME_SUBDIRECTORY", "ratelimit"),
        ("RUNTIME_WATCH_ROOT", "false"),
        ("USE_STATSD", "false"),
        ("LOG_LEVEL", "error"),
        ("HOST", "127.0.0.1"),
        ("PORT", &http),
        ("GRPC_HOST", "127.0.0.1"),
        ("GRPC_PORT", &grpc),
        ("DEBUG_HOST", "127.0.0.1"),
        ("DEBUG_PORT", &debug),
    ];
    Running::with_env(program, &env)
}

/// A server with this limit.
async fn serve(grpc: u16, more: &str) -> (Mesh, SocketAddr) {
    let yaml = format!(
        "services: {{ ratelimit: {{ endpoints: {{ static: [\"127.0.0.1:{grpc}\"] }}, protocol: http2 }} }}\n\
         inbound: {{ rate_limit: {{ headers: draft03, global: {{ service: ratelimit, domain: shop, \
         timeout: {TIMEOUT:?}, {more} descriptors: [{{ entries: [{{ header: x-tenant }}] }}] }} }} }}"
    );
    let mesh = Mesh::builder("leaf").config_str(&yaml).build().await.unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    let app = Router::new().route("/", get(|| async { "ok" }));
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    mesh.client("ratelimit").wait_ready(Duration::from_secs(20)).await.unwrap();
    (mesh, addr)
}

async fn ask(client: &sinew::Client, tenant: &str) -> (u16, http::HeaderMap, Duration) {
    let begun = Instant::now();
    let response = client.get("/").header("x-tenant", tenant).send().await.unwrap();
    (response.status().as_u16(), response.headers().clone(), begun.elapsed())
}

/// Asks as ever new tenants until the service counts, or does not any more.
async fn until(client: &sinew::Client, counts: bool) {
    let begun = Instant::now();
    for n in 0.. {
        let (_, headers, _) = ask(client, &format!("{counts}{n}")).await;
        if headers.contains_key("x-ratelimit-limit") == counts {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "counts: {counts} is not reached");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_rate_limit_service_counts_for_all_and_may_be_slow_down_and_back() {
    let (Some(redis_program), Some(service)) = (peer("redis-server"), peer("ratelimit")) else { return };
    let root = tempfile::tempdir().unwrap();
    let (redis_port, grpc) = (port(), port());
    let store = redis(&redis_program, redis_port);
    // It gives up at once where Redis is not there yet.
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", redis_port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "Redis does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _service = ratelimit(&service, redis_port, grpc, root.path());
    let (_open, open) = serve(grpc, "").await;
    let (_strict, strict) = serve(grpc, "failure_mode_deny: true,").await;
    let yaml = format!(
        "services: {{ open: {{ endpoints: {{ static: [\"{open}\"] }} }}, strict: {{ endpoints: {{ static: [\"{strict}\"] }} }} }}"
    );
    let mesh = Mesh::builder("client").config_str(&yaml).build().await.unwrap();
    let (open, strict) = (mesh.client("open"), mesh.client("strict"));

    // Counting: both servers draw on the same five.
    until(&open, true).await;
    let mut told = Vec::new();
    for (client, left) in [(&open, "4"), (&strict, "3"), (&open, "2"), (&strict, "1"), (&open, "0")] {
        let (status, headers, _) = ask(client, "t").await;
        assert_eq!((status, headers["x-ratelimit-limit"].to_str().unwrap()), (200, "5, 5;w=86400"), "{headers:?}");
        told.push(headers["x-ratelimit-remaining"].to_str().unwrap() == left);
    }
    assert_eq!(told, [true; 5]);
    for client in [&strict, &open] {
        let (status, headers, _) = ask(client, "t").await;
        assert_eq!(status, 429);
        let after: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=86_400).contains(&after), "{after}");
    }

    // Slow: Redis does not move. Five time out, then the service is left alone.
    store.signal("STOP");
    let mut slow = 0;
    for _ in 0..12 {
        let (status, headers, took) = ask(&open, "t").await;
        assert_eq!((status, headers.contains_key("x-ratelimit-limit")), (200, false), "it fails open");
        slow += u32::from(took >= TIMEOUT);
    }
    assert!((5..=6).contains(&slow), "{slow} waited");
    let (status, _, took) = ask(&strict, "u").await;
    assert_eq!(status, 429, "nothing passes without an answer");
    assert!(took >= TIMEOUT);
    store.signal("CONT");
    until(&open, true).await;
    assert_eq!(ask(&open, "t").await.0, 429, "it remembers");

    // Down: the service has nothing to count in.
    drop(store);
    until(&open, false).await;
    assert_eq!(ask(&open, "t").await.0, 200);
    let begun = Instant::now();
    while ask(&strict, "v").await.0 != 429 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing is denied");
    }

    // Back, with nothing remembered.
    let _store = redis(&redis_program, redis_port);
    until(&open, true).await;
    // Its connections to Redis come back one by one; a question over one that is not back is not counted.
    let begun = Instant::now();
    for n in 0.. {
        let (mut statuses, mut counted) = (Vec::new(), true);
        for _ in 0..6 {
            let (status, headers, _) = ask(&open, &format!("w{n}")).await;
            counted &= headers.contains_key("x-ratelimit-limit");
            statuses.push(status);
        }
        if counted {
            assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not count all again");
    }
    until(&strict, true).await;
}
