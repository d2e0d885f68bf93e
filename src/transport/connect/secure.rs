//! TLS to an endpoint.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use crate::{
    error::Error,
    identity::{ClientSide, Proven},
    model::Address,
    rt::{self, Instant, TaskSet},
    transport::{
        Alpn, Dial, Dialed, Io, Offer, error,
        roll::{Enrolled, Roll},
    },
};

/// A connection gives way to another when a fifth of the life of either certificate is left, so that what it carries has
/// that long to end; where that is so already, after this much of what is left. Less than servers allow, so that it is the
/// client who leaves first.
const LIFE: f64 = 0.7;

fn retires((begun, ends): (SystemTime, SystemTime)) -> Instant {
    let left = rt::at(ends).saturating_duration_since(rt::now()).mul_f64(LIFE);
    let fifth = ends.duration_since(begun).unwrap_or_default() / 5;
    let fresh = (ends - fifth).duration_since(rt::wall()).ok();
    rt::now() + fresh.filter(|fresh| !fresh.is_zero()).map_or(left, |fresh| fresh.min(left))
}

/// A dialler that shakes hands over the streams of another. There is no falling back to plaintext.
pub(crate) struct TlsDialer {
    bytes: Arc<dyn Dial>,
    side: Box<dyn Fn() -> Result<Arc<ClientSide>, Error> + Send + Sync>,
    holds: Box<dyn Fn(&Proven) -> bool + Send + Sync>,
    roll: Arc<Roll>,
    tasks: TaskSet,
}

impl TlsDialer {
    /// `side` is asked for each handshake; `holds` says whether what a peer proved still does.
    pub(crate) fn new(
        bytes: Arc<dyn Dial>,
        side: impl Fn() -> Result<Arc<ClientSide>, Error> + Send + Sync + 'static,
        holds: impl Fn(&Proven) -> bool + Send + Sync + 'static,
        roll: Arc<Roll>,
        tasks: TaskSet,
    ) -> Self {
        Self { bytes, side: Box::new(side), holds: Box::new(holds), roll, tasks }
    }

    async fn secure(&self, address: &Address, offer: Offer) -> Result<Dialed, Error> {
        let side = (self.side)()?;
        let Dialed { io, .. } = self.bytes.dial(address, offer).await?;
        let name = side.name.clone().unwrap_or_else(|| match address {
            Address::Tcp(address) => ServerName::IpAddress(address.ip().into()),
            Address::Memory(_) => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into()),
        });
        let offered = match offer {
            Offer::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Offer::Http1 => vec![b"http/1.1".to_vec()],
            Offer::Http2 => vec![b"h2".to_vec()],
        };
        let connector = TlsConnector::from(Arc::clone(&side.config));
        let stream =
            connector.with_alpn(offered).connect(name, io).await.map_err(|failure| error::tls(address, failure))?;
        let connection = stream.get_ref().1;
        let alpn = match connection.alpn_protocol() {
            Some(b"h2") => Some(Alpn::Http2),
            Some(b"http/1.1") => Some(Alpn::Http1),
            _ => None,
        };
        let proven = (side.prove)(connection);
        let theirs = proven.as_ref().map(|peer| (peer.not_before, peer.not_after));
        let renew_at = [side.validity, theirs].into_iter().flatten().map(retires).min();
        let leash = Arc::new(Leash::default());
        let fate = Some(Arc::clone(&leash));
        let Some(proven) = proven else {
            let io = Box::new(Leashed { io: stream, leash, _held: None });
            return Ok(Dialed { io, alpn, renew_at, fate });
        };
        let (cut, expiring) = (Arc::clone(&leash), Arc::downgrade(&leash));
        let expires = rt::at(proven.not_after);
        let enrolled = self.roll.enrol(proven.clone(), move || cut.cut());
        // On the roll before it is judged again: a change in between is seen by one of the two.
        if !(self.holds)(&proven) {
            return Err(error::not_accepted_any_more(address));
        }
        let timer = Timer(self.tasks.child());
        timer.0.spawn(async move {
            rt::sleep_until(expires).await;
            if let Some(leash) = expiring.upgrade() {
                leash.cut();
            }
        });
        let io = Box::new(Leashed { io: stream, leash, _held: Some((enrolled, timer)) });
        Ok(Dialed { io, alpn, renew_at, fate })
    }
}

impl Dial for TlsDialer {
    fn dial<'a>(
        &'a self,
        address: &'a Address,
        offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        Box::pin(self.secure(address, offer))
    }
}

/// What ends a connection from outside, upgraded or not, and what is remembered of how it ended.
#[derive(Default)]
pub(crate) struct Leash {
    cut: AtomicBool,
    reader: Mutex<Option<Waker>>,
    refusal: OnceLock<String>,
}

impl Leash {
    fn cut(&self) {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that a reader that registers afterwards sees it.
        self.cut.store(true, Relaxed);
        let waker = reader.take();
        drop(reader);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The alert by which the peer refused our certificate, if one came: protocols above keep only its text.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// False if it is cut already.
    fn wait(&self, cx: &Context<'_>) -> bool {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *reader {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *reader = Some(cx.waker().clone()),
        }
        !self.is_cut()
    }
}

/// Bytes on a leash.
struct Leashed<I> {
    io: I,
    leash: Arc<Leash>,
    /// Its place on the roll, and what cuts it when the certificate ends.
    _held: Option<(Enrolled, Timer)>,
}

/// The task that waits for the end of a certificate, which may be days away: it ends with the connection.
struct Timer(TaskSet);

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "what the peer proved by its certificate holds no longer")
}

impl<I: Io> AsyncRead for Leashed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.leash.is_cut() {
            return Poll::Ready(Err(cut()));
        }
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Poll::Ready(Err(failure)) = &polled
            && let Some(alert) = error::refusal(failure)
        {
            let _ = self.leash.refusal.set(alert);
        }
        if polled.is_pending() && !self.leash.wait(cx) { Poll::Ready(Err(cut())) } else { polled }
    }
}

impl<I: Io> AsyncWrite for Leashed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.leash.is_cut() {
            return Poll::Ready(Err(cut()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.leash.is_cut() {
            return Poll::Ready(Err(cut()));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
