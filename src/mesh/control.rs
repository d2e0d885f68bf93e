//! What a mesh is made of, and the order in which it starts and ends.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    audit::Audit, file::Followed, issuers::RunningIssuer, reconcile::Running, security::Security, status::SourceStatus,
    tokens::Tokens,
};
use crate::{
    authn::Fetch,
    client::{Join, Services},
    cluster::Home,
    discover,
    error::Error,
    instrument::Registry,
    limit::Fleet,
    model::{PolicyRegistry, Snapshot},
    name::ServiceName,
    ops::{Condition, OpsServer, Readiness},
    rt::{self, TaskSet},
    seat::Seat,
    server::ServerShared,
    source::{Store, lowered},
    transport::{
        Dial,
        accept::{self, Acceptor, Drain},
        memory::MemoryNetwork,
    },
};

/// How often metrics are handed to the recorder, and long-lived calls looked for.
const FLUSH: Duration = Duration::from_secs(5);

pub(crate) struct Inner {
    pub(super) snapshot: ArcSwap<Snapshot>,
    /// The generation of `snapshot`, for those who wait for the next one.
    pub(super) generation: watch::Sender<u64>,
    pub(super) store: Arc<Mutex<Store>>,
    pub(super) policies: PolicyRegistry,
    pub(super) services: Services,
    pub(super) running: Mutex<BTreeMap<ServiceName, Running>>,
    pub(super) issuers: Mutex<Vec<RunningIssuer>>,
    pub(super) fetch: Arc<dyn Fetch>,
    pub(super) server: Arc<ServerShared>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) acceptor: Acceptor,
    /// Once the edge is served.
    pub(super) edge: OnceLock<Acceptor>,
    pub(super) drain: Drain,
    /// True once the drain has ended.
    pub(super) drained: watch::Sender<bool>,
    pub(super) draining: AtomicBool,
    pub(super) readiness: Readiness,
    /// Met once something is served.
    pub(super) serving: Condition,
    pub(super) security: Arc<Security>,
    pub(super) audit: Audit,
    pub(super) memory: MemoryNetwork,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) tasks: TaskSet,
    pub(super) registry: Registry,
    pub(super) seats: Seats,
    pub(super) tokens: Tokens,
    /// Where this process is.
    pub(super) home: Arc<Home>,
    pub(super) discovery: discover::Sources,
    pub(super) followed: Mutex<Followed>,
    pub(super) started: AtomicBool,
    pub(super) ops: Mutex<Option<OpsServer>>,
    pub(super) this: Weak<Inner>,
}

/// Where the configuration comes from besides the builder.
#[derive(Default)]
pub(super) struct Origins {
    pub(super) text: Option<super::file::Text>,
}

/// The seats set by code.
#[derive(Default)]
pub(super) struct Seats {
    pub(super) outer: Vec<Arc<dyn Seat>>,
    pub(super) attempt: Vec<Arc<dyn Seat>>,
    pub(super) server: Vec<Arc<dyn Seat>>,
}

impl Inner {
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// What a client does before a call: joins, if the mesh has not joined yet. A client keeps its mesh alive.
    pub(super) fn join(&self) -> Join {
        let inner = self.this.upgrade();
        let started = AtomicBool::new(false);
        Join(Arc::new(move || {
            if started.load(Relaxed) {
                return;
            }
            if let Some(inner) = &inner {
                inner.start();
                started.store(inner.started.load(Relaxed), Relaxed);
            }
        }))
    }

    /// Begins the background work, once, in the runtime of the caller. Outside a runtime it does nothing, and the next
    /// call tries again.
    pub(super) fn start(&self) {
        let Ok(handle) = tokio::runtime::Handle::try_current() else { return };
        let Some(this) = self.this.upgrade() else { return };
        if self.started.swap(true, Relaxed) {
            return;
        }
        self.tasks.bind(handle);
        this.start_security();
        this.subscribe_all();
        this.start_issuers();
        this.follow_file();
        if let Err(error) = this.serve_ops() {
            tracing::error!("the ops listener does not run: {error}");
            self.readiness.condition("ops", error.to_string());
        }
        let flushed = Arc::downgrade(&this);
        self.tasks.spawn(async move {
            loop {
                rt::sleep(FLUSH).await;
                match flushed.upgrade() {
                    Some(inner) => {
                        inner.sweep();
                        inner.flush();
                    }
                    None => return,
                }
            }
        });
    }

    fn serve_ops(&self) -> Result<(), Error> {
        let snapshot = self.snapshot();
        let Some(address) = snapshot.listeners.ops else { return Ok(()) };
        let listener = accept::Listener::bind(address)?;
        tracing::info!(listener = %listener.local_addr(), "ops");
        let name = snapshot.mesh.service.as_str();
        let ops = OpsServer::serve(listener, name, self.readiness.clone(), &self.registry, &self.tasks);
        *lock(&self.ops) = Some(ops);
        Ok(())
    }

    /// Waits until every condition is met.
    pub(super) async fn ready(&self) {
        let mut changes = self.readiness.changes();
        while !self.readiness.is_ready() {
            changes.next().await;
        }
    }

    /// Waits until a configuration newer than `generation` is in use.
    pub(super) async fn changed(&self, generation: u64) -> Arc<Snapshot> {
        let mut generations = self.generation.subscribe();
        // The sender lives in `self`.
        let _ = generations.wait_for(|current| *current > generation).await;
        self.snapshot()
    }

    pub(super) fn serves(&self) {
        self.serving.met();
    }

    pub(super) fn lock_store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    pub(super) fn lock_followed(&self) -> MutexGuard<'_, Followed> {
        lock(&self.followed)
    }

    /// Brings a configuration into use and says what is odd about it.
    pub(super) fn take(self: &Arc<Self>, snapshot: Arc<Snapshot>) {
        for lint in snapshot.lints.iter() {
            tracing::warn!(code = %lint.code, "{lint}");
        }
        for what in lowered(&self.snapshot(), &snapshot) {
            self.registry.counter("sinew_floor_lowered_total", &[]).inc();
            tracing::warn!(target: "sinew::audit", "the local configuration lowers what protects this process: {what}");
            self.audit.note(|record| record.text("what", &*what), "lowered");
        }
        if let Err(error) = self.secure(&snapshot) {
            tracing::error!("the identity of the new configuration is not used, the one before stays: {error}");
        }
        self.reconcile(snapshot);
    }

    fn sweep(&self) {
        let now = rt::now();
        for handle in self.services.all() {
            if let Some(cluster) = &handle.runtime().cluster {
                cluster.sweep(now);
            }
        }
    }

    pub(super) fn flush(&self) {
        for handle in self.services.all() {
            if let Some(cluster) = &handle.runtime().cluster {
                cluster.report();
            }
        }
        self.server.report();
        self.registry.gauge("sinew_config_generation", &[]).set(self.snapshot().generation as i64);
        self.registry.flush();
    }

    /// Drains with the configured times, or within `deadline`. Everybody who asks waits for the same drain.
    pub(super) async fn drain(&self, deadline: Option<Duration>) {
        if !self.draining.swap(true, Relaxed) {
            let spec = self.snapshot().drain;
            let deadline = deadline.map_or(spec.deadline, |limit| limit.min(spec.deadline));
            let lame_duck = spec.lame_duck.min(deadline);
            tracing::info!(?lame_duck, ?deadline, "draining");
            let (drain, drained) = (self.drain.clone(), self.drained.clone());
            let ops = lock(&self.ops).take();
            // A task of its own: whoever asked may go away, the drain goes on.
            self.tasks.spawn(async move {
                let report = drain.start(lame_duck, deadline).await;
                tracing::info!(forced = report.forced, took = ?report.took, "drained");
                // Last, so that whoever watches readiness sees the whole drain.
                if let Some(ops) = ops {
                    ops.close().await;
                }
                drained.send_replace(true);
            });
        }
        let mut drained = self.drained.subscribe();
        wait_true(&mut drained).await;
    }

    /// Ends every background task.
    pub(super) async fn end(&self, limit: Duration) {
        self.flush();
        for handle in self.services.all() {
            if let Some(cluster) = &handle.runtime().cluster {
                cluster.close();
            }
        }
        let began = rt::now();
        if !self.tasks.shutdown(limit).await {
            tracing::warn!(left = self.tasks.len(), "background tasks did not end in time");
        }
        // Last: what ended until then is in it.
        self.audit.end(limit.saturating_sub(began.elapsed())).await;
    }

    pub(super) fn sources(&self) -> Vec<SourceStatus> {
        lock(&self.followed).status().into_iter().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn wait_true(drained: &mut watch::Receiver<bool>) {
    let _ = drained.wait_for(|drained| *drained).await;
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}
