//! One HTTP/2 connection.

mod driver;
mod pulse;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;

pub(super) use self::{
    driver::IDLE,
    pulse::{MAX_PINGS, PING_AFTER, PING_TIMEOUT},
};

use self::{driver::Driver, pulse::Pulse};
use super::{limit::ConnectionPermit, line::ConnectionId, pool::Pool};
use crate::transport::{
    Io,
    batch::{Flusher, followed},
};

/// Stands for "the peer's SETTINGS are not here yet": no peer's limit, which has 32 bits, and not the maximum, which is
/// what h2 puts in its place when the SETTINGS name none.
const UNSEEN: usize = usize::MAX - 1;
/// Flow control of what is received. A client reads what it asked for, so one stream may fill a long fat pipe; the
/// connection window bounds the memory of all of them.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// A connection that calls may use.
pub(super) struct H2Connection {
    pub(super) id: ConnectionId,
    /// `None` once it is being closed: the last handle that goes ends the connection.
    send: Mutex<Option<SendRequest<Bytes>>>,
    streams: AtomicU32,
    max: AtomicU32,
    /// No new streams: GOAWAY, age, or closing.
    draining: AtomicBool,
    /// No new streams until the peer is heard of again.
    stalled: AtomicBool,
    /// Without a stream for a while.
    quiet: AtomicBool,
    /// A request was sent on it.
    used: AtomicBool,
    /// One was since the driver looked last.
    opened: AtomicBool,
    flusher: Flusher,
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
        trusted: bool,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + use<>), h2::Error> {
        let (io, flusher) = followed(io);
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
            id: ConnectionId::next(),
            send: Mutex::new(Some(send.clone())),
            streams: AtomicU32::new(0),
            max: AtomicU32::new(clamp(max)),
            draining: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            used: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            flusher: flusher.clone(),
            notify: Notify::new(),
            pool,
            waiting,
            permit: Mutex::new(Some(permit)),
        });
        let pulse = Pulse::new(trusted);
        let driver = Driver::new(Arc::clone(&this), connection, flusher, send, ping, pulse, max_age);
        Ok((this, Box::new(driver).run()))
    }

    pub(super) fn usable(&self) -> bool {
        !self.draining.load(Relaxed) && !self.stalled.load(Relaxed)
    }

    pub(super) fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Relaxed) && self.streams() == 0
    }

    pub(super) fn was_used(&self) -> bool {
        self.used.load(Relaxed) || self.opened.load(Relaxed)
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
        self.connection.opened.store(true, Relaxed);
        self.connection.send.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn connection(&self) -> ConnectionId {
        self.connection.id
    }

    /// Whether nothing of this stream was handed to the socket, nor ever will be. For a connection that broke.
    pub(super) fn never_sent(&self, stream: u32) -> bool {
        self.connection.flusher.never_sent(stream)
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
