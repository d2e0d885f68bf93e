//! Instances restart one after the other under load, and nobody notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use sinew::ResponseExt;

use crate::{
    echo::{Echo, EchoClient},
    world::{Instance, mesh},
};

fn app() -> Router {
    Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/", post(|body: String| async move { body }))
        .merge(Echo::new("echo").routes().into_axum_router())
}

async fn rolling_restart(protocol: &str, rounds: usize) {
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(Instance::start("s", "127.0.0.1:0", app()).await);
    }
    let addrs: Vec<_> = instances.iter().map(|instance| format!("\"{}\"", instance.addr)).collect();
    let yaml =
        format!("services: {{ s: {{ protocol: {protocol}, endpoints: {{ static: [{}] }} }} }}", addrs.join(", "));
    let mesh = mesh(&yaml).await;
    let done = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let mut callers = Vec::new();
    for caller in 0..16 {
        let (client, done, count) = (mesh.client("s"), done.clone(), count.clone());
        let grpc = protocol != "http1" && caller % 2 == 0;
        callers.push(tokio::spawn(async move {
            let mut failed = Vec::new();
            let mut echo = EchoClient::new(client.clone());
            // Where all fail at once nobody would get to say so.
            while !done.load(Relaxed) && failed.len() < 100 {
                let result = if grpc {
                    echo.say("x").await.map(|_| ()).map_err(|status| status.to_string())
                } else {
                    match client.post("/").body("hello").send().await {
                        Ok(response) if response.status() == 200 => {
                            response.text().await.map(|text| assert_eq!(text, "hello")).map_err(|e| e.to_string())
                        }
                        Ok(response) => Err(response.status().to_string()),
                        Err(error) => Err(format!("{error:?}")),
                    }
                };
                count.fetch_add(1, Relaxed);
                failed.extend(result.err());
            }
            failed
        }));
    }
    for round in 0..rounds {
        let index = round % instances.len();
        let addr = instances[index].addr;
        let before = count.load(Relaxed);
        let replaced = instances.remove(index);
        replaced.stop().await;
        instances.insert(index, Instance::start("s", addr, app()).await);
        // Each restart meets traffic.
        while count.load(Relaxed) < before + 500 {
            tokio::task::yield_now().await;
        }
        // The next one goes only when this one is used again, as a deployment would wait for readiness.
        let id = addr.to_string();
        let ready = |status: sinew::MeshStatus| {
            let cluster = status.services["s"].cluster.clone().unwrap();
            cluster.endpoints.iter().any(|endpoint| endpoint.id == id && endpoint.state == "ready")
        };
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while !ready(mesh.status()) {
                tokio::task::yield_now().await;
            }
        });
        if waited.await.is_err() {
            done.store(true, Relaxed);
            let mut failed = Vec::new();
            for caller in callers {
                failed.extend(caller.await.unwrap());
            }
            panic!(
                "{addr} is not used again; {} calls failed: {:?}; {:?}",
                failed.len(),
                &failed[..failed.len().min(3)],
                mesh.status().services["s"]
            );
        }
    }
    done.store(true, Relaxed);
    let mut failed = Vec::new();
    for caller in callers {
        failed.extend(caller.await.unwrap());
    }
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}",
        failed.len(),
        count.load(Relaxed),
        &failed[..failed.len().min(3)]
    );
    for instance in instances {
        instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_over_http2() {
    rolling_restart("http2", 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_over_http1() {
    rolling_restart("http1", 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_with_detection() {
    rolling_restart("auto", 6).await;
}
