//! Who is at the other end of a connection.

use std::{fmt, net::SocketAddr, sync::Arc};

use crate::name::SpiffeId;

/// The peer of a connection, as the listener saw it.
///
/// In a handler: the axum extractor `Peer`, or `Peer::of(request.extensions())`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    inner: Arc<Inner>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Inner {
    remote: PeerAddr,
    local: PeerAddr,
    id: Option<SpiffeId>,
    member: bool,
    server_name: Option<Arc<str>>,
}

/// One end of a connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum PeerAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A name of the in-memory transport: the peer lives in this process.
    Memory(Arc<str>),
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Memory(name) => write!(f, "memory:{name}"),
        }
    }
}

impl PeerAddr {
    /// True if it is of this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Memory(_) => true,
        }
    }
}

impl Peer {
    pub(crate) fn new(remote: PeerAddr, local: PeerAddr) -> Self {
        Self { inner: Arc::new(Inner { remote, local, id: None, member: false, server_name: None }) }
    }

    /// A peer that proved who it is. `member`: it is of our own trust domain.
    pub(crate) fn proven(remote: PeerAddr, local: PeerAddr, id: SpiffeId, member: bool) -> Self {
        Self { inner: Arc::new(Inner { remote, local, id: Some(id), member, server_name: None }) }
    }

    /// With the name that it asked for in its TLS handshake.
    pub(crate) fn asking_for(self, server_name: Option<Arc<str>>) -> Self {
        match server_name {
            None => self,
            Some(name) => {
                let own = Arc::unwrap_or_clone(self.inner);
                Self { inner: Arc::new(Inner { server_name: Some(name), ..own }) }
            }
        }
    }

    /// The peer that sent this request, if it arrived over a sinew listener.
    pub fn of(extensions: &http::Extensions) -> Option<Peer> {
        crate::context::Inbound::of(extensions).map(|inbound| inbound.peer().clone())
    }

    /// The address the connection came from.
    pub fn remote_addr(&self) -> &PeerAddr {
        &self.inner.remote
    }

    /// The address the connection arrived at.
    pub fn local_addr(&self) -> &PeerAddr {
        &self.inner.local
    }

    /// The identity that the peer proved by its certificate, on this connection. `None` for plaintext and for TLS without a
    /// certificate of the mesh.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.inner.id.as_ref()
    }

    /// The name that the peer asked for in its TLS handshake (SNI), in lower case. `None` if it named none, as members of
    /// a mesh do, and without TLS.
    pub fn server_name(&self) -> Option<&str> {
        self.inner.server_name.as_deref()
    }

    /// True if the peer lives in this process.
    pub fn is_in_process(&self) -> bool {
        matches!(self.inner.remote, PeerAddr::Memory(_))
    }

    /// Whether what this peer says about criticality, retry allowance and fairness counts.
    ///
    /// Only peers whose identity is proven and of our own trust domain may steer this process, and the process itself.
    pub(crate) fn may_set_context(&self) -> bool {
        self.inner.member || self.is_in_process()
    }
}
