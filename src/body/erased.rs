//! The body type.

use std::{
    any::Any,
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;

use super::{
    foreign::Foreign,
    gather::Gathered,
    h2::H2Body,
    meter::{Meter, Metered},
    replay::{Replay, Replayable},
    shared::Reader,
};
use crate::error::{BoxError, Code, Error};

/// The body of requests and responses inside the mesh.
///
/// # Cancellation
/// Dropping a body before its end cancels the stream: over HTTP/2 the peer sees RST_STREAM(CANCEL).
pub struct Body {
    repr: Repr,
}

enum Repr {
    Empty,
    Full(Bytes),
    Incoming(Gathered<hyper::body::Incoming>),
    Metered(Metered),
    H2(H2Body),
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = Error> + Send>>),
    Replay(Pin<Box<dyn Replayable + Send>>),
    Shared(Reader),
}

impl Body {
    /// A body without data.
    pub const fn empty() -> Self {
        Self { repr: Repr::Empty }
    }

    /// Any body whose data is `Bytes`. A `Body` that comes back through foreign code is not wrapped again.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut slot = Some(body);
        if let Some(own) = (&mut slot as &mut dyn Any).downcast_mut::<Option<Body>>() {
            return own.take().unwrap_or_default();
        }
        if let Some(incoming) = (&mut slot as &mut dyn Any).downcast_mut::<Option<hyper::body::Incoming>>() {
            return incoming.take().map(|body| Body::incoming(body, false)).unwrap_or_default();
        }
        if let Some(whole) = whole(&mut slot) {
            return whole;
        }
        match slot {
            Some(body) if body.is_end_stream() => Self::empty(),
            Some(body) => Self { repr: Repr::Boxed(Box::pin(Foreign::new(body))) },
            None => Self::empty(),
        }
    }

    /// What hyper reads. `http1`: it brings one piece at a time.
    pub(crate) fn incoming(body: hyper::body::Incoming, http1: bool) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self { repr: Repr::Incoming(Gathered::new(body, http1)) }
    }

    /// As [`incoming`](Body::incoming); what arrives is metered.
    pub(crate) fn metered(body: hyper::body::Incoming, http1: bool, meter: Arc<Meter>) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self { repr: Repr::Metered(Metered { body: Gathered::new(body, http1), meter }) }
    }

    pub(crate) fn h2(body: H2Body) -> Self {
        Self { repr: Repr::H2(body) }
    }

    pub(super) fn shared(reader: Reader) -> Self {
        Self { repr: Repr::Shared(reader) }
    }

    /// For bodies of our own whose error is already [`Error`]: one box, no mapping.
    pub(crate) fn erase<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = Error> + Send + 'static,
    {
        Self { repr: Repr::Boxed(Box::pin(body)) }
    }

    /// The body of a request that may have to be sent again: what it yields is remembered, by reference and up to
    /// [`REPLAY_LIMIT`] bytes, until [`commit`](Body::commit). One box, as in [`Body::new`].
    pub(crate) fn request<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut slot = Some(body);
        if let Some(own) = (&mut slot as &mut dyn Any).downcast_mut::<Option<Body>>() {
            return match own.take().unwrap_or_default() {
                own if matches!(own.repr, Repr::Empty | Repr::Full(_) | Repr::Replay(_) | Repr::Shared(_)) => own,
                own => Self { repr: Repr::Replay(Box::pin(Replay::new(own))) },
            };
        }
        if let Some(whole) = whole(&mut slot) {
            return whole;
        }
        match slot {
            Some(body) if body.is_end_stream() => Self::empty(),
            Some(body) => Self { repr: Repr::Replay(Box::pin(Replay::new(Foreign::new(body)))) },
            None => Self::empty(),
        }
    }

    /// Goes back to the first byte. False if that is not possible any more: the body is consumed.
    pub(crate) fn rewind(&mut self) -> bool {
        match &mut self.repr {
            Repr::Empty | Repr::Full(_) => true,
            Repr::Replay(body) => body.as_mut().rewind(),
            Repr::Shared(reader) => reader.rewind(),
            Repr::Incoming(_) | Repr::Metered(_) | Repr::H2(_) | Repr::Boxed(_) => false,
        }
    }

    /// The request will not be sent again: forgets what was remembered for a replay.
    pub(crate) fn commit(&mut self) {
        if let Repr::Replay(body) = &mut self.repr {
            body.as_mut().commit();
        }
    }

    /// Whether the whole body is already here.
    pub(crate) fn is_full(&self) -> bool {
        match &self.repr {
            Repr::Empty | Repr::Full(_) => true,
            Repr::Shared(reader) => reader.as_full().is_some(),
            _ => false,
        }
    }

    /// The whole body if it is already here: empty or one chunk.
    pub(crate) fn as_full(&self) -> Option<Bytes> {
        match &self.repr {
            Repr::Empty => Some(Bytes::new()),
            Repr::Full(bytes) => Some(bytes.clone()),
            Repr::Shared(reader) => reader.as_full(),
            _ => None,
        }
    }
}

/// The body that hyper's users make of bytes that are here: it needs no box, and can be sent again without remembering.
fn whole(slot: &mut dyn Any) -> Option<Body> {
    let full = slot.downcast_mut::<Option<Full<Bytes>>>()?.as_mut()?;
    let mut context = Context::from_waker(Waker::noop());
    Some(match Pin::new(full).poll_frame(&mut context) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().map(Body::from).unwrap_or_default(),
        _ => Body::empty(),
    })
}

fn broken(error: hyper::Error) -> Error {
    Error::new(Code::ConnectionClosed, "the body ended before it was complete").with_source(error)
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repr = match &self.repr {
            Repr::Empty => "empty",
            Repr::Full(_) => "full",
            Repr::Incoming(_) | Repr::Metered(_) => "incoming",
            Repr::H2(_) => "h2",
            Repr::Boxed(_) => "boxed",
            Repr::Replay(_) => "replay",
            Repr::Shared(_) => "shared",
        };
        f.debug_tuple("Body").field(&repr).finish()
    }
}

macro_rules! from_bytes {
    ($($from:ty),+) => {$(
        impl From<$from> for Body {
            fn from(value: $from) -> Self {
                let bytes = Bytes::from(value);
                if bytes.is_empty() { Self::empty() } else { Self { repr: Repr::Full(bytes) } }
            }
        }
    )+};
}
from_bytes!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);

impl From<()> for Body {
    fn from((): ()) -> Self {
        Self::empty()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.repr {
            Repr::Empty => Poll::Ready(None),
            Repr::Full(bytes) => {
                let bytes = mem::take(bytes);
                self.repr = Repr::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Repr::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(broken),
            Repr::Metered(Metered { body, meter }) => meter.poll(Pin::new(body), cx).map_err(broken),
            Repr::H2(body) => body.poll_frame(cx),
            Repr::Boxed(body) => body.as_mut().poll_frame(cx),
            Repr::Replay(body) => body.as_mut().poll_frame(cx),
            Repr::Shared(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.repr {
            Repr::Empty => true,
            Repr::Full(_) => false,
            Repr::Incoming(body) => body.is_end_stream(),
            Repr::Metered(metered) => metered.body.is_end_stream(),
            Repr::H2(body) => body.is_end_stream(),
            Repr::Boxed(body) => body.is_end_stream(),
            Repr::Replay(body) => body.is_end_stream(),
            Repr::Shared(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Empty => SizeHint::with_exact(0),
            Repr::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Repr::Incoming(body) => body.size_hint(),
            Repr::Metered(metered) => metered.body.size_hint(),
            Repr::H2(body) => body.size_hint(),
            Repr::Boxed(body) => body.size_hint(),
            Repr::Replay(body) => body.size_hint(),
            Repr::Shared(reader) => reader.size_hint(),
        }
    }
}
