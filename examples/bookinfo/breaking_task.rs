//! Circuit breaking: a service of one connection and one place to wait, called by one, two and three at a time.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sinew::{Code, Mesh};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{Result, tasks::Check};

const ROUNDS: u64 = 20;

/// What came of `ROUNDS` rounds of so many calls at a time.
#[derive(Default)]
struct Counted {
    answered: u64,
    refused: u64,
    failed: u64,
    /// Requests that reached the service.
    served: u64,
    /// Calls with the flag `UO` in the caller's metrics.
    overflowed: u64,
}

pub(crate) async fn circuit_breaking() -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for at_a_time in 1..=3 {
        // A thread of its own: its metrics go to a recorder of its own.
        let counted = tokio::task::spawn_blocking(move || on_a_thread(at_a_time)).await??;
        let refused = at_a_time.saturating_sub(2) * ROUNDS;
        let all = at_a_time * ROUNDS;
        checks.push(Check {
            must: match refused {
                0 => format!("{at_a_time} at a time: one is served, the other waits, none is refused")
                    .replace("1 at a time: one is served, the other waits", "1 at a time: it is served"),
                _ => format!(
                    "{at_a_time} at a time: one is served, one waits, the third gets SINEW-E030 at once, and the flag UO \
                     counts exactly those"
                ),
            },
            measured: format!(
                "{} of {all} calls answered, {} got E030, {} failed otherwise; the service saw {}, UO counts {}",
                counted.answered, counted.refused, counted.failed, counted.served, counted.overflowed
            ),
            holds: counted.refused == refused
                && counted.overflowed == refused
                && counted.answered == all - refused
                && counted.served == all - refused,
        });
    }
    Ok(checks)
}

fn on_a_thread(at_a_time: u64) -> Result<Counted> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let recorder = DebuggingRecorder::new();
    let mut counted = metrics::with_local_recorder(&recorder, || runtime.block_on(rounds(at_a_time)))?;
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        let has = |name, value| key.key().labels().any(|label| label.key() == name && label.value() == value);
        if let DebugValue::Counter(count) = value
            && key.key().name() == "sinew_requests_total"
            && has("service", "httpbin")
            && has("flag", "UO")
        {
            counted.overflowed += count;
        }
    }
    Ok(counted)
}

async fn rounds(at_a_time: u64) -> Result<Counted> {
    let (served, may_answer) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let (seen, gate) = (Arc::clone(&served), Arc::clone(&may_answer));
    let app = Router::new().route(
        "/get",
        get(move || {
            let (seen, gate) = (Arc::clone(&seen), Arc::clone(&gate));
            async move {
                seen.fetch_add(1, Relaxed);
                if let Ok(permit) = gate.acquire().await {
                    permit.forget();
                }
                "{}"
            }
        }),
    );
    let server = Mesh::builder("httpbin").build().await?;
    let listener = server.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let config = format!(
        "services:\n  httpbin:\n    endpoints: {{ static: [\"{}\"] }}\n    protocol: http1\n    circuit_breakers: {{ \
         max_connections: 1, max_pending_requests: 1 }}\n    outlier_detection: {{ consecutive_5xx: 1, interval: 1s, \
         base_ejection_time: 3m, max_ejection_percent: 100 }}\n",
        listener.local_addr()
    );
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let mesh = Mesh::builder("fortio").config_str(&config).build().await?;
    let client = mesh.client("httpbin");
    client.wait_ready(Duration::from_secs(5)).await?;

    let mut counted = Counted::default();
    for _ in 0..ROUNDS {
        let mut calls = JoinSet::new();
        for _ in 0..at_a_time {
            calls.spawn(client.get("/get").send());
        }
        // Nobody is answered before everybody has asked.
        loop {
            tokio::task::yield_now().await;
            let status = mesh.status();
            let admitted =
                status.services["httpbin"].cluster.as_ref().map_or(0, |cluster| u64::from(cluster.requests.0));
            while let Some(early) = calls.try_join_next() {
                match early? {
                    Err(error) if error.code() == Code::Overflow => counted.refused += 1,
                    _ => counted.failed += 1,
                }
            }
            if admitted == calls.len() as u64 {
                break;
            }
        }
        may_answer.add_permits(calls.len());
        while let Some(answer) = calls.join_next().await {
            match answer? {
                Ok(response) if response.status() == 200 => counted.answered += 1,
                _ => counted.failed += 1,
            }
        }
    }
    counted.served = served.load(Relaxed);
    mesh.shutdown(Duration::from_secs(1)).await;
    server.shutdown(Duration::from_secs(1)).await;
    Ok(counted)
}
