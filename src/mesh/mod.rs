//! The mesh of this process: one configuration, its clusters, its listeners, and the tasks behind them.
//!
//! A mesh is a value, not a global: two of them in one process do not know each other. It joins when it is built, or,
//! built by [`Builder::build_lazy`], with the first call, in whatever runtime that call runs.

mod ask;
mod audit;
mod authority;
mod builder;
#[cfg_attr(not(feature = "file"), allow(dead_code))]
mod control;
pub mod defaults;
mod dial;
mod fetch;
#[cfg(feature = "file")]
mod file;
#[cfg(not(feature = "file"))]
#[path = "file_off.rs"]
mod file;
mod issuers;
mod limits;
mod reconcile;
mod security;
mod serve;
mod status;
mod tokens;

pub use self::{
    builder::{BuildError, Builder, Network},
    serve::{Listen, Listener, Serve},
    status::{CircuitStatus, IdentityStatus, MeshStatus, ServiceStatus, SourceStatus},
};

use std::{fmt, sync::Arc, time::Duration};

use self::control::Inner;
use crate::{
    breaker::CircuitHandle,
    client::{Client, HttpSeam, ServiceSeam},
    error::Error,
    model::Snapshot,
    rt,
    server::ServerLayer,
};

/// The mesh of this process. Cheap to clone. Its background work ends with the last clone and the last client, or by
/// [`shutdown`](Mesh::shutdown).
///
/// ```no_run
/// # async fn page() -> &'static str { "" }
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let mesh = sinew::Mesh::from_env("productpage").await?;
/// let reviews = mesh.client("reviews");
/// let app = axum::Router::new().route("/productpage", axum::routing::get(page));
/// mesh.serve("127.0.0.1:9080", app).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

impl Mesh {
    /// Joins with the configuration that the environment names: the file in `SINEW_CONFIG`, which must exist, else
    /// `./sinew.yaml` if there is one, else defaults.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration, at once, with places.
    pub async fn from_env(service: &str) -> Result<Mesh, BuildError> {
        Builder::new(service).from_env().build().await
    }

    /// Joins with a configuration made by code, by files, or by both.
    pub fn builder(service: &str) -> Builder {
        Builder::new(service)
    }

    /// A client of one service. Never fails: calls to a service that is not configured are refused with E002, until a
    /// reload adds it.
    pub fn client(&self, name: &str) -> Client {
        match self.inner.services.get(name) {
            Ok(handle) => Client::new(ServiceSeam { handle, join: self.inner.join(), bare: false }),
            Err(error) => Client::refusing(name, error),
        }
    }

    /// A client that finds the service by the authority of each request: by its name, or by its `hosts`. For code that
    /// has base URLs already.
    pub fn http(&self) -> Client {
        Client::new(HttpSeam { services: self.inner.services.clone(), join: self.inner.join(), bare: false })
    }

    /// Serves an application on an address, until the process is told to stop; then drains.
    ///
    /// The application is any `tower::Service<http::Request<sinew::Body>>`: an axum router, tonic's routes, both merged,
    /// or one of your own. See [`Serve`] for signals.
    pub fn serve<S>(&self, addr: impl Into<Listen>, app: S) -> Serve<S> {
        Serve::new(Arc::clone(&self.inner), addr.into(), app)
    }

    /// Binds an address without serving it yet, for the port behind `:0`.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn listen(&self, addr: impl Into<Listen>) -> Result<Listener, Error> {
        Listener::bind(Arc::clone(&self.inner), addr.into()).await
    }

    /// The server stack as a layer, for a listener that is not the mesh's.
    pub fn server_layer(&self) -> ServerLayer {
        ServerLayer::new(Arc::clone(&self.inner.server))
    }

    /// Waits until configuration is there and every listener serves. Never waits for another service: two services that
    /// call each other would wait for ever.
    pub async fn ready(&self) {
        self.inner.start();
        self.inner.ready().await;
    }

    /// Waits until a configuration newer than `generation` is in use, and returns it. Cancel safe.
    pub async fn changed(&self, generation: u64) -> Arc<Snapshot> {
        self.inner.changed(generation).await
    }

    /// The circuit of a service, to look at and to hold: what an operator decides wins over what calls show, whatever is
    /// reloaded. `None` without `circuit_breakers.breaker`.
    pub fn circuit(&self, service: &str) -> Option<CircuitHandle> {
        self.inner.services.get(service).ok()?.runtime().circuit.clone()
    }

    /// The effective configuration.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.snapshot()
    }

    /// What the mesh knows and does at this moment.
    pub fn status(&self) -> MeshStatus {
        status::collect(&self.inner)
    }

    /// Drains the listeners, then ends all background work; at most `deadline`. Calls made afterwards are
    /// refused with E070.
    pub async fn shutdown(&self, deadline: Duration) {
        let started = rt::now();
        self.inner.drain(Some(deadline)).await;
        self.inner.end(deadline.saturating_sub(started.elapsed())).await;
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("service", &self.inner.snapshot().mesh.service).finish_non_exhaustive()
    }
}
