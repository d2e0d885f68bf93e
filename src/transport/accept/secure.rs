//! From an accepted socket to bytes of a known peer: the first byte, the handshake, the refusal.
//!
//! A peer that says nothing is never taken for plaintext, and a port that asks for mutual TLS answers plaintext with the
//! reason. The configuration of one handshake is one snapshot: what it was judged by is what the peer is recorded with.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor};

use super::{
    caps::Admission,
    connection::Ended,
    drain::{DrainWatch, Phase},
    limits::Limits,
    proxy_header, refuse,
};
use crate::{
    error::Error,
    identity::{Proven, ServerSide},
    rt,
    transport::{Io, error},
};

/// First byte of a TLS record that carries a handshake; no HTTP request begins with it.
const HANDSHAKE: u8 = 0x16;
/// How long a peer may say nothing where the first byte decides what it is.
const PERMISSIVE_SILENCE: Duration = Duration::from_secs(1);

/// What a listener asks of its peers at the moment when one connects.
#[derive(Clone, Default)]
pub(crate) enum InboundTls {
    /// Plaintext.
    #[default]
    Off,
    /// TLS as this configuration has it.
    On {
        /// The configuration of the moment, or why there is none.
        side: Arc<dyn Fn() -> Result<Arc<ServerSide>, Error> + Send + Sync>,
        /// Whether what a peer once proved still holds.
        holds: Arc<dyn Fn(&Proven) -> bool + Send + Sync>,
        /// Who may speak plaintext all the same.
        plaintext: Plaintext,
    },
}

/// Who may speak plaintext to a listener with TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plaintext {
    /// Nobody.
    Refused,
    /// Peers on this machine.
    Loopback,
    /// Everybody.
    Allowed,
}

/// A stream as it was accepted.
pub(super) enum Accepted {
    Tcp(TcpStream),
    Memory(Box<dyn Io>),
}

/// Bytes of a peer.
pub(super) struct Admitted {
    pub(super) io: Box<dyn Io>,
    /// Who it proved to be. `None`: plaintext, or TLS without a certificate.
    pub(super) peer: Option<Proven>,
    /// The name that it asked for in its handshake, in lower case.
    pub(super) server_name: Option<Arc<str>>,
}

/// Shakes hands, if that is asked for. `Err` is why the connection ended.
pub(super) async fn admit(
    accepted: Accepted,
    tls: &InboundTls,
    is_local: bool,
    limits: &Limits,
    admission: &Admission,
    watch: &DrainWatch,
) -> Result<Admitted, Ended> {
    let InboundTls::On { side, plaintext, .. } = tls else {
        let io = match accepted {
            Accepted::Tcp(stream) => Box::new(stream),
            Accepted::Memory(io) => io,
        };
        return Ok(Admitted { io, peer: None, server_name: None });
    };
    let allowed = match plaintext {
        Plaintext::Refused => false,
        Plaintext::Loopback => is_local,
        Plaintext::Allowed => true,
    };
    let silence = if allowed { PERMISSIVE_SILENCE.min(limits.first_byte) } else { limits.first_byte };
    let (first, accepted) = within(watch, silence, Ended::FirstByteTimeout, pin!(first_byte(accepted))).await?;
    match first {
        None => Err(Ended::Closed),
        Some(HANDSHAKE) => {
            let began = rt::now();
            let place = async { Ok(admission.handshake(limits).await) };
            let _place = within(watch, limits.tls_handshake, Ended::HandshakeRefused, pin!(place)).await?;
            let side = side().map_err(|error| {
                tracing::warn!("a connection was refused: {error}");
                Ended::NoCredential
            })?;
            let shaken = async {
                match accepted {
                    Accepted::Tcp(stream) => handshake(stream, &side, admission).await,
                    Accepted::Memory(io) => handshake(io, &side, admission).await,
                }
            };
            within(watch, limits.tls_handshake.saturating_sub(began.elapsed()), Ended::HandshakeTimeout, pin!(shaken))
                .await
        }
        Some(_) => {
            let io: Box<dyn Io> = match accepted {
                Accepted::Tcp(stream) => Box::new(stream),
                Accepted::Memory(io) => io,
            };
            if allowed {
                return Ok(Admitted { io, peer: None, server_name: None });
            }
            refuse::plaintext(io).await;
            Err(Ended::Plaintext)
        }
    }
}

/// Where the connection comes from, as its PROXY header tells; `None` if the proxy speaks for itself.
pub(super) async fn proxied(
    accepted: &mut Accepted,
    limits: &Limits,
    watch: &DrainWatch,
) -> Result<Option<SocketAddr>, Ended> {
    let header = async {
        let read = match accepted {
            Accepted::Tcp(stream) => proxy_header::read(stream).await,
            Accepted::Memory(io) => proxy_header::read(io).await,
        };
        read.map_err(|error| {
            tracing::warn!("a connection was refused: its PROXY header cannot be read: {error}");
            Ended::ProxyHeader
        })
    };
    within(watch, limits.proxy_header, Ended::ProxyHeader, pin!(header)).await
}

/// Bounded by time, and by the drain's end. The step is somebody else's, since what a future is given it holds twice.
async fn within<T>(
    watch: &DrainWatch,
    limit: Duration,
    late: Ended,
    step: Pin<&mut impl Future<Output = Result<T, Ended>>>,
) -> Result<T, Ended> {
    tokio::select! {
        biased;
        result = rt::timeout(limit, step) => result.unwrap_or(Err(late)),
        () = watch.clone().reached(Phase::Forced) => Err(Ended::Forced),
    }
}

/// The first byte, which stays to be read; `None` if the peer left.
async fn first_byte(accepted: Accepted) -> Result<(Option<u8>, Accepted), Ended> {
    let mut byte = [0];
    match accepted {
        // Peeked, so that nothing stands between TLS and the socket afterwards.
        Accepted::Tcp(stream) => {
            let n = stream.peek(&mut byte).await.map_err(|_| Ended::Failed)?;
            Ok(((n > 0).then_some(byte[0]), Accepted::Tcp(stream)))
        }
        Accepted::Memory(mut io) => {
            let n = io.read(&mut byte).await.map_err(|_| Ended::Failed)?;
            let first = (n > 0).then_some(byte[0]);
            Ok((first, Accepted::Memory(Box::new(Rewound { first, io }))))
        }
    }
}

async fn handshake<I: Io>(io: I, side: &ServerSide, admission: &Admission) -> Result<Admitted, Ended> {
    let failed = |failure| {
        tracing::debug!("a handshake failed: {}", error::handshake(&failure));
        Ended::HandshakeFailed
    };
    let hello = LazyConfigAcceptor::new(Acceptor::default(), io).await.map_err(failed)?;
    admission.heard();
    let mut shake = hello.into_stream(Arc::clone(&side.config));
    let mut turns = admission.turns();
    // A turn is held for one poll, never while the peer is waited for.
    let stream = poll_fn(|cx| {
        let _turn = ready!(turns.poll_acquire(cx));
        Pin::new(&mut shake).poll(cx)
    });
    let stream = stream.await.map_err(failed)?;
    let connection = stream.get_ref().1;
    let peer = (side.prove)(connection);
    let server_name = connection.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase().into());
    Ok(Admitted { io: Box::new(stream), peer, server_name })
}

/// A stream whose first byte was read.
struct Rewound {
    first: Option<u8>,
    io: Box<dyn Io>,
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.first.take_if(|_| buf.remaining() > 0) {
            Some(byte) => {
                buf.put_slice(&[byte]);
                Poll::Ready(Ok(()))
            }
            None => Pin::new(&mut self.io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
