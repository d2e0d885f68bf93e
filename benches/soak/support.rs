//! What the soak runs share: options, failures that are counted and told, memory, instances.
#![allow(dead_code, reason = "each run uses a part")]

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sinew::{Body, Mesh};
use tokio::{sync::oneshot, task::JoinHandle};
use tower::Service;

/// `--seconds N`; without it `long`, or `short` when told to `--test` or not run by `cargo bench`.
pub(crate) struct Options {
    pub(crate) seconds: f64,
    pub(crate) short: bool,
}

impl Options {
    pub(crate) fn parse(long: f64, short: f64) -> Self {
        let args: Vec<_> = std::env::args().skip(1).collect();
        let given = args.iter().position(|arg| arg == "--seconds").and_then(|at| args.get(at + 1)?.parse().ok());
        let is_short = args.iter().any(|arg| arg == "--test") || !args.iter().any(|arg| arg == "--bench");
        let seconds = given.unwrap_or(if is_short { short } else { long });
        Self { seconds, short: is_short && given.is_none() }
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// Many connections on one machine.
pub(crate) fn allow_sockets() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Calls made, and what went wrong.
#[derive(Default)]
pub(crate) struct Tally {
    calls: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn count(&self, result: Result<(), String>) {
        self.calls.fetch_add(1, Relaxed);
        if let Err(error) = result {
            self.failed.lock().unwrap().push(error);
        }
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    pub(crate) fn failed(&self) -> usize {
        self.failed.lock().unwrap().len()
    }

    /// One line, and the first failures.
    pub(crate) fn print(&self, what: &str, checks: &mut Checks) {
        let failed = self.failed.lock().unwrap();
        println!("{what}: {} calls, {} failed", self.calls(), failed.len());
        for error in failed.iter().take(5) {
            println!("    {error}");
        }
        checks.hold(failed.is_empty(), || format!("{what}: {} calls failed", failed.len()));
        checks.hold(self.calls() > 0, || format!("{what}: no call was made"));
    }
}

/// What has to hold in the end.
#[derive(Default)]
pub(crate) struct Checks {
    violated: Vec<String>,
}

impl Checks {
    pub(crate) fn hold(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violated.push(what());
        }
    }

    pub(crate) fn finish(self) -> ExitCode {
        for violated in &self.violated {
            println!("violated: {violated}");
        }
        if self.violated.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Calls in a loop until stopped.
pub(crate) struct Load {
    stopped: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self { stopped: Arc::default(), callers: Vec::new() }
    }

    /// `callers` loops of what `make` makes for each.
    pub(crate) fn add<F, R>(&mut self, callers: usize, tally: &Arc<Tally>, make: impl Fn(usize) -> F)
    where
        F: FnMut() -> R + Send + 'static,
        R: Future<Output = Result<(), String>> + Send,
    {
        for caller in 0..callers {
            let (mut call, tally, stopped) = (make(caller), Arc::clone(tally), Arc::clone(&self.stopped));
            self.callers.push(tokio::spawn(async move {
                while !stopped.load(Relaxed) {
                    tally.count(call().await);
                }
            }));
        }
    }

    /// Waits for the calls in flight.
    pub(crate) async fn stop(self) {
        self.stopped.store(true, Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
    }
}

/// Resident memory of this process.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// The highest resident memory while it lives.
pub(crate) struct Peak {
    highest: Arc<AtomicU64>,
    sampler: JoinHandle<()>,
}

impl Peak {
    pub(crate) fn watch() -> Self {
        let highest = Arc::new(AtomicU64::new(resident()));
        let seen = Arc::clone(&highest);
        let sampler = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                seen.fetch_max(resident(), Relaxed);
            }
        });
        Self { highest, sampler }
    }

    pub(crate) fn end(self) -> u64 {
        self.sampler.abort();
        self.highest.load(Relaxed).max(resident())
    }
}

/// A served mesh.
pub(crate) struct Instance {
    pub(crate) addr: SocketAddr,
    mesh: Mesh,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), sinew::Error>>,
}

impl Instance {
    pub(crate) async fn start<S, B>(mesh: Mesh, addr: SocketAddr, app: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<sinew::BoxError>,
        S::Future: Send,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<sinew::BoxError>,
    {
        let listener = mesh.listen(addr).await.unwrap();
        let addr = listener.local_addr();
        let (stop, stopped) = oneshot::channel();
        let serve = listener.serve(app).with_graceful_shutdown(async move {
            let _ = stopped.await;
        });
        Self { addr, mesh, stop, served: tokio::spawn(serve.into_future()) }
    }

    /// Drains and ends.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.served.await.unwrap().unwrap();
        self.mesh.shutdown(Duration::from_secs(30)).await;
    }
}

/// A free port of loopback.
pub(crate) fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Whether it came to hold within the time.
pub(crate) async fn within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let waited = tokio::time::timeout(limit, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.is_ok()
}
