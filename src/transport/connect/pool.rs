//! The connections of one endpoint.

mod establish;
mod replace;

use std::{
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU8, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use http::uri::Authority;

use super::{
    dial,
    h1::{self, H1Connection, H1Lease},
    h2::{self, H2Connection},
    limit::{ConnectionLimit, ConnectionPermit},
    line::ConnectionId,
    slot::{Slot, Way},
};
use crate::{
    error::{Code, Delivery, Error},
    model::{Address, Protocol, SetKind},
    rt::{self, Instant, Rng, TaskSet},
    transport::{Alpn, Dial, error},
};

/// The back-off between attempts to connect: 100 ms × 1.6, ±20 %, and never more than 1 s with that: a recovery is seen by
/// then.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_millis(1_000 * 5 / 6);
/// How long an endpoint may take to show that it speaks HTTP/2 before it is asked in HTTP/1.1.
const DETECT: Duration = Duration::from_secs(1);
/// Calls that need HTTP/2 have an endpoint that was taken for one of HTTP/1.1 asked again, at most this often.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a pool is for.
#[derive(Clone, Debug)]
pub(crate) struct PoolTarget {
    pub(crate) addresses: Arc<[Address]>,
    pub(crate) protocol: Protocol,
    pub(crate) kind: SetKind,
    pub(crate) label: Arc<str>,
    /// The host of requests that name none. `None`: the address.
    pub(crate) authority: Option<Authority>,
}

/// How it connects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolPolicy {
    pub(crate) connect_timeout: Duration,
    /// The endpoints are of our trust domain: they may be asked by PING as often as they are silent.
    pub(crate) trusted: bool,
}

impl PoolPolicy {
    /// The first wait between attempts to connect, and the longest.
    pub(crate) const BACK_OFF: (Duration, Duration) = (BACKOFF_FIRST, Duration::from_secs(1));

    /// How long an HTTP/1.1 connection is kept without a request, and an HTTP/2 connection.
    pub(crate) const IDLE: (Duration, Duration) = (h1::IDLE, h2::IDLE);

    /// When a silent peer is asked by PING while streams are open, how long that may take, and how often a stranger is
    /// asked without an answer in between.
    pub(crate) const PING: (Duration, Duration, u32) = (h2::PING_AFTER, h2::PING_TIMEOUT, h2::MAX_PINGS);

    /// TCP keep-alive, and for how long what was sent may stay unacknowledged.
    pub(crate) const TCP: (Duration, Duration) = (dial::KEEPALIVE, dial::USER_TIMEOUT);

    /// How many HTTP/2 connections are kept to an endpoint, and are made at most.
    pub(crate) const fn connections(kind: SetKind) -> RangeInclusive<usize> {
        match kind {
            SetKind::Vip => 2..=16,
            SetKind::Replicas => 1..=4,
        }
    }

    /// The age at which a connection is replaced, and by how many per cent it varies, so that connections made together do
    /// not end together. A virtual IP is dialled anew more often, since each connection reaches one of the backends
    /// behind it.
    pub(crate) const fn age(kind: SetKind) -> (Duration, u32) {
        match kind {
            SetKind::Vip => (Duration::from_secs(5 * 60), 20),
            SetKind::Replicas => (Duration::from_secs(25 * 60), 10),
        }
    }
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(5), trusted: false }
    }
}

/// Whether a pool can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Readiness {
    Idle = 0,
    Connecting = 1,
    Ready = 2,
    TransientFailure = 3,
}

impl Readiness {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Idle,
            1 => Self::Connecting,
            2 => Self::Ready,
            _ => Self::TransientFailure,
        }
    }
}

/// What a pool tells its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PoolEvent {
    /// Its readiness changed.
    Changed { from: Readiness, to: Readiness },
    /// A stream or connection is free that somebody may wait for.
    Freed,
}

/// The HTTP version a request needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    Any,
    Http1,
    Http2,
}

/// An attempt to get a [`Slot`].
pub(crate) enum Acquire {
    Slot(Slot),
    /// Every connection is at its limit; one more may be on its way.
    Full,
    /// This endpoint cannot do it.
    Refused(Error),
}

/// The connections of one endpoint.
pub(crate) struct Pool {
    target: PoolTarget,
    policy: PoolPolicy,
    dial: Arc<dyn Dial>,
    limit: Arc<ConnectionLimit>,
    tasks: TaskSet,
    waiting: Arc<AtomicU32>,
    on_event: Box<dyn Fn(PoolEvent) + Send + Sync>,
    readiness: AtomicU8,
    /// Grows when every connection is to be replaced.
    epoch: AtomicU32,
    /// Connections, of both kinds.
    open: Arc<AtomicU32>,
    /// How many there may be, besides what `limit` says.
    most: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    h2: Vec<Arc<H2Connection>>,
    #[expect(clippy::vec_box, reason = "a connection goes from here to a call and back, through every layer")]
    h1_idle: Vec<Box<H1Connection>>,
    /// Where each address says by ALPN or by its first bytes.
    speaks: Option<Alpn>,
    /// When it was last asked again for HTTP/2.
    asked: Option<Instant>,
    /// A further HTTP/2 connection is being made.
    growing: bool,
    /// Somebody closes idle HTTP/1.1 connections that are too old.
    reaping: bool,
    /// Connections in a row that were lost before they carried a request.
    wasted: u32,
    /// Connections that the new one is to take the place of.
    renewing: Vec<Arc<H2Connection>>,
    last_error: Option<(Arc<str>, Instant, Code)>,
    /// The last attempt to connect failed by our own credential.
    refused: bool,
    closed: bool,
}

impl State {
    /// Connections are open, and none of them takes calls.
    fn stuck(&self) -> bool {
        !self.closed && !self.h2.is_empty() && !self.usable()
    }

    /// The idle connection that was used last, but for these.
    fn pop_idle(&mut self, tried: &[ConnectionId]) -> Option<Box<H1Connection>> {
        if tried.is_empty() {
            return self.h1_idle.pop();
        }
        let at = self.h1_idle.iter().rposition(|connection| !tried.contains(&connection.id))?;
        Some(self.h1_idle.remove(at))
    }

    /// A connection takes calls.
    fn usable(&self) -> bool {
        !self.closed && self.h2.iter().any(|connection| connection.usable())
    }

    /// Keeps the cause, and since when there has been one.
    fn note(&mut self, error: &Error) {
        let since = self.last_error.as_ref().map_or_else(rt::now, |(_, since, _)| *since);
        self.last_error = Some((error.message().into(), since, error.code()));
        self.refused = error.delivery() == Delivery::TlsRefused;
    }
}

impl Pool {
    pub(crate) fn new(
        target: PoolTarget,
        policy: PoolPolicy,
        dial: Arc<dyn Dial>,
        limit: Arc<ConnectionLimit>,
        tasks: TaskSet,
        waiting: Arc<AtomicU32>,
        on_event: impl Fn(PoolEvent) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let speaks = match target.protocol {
            Protocol::Auto => None,
            Protocol::Http1 => Some(Alpn::Http1),
            Protocol::Http2 => Some(Alpn::Http2),
        };
        let pool = Arc::new(Self {
            target,
            policy,
            dial,
            limit,
            tasks,
            waiting,
            on_event: Box::new(on_event),
            readiness: AtomicU8::new(Readiness::Idle as u8),
            epoch: AtomicU32::new(0),
            open: Arc::default(),
            most: AtomicU32::new(u32::MAX),
            state: Mutex::new(State { speaks, ..State::default() }),
        });
        pool.limit.register(&pool);
        pool
    }

    pub(crate) fn readiness(&self) -> Readiness {
        Readiness::from_u8(self.readiness.load(Relaxed))
    }

    /// Why the last attempt to connect failed, and since when attempts have failed, unless one has succeeded since.
    pub(crate) fn last_error(&self) -> Option<(Arc<str>, Instant)> {
        self.lock().last_error.clone().map(|(text, since, _)| (text, since))
    }

    /// Whether what [`last_error`](Self::last_error) tells is the peer's refusal of our own credential.
    pub(crate) fn is_refused(&self) -> bool {
        let state = self.lock();
        state.refused && state.last_error.is_some()
    }

    /// The code of what [`last_error`](Self::last_error) tells.
    pub(crate) fn last_code(&self) -> Option<Code> {
        self.lock().last_error.as_ref().map(|(.., code)| *code)
    }

    /// Wakes an idle pool. In every other state it does nothing.
    pub(crate) fn connect(self: &Arc<Self>) {
        let idle = Readiness::Idle as u8;
        if self.readiness() != Readiness::Idle || self.lock().closed {
            return;
        }
        if self.readiness.compare_exchange(idle, Readiness::Connecting as u8, Relaxed, Relaxed).is_ok() {
            self.tell(PoolEvent::Changed { from: Readiness::Idle, to: Readiness::Connecting });
            self.tasks.spawn(Arc::clone(self).connect_until_ready(Duration::ZERO));
        }
    }

    /// A stream or connection for one request, if one is free now.
    pub(crate) fn acquire(self: &Arc<Self>, want: Want) -> Acquire {
        self.acquire_other(want, &[])
    }

    /// The same, on another connection than these if there is one.
    pub(crate) fn acquire_other(self: &Arc<Self>, want: Want, tried: &[ConnectionId]) -> Acquire {
        let mut state = self.lock();
        if state.closed {
            return Acquire::Full;
        }
        let http1 = match (want, state.speaks) {
            (Want::Http1, Some(Alpn::Http2)) if self.target.protocol == Protocol::Http2 => {
                return Acquire::Refused(error::not_supported(&self.target.label, "HTTP/1.1, which upgrades need"));
            }
            (Want::Http2, Some(Alpn::Http1)) => {
                self.ask_again(&mut state);
                return Acquire::Refused(error::not_supported(&self.target.label, "HTTP/2, which gRPC needs"));
            }
            (Want::Http1, _) => true,
            (_, speaks) => speaks == Some(Alpn::Http1),
        };
        let slot = |way| Acquire::Slot(Slot { pool: Arc::clone(self), way });
        if http1 {
            let now = rt::now();
            while let Some(connection) = state.pop_idle(tried) {
                if connection.fresh(now) {
                    return slot(Way::H1(H1Lease::idle(self, connection)));
                }
            }
            drop(state);
            return match self.permit() {
                Some(permit) => slot(Way::H1(H1Lease::new(self, permit))),
                None if tried.is_empty() => Acquire::Full,
                None => self.acquire(want),
            };
        }
        let best = state
            .h2
            .iter()
            .filter(|connection| connection.usable())
            .min_by_key(|connection| (tried.contains(&connection.id), connection.streams()));
        let Some(best) = best else { return Acquire::Full };
        let grow = (best.nearly_full() || tried.contains(&best.id)) && state.h2.len() < self.max_connections();
        let ticket = best.ticket();
        if grow && !state.growing {
            state.growing = true;
            self.tasks.spawn(Arc::clone(self).grow());
        }
        match ticket {
            Some(ticket) => slot(Way::H2(ticket)),
            None => Acquire::Full,
        }
    }

    /// Closes a connection that carries nothing, for the sake of another pool, and hands over its permit: never that of
    /// the only one.
    pub(super) fn give_up_idle(&self) -> Option<ConnectionPermit> {
        if self.open.load(SeqCst) < 2 {
            return None;
        }
        let mut state = self.lock();
        if !state.h1_idle.is_empty() {
            // The one that is nearest to its end anyway.
            return state.h1_idle.remove(0).retire();
        }
        if state.h2.len() <= self.min_connections() {
            return None;
        }
        // One that was opened a moment ago is about to be used.
        let quiet = state.h2.iter().position(|connection| connection.is_quiet())?;
        state.h2.swap_remove(quiet).retire()
    }

    /// Takes no more requests; connections end when their last stream does.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let (h2, h1) = (std::mem::take(&mut state.h2), std::mem::take(&mut state.h1_idle));
        drop(state);
        self.set(Readiness::Idle);
        for connection in &h2 {
            connection.drain();
        }
        drop(h1);
    }

    /// Connections of both kinds.
    #[cfg(test)]
    pub(super) fn connections(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Streams on connections that take more of them.
    #[cfg(test)]
    pub(super) fn streams(&self) -> u32 {
        self.lock().h2.iter().map(|connection| connection.streams()).sum()
    }

    pub(super) fn label(&self) -> &str {
        &self.target.label
    }

    pub(super) fn tasks(&self) -> &TaskSet {
        &self.tasks
    }

    /// For requests that name no host.
    pub(super) fn authority(&self) -> Authority {
        if let Some(authority) = &self.target.authority {
            return authority.clone();
        }
        let address = self.target.addresses.first().map(ToString::to_string).unwrap_or_default();
        address.parse().unwrap_or_else(|_| Authority::from_static("localhost"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: PoolEvent) {
        (self.on_event)(event);
    }

    fn set(&self, readiness: Readiness) {
        let from = Readiness::from_u8(self.readiness.swap(readiness as u8, Relaxed));
        if from != readiness {
            self.tell(PoolEvent::Changed { from, to: readiness });
        }
    }

    /// Moves the limit on its connections; those above it stay. At least 1.
    pub(crate) fn set_most(&self, most: u32) {
        self.most.store(most.max(1), Relaxed);
    }

    fn most(&self) -> u32 {
        self.most.load(Relaxed)
    }

    fn max_connections(&self) -> usize {
        (*PoolPolicy::connections(self.target.kind).end()).min(self.most() as usize)
    }

    /// As many are kept open, and made anew when they are lost in use.
    fn min_connections(&self) -> usize {
        (*PoolPolicy::connections(self.target.kind).start()).min(self.most() as usize)
    }

    /// When a connection is replaced.
    fn max_age(&self) -> Duration {
        let (age, percent) = PoolPolicy::age(self.target.kind);
        Rng::local().jitter(age, percent)
    }

    /// Room for one more connection. Not to be called with the state locked.
    pub(super) fn permit(self: &Arc<Self>) -> Option<ConnectionPermit> {
        self.limit.acquire(&self.open, self.most(), Arc::downgrade(self))
    }

    /// An HTTP/1.1 connection finished its request.
    pub(super) fn idle(self: &Arc<Self>, connection: Box<H1Connection>) {
        self.keep(connection);
        if self.waiting.load(SeqCst) > 0 {
            self.tell(PoolEvent::Freed);
        }
    }

    /// Keeps an idle HTTP/1.1 connection until it is too old.
    fn keep(self: &Arc<Self>, connection: Box<H1Connection>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let expires = connection.expires();
        state.h1_idle.push(connection);
        if !std::mem::replace(&mut state.reaping, true) {
            self.tasks.spawn(Arc::clone(self).reap(expires));
        }
    }

    /// Closes idle HTTP/1.1 connections as they grow too old; ends when none is left.
    async fn reap(self: Arc<Self>, mut next: Instant) {
        loop {
            // First: a connection that is used again and again is hardly ever found idle.
            rt::sleep_until(next).await;
            let mut state = self.lock();
            let now = rt::now();
            state.h1_idle.retain(|connection| connection.fresh(now));
            next = match state.h1_idle.iter().map(|connection| connection.expires()).min() {
                Some(next) => next,
                None => {
                    state.reaping = false;
                    return;
                }
            };
        }
    }

    /// There is room for another connection.
    pub(super) fn connection_ended(&self) {
        if self.waiting.load(SeqCst) > 0 {
            self.tell(PoolEvent::Freed);
        }
    }

    /// A stream ended while somebody waits.
    pub(super) fn stream_ended(&self) {
        self.tell(PoolEvent::Freed);
    }

    /// A connection reached its age: another one takes its place, then it drains.
    pub(super) fn renew(self: &Arc<Self>, connection: &Arc<H2Connection>) {
        self.lock().renewing.push(Arc::clone(connection));
        self.want_more();
    }

    /// A connection is silent: unless another one takes calls, one is made and the endpoint is not offered meanwhile.
    pub(super) fn stalled(self: &Arc<Self>) {
        let state = self.lock();
        if !state.stuck() {
            return;
        }
        drop(state);
        let (ready, connecting) = (Readiness::Ready as u8, Readiness::Connecting as u8);
        if self.readiness.compare_exchange(ready, connecting, Relaxed, Relaxed).is_ok() {
            self.tell(PoolEvent::Changed { from: Readiness::Ready, to: Readiness::Connecting });
        }
        self.want_more();
    }

    /// A connection that was silent takes calls again.
    pub(super) fn recovered(&self) {
        let usable = self.lock().usable();
        if usable {
            self.set(Readiness::Ready);
            self.tell(PoolEvent::Freed);
        }
    }

    /// Every connection is replaced, since they would be made differently now: make before break.
    pub(crate) fn renew_all(self: &Arc<Self>) {
        self.epoch.fetch_add(1, Relaxed);
        let mut state = self.lock();
        let idle = std::mem::take(&mut state.h1_idle);
        let open = state.h2.clone();
        let renews = !open.is_empty();
        state.renewing.extend(open);
        drop(state);
        drop(idle);
        if renews {
            self.want_more();
        }
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    /// An HTTP/2 connection takes no more streams.
    pub(super) fn lost(self: &Arc<Self>, connection: &Arc<H2Connection>) {
        let mut state = self.lock();
        let before = state.h2.len();
        state.h2.retain(|open| !Arc::ptr_eq(open, connection));
        if state.h2.len() == before || state.closed || state.speaks == Some(Alpn::Http1) {
            return;
        }
        if !state.h2.is_empty() {
            // One that its peer closed unused would be made in a loop.
            let few = state.h2.len() < self.min_connections() && connection.was_used() && !connection.is_quiet();
            drop(state);
            if few {
                self.want_more();
            }
            return;
        }
        // A peer that takes connections and closes them unused would be called in a loop.
        state.wasted = if connection.was_used() { 0 } else { (state.wasted + 1).min(10) };
        let wait = match state.wasted {
            0 => Duration::ZERO,
            times => BACKOFF_FIRST.mul_f64(1.6f64.powi(times.cast_signed() - 1)).min(BACKOFF_MAX),
        };
        if self.target.protocol == Protocol::Auto {
            // Whatever listens there next may speak something else.
            state.speaks = None;
        }
        drop(state);
        // One that nobody used for a while is made again when somebody wants it.
        if !connection.is_quiet() {
            self.set(Readiness::Connecting);
            self.tasks.spawn(Arc::clone(self).connect_until_ready(wait));
        } else {
            self.set(Readiness::Idle);
        }
    }
}
