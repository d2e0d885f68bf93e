//! One connection, from accept to close.

use std::{
    future::{Future, poll_fn},
    io, mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    caps::Admission,
    drain::{DrainWatch, Phase},
    exchanges::{Exchanges, Judged, Streams},
    flood::FrameCounter,
    io::ServerIo,
    limits::Limits,
    listener::Shared,
    service::{Streamed, Wire},
    sniff::{Sniffed, Sniffer},
    state::{Activity, ConnState, KillOnDrop},
    timers::{Action, Judgement, Single, Timers},
};
use crate::{
    body::{Body, Meter},
    error::BoxError,
    rt::{self, HyperTimer, Instant},
    transport::{
        Io,
        batch::{Flusher, batched},
    },
};

/// Why a connection ended. The text is the label of the metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Closed,
    Failed,
    FirstByteTimeout,
    HeaderTimeout,
    Flood,
    Forced,
    HandshakeTimeout,
    HandshakeFailed,
    HandshakeRefused,
    NoCredential,
    Plaintext,
    Expired,
    Revoked,
    Denied,
    Slow,
    PerIdentity,
    PerSource,
    Evicted,
    ProxyHeader,
}

impl Ended {
    pub(super) const ALL: [Self; 19] = [
        Self::Closed,
        Self::Failed,
        Self::FirstByteTimeout,
        Self::HeaderTimeout,
        Self::Flood,
        Self::Forced,
        Self::HandshakeTimeout,
        Self::HandshakeFailed,
        Self::HandshakeRefused,
        Self::NoCredential,
        Self::Plaintext,
        Self::Expired,
        Self::Revoked,
        Self::Denied,
        Self::Slow,
        Self::PerIdentity,
        Self::PerSource,
        Self::Evicted,
        Self::ProxyHeader,
    ];

    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::HeaderTimeout => "header_timeout",
            Self::Flood => "flood",
            Self::Forced => "forced",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeRefused => "max_handshakes",
            Self::NoCredential => "no_credential",
            Self::Plaintext => "plaintext",
            Self::Expired => "peer_expired",
            Self::Revoked => "peer_revoked",
            Self::Denied => "denied",
            Self::Slow => "too_slow",
            Self::PerIdentity => "max_per_identity",
            Self::PerSource => "max_per_source",
            Self::Evicted => "evicted",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

/// What a connection is served under.
pub(super) struct Serving {
    /// When the peer's certificate ends: what is open then is closed; without one the peer proved nothing.
    pub(super) expires: Option<Instant>,
    pub(super) paced: bool,
    pub(super) admission: Admission,
    pub(super) limits: Arc<Limits>,
    pub(super) shared: Arc<Shared>,
    pub(super) watch: DrainWatch,
    pub(super) state: Arc<ConnState>,
}

/// Serves one connection until it ends, upgraded or not.
pub(super) async fn serve<S, RB>(mut io: Box<dyn Io>, service: impl FnOnce() -> S, serving: Serving) -> Ended
where
    S: Service<Request<Body>, Response = Response<RB>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    RB: HttpBody<Data = Bytes> + Send + 'static,
    RB::Error: Into<BoxError>,
{
    let Serving { expires, paced, admission, limits, shared, watch, state } = serving;
    let limits = &*limits;
    // What is accepted in lame duck serves like any other until accepting stops.
    let accepted_in = watch.phase().min(Phase::LameDuck);
    let sniffed = tokio::select! {
        biased;
        () = admission.evicted() => Err(Ended::Evicted),
        sniffed = sniff(&mut *io, limits, &watch) => sniffed,
    };
    let (sniffed, bytes) = match sniffed {
        Ok(sniffed) => sniffed,
        Err(ended) => return ended,
    };
    admission.heard();
    let mut one = Single::default();
    let _kill = KillOnDrop(Arc::clone(&state));
    let mut held = None;
    let ended = match sniffed {
        Sniffed::Gone => return Ended::Closed,
        Sniffed::Http1 => {
            let io = ServerIo::new(io, bytes, Arc::clone(&state), None, admission);
            // Beyond an upgrade, which ends what hyper has of it: who is connected is known by it.
            let service = held.insert(service()).clone();
            let meter = paced.then(Arc::<Meter>::default);
            let wire = Wire::new(service, Arc::clone(&state), true, meter.clone().map(Judged::Http1));
            let connection = http1_builder(limits).serve_connection(TokioIo::new(io), wire).with_upgrades();
            let timers = Timers::new(limits, true, expires, paced);
            let judge = |elapsed| {
                let slow = one.judge(meter.as_deref()?, &state, elapsed, limits)?;
                shared.too_slow(slow);
                Some(Judgement::End)
            };
            let close = |_: Pin<&mut _>| state.close_next();
            drive(pin!(connection), close, judge, timers, &state, &watch, accepted_in).await
        }
        Sniffed::Http2 => {
            let frames = FrameCounter::new(limits.h2_control_frames);
            let (io, flusher) = batched(io);
            let io = ServerIo::new(Box::new(io), bytes, Arc::clone(&state), Some(frames), admission);
            let exchanges = paced.then(Arc::<Exchanges>::default);
            let wire = Wire::new(service(), Arc::clone(&state), false, exchanges.clone().map(Judged::Http2));
            let streams = Streams(exchanges.clone());
            let connection =
                http2_builder(limits, streams, expires.is_some()).serve_connection(TokioIo::new(io), Streamed(wire));
            let connection = Flushing { connection, flusher };
            let timers = Timers::new(limits, false, expires, paced);
            let judge = |elapsed| {
                let any = exchanges.as_ref()?.judge(elapsed, limits, |slow| shared.too_slow(slow));
                any.then_some(Judgement::Again)
            };
            let close = |flushing: Pin<&mut Flushing<http2::Connection<_, _, _>>>| {
                flushing.project().connection.graceful_shutdown();
            };
            drive(pin!(connection), close, judge, timers, &state, &watch, accepted_in).await
        }
    };
    if ended == Ended::Closed && state.is_upgraded() {
        tokio::select! {
            biased;
            () = state.until_gone() => {}
            () = watch.reached(Phase::Forced) => return Ended::Forced,
            () = rt::sleep_until(expires.unwrap_or_else(rt::now)), if expires.is_some() => return Ended::Expired,
        }
    }
    ended
}

pin_project! {
    /// An HTTP/2 connection whose writes are flushed once after each of its polls.
    struct Flushing<C> {
        #[pin]
        connection: C,
        flusher: Flusher,
    }
}

impl<C: Future> Future for Flushing<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.project();
        let polled = this.connection.poll(cx);
        // A socket that fails to write fails to read as well, which is how the connection learns of it.
        let _ = this.flusher.poll_flush(cx);
        polled
    }
}

/// Tells the protocol within `first_byte`. While accepting is over, a peer that says nothing is only waited for as
/// long as an idle one.
async fn sniff(io: &mut dyn Io, limits: &Limits, watch: &DrainWatch) -> Result<(Sniffed, Bytes), Ended> {
    let mut sniffer = Sniffer::new();
    let late = rt::sleep_until(rt::now() + limits.first_byte);
    let stopped = async {
        watch.clone().reached(Phase::Stopping).await;
        rt::sleep(limits.closing_grace).await;
    };
    let mut late = pin!(late);
    let mut stopped = pin!(stopped);
    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            sniffed = sniffer.sniff(io) => {
                return match sniffed {
                    Ok(sniffed) => Ok((sniffed, sniffer.into_bytes())),
                    Err(_) => Err(Ended::Failed),
                };
            }
            () = watch.clone().reached(Phase::Forced) => return Err(Ended::Forced),
            () = &mut late => return Err(Ended::FirstByteTimeout),
            () = &mut stopped, if !asked => asked = true,
        }
        if asked && sniffer.is_silent() {
            return Err(Ended::Closed);
        }
    }
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(HyperTimer::new())
        // hyper's one timer covers both the wait for a request and its head; `Timers` tells them apart.
        .header_read_timeout(None)
        .keep_alive(true)
        .half_close(false)
        .max_header_size(limits.h1_max_header_size)
        .max_buf_size(limits.h1_max_buffer.max(8 * 1024));
    // Told its own default, hyper reserves the slots anew for each request: 2,400 instructions.
    if limits.h1_max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(limits.h1_max_headers);
    }
    builder
}

const HYPER_MAX_HEADERS: usize = 100;

fn http2_builder(limits: &Limits, streams: Streams, proven: bool) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(HyperTimer::new())
        .adaptive_window(false)
        .max_concurrent_streams(limits.h2_max_streams)
        .max_local_error_reset_streams(limits.h2_max_local_resets)
        .max_pending_accept_reset_streams(limits.h2_max_pending_resets)
        .max_header_list_size(limits.h2_max_header_list)
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(match proven {
            true => limits.h2_connection_window_proven,
            false => limits.h2_connection_window,
        })
        .max_frame_size(limits.h2_max_frame)
        .max_send_buf_size(limits.h2_send_buffer)
        .keep_alive_interval(limits.h2_ping_interval)
        .keep_alive_timeout(limits.h2_ping_timeout);
    if limits.h2_connect_protocol {
        builder.enable_connect_protocol();
    }
    builder
}

fn peer_left(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    io.is_some_and(|error| matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset))
}

/// Polls a connection, and between its polls judges its timers and the drain.
///
/// One timer is armed and mostly left alone: it may fire early and is then set again, so that a busy connection never
/// touches the timer wheel. The drain is only polled when its version has changed.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    mut close: impl FnMut(Pin<&mut C>),
    mut judge: impl FnMut(Duration) -> Option<Judgement>,
    mut timers: Timers<'_>,
    state: &ConnState,
    watch: &DrainWatch,
    mut seen: Phase,
) -> Ended
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut turn = pin!(watch.clone().after(seen));
    let mut timer = pin!(rt::sleep_until(timers.since));
    let mut watch = watch.clone();
    let (mut watching, mut armed, mut leaving, mut heard) = (false, false, false, false);
    let mut step = move |cx: &mut Context<'_>| -> Poll<Ended> {
        loop {
            // Before the connection, so that a response that is made now already says that it is the last.
            while !watching || watch.has_changed() {
                let phase = watch.seen();
                // A new wait for each phase: the version moves before the waiters are told, so one that already waits
                // may answer that nothing has changed, and would not be asked again.
                turn.set(watch.clone().after(phase));
                watching = rt::poll_registered(turn.as_mut(), cx).is_pending();
                if phase == Phase::Forced {
                    return Poll::Ready(Ended::Forced);
                }
                if phase > seen {
                    seen = phase;
                    if phase == Phase::Stopping {
                        timers.quiet_soon();
                    }
                    if timers.stop() {
                        close(connection.as_mut());
                    }
                }
            }
            // A task has one waker.
            if !mem::replace(&mut heard, true) {
                state.leave().wait(cx);
            }
            if state.leave().is_asked() && !mem::replace(&mut leaving, true) {
                timers.quiet_soon();
                if timers.stop() {
                    close(connection.as_mut());
                }
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(match result {
                    _ if state.was_flooded() => Ended::Flood,
                    Ok(()) if leaving => Ended::Denied,
                    Ok(()) => Ended::Closed,
                    // Our goodbye found nobody: TLS says one where TCP would not.
                    Err(error) if state.mark().activity == Activity::Idle && peer_left(&error) => Ended::Closed,
                    Err(error) => {
                        tracing::debug!(%error, "a connection failed");
                        Ended::Failed
                    }
                });
            }
            let before = timers.mark;
            let mark = state.mark();
            let Some((due, action)) = timers.next(mark) else { return Poll::Pending };
            // hyper does not read again by itself after a response that found no bytes behind its request.
            if state.closes_when_quiet() && mark.activity == Activity::Idle && before != Some(mark) {
                continue;
            }
            if armed && due >= timer.deadline() && !timer.is_elapsed() {
                return Poll::Pending;
            }
            if rt::now() < due {
                timer.as_mut().reset(due);
                armed = true;
                if rt::poll_registered(timer.as_mut(), cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            match action {
                Action::Abort => return Poll::Ready(Ended::HeaderTimeout),
                Action::Expire => return Poll::Ready(Ended::Expired),
                Action::Stuck => return Poll::Ready(Ended::Slow),
                Action::Judge => {
                    let now = rt::now();
                    let elapsed = timers.judged.replace(now).map(|last| now - last).unwrap_or_default();
                    let judgement = judge(elapsed);
                    if matches!(judgement, Some(Judgement::End)) {
                        return Poll::Ready(Ended::Slow);
                    }
                    timers.judged_open = judgement.is_some();
                    timers.judged_requests = mark.requests();
                }
                Action::Close => {
                    timers.stop();
                    close(connection.as_mut());
                }
                Action::CloseWhenQuiet => {
                    timers.quiet_at = None;
                    timers.age = None;
                    // Asked once per quiet time: if a request has just arrived it is served first.
                    timers.since = rt::now();
                    state.close_when_quiet();
                }
            }
        }
    };
    poll_fn(move |cx| step(cx)).await
}
