//! The right to send one request on one connection.

use std::{future::Future, pin::Pin, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, Uri, Version,
    header::{self, HeaderName, HeaderValue},
    uri::{Authority, PathAndQuery, Scheme},
};
use tokio::sync::oneshot;

use super::{h1::H1Lease, h2::Ticket, line::ConnectionId, pool::Pool, pump::Pump};
use crate::{
    body::{Body, End, Guard, GuardedBody, H2Body},
    error::{Code, Error},
    transport::error,
};

/// One request may be sent. Dropping it gives the stream back.
pub(crate) struct Slot {
    pub(super) pool: Arc<Pool>,
    pub(super) way: Way,
}

pub(super) enum Way {
    H2(Ticket),
    H1(H1Lease),
}

/// A response body that gives its stream back when it is over.
pub(crate) type SlotBody = GuardedBody<Body, SlotGuard>;

type Sent = Pin<Box<dyn Future<Output = Result<Response<SlotBody>, Error>> + Send>>;

impl Slot {
    #[cfg(test)]
    pub(super) fn version(&self) -> crate::transport::Alpn {
        match self.way {
            Way::H2(_) => crate::transport::Alpn::Http2,
            Way::H1(_) => crate::transport::Alpn::Http1,
        }
    }

    /// The connection that it is on, or will be.
    pub(crate) fn connection(&self) -> ConnectionId {
        match &self.way {
            Way::H2(ticket) => ticket.connection(),
            Way::H1(lease) => lease.id,
        }
    }

    /// Whether that carries other requests meanwhile.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.way, Way::H2(_))
    }

    /// Sends the request when the future is first polled. An error that says the request was not processed brings its
    /// body back. Dropping the future resets the stream.
    pub(crate) fn send(self, request: Request<Body>) -> Sent {
        match self.way {
            Way::H2(ticket) => Box::pin(h2(self.pool, ticket, request)),
            Way::H1(lease) => Box::pin(lease.send(self.pool, request)),
        }
    }
}

async fn h2(pool: Arc<Pool>, ticket: Ticket, request: Request<Body>) -> Result<Response<SlotBody>, Error> {
    let (parts, body) = request.into_parts();
    let mut head = Request::from_parts(parts, ());
    absolute(&mut head, &pool)?;
    strip(head.headers_mut());
    *head.version_mut() = Version::HTTP_2;
    let full = body.as_full();
    let empty = full.as_ref().is_some_and(Bytes::is_empty);
    if let Some(full) = full.as_ref().filter(|full| !full.is_empty()) {
        head.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(full.len()));
    }
    let is_head = head.method() == Method::HEAD;
    let Some(mut handle) = ticket.handle() else {
        return Err(error::unopened(None).returning(body));
    };
    let (response, mut stream) = match handle.send_request(head, empty) {
        Ok(opened) => opened,
        Err(failure) => {
            // h2 knows of a GOAWAY before the connection's task does. Whoever comes next, this call again perhaps, must
            // not meet the same connection; an error without a reason is about this request only.
            if failure.reason().is_some() || failure.is_io() {
                ticket.connection_is_over();
            }
            return Err(error::unopened(Some(failure)).returning(body));
        }
    };
    drop(handle);
    let id = response.stream_id().as_u32();
    let mut response = std::pin::pin!(response);
    let mut pump = None;
    let result = match full {
        // One chunk is in memory already: h2 holds it until the window opens, and no pump is needed. A stream that is
        // gone says so in its response.
        Some(chunk) => {
            if !chunk.is_empty() {
                let _ = stream.send_data(chunk, true);
            }
            response.await.map_err(|failure| error::h2_response(failure, || ticket.never_sent(id))).map_err(|error| {
                match error.never_processed() {
                    true => error.returning(body),
                    false => error,
                }
            })
        }
        None => {
            let running = pump.insert(Pump::new(body, stream));
            let result = std::future::poll_fn(|cx| {
                if !running.is_done()
                    && let Poll::Ready(Err(error)) = running.poll(cx)
                {
                    return Poll::Ready(Err(error));
                }
                response.as_mut().poll(cx).map_err(|failure| error::h2_response(failure, || ticket.never_sent(id)))
            })
            .await;
            match result {
                Err(error) if error.never_processed() => match pump.take() {
                    Some(pump) => Err(error.returning(pump.into_body())),
                    None => Err(error),
                },
                result => result,
            }
        }
    };
    let (parts, stream) = result?.into_parts();
    let mut guard = SlotGuard { held: Some(Lease::H2 { _ticket: ticket }), cancel: None };
    if let Some(mut pump) = pump.filter(|pump| !pump.is_done()) {
        pump.commit();
        guard.upload(&pool, pump);
    }
    let length = content_length(&parts.headers).filter(|_| !is_head);
    let body =
        if stream.is_end_stream() { Body::empty() } else { Body::h2(H2Body::new(stream, length, error::h2_body)) };
    Ok(Response::from_parts(parts, GuardedBody::new(body, guard)))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Holds a stream or connection until the response body ends.
pub(crate) struct SlotGuard {
    held: Option<Lease>,
    /// Resets the upload when the reader goes away.
    cancel: Option<oneshot::Sender<()>>,
}

enum Lease {
    H2 { _ticket: Ticket },
    H1(H1Lease),
}

impl SlotGuard {
    pub(super) fn h1(lease: H1Lease) -> Self {
        Self { held: Some(Lease::H1(lease)), cancel: None }
    }

    /// Goes on sending the request while the response is read: its own task, which ends with the reader.
    fn upload(&mut self, pool: &Arc<Pool>, pump: Pump) {
        let (cancel, cancelled) = oneshot::channel::<()>();
        let share = match &self.held {
            Some(Lease::H2 { _ticket: ticket }) => Some(ticket.again()),
            _ => None,
        };
        self.cancel = Some(cancel);
        pool.tasks().spawn(async move {
            let _share = share;
            tokio::select! {
                biased;
                // A response that was read whole drops the sender without a word: the upload goes on.
                Ok(()) = cancelled => {}
                () = pump.rest() => {}
            }
        });
    }
}

impl Guard for SlotGuard {
    fn end(&mut self, end: End<'_>) {
        let clean = matches!(end, End::Complete);
        if let Some(cancel) = self.cancel.take().filter(|_| !clean) {
            let _ = cancel.send(());
        }
        match self.held.take() {
            Some(Lease::H1(lease)) if clean => lease.give_back(),
            held => drop(held),
        }
    }
}

/// HTTP/2 needs scheme and authority; CONNECT has an authority only.
fn absolute(head: &mut Request<()>, pool: &Pool) -> Result<(), Error> {
    if head.uri().authority().is_some() && (head.uri().scheme().is_some() || head.method() == Method::CONNECT) {
        return Ok(());
    }
    let host = head.headers_mut().remove(header::HOST);
    let mut parts = std::mem::take(head.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    if parts.authority.is_none() {
        parts.authority = Some(match host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok()) {
            Some(authority) => authority,
            None => pool.authority(),
        });
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    *head.uri_mut() = Uri::from_parts(parts)
        .map_err(|failure| Error::new(Code::BadRequest, "the request's URI cannot be sent").with_source(failure))?;
    Ok(())
}

/// Fields of a connection have no meaning beyond it (RFC 9113 §8.2.2). `host` is `:authority`.
fn strip(headers: &mut HeaderMap) {
    // Looking at the few that are there is cheaper than looking up all that might be.
    while let Some(name) = headers.keys().find(|name| is_of_the_connection(name)).cloned() {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

fn is_of_the_connection(name: &HeaderName) -> bool {
    const FIELDS: [HeaderName; 5] =
        [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::HOST, KEEP_ALIVE];
    FIELDS.contains(name) || name.as_str() == "proxy-connection"
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_connection_are_not_sent_and_the_others_are() {
        let mut headers = HeaderMap::new();
        for name in ["connection", "transfer-encoding", "upgrade", "host", "keep-alive", "proxy-connection", "te", "x"]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("trailers"));
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x"]);
        headers.insert(header::TE, HeaderValue::from_static("gzip"));
        strip(&mut headers);
        assert!(!headers.contains_key(header::TE));
    }
}
