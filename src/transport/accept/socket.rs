//! Socket options.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
};

#[cfg(target_os = "linux")]
use socket2::SockFilter;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::limits::ListenerLimits;

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

/// From now on nobody new gets through to this listener, not even to be refused, so that its backlog can be emptied.
///
/// Closing a listener resets connections that were made between the last `accept` and the close, whose callers have sent
/// their requests by then. Who asks meanwhile asks again a second later, so this is for the moment before the close.
/// Where the system has no means for it that moment stays.
pub(super) fn hold_off(listener: &TcpListener) {
    #[cfg(target_os = "linux")]
    {
        // The program sees a segment from its TCP header on. Its flags are byte 13, SYN is bit 1.
        const LOAD_BYTE: u16 = 0x30;
        const JUMP_IF_SET: u16 = 0x45;
        const RETURN: u16 = 0x06;
        let drop_syn = [
            SockFilter::new(LOAD_BYTE, 0, 0, 13),
            SockFilter::new(JUMP_IF_SET, 0, 1, 0x02),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ];
        if let Err(error) = SockRef::from(listener).attach_filter(&drop_syn) {
            tracing::debug!(%error, "newcomers of a listener that ends could not be held off");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = listener;
}

/// Options are set on every accepted socket, since a listener that is handed to us may not have them. A peer that has
/// already left makes some of them fail; the first read says so better.
pub(super) fn prepare(stream: &TcpStream, limits: &ListenerLimits) {
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::{Ipv4Addr, TcpStream},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn who_comes_late_is_not_let_in_and_who_was_there_is_served() {
        let listener = TcpListener::from_std({
            let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        })
        .unwrap();
        let address = listener.local_addr().unwrap();
        let mut early = TcpStream::connect(address).unwrap();
        hold_off(&listener);
        early.write_all(b"sent after").unwrap();
        // Neither let in nor refused: the peer asks again, until somebody listens or nobody does.
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(50));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        let (accepted, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut accepted = accepted.into_std().unwrap();
        accepted.set_nonblocking(false).unwrap();
        let mut said = [0; 10];
        accepted.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"sent after");
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
