//! One variant of one case: its callers in a closed loop, timed and counted.

use std::{
    fmt,
    future::Future,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::Barrier, task::JoinHandle};

use super::{
    alloc::{self, Counts},
    case::Runtime,
    echo::{BoxError, Echo},
};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Variant {
    Bare,
    Sinew,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => "bare",
            Self::Sinew => "sinew",
        })
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bare" => Ok(Self::Bare),
            "sinew" => Ok(Self::Sinew),
            other => Err(format!("`{other}` is not a variant; use `bare` or `sinew`")),
        }
    }
}

/// A connected side, whatever its callers are.
pub(crate) trait Side {
    /// Every caller calls for this long.
    fn round(&mut self, span: Duration) -> Round;

    /// Every caller calls this often, and allocations are counted.
    fn count(&mut self, calls: usize) -> Counted;
}

/// Figures of a round.
pub(crate) struct Round {
    pub(crate) calls: usize,
    pub(crate) cpu_us_per_call: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Allocations over some calls.
pub(crate) struct Counted {
    pub(crate) calls: usize,
    counts: Counts,
}

impl Counted {
    pub(crate) fn allocations_per_call(&self) -> f64 {
        self.counts.allocations as f64 / self.calls as f64
    }

    pub(crate) fn bytes_per_call(&self) -> f64 {
        self.counts.bytes as f64 / self.calls as f64
    }
}

pub(crate) struct Rig<E> {
    runtime: tokio::runtime::Runtime,
    payload: Bytes,
    callers: Vec<Caller<E>>,
}

struct Caller<E> {
    echo: E,
    /// Nanoseconds of each call, kept between rounds so that it grows during the warm-up only.
    latencies: Vec<u32>,
}

impl<E: Echo> Rig<E> {
    pub(crate) fn boxed(
        runtime: Runtime,
        payload: Bytes,
        connect: impl Future<Output = Result<Vec<E>, BoxError>>,
    ) -> Box<dyn Side> {
        let mut builder = match runtime {
            Runtime::CurrentThread => tokio::runtime::Builder::new_current_thread(),
            Runtime::MultiThread => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        let callers = runtime.block_on(connect).expect("both ends on loopback");
        let callers = callers.into_iter().map(|echo| Caller { echo, latencies: Vec::new() }).collect();
        Box::new(Self { runtime, payload, callers })
    }

    /// Runs every caller as a task of its own, to its end.
    fn drive<F>(&mut self, task: impl Fn(Caller<E>, Bytes) -> F)
    where
        F: Future<Output = Caller<E>> + Send + 'static,
    {
        let callers = std::mem::take(&mut self.callers);
        self.callers = self.runtime.block_on(async {
            let tasks: Vec<JoinHandle<Caller<E>>> =
                callers.into_iter().map(|caller| tokio::spawn(task(caller, self.payload.clone()))).collect();
            let mut callers = Vec::with_capacity(tasks.len());
            for task in tasks {
                callers.push(task.await.expect("no call fails"));
            }
            callers
        });
    }
}

impl<E: Echo> Side for Rig<E> {
    fn round(&mut self, span: Duration) -> Round {
        let before = cpu();
        let until = Instant::now() + span;
        self.drive(|caller, payload| call_until(caller, payload, until));
        let cpu = cpu() - before;
        let mut latencies: Vec<u32> = self.callers.iter().flat_map(|caller| &caller.latencies).copied().collect();
        latencies.sort_unstable();
        let at = |quantile: f64| f64::from(latencies[((latencies.len() - 1) as f64 * quantile) as usize]) / 1e3;
        Round {
            calls: latencies.len(),
            cpu_us_per_call: cpu.as_secs_f64() * 1e6 / latencies.len() as f64,
            p50_us: at(0.5),
            p99_us: at(0.99),
        }
    }

    fn count(&mut self, calls: usize) -> Counted {
        let gate = Arc::new(Gate { all: Barrier::new(self.callers.len()), left: AtomicUsize::new(self.callers.len()) });
        let before = alloc::process();
        self.drive(|caller, payload| call_counted(caller, payload, calls, gate.clone()));
        Counted { calls: calls * self.callers.len(), counts: alloc::process() - before }
    }
}

async fn call_until<E: Echo>(mut caller: Caller<E>, payload: Bytes, until: Instant) -> Caller<E> {
    caller.latencies.clear();
    let mut start = Instant::now();
    loop {
        call(&mut caller.echo, &payload).await;
        let end = Instant::now();
        caller.latencies.push(u32::try_from((end - start).as_nanos()).unwrap_or(u32::MAX));
        if end >= until {
            return caller;
        }
        start = end;
    }
}

struct Gate {
    all: Barrier,
    left: AtomicUsize,
}

async fn call_counted<E: Echo>(mut caller: Caller<E>, payload: Bytes, calls: usize, gate: Arc<Gate>) -> Caller<E> {
    // Queues and buffers reach their size here.
    for _ in 0..calls.min(100) {
        call(&mut caller.echo, &payload).await;
    }
    if gate.all.wait().await.is_leader() {
        alloc::count(true);
    }
    // Nobody starts before counting does.
    gate.all.wait().await;
    for _ in 0..calls {
        call(&mut caller.echo, &payload).await;
    }
    if gate.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        alloc::count(false);
    }
    caller
}

async fn call<E: Echo>(echo: &mut E, payload: &Bytes) {
    match echo.echo(payload).await {
        Ok(len) => assert_eq!(len, payload.len(), "the echo is not what was sent"),
        Err(error) => panic!("a call failed: {error}"),
    }
}

/// User and system time of the process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below a second"))
}
