//! HTTP/1.1 connections: one request at a time, kept for the next one.

use std::{
    io, mem,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{
            AtomicU8, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{self, HeaderName},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    limit::ConnectionPermit,
    line::ConnectionId,
    pool::Pool,
    secure::Leash,
    slot::{SlotBody, SlotGuard},
};
use crate::{
    body::{Body, GuardedBody},
    error::Error,
    rt::{self, Instant},
    transport::{Dialed, Io, batch::ended, error},
};

/// Most servers keep an idle connection for five seconds or longer; who closes first decides whether a request can cross
/// the closing.
pub(super) const IDLE: Duration = Duration::from_secs(4);
const MAX_BUFFER: usize = 64 * 1024;

/// A connection without a request on it.
pub(super) struct H1Connection {
    pub(super) id: ConnectionId,
    send: SendRequest<Body>,
    /// Held by the bytes themselves once the connection is upgraded.
    permit: Option<ConnectionPermit>,
    upgraded: Upgraded,
    idle_since: Instant,
    idle_limit: Duration,
    /// For the sake of the certificates it was made with, it is not used after this.
    renew_at: Option<Instant>,
    /// The pool's epoch it belongs to.
    epoch: u32,
    /// Until the first answer.
    fate: Option<Arc<Leash>>,
    /// What the last request named its host, as it is and as a header.
    host: Option<Box<(Authority, HeaderValue)>>,
}

impl H1Connection {
    pub(super) async fn open(dialed: Dialed, permit: ConnectionPermit, pool: &Pool) -> Result<Box<Self>, hyper::Error> {
        let (epoch, renew_at) = (pool.epoch(), dialed.renew_at);
        let upgraded = Upgraded::default();
        let io = Kept { io: dialed.io, shared: upgraded.clone(), silence: None };
        let (send, connection) =
            http1::Builder::new().max_buf_size(MAX_BUFFER).handshake::<_, Body>(TokioIo::new(io)).await?;
        pool.tasks().spawn(async move {
            // What ended it is told to whoever waits for a response on it.
            let _ = connection.with_upgrades().await;
        });
        Ok(Box::new(Self {
            id: ConnectionId::next(),
            send,
            permit: Some(permit),
            upgraded,
            idle_since: rt::now(),
            idle_limit: IDLE,
            renew_at,
            epoch,
            fate: dialed.fate,
            host: None,
        }))
    }

    /// Ends it before its time.
    pub(super) fn retire(mut self) -> Option<ConnectionPermit> {
        self.permit.take()
    }

    /// When it is too old to be used again.
    pub(super) fn expires(&self) -> Instant {
        let idle = self.idle_since + self.idle_limit;
        self.renew_at.map_or(idle, |at| at.min(idle))
    }

    pub(super) fn fresh(&self, now: Instant) -> bool {
        !self.send.is_closed() && now < self.expires()
    }
}

/// Found in a response that turns its connection into something else: what is given to it is held until that ends, since
/// no body tells.
#[derive(Clone, Default)]
pub(crate) struct Upgraded(Arc<Shared>);

/// What both sides of a connection know about it.
#[derive(Default)]
struct Shared {
    held: Mutex<Vec<Box<dyn Send>>>,
    written: AtomicU8,
    /// Milliseconds of silence after which it ends, once it is upgraded; 0 is never.
    silence: AtomicU32,
}

/// Nothing was written since the request began.
const UNWRITTEN: u8 = 0;
const WRITTEN: u8 = 1;
/// Nothing was, and nothing will be.
const SEALED: u8 = 2;

impl Upgraded {
    pub(crate) fn hold(&self, value: impl Send + 'static) {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(value));
    }

    /// Ends the connection once nothing was read or written for this long.
    pub(crate) fn end_when_silent_for(&self, after: Duration) {
        let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        self.0.silence.store(millis, Relaxed);
    }

    /// A request begins.
    fn begin(&self) {
        let _ = self.0.written.compare_exchange(WRITTEN, UNWRITTEN, SeqCst, SeqCst);
    }

    /// Whether nothing of the request was handed over; nothing will be then. To be asked when the connection has failed.
    fn never_sent(&self) -> bool {
        let written = &self.0.written;
        written.compare_exchange(UNWRITTEN, SEALED, SeqCst, SeqCst).unwrap_or_else(|now| now) != WRITTEN
    }
}

/// The bytes of a connection, upgraded or not.
struct Kept {
    io: Box<dyn Io>,
    shared: Upgraded,
    /// While it is upgraded and waits for its peer.
    silence: Option<Box<Silence>>,
}

/// Nothing was read since a moment, and perhaps written.
struct Silence {
    sleep: Pin<Box<rt::Sleep>>,
    written: bool,
}

impl Kept {
    /// Notes the first bytes of a request before they are handed over, so that nobody can be told otherwise meanwhile. A
    /// write that fails may have handed over a part: TLS writes in records.
    fn noted(&mut self, write: impl FnOnce(Pin<&mut dyn Io>) -> Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Some(silence) = &mut self.silence {
            silence.written = true;
        }
        let written = &self.shared.0.written;
        if written.load(Relaxed) == WRITTEN {
            return write(Pin::new(&mut *self.io));
        }
        if written.compare_exchange(UNWRITTEN, WRITTEN, SeqCst, SeqCst) == Err(SEALED) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let polled = write(Pin::new(&mut *self.io));
        if polled.is_pending() {
            written.store(UNWRITTEN, SeqCst);
        }
        polled
    }
}

impl Kept {
    /// Fails the read once nothing has moved for long enough.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let after = Duration::from_millis(self.shared.0.silence.load(Relaxed).into());
        let silence = self.silence.get_or_insert_with(|| {
            Box::new(Silence { sleep: Box::pin(rt::sleep_until(rt::now() + after)), written: false })
        });
        loop {
            ready!(silence.sleep.as_mut().poll(cx));
            if !mem::take(&mut silence.written) {
                let message = "the upgraded connection was silent for longer than `timeouts.upgrade_idle`";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
            }
            silence.sleep.as_mut().reset(rt::now() + after);
        }
    }
}

impl AsyncRead for Kept {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if ended(&polled, buf, before) {
            // A request that has not begun to leave stays here: nobody would hear the answer.
            let _ = self.shared.never_sent();
        }
        match polled {
            Poll::Pending if self.shared.0.silence.load(Relaxed) > 0 => self.poll_silence(cx),
            polled => {
                self.silence = None;
                polled
            }
        }
    }
}

impl AsyncWrite for Kept {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.noted(|io| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.noted(|io| io.poll_write_vectored(cx, bufs))
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

/// The right to send one request over HTTP/1.1: on an idle connection, or on one that is still to be made.
pub(super) struct H1Lease {
    pub(super) pool: Weak<Pool>,
    /// Boxed once for all its requests: every layer above moves the lease, with the call and with its response.
    pub(super) connection: Option<Box<H1Connection>>,
    /// For the connection that is still to be made.
    pub(super) permit: Option<ConnectionPermit>,
    reused: bool,
    pub(super) id: ConnectionId,
}

impl H1Lease {
    pub(super) fn idle(pool: &Arc<Pool>, connection: Box<H1Connection>) -> Self {
        let id = connection.id;
        Self { pool: Arc::downgrade(pool), connection: Some(connection), permit: None, reused: true, id }
    }

    pub(super) fn new(pool: &Arc<Pool>, permit: ConnectionPermit) -> Self {
        let id = ConnectionId::next();
        Self { pool: Arc::downgrade(pool), connection: None, permit: Some(permit), reused: false, id }
    }

    /// Back to the pool, for the next request.
    pub(super) fn give_back(mut self) {
        if let (Some(pool), Some(mut connection)) = (self.pool.upgrade(), self.connection.take())
            && !connection.send.is_closed()
            // An upgraded one carries no further request.
            && connection.permit.is_some()
            && connection.epoch == pool.epoch()
        {
            connection.idle_since = rt::now();
            pool.idle(connection);
        }
    }

    pub(super) async fn send(mut self, pool: Arc<Pool>, request: Request<Body>) -> Result<Response<SlotBody>, Error> {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let connect = *head.method() == Method::CONNECT;
        let again = self.reused && safe_to_repeat(head.method(), head.headers());
        let saved = again.then(|| (head.clone(), body.as_full()));
        let response = match (self.attempt(&pool, head, body).await, saved) {
            // A kept connection was closed as the request crossed: nothing came back, and the method may be repeated.
            // Boxed, as all that is rare here: the future of every call would be as large.
            (Err(Failure { silent: true, error }), Some((head, Some(full)))) => {
                tracing::debug!("a kept connection was closed by its peer, sending again on a new one: {error}");
                self.connection = None;
                self.permit = self.permit.take().or_else(|| pool.permit());
                let repeated = Box::pin(self.attempt(&pool, head, Body::from(full)));
                repeated.await.map_err(|failure| failure.error)?
            }
            (result, _) => result.map_err(|failure| failure.error)?,
        };
        let (mut parts, body) = response.into_parts();
        if let Some(connection) = &mut self.connection {
            connection.idle_limit = idle_limit(&parts.headers);
            if parts.status == StatusCode::SWITCHING_PROTOCOLS || (connect && parts.status.is_success()) {
                if let Some(permit) = connection.permit.take() {
                    connection.upgraded.hold(permit);
                }
                parts.extensions.insert(connection.upgraded.clone());
            }
        }
        Ok(Response::from_parts(parts, GuardedBody::new(Body::incoming(body, true), SlotGuard::h1(self))))
    }

    async fn attempt(
        &mut self,
        pool: &Arc<Pool>,
        mut head: Request<()>,
        body: Body,
    ) -> Result<Response<hyper::body::Incoming>, Failure> {
        if self.connection.is_none() {
            let Some(permit) = self.permit.take() else {
                return Err(Failure::sure(error::unopened(None).returning(body)));
            };
            match Box::pin(pool.dial_h1(permit)).await {
                Ok(mut connection) => {
                    connection.id = self.id;
                    self.connection = Some(connection);
                }
                Err(error) => return Err(Failure::sure(error.returning(body))),
            }
        }
        let Some(connection) = &mut self.connection else {
            return Err(Failure::sure(error::unopened(None).returning(body)));
        };
        origin_form(&mut head, pool, &mut connection.host);
        let refusal = |fate: &Option<Arc<Leash>>| {
            let alert = fate.as_ref()?.refusal()?;
            Some(error::refused(pool.label(), alert))
        };
        if let Err(failure) = connection.send.ready().await {
            if let Some(refused) = refusal(&connection.fate) {
                return Err(Failure::sure(refused.returning(body)));
            }
            return Err(Failure { silent: true, error: error::h1_unsent(failure).returning(body) });
        }
        connection.upgraded.begin();
        let sent = connection.send.try_send_request(head.map(|()| body)).await;
        let fate = connection.fate.take();
        sent.map_err(|mut failure| {
            if let Some(refused) = refusal(&fate) {
                return Failure::sure(match failure.take_message() {
                    Some(request) => refused.returning(request.into_body()),
                    None => refused,
                });
            }
            match failure.take_message() {
                Some(request) => Failure {
                    silent: true,
                    error: error::h1_unsent(failure.into_error()).returning(request.into_body()),
                },
                None => {
                    let failure = failure.into_error();
                    let silent = failure.is_incomplete_message() || failure.is_closed() || is_reset(&failure);
                    Failure { silent, error: error::h1_response(failure, || connection.upgraded.never_sent()) }
                }
            }
        })
    }
}

struct Failure {
    /// Not one byte of a response came back.
    silent: bool,
    error: Error,
}

impl Failure {
    fn sure(error: Error) -> Self {
        Self { silent: false, error }
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
}

fn safe_to_repeat(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || headers.contains_key("idempotency-key")
}

/// A second less than the peer keeps it, at most four.
fn idle_limit(headers: &HeaderMap) -> Duration {
    let told = headers
        .get(HeaderName::from_static("keep-alive"))
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok()));
    told.map_or(IDLE, |seconds| IDLE.min(Duration::from_secs(seconds.saturating_sub(1))))
}

/// Path and query in the request line, the authority in `Host` (RFC 9112 §3.2.1); CONNECT keeps its authority.
fn origin_form(head: &mut Request<()>, pool: &Pool, last: &mut Option<Box<(Authority, HeaderValue)>>) {
    *head.version_mut() = Version::HTTP_11;
    if !head.headers().contains_key(header::HOST) {
        // Hardly a connection ever sees another one.
        let host = match (last.as_deref(), head.uri().authority()) {
            (Some((known, host)), Some(authority)) if known.as_str() == authority.as_str() => Some(host.clone()),
            (_, authority) => {
                let authority = authority.cloned().unwrap_or_else(|| pool.authority());
                let host = HeaderValue::from_str(authority.as_str()).ok();
                *last = host.clone().map(|host| Box::new((authority, host)));
                host
            }
        };
        if let Some(host) = host {
            head.headers_mut().insert(header::HOST, host);
        }
    }
    if *head.method() == Method::CONNECT {
        return;
    }
    let path = head.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *head.uri_mut() = Uri::from(path);
    debug_assert!(head.uri().scheme() != Some(&Scheme::HTTP));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_keep_alive_shortens_ours() {
        let limit = |value: &'static str| {
            idle_limit(
                &[(HeaderName::from_static("keep-alive"), HeaderValue::from_static(value))].into_iter().collect(),
            )
        };
        assert_eq!(limit("timeout=3, max=100"), Duration::from_secs(2));
        assert_eq!(limit("timeout=60"), IDLE);
        assert_eq!(limit("timeout=0"), Duration::ZERO);
        assert_eq!(idle_limit(&HeaderMap::new()), IDLE);
    }
}
