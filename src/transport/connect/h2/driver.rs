//! The task that drives a connection.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};

use super::{
    H2Connection,
    pulse::{Finding, Pulse, Seen},
};
use crate::{
    rt::{self, Instant},
    transport::batch::{Batched, Flusher},
};

/// Below the five minutes after which servers, ours too, close an idle connection: who closes first decides whether a
/// request can cross the closing.
pub(in crate::transport::connect) const IDLE: Duration = Duration::from_secs(240);
/// A connection without streams for this long is not made again when it is lost, until somebody wants it.
const QUIET: Duration = Duration::from_secs(30);

pub(super) struct Driver {
    connection: Connection<Batched, Bytes>,
    flusher: Flusher,
    /// Polled for GOAWAY. Dropped when the connection is to end.
    probe: Option<SendRequest<Bytes>>,
    ping: Option<h2::PingPong>,
    /// A PING is on its way or its answer is.
    pinging: bool,
    pulse: Pulse,
    this: Arc<H2Connection>,
    born: Instant,
    idle_since: Option<Instant>,
    max_age: Duration,
    aging: bool,
}

impl Driver {
    pub(super) fn new(
        this: Arc<H2Connection>,
        connection: Connection<Batched, Bytes>,
        flusher: Flusher,
        send: SendRequest<Bytes>,
        ping: Option<h2::PingPong>,
        pulse: Pulse,
        max_age: Duration,
    ) -> Self {
        let born = rt::now();
        Self {
            connection,
            flusher,
            probe: Some(send),
            ping,
            pinging: false,
            pulse,
            this,
            born,
            idle_since: Some(born),
            max_age,
            aging: false,
        }
    }

    /// Boxed, since an `async` function holds what it is given twice.
    pub(super) async fn run(mut self: Box<Self>) {
        let this = Arc::clone(&self.this);
        let mut timer = pin!(rt::sleep_until(self.born + self.pulse.pause()));
        let mut notified = Box::pin(this.notify.notified());
        poll_fn(|cx| {
            while notified.as_mut().poll(cx).is_ready() {
                notified.set(this.notify.notified());
            }
            // What has arrived is read before anything is judged by its absence.
            if self.poll_connection(cx).is_ready() {
                return Poll::Ready(());
            }
            if self.pinging {
                self.listen(cx);
            }
            // A stream on a connection that is not looked at often is looked after from its beginning.
            if self.pulse.rests() && this.opened.load(Relaxed) {
                let now = rt::now();
                self.tick(now);
                timer.as_mut().reset(now + self.pulse.pause());
            }
            while timer.as_mut().poll(cx).is_ready() {
                let now = rt::now();
                self.pulse.lagged(timer.deadline(), now);
                if !self.tick(now) {
                    tracing::debug!("an HTTP/2 connection does not answer PING: closing it");
                    return Poll::Ready(());
                }
                timer.as_mut().reset(now + self.pulse.pause());
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
                    return self.poll_connection(cx);
                }
            }
            Poll::Pending
        })
        .await;
        self.going_away();
        this.send.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut self.connection).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Once for all the frames of this poll. A socket that fails to write refuses the next frame.
        let _ = self.flusher.poll_flush(cx);
        let max = self.connection.max_concurrent_send_streams();
        self.this.max.store(super::clamp(max), Relaxed);
        Poll::Pending
    }

    /// False if the peer is gone.
    fn tick(&mut self, now: Instant) -> bool {
        let this = &self.this;
        if !self.aging && now - self.born > self.max_age {
            self.aging = true;
            // Make before break: the pool opens another one and drains this one when that is there.
            match this.pool.upgrade() {
                Some(pool) => pool.renew(this),
                None => this.drain(),
            }
        }
        let (frames, data) = self.flusher.received();
        let opened = this.opened.swap(false, Relaxed);
        if opened {
            this.used.store(true, Relaxed);
        }
        let streams = this.streams();
        match streams {
            0 => {
                let since = *self.idle_since.get_or_insert(now);
                this.quiet.store(now - since >= QUIET, Relaxed);
                if now - since >= IDLE {
                    this.drain();
                }
            }
            _ => {
                self.idle_since = None;
                this.quiet.store(false, Relaxed);
            }
        }
        match self.pulse.look(now, Seen { frames, data, streams, opened }) {
            Finding::Fine => {}
            Finding::Dead => return false,
            Finding::Ask => self.ask(now),
            Finding::Silent => {
                if let Some(pool) = this.pool.upgrade() {
                    pool.stalled();
                }
            }
        }
        true
    }

    fn ask(&mut self, now: Instant) {
        // Refused while one is on its way.
        if let Some(ping) = &mut self.ping
            && ping.send_ping(h2::Ping::opaque()).is_ok()
        {
            self.pinging = true;
            self.pulse.asked(now);
            self.this.stalled.store(true, Relaxed);
        }
    }

    /// Whether the peer that was asked has said anything.
    fn listen(&mut self, cx: &mut Context<'_>) {
        if let Some(ping) = &mut self.ping
            && ping.poll_pong(cx).is_ready()
        {
            self.pinging = false;
        }
        if self.flusher.received().0 != self.pulse.frames() {
            self.pulse.heard();
            if self.this.stalled.swap(false, Relaxed)
                && let Some(pool) = self.this.pool.upgrade()
            {
                pool.recovered();
            }
        }
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
