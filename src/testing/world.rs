//! Services with instances, and one caller from outside.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::sync::watch;
use tower_service::Service;

use super::{
    app::App,
    directory::Directory,
    fault::Faults,
    instance::{Inner, Instance, Journal, Launch, Life, Member, lock},
};
use crate::{
    body::Body,
    client::Client,
    error::BoxError,
    mesh::{Builder, Mesh, Network},
    model::{EndpointSpec, Labels},
    name::Locality,
    rt::{self, Rng, TaskSet},
};

/// How many instances, and what discovery says of them.
#[derive(Clone, Debug)]
pub struct Replicas {
    count: usize,
    labels: Labels,
    locality: Locality,
    priority: u32,
}

impl Replicas {
    /// So many alike.
    pub fn new(count: usize) -> Self {
        Self { count, labels: Labels::new(), locality: Locality::default(), priority: 0 }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// The zone they are in.
    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        self.locality.zone = zone.into();
        self
    }

    /// The region they are in.
    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        self.locality.region = region.into();
        self
    }

    /// Their priority; 0 is used first.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }
}

impl From<usize> for Replicas {
    fn from(count: usize) -> Self {
        Self::new(count)
    }
}

type Configure = Arc<dyn Fn(Builder) -> Builder + Send + Sync>;

/// Collects what a world is made of.
#[must_use = "a world is made by `start`"]
pub struct WorldBuilder {
    seed: u64,
    services: Vec<(String, Replicas, Launch)>,
    configure: Configure,
}

impl WorldBuilder {
    /// Adds instances of a service, each with an application of its own: an axum router, tonic's routes, or any other service
    /// of requests. Called again for the same name it adds more, of another version for example.
    pub fn service<A, S, B>(mut self, name: &str, replicas: impl Into<Replicas>, app: A) -> Self
    where
        A: Fn(&Member) -> S + Send + Sync + 'static,
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let launch: Launch = Arc::new(move |member, listener, life| {
            let served = listener.serve(App { app: app(&member), life }).with_graceful_shutdown(std::future::pending());
            let served = served.into_future();
            Box::pin(async move {
                if let Err(error) = served.await {
                    tracing::error!("{} is not served: {error}", member.name());
                }
            })
        });
        self.services.push((name.to_owned(), replicas.into(), launch));
        self
    }

    /// What every mesh of the world is built with, such as the routes and policies of production:
    /// `|builder| builder.config_str(include_str!("../sinew.yaml"))`. Where endpoints are is not asked of it.
    pub fn configure(mut self, configure: impl Fn(Builder) -> Builder + Send + Sync + 'static) -> Self {
        self.configure = Arc::new(configure);
        self
    }

    /// Starts every instance, and a caller named `test`.
    ///
    /// # Errors
    /// If a mesh cannot be built: its configuration, or a name that stands for no service.
    pub async fn start(self) -> Result<World, BoxError> {
        Rng::seed_local(self.seed);
        let journal = Journal { begun: rt::now(), text: Arc::default() };
        let (network, tasks) = (Network::new(), TaskSet::new());
        let mut directories = BTreeMap::new();
        for (name, ..) in &self.services {
            directories.entry(name.clone()).or_insert_with(|| watch::Sender::new(Vec::<EndpointSpec>::new()));
        }
        let sources: Arc<BTreeMap<_, _>> =
            Arc::new(directories.iter().map(|(name, endpoints)| (name.clone(), endpoints.subscribe())).collect());
        let mesh = {
            let (network, configure) = (network.clone(), self.configure);
            Arc::new(move |service: &str| {
                let mut builder = Mesh::builder(service).network(&network);
                for (name, endpoints) in sources.iter() {
                    let source = format!("world:{name}");
                    builder = builder
                        .source(&source, Directory(endpoints.clone()))
                        .service(name, |service| service.pin(|service| service.custom(&source)));
                }
                configure(builder)
            })
        };
        let mut instances: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
        for (service, replicas, launch) in self.services {
            for _ in 0..replicas.count {
                let of = instances.entry(service.clone()).or_default();
                let index = of.len();
                let name = format!("{service}-{index}");
                let spec = EndpointSpec::new(Inner::address(&name))
                    .labels(replicas.labels.clone())
                    .locality(replicas.locality.clone())
                    .priority(replicas.priority);
                let seed = Rng::local_u64();
                let life = Arc::new(Life {
                    name,
                    faults: watch::Sender::new(Faults::default()),
                    served: Default::default(),
                    dice: Arc::new(Mutex::new(Rng::seeded(seed))),
                    journal: journal.clone(),
                });
                let builder = {
                    let (mesh, service) = (Arc::clone(&mesh), service.clone());
                    Arc::new(move || mesh(&service))
                };
                let directory = directories[&service].clone();
                let inner = Inner::new(
                    life,
                    index,
                    spec,
                    directory,
                    network.clone(),
                    Arc::clone(&launch),
                    builder,
                    tasks.clone(),
                );
                of.push(Instance { inner: Arc::new(inner) });
            }
        }
        for instance in instances.values().flatten() {
            instance.start().await?;
        }
        let caller = mesh("test").build().await?;
        Ok(World { caller, instances, journal, tasks })
    }
}

impl fmt::Debug for WorldBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorldBuilder").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// Services with instances in one process, and a caller from outside. Everything ends when it is dropped.
pub struct World {
    caller: Mesh,
    instances: BTreeMap<String, Vec<Instance>>,
    journal: Journal,
    tasks: TaskSet,
}

impl World {
    /// A world whose dice are drawn from `seed`. Sets the seed of the current thread.
    pub fn seeded(seed: u64) -> WorldBuilder {
        WorldBuilder { seed, services: Vec::new(), configure: Arc::new(|builder| builder) }
    }

    /// The mesh of the caller from outside.
    pub fn mesh(&self) -> &Mesh {
        &self.caller
    }

    /// A client of a service, from outside.
    pub fn client(&self, service: &str) -> Client {
        self.caller.client(service)
    }

    /// An instance by its name, `reviews-0`.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn instance(&self, name: &str) -> &Instance {
        let found = self.instances.values().flatten().find(|instance| instance.name() == name);
        found.unwrap_or_else(|| panic!("there is no instance `{name}` in this world"))
    }

    /// The instances of a service.
    pub fn instances(&self, service: &str) -> &[Instance] {
        self.instances.get(service).map_or(&[], Vec::as_slice)
    }

    /// How many requests each instance of a service has got.
    pub fn served(&self, service: &str) -> Vec<u64> {
        self.instances(service).iter().map(Instance::served).collect()
    }

    /// Everything that happened so far, a line each: when, to whom, what. Two runs of the same seed on one thread with
    /// paused time have the same.
    pub fn journal(&self) -> String {
        lock(&self.journal.text).clone()
    }

    /// Waits until something holds, looking every 10 ms.
    ///
    /// # Panics
    /// If it does not hold within `limit`; the message has the journal.
    pub async fn eventually(&self, limit: Duration, holds: impl Fn(&World) -> bool) {
        let end = rt::now() + limit;
        while !holds(self) {
            assert!(rt::now() < end, "it does not hold within {limit:?}; what happened:\n{}", self.journal());
            rt::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("services", &self.instances).finish_non_exhaustive()
    }
}
