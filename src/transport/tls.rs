//! What connections know of identity: a configuration for each handshake, and who was at the other end.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls_pki_types::ServerName;

use crate::name::SpiffeId;

/// Who a peer proved to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Proven {
    pub(crate) id: SpiffeId,
    /// When its certificate ends, and with it what it proved.
    pub(crate) not_after: SystemTime,
    /// Whether it is of our own trust domain: its word on criticality, allowance and fairness counts.
    pub(crate) member: bool,
    /// What it was judged by.
    pub(crate) generation: u64,
}

/// TLS on the accepting side, one generation of it.
pub(crate) struct ServerSide {
    pub(crate) config: Arc<rustls::ServerConfig>,
    /// Reads the peer from a finished handshake; `None` if it showed no certificate.
    pub(crate) prove: Box<dyn Fn(&rustls::ServerConnection) -> Option<Proven> + Send + Sync>,
}

/// TLS on the connecting side, one generation of it.
pub(crate) struct ClientSide {
    pub(crate) config: Arc<rustls::ClientConfig>,
    /// The name that the server's certificate must carry; `None` where it is judged otherwise.
    pub(crate) name: Option<ServerName<'static>>,
    /// When our own certificate ends.
    pub(crate) not_after: Option<SystemTime>,
    /// Reads the peer from a finished handshake; `None` outside of the mesh.
    pub(crate) prove: Box<dyn Fn(&rustls::ClientConnection) -> Option<Proven> + Send + Sync>,
}

impl fmt::Debug for ClientSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSide")
    }
}

impl fmt::Debug for ServerSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSide")
    }
}
