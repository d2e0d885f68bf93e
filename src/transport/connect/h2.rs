//! One HTTP/2 connection and the task that drives it.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use super::{limit::ConnectionPermit, pool::Pool};
use crate::{
    rt,
    transport::{
        Io,
        batch::{Batched, Flusher, batched},
    },
};

/// Stands for "the peer's SETTINGS are not here yet": no peer's limit, which has 32 bits, and not the maximum, which is
/// what h2 puts in its place when the SETTINGS name none.
const UNSEEN: usize = usize::MAX - 1;
/// Flow control of what is received. A client reads what it asked for, so one stream may fill a long fat pipe; the
/// connection window bounds the memory of all of them.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const MAX_HEADER_LIST: u32 = 64 * 1024;
/// PING after this long without a frame while streams are open, and give up this long after.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Peers count PINGs without data in between as abuse.
const MAX_PINGS: u32 = 2;
/// Below the five minutes after which servers, ours too, close an idle connection: who closes first decides whether a
/// request can cross the closing.
const IDLE: Duration = Duration::from_secs(240);
/// A connection without streams for this long is not made again when it is lost, until somebody wants it.
const QUIET: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_secs(10);

/// A connection that calls may use.
pub(super) struct H2Connection {
    /// `None` once it is being closed: the last handle that goes ends the connection.
    send: Mutex<Option<SendRequest<Bytes>>>,
    streams: AtomicU32,
    max: AtomicU32,
    /// No new streams: GOAWAY, age, or closing.
    draining: AtomicBool,
    /// Without a stream for a while.
    quiet: AtomicBool,
    /// A request was sent on it.
    used: AtomicBool,
    /// Wakes the driver.
    notify: Notify,
    pool: Weak<Pool>,
    /// How many calls of the cluster wait for a stream: nobody is woken when nobody waits.
    waiting: Arc<AtomicU32>,
    /// Given away by a connection that makes room for another.
    permit: Mutex<Option<ConnectionPermit>>,
}

/// One stream's share of a connection.
pub(super) struct Ticket {
    connection: Arc<H2Connection>,
}

impl H2Connection {
    /// Shakes hands and waits for the peer's SETTINGS; nothing is offered before.
    pub(super) async fn open(
        io: Box<dyn Io>,
        permit: ConnectionPermit,
        pool: Weak<Pool>,
        waiting: Arc<AtomicU32>,
        max_age: Duration,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + use<>), h2::Error> {
        let activity = Arc::new(AtomicU64::new(0));
        let (io, flusher) = batched(io);
        let io = Watched { io, activity: Arc::clone(&activity) };
        let (send, mut connection) = h2::client::Builder::new()
            .initial_max_send_streams(UNSEEN)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_concurrent_reset_streams(100)
            .enable_push(false)
            .handshake::<_, Bytes>(io)
            .await?;
        let ping = connection.ping_pong();
        let max = poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Err(result.err().unwrap_or_else(|| h2::Reason::NO_ERROR.into())));
            }
            let _ = flusher.poll_flush(cx);
            match connection.max_concurrent_send_streams() {
                UNSEEN => Poll::Pending,
                max => Poll::Ready(Ok(max)),
            }
        })
        .await?;
        let this = Arc::new(Self {
            send: Mutex::new(Some(send.clone())),
            streams: AtomicU32::new(0),
            max: AtomicU32::new(clamp(max)),
            draining: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            used: AtomicBool::new(false),
            notify: Notify::new(),
            pool,
            waiting,
            permit: Mutex::new(Some(permit)),
        });
        let driver =
            Driver { connection, flusher, probe: Some(send), ping, this: Arc::clone(&this), activity, max_age };
        Ok((this, driver.run()))
    }

    pub(super) fn usable(&self) -> bool {
        !self.draining.load(Relaxed)
    }

    pub(super) fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Relaxed) && self.streams() == 0
    }

    pub(super) fn was_used(&self) -> bool {
        self.used.load(Relaxed)
    }

    /// Whether a further connection should be opened: at 80 % of the peer's limit.
    pub(super) fn nearly_full(&self) -> bool {
        let max = u64::from(self.max.load(Relaxed));
        u64::from(self.streams()) * 5 >= max * 4
    }

    /// A stream, unless the peer's limit is reached or the connection is going away. h2 would queue it otherwise, and a
    /// queued stream is lost without a trace when the GOAWAY comes.
    pub(super) fn ticket(self: &Arc<Self>) -> Option<Ticket> {
        if !self.usable() {
            return None;
        }
        let max = self.max.load(Relaxed);
        self.streams
            .fetch_update(SeqCst, SeqCst, |streams| (streams < max).then(|| streams + 1))
            .ok()
            .map(|_| Ticket { connection: Arc::clone(self) })
    }

    /// Ends a connection that carries nothing and is offered no more: its place is free from now on.
    pub(super) fn retire(&self) -> Option<ConnectionPermit> {
        self.drain();
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// No new streams; ends with the last open one.
    pub(super) fn drain(&self) {
        self.draining.store(true, Relaxed);
        self.notify.notify_one();
    }
}

fn clamp(max: usize) -> u32 {
    u32::try_from(max).unwrap_or(u32::MAX)
}

impl Ticket {
    /// The handle to send a request by; `None` if the connection was closed meanwhile.
    pub(super) fn handle(&self) -> Option<SendRequest<Bytes>> {
        self.connection.used.store(true, Relaxed);
        self.connection.send.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Offers the connection to nobody any more.
    pub(super) fn connection_is_over(&self) {
        self.connection.drain();
    }

    /// A second share of the same stream, for the part of it that outlives the first.
    pub(super) fn again(&self) -> Ticket {
        self.connection.streams.fetch_add(1, Relaxed);
        Ticket { connection: Arc::clone(&self.connection) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let left = self.connection.streams.fetch_sub(1, SeqCst) - 1;
        if left == 0 && self.connection.draining.load(Relaxed) {
            self.connection.notify.notify_one();
        }
        if self.connection.waiting.load(SeqCst) > 0
            && let Some(pool) = self.connection.pool.upgrade()
        {
            pool.stream_ended();
        }
    }
}

struct Driver {
    connection: Connection<Watched, Bytes>,
    flusher: Flusher,
    /// Polled for GOAWAY. Dropped when the connection is to end.
    probe: Option<SendRequest<Bytes>>,
    ping: Option<h2::PingPong>,
    this: Arc<H2Connection>,
    activity: Arc<AtomicU64>,
    max_age: Duration,
}

impl Driver {
    async fn run(mut self) {
        let this = Arc::clone(&self.this);
        let born = rt::now();
        let mut watch = Watch { seen: 0, since: born, idle_since: Some(born), pinged: None, pings: 0 };
        let mut timer = pin!(rt::sleep_until(born + TICK));
        let mut notified = Box::pin(this.notify.notified());
        let mut aging = false;
        poll_fn(|cx| {
            while notified.as_mut().poll(cx).is_ready() {
                notified.set(this.notify.notified());
            }
            while timer.as_mut().poll(cx).is_ready() {
                let now = rt::now();
                timer.as_mut().reset(now + TICK);
                if !aging && now - born > self.max_age {
                    aging = true;
                    // Make before break: the pool opens another one and drains this one when that is there.
                    match this.pool.upgrade() {
                        Some(pool) => pool.renew(&this),
                        None => this.drain(),
                    }
                }
                if !watch.tick(&mut self, now) {
                    tracing::debug!("an HTTP/2 connection does not answer PING: closing it");
                    return Poll::Ready(());
                }
            }
            if let Some(ping) = &mut self.ping
                && let Poll::Ready(Ok(_)) = ping.poll_pong(cx)
            {
                watch.pinged = None;
            }
            let ended = Pin::new(&mut self.connection).poll(cx);
            // Once for all the frames of this poll. A socket that fails to write fails to read as well, which is how
            // the connection learns of it.
            let _ = self.flusher.poll_flush(cx);
            this.max.store(clamp(self.connection.max_concurrent_send_streams()), Relaxed);
            if ended.is_ready() {
                return Poll::Ready(());
            }
            if let Some(probe) = &mut self.probe
                && let Poll::Ready(Err(_)) = probe.poll_ready(cx)
            {
                self.going_away();
            }
            if this.draining.load(Relaxed) {
                if self.probe.is_some() {
                    self.going_away();
                }
                if this.streams() == 0 {
                    // The last handles go; h2 says GOAWAY and ends when it is written.
                    this.send.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let ended = Pin::new(&mut self.connection).poll(cx);
                    let _ = self.flusher.poll_flush(cx);
                    if ended.is_ready() {
                        return Poll::Ready(());
                    }
                }
            }
            Poll::Pending
        })
        .await;
        self.going_away();
        this.send.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn going_away(&mut self) {
        self.probe = None;
        self.this.draining.store(true, Relaxed);
        if let Some(pool) = self.this.pool.upgrade() {
            pool.lost(&self.this);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Also when the task is dropped with its group: nobody may wait for a connection that is not driven any more.
        self.going_away();
    }
}

/// What is known about the liveness of a connection.
struct Watch {
    seen: u64,
    since: rt::Instant,
    idle_since: Option<rt::Instant>,
    pinged: Option<rt::Instant>,
    pings: u32,
}

impl Watch {
    /// False if the connection is dead.
    fn tick(&mut self, driver: &mut Driver, now: rt::Instant) -> bool {
        let activity = driver.activity.load(Relaxed);
        if activity != self.seen {
            self.seen = activity;
            self.since = now;
            if self.pinged.is_none() {
                self.pings = 0;
            }
        }
        if driver.this.streams() == 0 {
            let since = *self.idle_since.get_or_insert(now);
            driver.this.quiet.store(now - since >= QUIET, Relaxed);
            if now - since >= IDLE {
                driver.this.drain();
            }
            self.pinged = None;
            return true;
        }
        self.idle_since = None;
        driver.this.quiet.store(false, Relaxed);
        match self.pinged {
            Some(at) if now - at >= PING_TIMEOUT => return false,
            None if now - self.since >= PING_AFTER && self.pings < MAX_PINGS => {
                if let Some(ping) = &mut driver.ping
                    && ping.send_ping(h2::Ping::opaque()).is_ok()
                {
                    self.pinged = Some(now);
                    self.pings += 1;
                }
            }
            _ => {}
        }
        true
    }
}

/// Notes that something was received.
struct Watched {
    io: Batched,
    activity: Arc<AtomicU64>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.fetch_add(1, Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
