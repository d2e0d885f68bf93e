//! Listeners and the tasks behind them.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::net::{TcpListener, TcpStream};
use tower_service::Service;

use super::{
    caps::{Caps, Proxies, Refused},
    connection::{self, Ended, Serving},
    drain::{Drain, Phase},
    limits::{Limits, Paced},
    pace::Slow,
    secure::{self, Accepted, InboundTls},
    socket,
    state::ConnState,
};
use crate::{
    body::Body,
    error::{BoxError, Code, Error},
    identity::Proven,
    instrument::{Counter, Registry},
    peer::{Peer, PeerAddr},
    rt::{self, Instant, TaskSet},
    transport::{Io, memory::MemoryListener, roll::Roll},
};

/// First and longest pause after accepting failed for want of file descriptors or memory.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often a flood of handshakes is told.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// A source of connections.
#[derive(Debug)]
pub(crate) struct Listener {
    source: Source,
    local: PeerAddr,
    proxies: Proxies,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Memory(MemoryListener),
}

impl Listener {
    /// Listens on a TCP address; port 0 takes a free one.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, Error> {
        socket::bind(address).and_then(Self::from_std).map_err(|error| {
            let cure = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "another socket listens there; end it, choose another port, or take port 0 for a free one"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "no interface of this host has the address; use one of its own, or `0.0.0.0` or `[::]` for all"
                }
                io::ErrorKind::PermissionDenied => {
                    "this process may not; use a port above 1023, or grant it CAP_NET_BIND_SERVICE"
                }
                _ => "look at the address and the limits of this process",
            };
            Error::new(Code::BindFailed, format!("cannot listen on {address}: {error}; {cure}")).with_source(error)
        })
    }

    /// Takes over a bound socket, for example one that was passed to the process.
    pub(crate) fn from_std(listener: StdListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::from_tokio(TcpListener::from_std(listener)?)
    }

    /// Takes over a bound socket.
    pub(crate) fn from_tokio(listener: TcpListener) -> io::Result<Self> {
        let local = PeerAddr::Tcp(listener.local_addr()?);
        Ok(Self { source: Source::Tcp(listener), local, proxies: Proxies::default() })
    }

    /// Listens inside this process.
    pub(crate) fn memory(listener: MemoryListener) -> Self {
        let local = PeerAddr::Memory(listener.name().clone());
        Self { source: Source::Memory(listener), local, proxies: Proxies::default() }
    }

    /// Who speaks for others to it.
    pub(crate) fn behind(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> &PeerAddr {
        &self.local
    }

    /// Where it listens, unless inside this process only.
    #[cfg(test)]
    pub(crate) fn socket_addr(&self) -> Option<SocketAddr> {
        match self.local {
            PeerAddr::Tcp(address) => Some(address),
            PeerAddr::Memory(_) => None,
        }
    }
}

enum Stream {
    Tcp(TcpStream, SocketAddr),
    Memory(Box<dyn Io>),
}

impl Stream {
    fn remote(&self, local: &PeerAddr) -> PeerAddr {
        match self {
            Self::Tcp(_, remote) => PeerAddr::Tcp(*remote),
            // A peer in memory has no address of its own.
            Self::Memory(_) => local.clone(),
        }
    }
}

/// Ends one connection: asked to leave first, then wherever its bytes are, upgraded or not.
pub(crate) struct Cut {
    group: TaskSet,
    state: Arc<ConnState>,
    denied: Counter,
}

impl Cut {
    /// It takes no more requests than those that are on their way, as when the process drains.
    pub(crate) fn leave(&self) {
        self.state.leave().ask();
    }

    /// Ends it: what it may ask for is not allowed any more.
    pub(crate) fn cut(&self) {
        self.denied.inc();
        self.group.cancel();
    }
}

impl Source {
    /// The next connection; `None` when there will be no more. Cancel safe.
    async fn accept(&mut self) -> io::Result<Option<Stream>> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, remote)| Some(Stream::Tcp(stream, remote))),
            Self::Memory(listener) => Ok(listener.accept().await.map(|io| Stream::Memory(Box::new(io)))),
        }
    }
}

/// What is queued in a listener that accepts no more.
enum Backlog {
    Tcp(StdListener),
    Memory(MemoryListener),
}

impl Backlog {
    /// `None` when it is empty.
    fn accept(&mut self) -> io::Result<Option<Stream>> {
        match self {
            // Straight from the kernel: tokio's readiness may be older than the last connection.
            Self::Tcp(listener) => match listener.accept() {
                Ok((stream, remote)) => {
                    stream.set_nonblocking(true)?;
                    Ok(Some(Stream::Tcp(TcpStream::from_std(stream)?, remote)))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error),
            },
            Self::Memory(listener) => Ok(listener.try_accept().map(|io| Stream::Memory(Box::new(io)))),
        }
    }
}

/// Accepts and serves connections, from any number of listeners under one set of limits.
#[derive(Clone)]
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    limits: ArcSwap<Limits>,
    caps: Arc<Caps>,
    roll: Arc<Roll>,
    drain: Drain,
    tasks: TaskSet,
    accepted: Counter,
    refused_total: Counter,
    refused_per_source: Counter,
    refused_denied: Counter,
    refused_no_proxy: Counter,
    too_slow: [Counter; Slow::ALL.len()],
    accept_errors: Counter,
    /// When a flood of handshakes was last told.
    flood_said: Mutex<Option<Instant>>,
    ended: [Counter; Ended::ALL.len()],
}

impl Acceptor {
    /// `name` is the `listener` label of its metrics: `mesh` or `ops`.
    pub(crate) fn new(name: &str, limits: Limits, drain: Drain, tasks: TaskSet, registry: &Registry) -> Self {
        let refused =
            |reason| registry.counter("sinew_connections_refused_total", &[("listener", name), ("reason", reason)]);
        let open = registry.gauge("sinew_connections", &[("direction", "inbound"), ("listener", name)]);
        Self {
            shared: Arc::new(Shared {
                caps: Arc::new(Caps::new(open, &limits)),
                limits: ArcSwap::from_pointee(limits),
                roll: Arc::default(),
                drain,
                tasks,
                accepted: registry.counter("sinew_connections_accepted_total", &[("listener", name)]),
                refused_total: refused("max_connections"),
                refused_per_source: refused("max_per_source"),
                refused_denied: refused("denied"),
                refused_no_proxy: refused("not_a_proxy"),
                too_slow: Slow::ALL.map(|slow| {
                    registry.counter("sinew_slow_exchanges_total", &[("listener", name), ("reason", slow.reason())])
                }),
                flood_said: Mutex::default(),
                accept_errors: registry.counter("sinew_accept_errors_total", &[("listener", name)]),
                ended: Ended::ALL.map(|ended| {
                    registry.counter(
                        "sinew_connections_closed_total",
                        &[("direction", "inbound"), ("listener", name), ("reason", ended.reason())],
                    )
                }),
            }),
        }
    }

    /// Serves a listener in the background until the drain stops it. `tls` is asked for each connection; `make` makes the
    /// service of one connection; it is called when the protocol is known, and its service is cloned for each request.
    pub(crate) fn serve<T, M, S, RB>(&self, listener: Listener, tls: T, make: M)
    where
        T: Fn() -> InboundTls + Send + Sync + 'static,
        M: Fn(Peer) -> S + Send + Sync + 'static,
        S: Service<Request<Body>, Response = Response<RB>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        RB: HttpBody<Data = Bytes> + Send + 'static,
        RB::Error: Into<BoxError>,
    {
        self.serve_admitted(listener, tls, |_, _| true, move |peer, _| make(peer));
    }

    /// As `serve`. `admits` is asked for each connection by where it comes from and where it arrived, before anything is
    /// read; `make` is given what ends the connection.
    pub(crate) fn serve_admitted<T, A, M, S, RB>(&self, listener: Listener, tls: T, admits: A, make: M)
    where
        T: Fn() -> InboundTls + Send + Sync + 'static,
        A: Fn(&PeerAddr, &PeerAddr) -> bool + Send + Sync + 'static,
        M: Fn(Peer, Cut) -> S + Send + Sync + 'static,
        S: Service<Request<Body>, Response = Response<RB>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        RB: HttpBody<Data = Bytes> + Send + 'static,
        RB::Error: Into<BoxError>,
    {
        let shared = Arc::clone(&self.shared);
        let held = shared.drain.hold();
        self.shared.tasks.spawn(async move {
            let Listener { source, local, proxies } = listener;
            let (make, admits) = (Arc::new(make), Arc::new(admits));
            let open = |stream: Stream| {
                // Behind a PROXY header it is asked when that has told who connects.
                if proxies.header || admits(&stream.remote(&local), &local) {
                    shared.open(stream, &local, &proxies, tls(), &admits, &make);
                } else {
                    shared.refused_denied.inc();
                }
            };
            accept_all(source, &shared, open).await;
            drop(held);
        });
    }

    /// Ends, within the turn of a task, every connection whose peer's proof does not hold any more.
    pub(crate) fn recheck(&self, holds: impl Fn(&Proven) -> bool) -> usize {
        let ended = self.shared.roll.recheck(holds);
        self.shared.ended[Ended::Revoked as usize].add(ended as u64);
        ended
    }

    /// Other limits, for connections that are accepted from now on.
    pub(crate) fn set_limits(&self, limits: Limits) {
        if **self.shared.limits.load() != limits {
            self.shared.caps.set(&limits);
            self.shared.limits.store(Arc::new(limits));
        }
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.caps.open()
    }
}

impl Shared {
    /// A peer waited in vain for a place among those that shake hands. Said once in a while, however many there are.
    fn too_many_handshakes(&self) {
        let now = rt::now();
        let mut said = self.flood_said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| now >= said + SAY_AGAIN) {
            *said = Some(now);
            let limits = self.limits.load();
            tracing::warn!(
                most = limits.max_handshakes,
                most_per_source = limits.max_handshakes_per_source,
                "more peers shake hands than there are places, and some were refused: a flood, or callers that do not keep \
                 their connections"
            );
        }
    }

    /// An exchange was ended for its peer's pace.
    pub(super) fn too_slow(&self, slow: Slow) {
        tracing::debug!(rule = slow.reason(), "an exchange was ended: its peer is too slow");
        self.too_slow[slow as usize].inc();
    }

    fn open<A, M, S, RB>(
        self: &Arc<Self>,
        stream: Stream,
        local: &PeerAddr,
        proxies: &Proxies,
        tls: InboundTls,
        admits: &Arc<A>,
        make: &Arc<M>,
    ) where
        A: Fn(&PeerAddr, &PeerAddr) -> bool + Send + Sync + 'static,
        M: Fn(Peer, Cut) -> S + Send + Sync + 'static,
        S: Service<Request<Body>, Response = Response<RB>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        RB: HttpBody<Data = Bytes> + Send + 'static,
        RB::Error: Into<BoxError>,
    {
        let mut remote = stream.remote(local);
        // Those that it is accepted under are its own to its end.
        let limits = self.limits.load_full();
        let mut admission = match self.caps.admit(&remote, proxies, &limits) {
            Ok(admission) => admission,
            // Dropping the stream closes it: cheaper for both ends than an answer.
            Err(Refused::Total) => return self.refused_total.inc(),
            Err(Refused::PerSource) => return self.refused_per_source.inc(),
            Err(Refused::NotAProxy) => return self.refused_no_proxy.inc(),
        };
        self.accepted.inc();
        let (header, in_process) = (proxies.header, matches!(stream, Stream::Memory(_)));
        let mut accepted = match stream {
            Stream::Tcp(stream, _) => {
                socket::prepare(&stream, &limits);
                Accepted::Tcp(stream)
            }
            Stream::Memory(io) => Accepted::Memory(io),
        };
        let (admits, make, shared, local) = (Arc::clone(admits), Arc::clone(make), Arc::clone(self), local.clone());
        let (held, watch) = (self.drain.hold(), self.drain.watch());
        // A group of its own: its cancellation is polled with the connection, and must not be a lock that all share.
        let group = self.tasks.child();
        let own = group.clone();
        let state = Arc::new(ConnState::default());
        let denied = self.ended[Ended::Denied as usize].clone();
        let cut = Cut { group: group.clone(), state: Arc::clone(&state), denied };
        group.spawn(async move {
            let ended = async {
                let mut local_peer = remote.is_local();
                let evicted = admission.evicted();
                let proven = async {
                    if header && let Some(source) = secure::proxied(&mut accepted, &limits, &watch).await? {
                        remote = PeerAddr::Tcp(source);
                        // Whatever the proxy says of the address, its connection is not of this machine.
                        local_peer = false;
                        if !admission.told(source.ip(), &limits) {
                            return Err(Ended::PerSource);
                        }
                    }
                    // Accepted by then: it ends as `denied`, and was not refused.
                    if header && !admits(&remote, &local) {
                        return Err(Ended::Denied);
                    }
                    secure::admit(accepted, &tls, local_peer, &limits, &admission, &watch).await
                };
                let admitted = tokio::select! {
                    biased;
                    () = evicted => return Err(Ended::Evicted),
                    admitted = proven => admitted?,
                };
                if let Some(proven) = &admitted.peer
                    && !admission.identify(&proven.id, &limits)
                {
                    tracing::debug!(id = %proven.id, "a connection was refused: its identity has too many");
                    return Err(Ended::PerIdentity);
                }
                let paced = match limits.paced {
                    Paced::Strangers => admitted.peer.is_none() && !in_process,
                    Paced::All => true,
                };
                let enrolled = admitted.peer.clone().map(|peer| shared.roll.enrol(peer, move || own.cancel()));
                let mut expires = None;
                if let (Some(proven), InboundTls::On { holds, .. }) = (&admitted.peer, &tls) {
                    // On the roll before it is judged again: a change in between is seen by one of the two.
                    if !holds(proven) {
                        return Err(Ended::Revoked);
                    }
                    expires = Some(rt::at(proven.not_after));
                }
                let peer = match admitted.peer {
                    Some(proven) => Peer::proven(remote, local, proven.id, proven.member),
                    None => Peer::new(remote, local),
                };
                let peer = peer.asking_for(admitted.server_name);
                let service = || make(peer, cut);
                let serving = Serving { expires, paced, admission, limits, shared: Arc::clone(&shared), watch, state };
                let ended = connection::serve(admitted.io, service, serving).await;
                drop(enrolled);
                Ok(ended)
            };
            let ended = ended.await.unwrap_or_else(|refused| refused);
            match ended {
                Ended::Forced => shared.drain.count_forced(),
                Ended::HandshakeRefused => shared.too_many_handshakes(),
                _ => {}
            }
            shared.ended[ended as usize].inc();
            drop(held);
        });
    }
}

/// Accepts until the drain stops it, then whatever is queued by then.
async fn accept_all(mut source: Source, shared: &Shared, open: impl Fn(Stream)) {
    let watch = shared.drain.watch();
    let mut stopping = std::pin::pin!(watch.clone().reached(Phase::Stopping));
    let mut pause = PAUSE.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => break,
            accepted = source.accept() => accepted,
        };
        match accepted {
            Ok(Some(stream)) => {
                pause = PAUSE.0;
                open(stream);
            }
            Ok(None) => return,
            Err(error) if socket::is_per_connection(&error) => {}
            Err(error) => {
                // Any other error repeats at once; spinning on it would take a core from those who could help.
                shared.accept_errors.inc();
                if pause == PAUSE.0 {
                    let exhausted = socket::is_exhausted(&error);
                    tracing::warn!(%error, exhausted, "accepting connections is paused; it is tried again with back-off");
                }
                tokio::select! {
                    biased;
                    () = &mut stopping => break,
                    () = rt::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
    let mut backlog = match source {
        Source::Tcp(listener) => match listener.into_std() {
            Ok(listener) => Backlog::Tcp(listener),
            Err(error) => {
                tracing::warn!(%error, "the backlog of a listener could not be emptied");
                return;
            }
        },
        Source::Memory(listener) => Backlog::Memory(listener),
    };
    let mut pause = PAUSE.0;
    while watch.phase() < Phase::Forced {
        match backlog.accept() {
            Ok(Some(stream)) => open(stream),
            Ok(None) => return,
            Err(error) if socket::is_per_connection(&error) => {}
            // Connections that end now make room for those that wait.
            Err(_) => {
                shared.accept_errors.inc();
                let _ = rt::timeout(pause, watch.clone().reached(Phase::Forced)).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}
