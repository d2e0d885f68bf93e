//! Socket options.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use super::limits::Limits;

/// Linux caps it at `net.core.somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;

pub(super) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted process must not wait for the last one's connections to leave TIME_WAIT.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Options are set on every accepted socket, since a listener that is handed to us may not have them. A peer that has
/// already left makes some of them fail; the first read says so better.
pub(super) fn prepare(stream: &TcpStream, limits: &Limits) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(limits.tcp_keepalive).with_interval(limits.tcp_keepalive / 4);
    let mut result = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    {
        result = result.and_then(|()| socket.set_tcp_user_timeout(Some(limits.tcp_user_timeout)));
    }
    if let Err(error) = result.as_mut() {
        tracing::debug!(%error, "socket options of an accepted connection could not be set");
    }
}

/// True if accepting failed for want of a resource that closing connections frees.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    // ENFILE 23, EMFILE 24 everywhere; ENOMEM 12; ENOBUFS 105 on Linux, 55 on BSDs.
    matches!(error.raw_os_error(), Some(12 | 23 | 24 | 55 | 105))
}

/// True if only the connection that was to be accepted is lost.
pub(super) fn is_per_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
