//! Serving, and stopping to serve.

use std::{
    fmt,
    future::{Future, IntoFuture},
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{control::Inner, security};
use crate::{
    body::Body,
    error::{BoxError, Code, Error},
    model::{ListenerLimits, ProxySpec, Snapshot},
    peer::PeerAddr,
    server,
    transport::accept::{self, Acceptor, Limits, Paced, Proxies},
};

/// Where to listen: an address, `host:port`, or `memory:name` for the in-memory transport.
#[derive(Debug)]
pub struct Listen(Result<Vec<PeerAddr>, String>);

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        Self(Ok(vec![PeerAddr::Tcp(addr)]))
    }
}

impl From<&str> for Listen {
    fn from(text: &str) -> Self {
        if let Some(name) = text.strip_prefix("memory:").filter(|name| !name.is_empty()) {
            return Self(Ok(vec![PeerAddr::Memory(name.into())]));
        }
        Self(match text.to_socket_addrs() {
            Ok(addrs) => Ok(addrs.map(PeerAddr::Tcp).collect()),
            Err(error) => {
                Err(format!("`{text}` is not an address to listen on ({error}); use `IP:PORT`, such as `0.0.0.0:9080`"))
            }
        })
    }
}

impl From<String> for Listen {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

/// A bound address that is not served yet.
pub struct Listener {
    inner: Arc<Inner>,
    listener: accept::Listener,
}

impl Listener {
    pub(super) async fn bind(inner: Arc<Inner>, listen: Listen) -> Result<Self, Error> {
        let addrs = listen.0.map_err(|message| Error::new(Code::BindFailed, message))?;
        let mut failed = None;
        for addr in addrs {
            let bound = match &addr {
                PeerAddr::Tcp(addr) => match inner.security.refuses_to_listen(*addr) {
                    Some(error) => Err(error),
                    None => accept::Listener::bind(*addr),
                },
                PeerAddr::Memory(name) => inner.memory.listen(name).map(accept::Listener::memory),
            };
            match bound {
                Ok(listener) => return Ok(Self { inner, listener }),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::new(Code::BindFailed, "the name to listen on has no address: use `IP:PORT`, such as `0.0.0.0:9080`")
        }))
    }

    /// Where it listens.
    pub fn addr(&self) -> &PeerAddr {
        self.listener.local_addr()
    }

    /// Where its socket listens. A listener in memory has none: it tells the unspecified address with port 0, to which
    /// nothing connects; [`addr`](Listener::addr) has its name.
    pub fn local_addr(&self) -> SocketAddr {
        match self.listener.local_addr() {
            PeerAddr::Tcp(addr) => *addr,
            PeerAddr::Memory(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        }
    }

    /// Serves an application on it.
    pub fn serve<S>(self, app: S) -> Serve<S> {
        Serve { inner: Arc::clone(&self.inner), on: On::Bound(self), app, signal: None }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(self.addr()).finish()
    }
}

/// Serves once it is awaited.
///
/// Drains at SIGTERM and Ctrl-C, unless given a signal of its own; a second one forces. While it drains, readiness is
/// withdrawn first, connections are still accepted for `drain.lame_duck`, then nothing new is accepted, and what is open
/// finishes or is closed at `drain.deadline`.
///
/// # Cancellation
/// Dropping the future stops nothing: connections belong to the mesh. End them by the signal or by
/// [`Mesh::shutdown`](super::Mesh::shutdown).
#[must_use = "serving begins when this is awaited"]
pub struct Serve<S> {
    inner: Arc<Inner>,
    on: On,
    app: S,
    signal: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

enum On {
    Unbound(Listen),
    Bound(Listener),
}

impl<S> Serve<S> {
    pub(super) fn new(inner: Arc<Inner>, listen: Listen, app: S) -> Self {
        Self { inner, on: On::Unbound(listen), app, signal: None }
    }

    /// Drains when `signal` resolves, instead of at SIGTERM and Ctrl-C.
    pub fn with_graceful_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.signal = Some(Box::pin(signal));
        self
    }
}

impl<S> fmt::Debug for Serve<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serve")
    }
}

impl<S, B> IntoFuture for Serve<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { inner, on, app, signal } = self;
            let Listener { listener, .. } = match on {
                On::Bound(listener) => listener,
                On::Unbound(listen) => Listener::bind(Arc::clone(&inner), listen).await?,
            };
            inner.start();
            let listener = listener.behind(proxies(&inner.snapshot().listeners.mesh_proxies));
            tracing::info!(listener = %listener.local_addr(), "serving");
            let shared = Arc::clone(&inner.server);
            serve_edge(&inner, &app)?;
            let security = Arc::clone(&inner.security);
            let gate = Arc::clone(&shared);
            inner.acceptor.serve_admitted(
                listener,
                move || security.inbound(),
                move |remote, local| gate.admits_address(remote, local),
                move |peer, cut| {
                    let open =
                        server::OpenConnection::new(Arc::clone(&shared), peer, server::Audience::Mesh, Some(cut));
                    server::connection(open, app.clone())
                },
            );
            inner.serves();
            let own_signal = signal.is_some();
            let stop = async {
                match signal {
                    Some(signal) => signal.await,
                    None => terminated().await,
                }
            };
            let begun = inner.drain.watch();
            tokio::select! {
                biased;
                () = stop => {}
                // Somebody else began the drain: this listener goes with it.
                () = begun.reached(accept::Phase::LameDuck) => {}
            }
            let draining = inner.drain(None);
            if own_signal {
                draining.await;
            } else {
                tokio::select! {
                    biased;
                    () = draining => {}
                    () = terminated() => {
                        tracing::warn!("told to stop a second time: closing everything");
                        inner.drain.force();
                        inner.drain(None).await;
                    }
                }
            }
            Ok(())
        })
    }
}

/// Serves the same application on the edge listener, if one is configured; once for each mesh.
fn serve_edge<S, B>(inner: &Arc<Inner>, app: &S) -> Result<(), Error>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Some(edge) = inner.snapshot().listeners.edge.clone() else { return Ok(()) };
    let (drain, tasks) = (inner.drain.clone(), inner.tasks.clone());
    let acceptor = Acceptor::new("edge", edge_limits(&edge.limits), drain, tasks, &inner.registry);
    if inner.edge.set(acceptor.clone()).is_err() {
        return Ok(());
    }
    // A configuration that came into use meanwhile did not find it.
    inner.limit(&inner.snapshot());
    let tls = security::edge(&edge, &inner.security.cryptography)?;
    let listener = accept::Listener::bind(edge.listen)?;
    tracing::info!(listener = %listener.local_addr(), tls = edge.tls.is_some(), "edge");
    let listener = listener.behind(proxies(&edge.proxies));
    let (shared, app) = (Arc::clone(&inner.server), app.clone());
    let gate = Arc::clone(&shared);
    acceptor.serve_admitted(
        listener,
        move || tls.clone(),
        move |remote, local| gate.admits_address(remote, local),
        move |peer, cut| {
            let open = server::OpenConnection::new(Arc::clone(&shared), peer, server::Audience::Edge, Some(cut));
            server::connection(open, app.clone())
        },
    );
    Ok(())
}

/// The edge holds everybody to a pace.
fn edge_limits(said: &ListenerLimits) -> Limits {
    Limits { paced: Paced::All, ..Limits::default() }.with(said)
}

impl Inner {
    /// Holds what is accepted from now on to the limits of the configuration.
    pub(super) fn limit(&self, snapshot: &Snapshot) {
        self.acceptor.set_limits(Limits::default().with(&snapshot.listeners.mesh_limits));
        if let (Some(acceptor), Some(edge)) = (self.edge.get(), &snapshot.listeners.edge) {
            acceptor.set_limits(edge_limits(&edge.limits));
        }
    }
}

fn proxies(spec: &ProxySpec) -> Proxies {
    Proxies { trusted: spec.trusted_proxies.iter().map(|block| block.net()).collect(), header: spec.proxy_protocol }
}

/// SIGTERM or Ctrl-C.
async fn terminated() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    biased;
                    _ = terminate.recv() => {}
                    _ = interrupt => {}
                }
            }
            Err(error) => {
                tracing::warn!("SIGTERM cannot be watched: {error}");
                let _ = interrupt.await;
            }
        }
    }
    #[cfg(not(unix))]
    let _ = interrupt.await;
}
