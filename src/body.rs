//! One body type, erased once.
//!
//! Most bodies in a mesh are empty, one chunk, or what the two transports hand over, so those are inline variants and
//! cost nothing; only foreign bodies are boxed. `Data` is always [`Bytes`]. Whatever must end with a body (a permit, a
//! load guard, a metric) is carried by a [`GuardedBody`], because a response is not over when its headers are.

use std::{
    any::Any,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

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
    Incoming(hyper::body::Incoming),
    H2(H2Body),
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = Error> + Send>>),
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
            return incoming.take().map(Body::incoming).unwrap_or_default();
        }
        match slot {
            Some(body) if body.is_end_stream() => Self::empty(),
            Some(body) => Self { repr: Repr::Boxed(Box::pin(Foreign { body })) },
            None => Self::empty(),
        }
    }

    pub(crate) fn incoming(body: hyper::body::Incoming) -> Self {
        if body.is_end_stream() { Self::empty() } else { Self { repr: Repr::Incoming(body) } }
    }

    pub(crate) fn h2(body: H2Body) -> Self {
        Self { repr: Repr::H2(body) }
    }

    /// For bodies of our own whose error is already [`Error`]: one box, no mapping.
    pub(crate) fn erase<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = Error> + Send + 'static,
    {
        Self { repr: Repr::Boxed(Box::pin(body)) }
    }

    /// The whole body if it is already here: empty or one chunk.
    pub(crate) fn as_full(&self) -> Option<Bytes> {
        match &self.repr {
            Repr::Empty => Some(Bytes::new()),
            Repr::Full(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }
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
            Repr::Incoming(_) => "incoming",
            Repr::H2(_) => "h2",
            Repr::Boxed(_) => "boxed",
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
            Repr::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(|error| {
                Error::new(Code::ConnectionClosed, "the body ended before it was complete").with_source(error)
            }),
            Repr::H2(body) => body.poll_frame(cx),
            Repr::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.repr {
            Repr::Empty => true,
            Repr::Full(_) => false,
            Repr::Incoming(body) => body.is_end_stream(),
            Repr::H2(body) => body.is_end_stream(),
            Repr::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Empty => SizeHint::with_exact(0),
            Repr::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Repr::Incoming(body) => body.size_hint(),
            Repr::H2(body) => body.size_hint(),
            Repr::Boxed(body) => body.size_hint(),
        }
    }
}

pin_project! {
    struct Foreign<B> {
        #[pin]
        body: B,
    }
}

impl<B> HttpBody for Foreign<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.project()
            .body
            .poll_frame(cx)
            .map_err(|error| Error::from_boxed(error.into(), Code::ClientGone, "the body's producer failed"))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body straight from an HTTP/2 stream: data, then trailers, with flow control released as it is read.
pub(crate) struct H2Body {
    stream: h2::RecvStream,
    remaining: Option<u64>,
    data_done: bool,
    map_error: fn(h2::Error) -> Error,
}

impl H2Body {
    /// `map_error` comes from the transport: only it may judge what an HTTP/2 error means.
    pub(crate) fn new(stream: h2::RecvStream, content_length: Option<u64>, map_error: fn(h2::Error) -> Error) -> Self {
        Self { stream, remaining: content_length, data_done: false, map_error }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window is given back as the reader takes the data, so a slow reader slows the sender.
                    if let Err(error) = self.stream.flow_control().release_capacity(data.len()) {
                        return Poll::Ready(Some(Err((self.map_error)(error))));
                    }
                    if let Some(remaining) = &mut self.remaining {
                        *remaining = remaining.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // A peer may answer early and then stop reading the request: not an error of the response.
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => {
                    self.data_done = true;
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    self.data_done = true;
                    return Poll::Ready(Some(Err((self.map_error)(error))));
                }
                None => self.data_done = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err((self.map_error)(error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What a guard learns when its body is over.
#[derive(Debug)]
pub(crate) enum End<'a> {
    /// Every frame was read. Trailers, if any, were seen by [`Guard::trailers`] before.
    Complete,
    /// The body failed.
    Failed(&'a Error),
    /// The reader went away.
    Dropped,
}

/// Ends with a body. Neither method may block, await or panic.
pub(crate) trait Guard: Send + 'static {
    /// A data frame passed.
    fn data(&mut self, _bytes: usize) {}
    /// The trailers passed.
    fn trailers(&mut self, _trailers: &HeaderMap) {}
    /// The body is over. Called exactly once, then the guard is dropped.
    fn end(&mut self, end: End<'_>);
}

impl<G: Guard> Guard for Option<G> {
    fn data(&mut self, bytes: usize) {
        if let Some(guard) = self {
            guard.data(bytes);
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(guard) = self {
            guard.trailers(trailers);
        }
    }

    fn end(&mut self, end: End<'_>) {
        if let Some(guard) = self {
            guard.end(end);
        }
    }
}

/// A value that only has to be dropped when the body is over.
pub(crate) struct Held<T>(pub(crate) T);

impl<T: Send + 'static> Guard for Held<T> {
    fn end(&mut self, _end: End<'_>) {}
}

pin_project! {
    /// Carries a guard that ends with the body.
    ///
    /// hyper and tonic often stop polling before `None`, so the end is noticed at trailers, `None`, an error, drop,
    /// and at `is_end_stream()`, after a frame and at construction.
    pub(crate) struct GuardedBody<B, G: Guard> {
        #[pin]
        body: B,
        guard: Ending<G>,
    }
}

struct Ending<G: Guard>(Option<G>);

impl<G: Guard> Ending<G> {
    fn end(&mut self, end: End<'_>) {
        if let Some(mut guard) = self.0.take() {
            guard.end(end);
        }
    }
}

impl<G: Guard> Drop for Ending<G> {
    fn drop(&mut self) {
        self.end(End::Dropped);
    }
}

impl<B: HttpBody, G: Guard> GuardedBody<B, G> {
    pub(crate) fn new(body: B, guard: G) -> Self {
        let mut guard = Ending(Some(guard));
        if body.is_end_stream() {
            guard.end(End::Complete);
        }
        Self { body, guard }
    }
}

impl<B, G> HttpBody for GuardedBody<B, G>
where
    B: HttpBody<Data = Bytes, Error = Error>,
    G: Guard,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match &frame {
            None => this.guard.end(End::Complete),
            Some(Err(error)) => this.guard.end(End::Failed(error)),
            Some(Ok(frame)) => {
                if let Some(guard) = &mut this.guard.0 {
                    if let Some(data) = frame.data_ref() {
                        guard.data(data.len());
                        if this.body.is_end_stream() {
                            this.guard.end(End::Complete);
                        }
                    } else if let Some(trailers) = frame.trailers_ref() {
                        guard.trailers(trailers);
                        this.guard.end(End::Complete);
                    }
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl Guard for Log {
        fn data(&mut self, bytes: usize) {
            self.0.lock().unwrap().push(format!("data {bytes}"));
        }
        fn trailers(&mut self, _: &HeaderMap) {
            self.0.lock().unwrap().push("trailers".into());
        }
        fn end(&mut self, end: End<'_>) {
            let end = match end {
                End::Complete => "complete",
                End::Failed(_) => "failed",
                End::Dropped => "dropped",
            };
            self.0.lock().unwrap().push(end.into());
        }
    }

    impl Log {
        fn lines(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    fn frames(frames: Vec<Result<Frame<Bytes>, Error>>) -> Body {
        Body::erase(StreamBody::new(tokio_stream::iter(frames)))
    }

    #[test]
    fn own_bodies_are_not_wrapped_again() {
        let body = Body::new(Body::new(Body::from("abc")));
        assert_eq!(format!("{body:?}"), "Body(\"full\")");
        assert_eq!(format!("{:?}", Body::new(Full::new(Bytes::new()))), "Body(\"empty\")");
    }

    #[tokio::test]
    async fn a_full_body_is_read_once() {
        let body = Body::from("abc");
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }

    #[test]
    fn a_guard_on_an_empty_body_ends_at_construction() {
        let log = Log::default();
        let _body = GuardedBody::new(Body::empty(), log.clone());
        assert_eq!(log.lines(), ["complete"]);
    }

    #[tokio::test]
    async fn a_guard_ends_with_the_last_frame_even_if_none_is_never_polled() {
        let log = Log::default();
        let mut body = Box::pin(GuardedBody::new(Body::from("abc"), log.clone()));
        let _ = body.frame().await;
        assert_eq!(log.lines(), ["data 3", "complete"]);
    }

    #[tokio::test]
    async fn a_guard_ends_at_trailers() {
        let log = Log::default();
        let body = frames(vec![Ok(Frame::data("a".into())), Ok(Frame::trailers(HeaderMap::new()))]);
        let mut body = Box::pin(GuardedBody::new(body, log.clone()));
        let _ = body.frame().await;
        let _ = body.frame().await;
        assert_eq!(log.lines(), ["data 1", "trailers", "complete"]);
    }

    #[tokio::test]
    async fn a_guard_sees_errors_and_drops_once() {
        let log = Log::default();
        let body = frames(vec![Err(Error::new(Code::PeerReset, "reset"))]);
        let mut guarded = Box::pin(GuardedBody::new(body, log.clone()));
        assert!(guarded.frame().await.unwrap().is_err());
        drop(guarded);
        assert_eq!(log.lines(), ["failed"]);

        let log = Log::default();
        drop(GuardedBody::new(Body::from("abc"), log.clone()));
        assert_eq!(log.lines(), ["dropped"]);
    }
}
