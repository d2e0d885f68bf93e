//! The in-memory network: listeners by name, streams without sockets.
//!
//! Tests want connections that obey paused time and cannot collide on a port, and two services in one process need no
//! kernel between them. A stream is a [`DuplexStream`]; nothing else of a network is imitated: no delay, no loss. What
//! is kept is what callers must cope with: a name that nobody listens on refuses, a backlog is bounded, and a listener
//! that goes away takes its unaccepted connections with it.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};

use super::error;
use crate::error::{Code, Error};

/// Connections that wait for `accept`, as with a socket: beyond it connecting is refused.
const BACKLOG: usize = 1024;

/// Bytes each direction holds before the writer waits.
pub(super) const BUFFER: usize = 64 * 1024;

/// Names and who listens on them. Clones share the network.
#[derive(Clone, Default)]
pub(crate) struct MemoryNetwork {
    listeners: Arc<Mutex<HashMap<Arc<str>, mpsc::Sender<DuplexStream>>>>,
}

impl MemoryNetwork {
    /// A network on which nobody listens.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Takes a name until the listener is dropped.
    pub(crate) fn listen(&self, name: &str) -> Result<MemoryListener, Error> {
        match self.lock().entry(name.into()) {
            Entry::Occupied(_) => Err(Error::new(
                Code::BindFailed,
                format!("cannot listen on memory:{name}: another listener does; drop it first, or use another name"),
            )),
            Entry::Vacant(vacant) => {
                let (connections, accepted) = mpsc::channel(BACKLOG);
                let name = vacant.key().clone();
                vacant.insert(connections);
                Ok(MemoryListener { network: self.clone(), name, accepted })
            }
        }
    }

    /// A stream to the listener of this name. Never waits: a name without a listener and a full backlog refuse.
    pub(crate) fn connect(&self, name: &str) -> Result<DuplexStream, Error> {
        let Some(listener) = self.lock().get(name).cloned() else {
            return Err(error::memory_refused(name, "nobody listens on it"));
        };
        let (near, far) = duplex(BUFFER);
        match listener.try_send(far) {
            Ok(()) => Ok(near),
            Err(mpsc::error::TrySendError::Full(_)) => Err(error::memory_refused(name, "its backlog is full")),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(error::memory_refused(name, "its listener is gone")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, mpsc::Sender<DuplexStream>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.lock().keys()).finish()
    }
}

/// The accepting end of a name.
pub(crate) struct MemoryListener {
    network: MemoryNetwork,
    name: Arc<str>,
    accepted: mpsc::Receiver<DuplexStream>,
}

impl MemoryListener {
    /// The name it listens on.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The next connection. Cancel safe. `None` never comes while the listener lives: only it holds the name.
    pub(crate) async fn accept(&mut self) -> Option<DuplexStream> {
        self.accepted.recv().await
    }

    /// A connection that already waits, for emptying the backlog before closing.
    pub(crate) fn try_accept(&mut self) -> Option<DuplexStream> {
        self.accepted.try_recv().ok()
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.network.lock().remove(&self.name);
    }
}

impl fmt::Debug for MemoryListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryListener(memory:{})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::error::Delivery;

    #[tokio::test]
    async fn bytes_pass_both_ways() {
        let network = MemoryNetwork::new();
        let mut listener = network.listen("a").unwrap();
        let mut near = network.connect("a").unwrap();
        let mut far = listener.accept().await.unwrap();
        near.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).await.unwrap();
        far.write_all(b"pong").await.unwrap();
        near.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"pong");
    }

    #[test]
    fn a_name_without_a_listener_refuses_before_anything_is_sent() {
        let error = MemoryNetwork::new().connect("nobody").unwrap_err();
        assert_eq!((error.code(), error.delivery()), (Code::ConnectFailed, Delivery::Unsent));
        assert!(error.message().contains("connection refused by memory:nobody"), "{error}");
    }

    #[test]
    fn a_full_backlog_refuses() {
        let network = MemoryNetwork::new();
        let mut listener = network.listen("a").unwrap();
        let held: Vec<_> = (0..BACKLOG).map(|_| network.connect("a").unwrap()).collect();
        assert_eq!(network.connect("a").unwrap_err().code(), Code::ConnectFailed);
        assert!(listener.try_accept().is_some());
        assert!(network.connect("a").is_ok());
        drop(held);
    }

    #[tokio::test]
    async fn a_dropped_listener_frees_its_name_and_its_backlog() {
        let network = MemoryNetwork::new();
        let listener = network.listen("a").unwrap();
        assert!(network.listen("a").is_err());
        let mut waiting = network.connect("a").unwrap();
        drop(listener);
        assert_eq!(waiting.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(network.connect("a").is_err());
        assert!(network.listen("a").is_ok());
    }
}
