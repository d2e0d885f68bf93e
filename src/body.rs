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
    Replay(Pin<Box<dyn Replayable + Send>>),
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
                own if matches!(own.repr, Repr::Empty | Repr::Full(_) | Repr::Replay(_)) => own,
                own => Self { repr: Repr::Replay(Box::pin(Replay::new(own))) },
            };
        }
        match slot {
            Some(body) if body.is_end_stream() => Self::empty(),
            Some(body) => Self { repr: Repr::Replay(Box::pin(Replay::new(Foreign { body }))) },
            None => Self::empty(),
        }
    }

    /// Goes back to the first byte. False if that is not possible any more: the body is consumed.
    pub(crate) fn rewind(&mut self) -> bool {
        match &mut self.repr {
            Repr::Empty | Repr::Full(_) => true,
            Repr::Replay(body) => body.as_mut().rewind(),
            Repr::Incoming(_) | Repr::H2(_) | Repr::Boxed(_) => false,
        }
    }

    /// The request will not be sent again: forgets what was remembered for a replay.
    pub(crate) fn commit(&mut self) {
        if let Repr::Replay(body) = &mut self.repr {
            body.as_mut().commit();
        }
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
            Repr::Replay(_) => "replay",
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
            Repr::Replay(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.repr {
            Repr::Empty => true,
            Repr::Full(_) => false,
            Repr::Incoming(body) => body.is_end_stream(),
            Repr::H2(body) => body.is_end_stream(),
            Repr::Boxed(body) => body.is_end_stream(),
            Repr::Replay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Empty => SizeHint::with_exact(0),
            Repr::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Repr::Incoming(body) => body.size_hint(),
            Repr::H2(body) => body.size_hint(),
            Repr::Boxed(body) => body.size_hint(),
            Repr::Replay(body) => body.size_hint(),
        }
    }
}

pin_project! {
    /// A foreign body whose errors become ours.
    pub(crate) struct Foreign<B> {
        #[pin]
        body: B,
    }
}

impl<B> Foreign<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body }
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

/// How much of a request body is remembered for sending it again.
pub(crate) const REPLAY_LIMIT: usize = 64 * 1024;

trait Replayable: HttpBody<Data = Bytes, Error = Error> {
    fn rewind(self: Pin<&mut Self>) -> bool;
    fn commit(self: Pin<&mut Self>);
}

pin_project! {
    /// Remembers what it yielded. The first chunk is kept inline, since most bodies are one chunk.
    ///
    /// The body is owned by one attempt at a time and handed back when that attempt provably did not reach the peer,
    /// so no lock and no sharing is needed.
    struct Replay<B> {
        #[pin]
        body: B,
        first: Option<Bytes>,
        more: Vec<Bytes>,
        trailers: Option<HeaderMap>,
        remembered: usize,
        replayed: usize,
        mode: Remember,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Remember {
    /// Every chunk so far is remembered.
    All,
    /// Nothing is remembered: over the limit, or committed.
    Nothing,
}

impl<B> Replay<B> {
    fn new(body: B) -> Self {
        Self {
            body,
            first: None,
            more: Vec::new(),
            trailers: None,
            remembered: 0,
            replayed: usize::MAX,
            mode: Remember::All,
        }
    }
}

impl<B: HttpBody<Data = Bytes>> Replayable for Replay<B>
where
    B::Error: Into<BoxError>,
{
    fn rewind(self: Pin<&mut Self>) -> bool {
        let this = self.project();
        *this.replayed = 0;
        *this.mode == Remember::All
    }

    fn commit(self: Pin<&mut Self>) {
        let this = self.project();
        *this.mode = Remember::Nothing;
        // What a rewound body has yet to repeat is still needed.
        if *this.replayed == usize::MAX {
            *this.first = None;
            this.more.clear();
            *this.trailers = None;
        }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Replay<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        if *this.replayed != usize::MAX {
            let at = *this.replayed;
            let chunk = if at == 0 { this.first.as_ref() } else { this.more.get(at - 1) };
            if let Some(chunk) = chunk {
                *this.replayed += 1;
                return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
            }
            *this.replayed = usize::MAX;
            if let Some(trailers) = this.trailers.clone() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        let frame = ready!(this.body.poll_frame(cx));
        if let (Some(Ok(frame)), Remember::All) = (&frame, *this.mode) {
            if let Some(data) = frame.data_ref() {
                *this.remembered += data.len();
                if *this.remembered > REPLAY_LIMIT {
                    *this.mode = Remember::Nothing;
                    *this.first = None;
                    *this.more = Vec::new();
                } else if this.first.is_none() {
                    *this.first = Some(data.clone());
                } else {
                    this.more.push(data.clone());
                }
            } else if let Some(trailers) = frame.trailers_ref() {
                *this.trailers = Some(trailers.clone());
            }
        }
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| Error::from_boxed(error.into(), Code::ClientGone, "the body's producer failed"))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.replayed == usize::MAX && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // While it repeats itself the exact length is not the inner body's; a caller's content-length header stands.
        if self.replayed == usize::MAX { self.body.size_hint() } else { SizeHint::default() }
    }
}

pin_project! {
    /// A body of the stack below, or one that was made or erased on the way.
    #[project = StackBodyProjection]
    pub(crate) enum StackBody<B> {
        Inline { #[pin] body: B },
        Erased { #[pin] body: Body },
    }
}

impl<B> StackBody<B> {
    pub(crate) fn inline(body: B) -> Self {
        Self::Inline { body }
    }

    pub(crate) fn erased(body: Body) -> Self {
        Self::Erased { body }
    }
}

impl<B: HttpBody<Data = Bytes, Error = Error>> HttpBody for StackBody<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.project() {
            StackBodyProjection::Inline { body } => body.poll_frame(cx),
            StackBodyProjection::Erased { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inline { body } => body.is_end_stream(),
            Self::Erased { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inline { body } => body.size_hint(),
            Self::Erased { body } => body.size_hint(),
        }
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

    fn chunks(sizes: &[usize]) -> Body {
        let mut next = 0u8;
        let mut chunk = |size: usize| {
            next = next.wrapping_add(1);
            Ok(Frame::data(Bytes::from(vec![next; size])))
        };
        frames(sizes.iter().map(|size| chunk(*size)).collect())
    }

    proptest::proptest! {
        #[test]
        fn every_attempt_yields_the_same_bytes(
            sizes in proptest::collection::vec(0usize..9_000, 0..7),
            reads in proptest::collection::vec(0usize..9, 0..4),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let whole = chunks(&sizes).collect().await.unwrap().to_bytes();
                let mut body = Body::request(chunks(&sizes));
                for read in reads {
                    for _ in 0..read {
                        let _ = body.frame().await;
                    }
                    assert!(body.rewind());
                }
                assert_eq!(body.collect().await.unwrap().to_bytes(), whole);
            });
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_cannot_be_rewound_and_still_ends_whole() {
        let mut body = Body::request(chunks(&[REPLAY_LIMIT, 1, 5]));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), REPLAY_LIMIT);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 1);
        assert!(!body.rewind());
    }

    #[tokio::test]
    async fn a_committed_body_repeats_what_it_had_promised_and_no_more() {
        let mut body = Body::request(chunks(&[3, 4]));
        let _ = body.frame().await;
        assert!(body.rewind());
        body.commit();
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 7);
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
