//! One instance of a service: a process, as far as its peers can tell.

use std::{
    fmt::{self, Write},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{
    app::Dice,
    fault::{Fault, Faults},
    link,
};
use crate::{
    client::Client,
    error::BoxError,
    mesh::{Builder, Listener, Mesh, Network},
    model::{Address, EndpointSpec},
    rt::{self, Instant, TaskSet},
};

/// What the application of an instance is made from.
#[derive(Clone, Debug)]
pub struct Member {
    pub(super) mesh: Mesh,
    pub(super) name: String,
    pub(super) index: usize,
}

impl Member {
    /// The instance's own mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// A client of a service, from this instance.
    pub fn client(&self, service: &str) -> Client {
        self.mesh.client(service)
    }

    /// `reviews-0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which of its service's instances it is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }
}

/// Everything that happened, in order.
#[derive(Clone)]
pub(super) struct Journal {
    pub(super) begun: Instant,
    pub(super) text: Arc<Mutex<String>>,
}

impl Journal {
    pub(super) fn note(&self, who: &str, what: &str) {
        let at = self.begun.elapsed();
        let mut text = lock(&self.text);
        let _ = writeln!(text, "{}.{:06} {who} {what}", at.as_secs(), at.subsec_micros());
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an application and its instance share.
pub(super) struct Life {
    pub(super) name: String,
    pub(super) faults: watch::Sender<Faults>,
    pub(super) served: AtomicU64,
    pub(super) dice: Dice,
    pub(super) journal: Journal,
}

impl Life {
    pub(super) fn note(&self, what: &str) {
        self.journal.note(&self.name, what);
    }
}

pub(super) type Launch =
    Arc<dyn Fn(Member, Listener, Arc<Life>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What is there while an instance runs.
struct Running {
    mesh: Mesh,
    tasks: TaskSet,
}

/// One instance of a service. Clones are the same instance.
#[derive(Clone)]
pub struct Instance {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) life: Arc<Life>,
    pub(super) index: usize,
    pub(super) spec: EndpointSpec,
    pub(super) directory: watch::Sender<Vec<EndpointSpec>>,
    pub(super) network: Network,
    pub(super) launch: Launch,
    pub(super) mesh: Arc<dyn Fn() -> Builder + Send + Sync>,
    pub(super) tasks: TaskSet,
    running: Mutex<Option<Running>>,
}

impl Inner {
    pub(super) fn address(name: &str) -> Address {
        Address::Memory(name.into())
    }

    #[expect(clippy::too_many_arguments, reason = "made in one place")]
    pub(super) fn new(
        life: Arc<Life>,
        index: usize,
        spec: EndpointSpec,
        directory: watch::Sender<Vec<EndpointSpec>>,
        network: Network,
        launch: Launch,
        mesh: Arc<dyn Fn() -> Builder + Send + Sync>,
        tasks: TaskSet,
    ) -> Self {
        Self { life, index, spec, directory, network, launch, mesh, tasks, running: Mutex::default() }
    }
}

impl Instance {
    /// `reviews-0`.
    pub fn name(&self) -> &str {
        &self.inner.life.name
    }

    /// Requests that reached it since the world began, those that a fault kept from the application included.
    pub fn served(&self) -> u64 {
        self.inner.life.served.load(Relaxed)
    }

    /// Its mesh; `None` while it is dead.
    pub fn mesh(&self) -> Option<Mesh> {
        lock(&self.inner.running).as_ref().map(|running| running.mesh.clone())
    }

    /// Has something go wrong from now on, until [`heal`](Instance::heal).
    pub fn fault(&self, fault: Fault) {
        self.fault_percent(fault, 100);
    }

    /// The same for so many of 100 requests; [`Fault::Drip`], [`Fault::Refuse`] and [`Fault::Silent`] always hold for all.
    pub fn fault_percent(&self, fault: Fault, percent: u32) {
        self.inner.life.note(&format!("fault {fault:?} {percent}%"));
        self.inner.life.faults.send_modify(|faults| faults.add(fault, percent));
    }

    /// Ends all faults. Bytes that were held go on.
    pub fn heal(&self) {
        self.inner.life.note("healed");
        self.inner.life.faults.send_modify(|faults| *faults = Faults::default());
    }

    /// Is taken from the list of endpoints, and goes on serving who still asks.
    pub fn leave(&self) {
        self.inner.life.note("leaves");
        let id = &self.inner.spec.id;
        self.inner.directory.send_modify(|endpoints| endpoints.retain(|spec| spec.id != *id));
    }

    /// Stands in the list of endpoints again.
    pub fn join(&self) {
        self.inner.life.note("joins");
        let spec = &self.inner.spec;
        self.inner.directory.send_if_modified(|endpoints| {
            let absent = endpoints.iter().all(|there| there.id != spec.id);
            if absent {
                endpoints.push(spec.clone());
                endpoints.sort_by(|a, b| a.id.cmp(&b.id));
            }
            absent
        });
    }

    /// Ends at once, as a process that is killed: connections close, requests in work are lost, and it stays in the list of
    /// endpoints. Nothing if it is dead.
    pub async fn kill(&self) {
        let Some(running) = lock(&self.inner.running).take() else { return };
        self.inner.life.note("killed");
        running.tasks.shutdown(Duration::from_secs(1)).await;
        running.mesh.shutdown(Duration::ZERO).await;
    }

    /// Stops as a process that is told to: leaves the list, then drains for at most `deadline`.
    pub async fn stop(&self, deadline: Duration) {
        let Some(running) = lock(&self.inner.running).take() else { return };
        self.leave();
        self.inner.life.note("stops");
        running.mesh.shutdown(deadline).await;
        running.tasks.shutdown(Duration::from_secs(1)).await;
    }

    /// Starts anew if it is dead: a new mesh, a new application. Faults stay as they are.
    ///
    /// # Errors
    /// If its mesh cannot be built.
    pub async fn start(&self) -> Result<(), BoxError> {
        if lock(&self.inner.running).is_some() {
            return Ok(());
        }
        let inner = &self.inner;
        let mesh = (inner.mesh)().build().await?;
        let (front, back) = (inner.life.name.clone(), format!("{}#{}", inner.life.name, inner.index));
        let listener = mesh.listen(format!("memory:{back}")).await?;
        let member = Member { mesh: mesh.clone(), name: front.clone(), index: inner.index };
        let tasks = inner.tasks.child();
        tasks.spawn((inner.launch)(member, listener, Arc::clone(&inner.life)));
        let (network, faults) = (inner.network.memory().clone(), inner.life.faults.subscribe());
        tasks.spawn(link::serve(network, front, back, faults, tasks.clone()));
        inner.life.note("started");
        *lock(&inner.running) = Some(Running { mesh, tasks });
        self.join();
        // What was spawned listens before anybody connects.
        rt::sleep(Duration::from_millis(1)).await;
        Ok(())
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({})", self.name())
    }
}
