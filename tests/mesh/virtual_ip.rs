//! One address with many behind it: retries, hedges and stalls go by connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use sinew::{Mesh, ResponseExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{Instance, mesh};

/// What stands before the instances: each connection goes to the next of them, and those after the last to the last.
struct Balancer {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Balancer {
    async fn new(behind: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, connections) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let (behind, count) = (behind.to_vec(), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let to = behind[count.fetch_add(1, Relaxed).min(behind.len() - 1)];
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { addr, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// A client that has both of its connections.
    async fn client(&self, protocol: &str, service: &str) -> Mesh {
        let mesh = mesh(&format!(
            "services: {{ s: {{ endpoints: {{ static: [\"{}\"], kind: vip }}, protocol: {protocol}, {service} }} }}",
            self.addr
        ))
        .await;
        mesh.client("s").wait_ready(Duration::from_secs(5)).await.unwrap();
        if protocol == "http2" {
            self.reaches(2).await;
            // Its SETTINGS have to come back before it is offered.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        mesh
    }

    async fn reaches(&self, connections: usize) {
        let reached = async {
            while self.connections() < connections {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("another connection is made");
    }
}

async fn failing() -> Instance {
    let app = Router::new().route("/", get(|| async { StatusCode::SERVICE_UNAVAILABLE.into_response() }));
    Instance::start("s", "127.0.0.1:0", app).await
}

async fn hanging() -> Instance {
    let app = Router::new().route("/", get(std::future::pending::<&str>));
    Instance::start("s", "127.0.0.1:0", app).await
}

async fn slow() -> Instance {
    let app = Router::new().route(
        "/",
        get(|| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            "slow"
        }),
    );
    Instance::start("s", "127.0.0.1:0", app).await
}

async fn answering() -> Instance {
    Instance::start("s", "127.0.0.1:0", Router::new().route("/", get(|| async { "well" }))).await
}

const RETRY: &str = "retry: { retry_on: [gateway-error], retry_back_off: { base_interval: 1ms } }";

#[tokio::test]
async fn a_retry_goes_over_another_connection() {
    for protocol in ["http2", "http1"] {
        let (bad, good) = (failing().await, answering().await);
        let balancer = Balancer::new(&[bad.addr, good.addr]).await;
        let mesh = balancer.client(protocol, RETRY).await;
        let client = mesh.client("s");
        for n in 0..8 {
            let response = client.get("/").send().await.unwrap();
            assert_eq!(response.status(), 200, "{protocol}, call {n}");
            assert_eq!(response.text().await.unwrap(), "well");
        }
    }
}

#[tokio::test]
async fn a_hedge_goes_over_another_connection() {
    let (bad, good) = (slow().await, answering().await);
    let balancer = Balancer::new(&[bad.addr, good.addr]).await;
    let hedge = "hedge: { delay: 20ms, max_extra_load_percent: 99 }, outlier_detection: off";
    let mesh = balancer.client("http2", hedge).await;
    let client = mesh.client("s");
    // A hedge has to be earned.
    client.get("/").send().await.unwrap();
    for _ in 0..5 {
        assert_eq!(client.get("/").send().await.unwrap().text().await.unwrap(), "well");
    }
}

#[tokio::test]
async fn a_connection_whose_other_end_hangs_is_replaced_and_no_more_calls_go_there() {
    let (bad, good) = (hanging().await, answering().await);
    let balancer = Balancer::new(&[bad.addr, good.addr]).await;
    let mesh = balancer.client("http2", "timeouts: { response: off }").await;
    let client = mesh.client("s");
    let answered = Arc::<AtomicUsize>::default();
    let call = || {
        let (client, answered) = (client.clone(), Arc::clone(&answered));
        tokio::spawn(async move {
            client.get("/").send().await.unwrap();
            answered.fetch_add(1, Relaxed);
        })
    };
    let mut calls = Vec::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while balancer.connections() < 3 {
        calls.push(call());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(tokio::time::Instant::now() < deadline, "the silent connection is replaced");
    }
    for _ in 0..20 {
        call().await.unwrap();
    }
    let hung = calls.len() + 20 - answered.load(Relaxed);
    assert!(hung <= 3, "{hung} calls hang");
    assert!(client.get("/").send().await.is_ok());
}
