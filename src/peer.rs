//! Who is at the other end of a connection.

use std::{fmt, net::SocketAddr, sync::Arc};

/// The peer of a connection, as the listener saw it.
///
/// In a handler: the axum extractor `Peer`, or `Peer::of(request.extensions())`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq, Debug)]
struct Inner {
    remote: PeerAddr,
    local: PeerAddr,
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

impl Peer {
    pub(crate) fn new(remote: PeerAddr, local: PeerAddr) -> Self {
        Self { inner: Arc::new(Inner { remote, local }) }
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

    /// True if the peer lives in this process.
    pub fn is_in_process(&self) -> bool {
        matches!(self.inner.remote, PeerAddr::Memory(_))
    }

    /// Whether what this peer says about criticality, retry allowance and fairness counts.
    ///
    /// Only peers whose identity is proven may steer this process; without identity that is only the process itself.
    pub(crate) fn may_set_context(&self) -> bool {
        self.is_in_process()
    }
}
