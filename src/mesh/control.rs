//! What a mesh is made of, and the order in which it starts and ends.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{reconcile::Running, status::SourceStatus};
use crate::{
    client::{Join, Services},
    instrument::Registry,
    model::Snapshot,
    name::ServiceName,
    ops::Readiness,
    rt::{self, TaskSet},
    seat::Seat,
    server::ServerShared,
    transport::{
        Dial,
        accept::{Acceptor, Drain, Phase},
        memory::MemoryNetwork,
    },
};

/// How often metrics are handed to the recorder.
const FLUSH: Duration = Duration::from_secs(5);

pub(crate) struct Inner {
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) services: Services,
    pub(super) running: Mutex<BTreeMap<ServiceName, Running>>,
    pub(super) server: Arc<ServerShared>,
    pub(super) acceptor: Acceptor,
    pub(super) ops_drain: Drain,
    pub(super) drain: Drain,
    /// True once the drain has ended.
    pub(super) drained: watch::Sender<bool>,
    pub(super) draining: AtomicBool,
    pub(super) readiness: Readiness,
    pub(super) memory: MemoryNetwork,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) tasks: TaskSet,
    pub(super) registry: Registry,
    pub(super) seats: Seats,
    pub(super) discovery: super::reconcile::DiscoverySettings,
    pub(super) sources: Mutex<Vec<SourceStatus>>,
    pub(super) started: AtomicBool,
    /// What starts with the mesh besides its clusters: configuration sources. Taken at the start.
    pub(super) pending: Mutex<Vec<Box<dyn FnOnce(&Arc<Inner>) + Send>>>,
    pub(super) this: Weak<Inner>,
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

    /// What a client does before a call: joins, if the mesh has not joined yet.
    pub(super) fn join(&self) -> Join {
        let this = self.this.clone();
        let started = AtomicBool::new(false);
        // The weak reference lets the mesh end while clients of it are still around.
        Join(Arc::new(move || {
            if started.load(Relaxed) {
                return;
            }
            if let Some(inner) = this.upgrade() {
                inner.start();
                started.store(true, Relaxed);
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
        this.subscribe_all();
        for begin in std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner)) {
            begin(&this);
        }
        this.serve_ops();
        let flushed = Arc::downgrade(&this);
        self.tasks.spawn(async move {
            loop {
                rt::sleep(FLUSH).await;
                match flushed.upgrade() {
                    Some(inner) => inner.flush(),
                    None => return,
                }
            }
        });
    }

    pub(super) fn flush(&self) {
        for handle in self.services.all() {
            if let Some(cluster) = &handle.runtime().cluster {
                cluster.report();
            }
        }
        self.registry.gauge("sinew_config_generation", &[]).set(self.snapshot().generation as i64);
        self.registry.flush();
    }

    /// Drains with the configured times, or within `deadline`. Everybody who asks waits for the same drain.
    pub(super) async fn drain(&self, deadline: Option<Duration>) {
        if !self.draining.swap(true, Relaxed) {
            let spec = self.snapshot().drain;
            let deadline = deadline.map_or(spec.deadline, |limit| limit.min(spec.deadline));
            let lame_duck = spec.lame_duck.min(deadline);
            self.readiness.withdraw("draining");
            tracing::info!(?lame_duck, ?deadline, "draining");
            let (drain, drained) = (self.drain.clone(), self.drained.clone());
            let ops = self.ops_drain.clone();
            // A task of its own: whoever asked may go away, the drain goes on.
            self.tasks.spawn(async move {
                let report = drain.start(lame_duck, deadline).await;
                tracing::info!(forced = report.forced, took = ?report.took, "drained");
                // Last, so that whoever watches readiness sees the whole drain.
                ops.force();
                drained.send_replace(true);
            });
        }
        let mut drained = self.drained.subscribe();
        wait_true(&mut drained).await;
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain.phase() != Phase::Serving
    }

    /// Ends every background task.
    pub(super) async fn end(&self, limit: Duration) {
        self.flush();
        for handle in self.services.all() {
            if let Some(cluster) = &handle.runtime().cluster {
                cluster.close();
            }
        }
        if !self.tasks.shutdown(limit).await {
            tracing::warn!(left = self.tasks.len(), "background tasks did not end in time");
        }
    }

    pub(super) fn sources(&self) -> Vec<SourceStatus> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn wait_true(drained: &mut watch::Receiver<bool>) {
    let _ = drained.wait_for(|drained| *drained).await;
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}
