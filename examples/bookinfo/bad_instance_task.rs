//! One of three instances fails, is slow, hangs and recovers, and nothing is configured against it. The clock of this
//! task jumps from event to event, so that its quarter of an hour takes seconds.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use sinew::{Mesh, Network, ResponseExt};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};

use crate::{Result, stats::percentile, tasks::Check};

const EVERY: Duration = Duration::from_millis(100);
const ANSWERS_IN: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_secs(2);

const BEFORE: usize = 0;
const FAILS: usize = 1;
const IS_SLOW: usize = 2;
const HANGS: usize = 3;
const RECOVERS: usize = 4;
const AFTER: usize = 5;

/// What the instance does, and for how many seconds. Ejections double up to 300 s, and recovery waits for the last.
const PHASES: [(&str, u64); 6] = [
    ("works", 60),
    ("fails at once", 120),
    ("takes 2 s", 120),
    ("never answers", 120),
    ("recovers", 330),
    ("works again", 120),
];

#[derive(Default)]
struct Instance {
    phase: AtomicUsize,
    /// Calls that reached it, by phase.
    calls: [AtomicU64; PHASES.len()],
}

impl Instance {
    async fn answer(&self) -> StatusCode {
        let phase = self.phase.load(Relaxed);
        self.calls[phase].fetch_add(1, Relaxed);
        match phase {
            FAILS => return StatusCode::SERVICE_UNAVAILABLE,
            IS_SLOW => sleep(SLOW).await,
            HANGS => std::future::pending().await,
            _ => sleep(ANSWERS_IN).await,
        }
        StatusCode::OK
    }
}

/// What users saw of the calls that they began in a phase.
#[derive(Default)]
struct Seen {
    failed: u64,
    times: Vec<Duration>,
    at_the_instance: u64,
}

impl Seen {
    fn calls(&self) -> u64 {
        self.times.len() as u64
    }

    fn slow(&self) -> usize {
        self.times.iter().filter(|time| **time >= SLOW / 2).count()
    }
}

pub(crate) async fn goes_bad() -> Result<Vec<Check>> {
    let began = Instant::now();
    // A thread of its own: its clock is its runtime's.
    let seen = tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
        runtime.block_on(phases())
    });
    let seen = seen.await??;
    let expected = |phase: usize| PHASES[phase].1 * 1_000 / EVERY.as_millis() as u64;
    let mut checks = vec![Check {
        must: "one of three instances goes bad: a call every 100 ms, by defaults, and each comes to an end".into(),
        holds: seen.iter().enumerate().all(|(phase, seen)| seen.calls() == expected(phase)),
        measured: format!("{}\n      in {:.1} s of real time", table(&seen), began.elapsed().as_secs_f64()),
    }];
    let mut at_most = |phase: usize, must: &str, count: u64, most: u64| {
        let measured = format!("{count} of {} calls, {most} are the most", seen[phase].calls());
        checks.push(Check { must: must.into(), measured, holds: count <= most });
    };
    at_most(BEFORE, "while it works nothing fails", seen[BEFORE].failed, 0);
    at_most(FAILS, "that it fails costs five calls, and one each time it is tried", seen[FAILS].failed, 10);
    at_most(IS_SLOW, "that it is slow fails nothing", seen[IS_SLOW].failed, 0);
    at_most(IS_SLOW, "and few wait for it", seen[IS_SLOW].slow() as u64, 30);
    at_most(HANGS, "that it hangs costs five calls and those in flight", seen[HANGS].failed, 20);
    at_most(RECOVERS, "when it answers again nothing fails", seen[RECOVERS].failed, 0);
    at_most(AFTER, "nor afterwards", seen[AFTER].failed, 0);
    let (there, all) = (seen[AFTER].at_the_instance, seen[AFTER].calls());
    checks.push(Check {
        must: "it has its third back, give or take a quarter of that".into(),
        measured: format!("{there} of {all} calls"),
        holds: (all / 4..=all * 5 / 12).contains(&there),
    });
    Ok(checks)
}

fn table(seen: &[Seen]) -> String {
    let mut text =
        format!("{:<14} {:>6} {:>7} {:>10} {:>10}  {}", "the instance", "calls", "failed", "p50", "p99", "its share");
    for ((name, _), seen) in PHASES.iter().zip(seen) {
        let mut times = seen.times.clone();
        times.sort_unstable();
        let millis = |share| percentile(&times, share).as_secs_f64() * 1e3;
        let share = seen.at_the_instance as f64 * 100.0 / seen.calls().max(1) as f64;
        let _ = write!(
            text,
            "\n      {name:<14} {:>6} {:>7} {:>7.0} ms {:>7.0} ms {share:>8.1} %",
            seen.calls(),
            seen.failed,
            millis(0.5),
            millis(0.99),
        );
    }
    text
}

async fn phases() -> Result<Vec<Seen>> {
    let (network, bad) = (Network::new(), Arc::new(Instance::default()));
    let mut servers = Vec::new();
    for (name, instance) in [("a", Arc::clone(&bad)), ("b", Arc::default()), ("c", Arc::default())] {
        let server = Mesh::builder("ratings").network(&network).build().await?;
        let listener = server.listen(format!("memory:{name}").as_str()).await?;
        let app = Router::new().fallback(get(move || {
            let instance = Arc::clone(&instance);
            async move { instance.answer().await }
        }));
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
        servers.push(server);
    }
    let config = "services: { ratings: { endpoints: { static: [\"memory:a\", \"memory:b\", \"memory:c\"] } } }";
    let mesh = Mesh::builder("reviews").network(&network).config_str(config).build().await?;
    let client = mesh.client("ratings");
    client.wait_ready(Duration::from_secs(5)).await?;

    let mut calls = JoinSet::new();
    let mut tick = interval(EVERY);
    for (phase, (_, seconds)) in PHASES.iter().enumerate() {
        for _ in 0..seconds * 1_000 / EVERY.as_millis() as u64 {
            tick.tick().await;
            // After the tick, when the last calls of the phase before have long arrived.
            bad.phase.store(phase, Relaxed);
            let request = client.get("/ratings/0");
            calls.spawn(async move {
                let began = Instant::now();
                let ended = async { request.send().await?.error_for_status()?.bytes().await };
                (phase, ended.await.is_err(), began.elapsed())
            });
        }
    }
    let mut seen: Vec<Seen> = PHASES.iter().map(|_| Seen::default()).collect();
    while let Some(call) = calls.join_next().await {
        let (phase, failed, time) = call?;
        seen[phase].failed += u64::from(failed);
        seen[phase].times.push(time);
    }
    for (seen, calls) in seen.iter_mut().zip(&bad.calls) {
        seen.at_the_instance = calls.load(Relaxed);
    }
    mesh.shutdown(Duration::from_secs(1)).await;
    for server in servers {
        server.shutdown(Duration::from_secs(1)).await;
    }
    Ok(seen)
}
