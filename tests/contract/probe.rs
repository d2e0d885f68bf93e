//! What a layer is put around and what is put into it, each of which notices a broken contract.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tower::Service;

/// What is alive right now.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) reserved: AtomicUsize,
    pub(crate) futures: AtomicUsize,
    pub(crate) bodies: AtomicUsize,
    pub(crate) calls: AtomicUsize,
}

impl Counts {
    pub(crate) fn held(&self) -> (usize, usize, usize) {
        (self.reserved.load(Relaxed), self.futures.load(Relaxed), self.bodies.load(Relaxed))
    }
}

/// One of something that is counted while it lives.
struct One(Arc<Counts>, fn(&Counts) -> &AtomicUsize);

impl One {
    fn new(counts: &Arc<Counts>, of: fn(&Counts) -> &AtomicUsize) -> Self {
        of(counts).fetch_add(1, Relaxed);
        Self(Arc::clone(counts), of)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Relaxed);
    }
}

/// A service that becomes ready at its third poll, reserves a place then, and panics when it is called without.
pub(crate) struct Strict {
    pub(crate) counts: Arc<Counts>,
    asked: usize,
    place: Option<One>,
    /// How often its future and each frame of its body are pending.
    pub(crate) pending: usize,
}

impl Strict {
    pub(crate) fn new(pending: usize) -> Self {
        Self { counts: Arc::default(), asked: 0, place: None, pending }
    }
}

/// A clone is not ready because its original is.
impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { counts: Arc::clone(&self.counts), asked: 0, place: None, pending: self.pending }
    }
}

impl<B> Service<Request<B>> for Strict {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.place.is_none() {
            self.asked += 1;
            if self.asked < 3 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.place = Some(One::new(&self.counts, |counts| &counts.reserved));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Answer {
        self.place.take().expect("called without being ready");
        self.asked = 0;
        self.counts.calls.fetch_add(1, Relaxed);
        Answer {
            pending: self.pending,
            each: self.pending,
            counts: Arc::clone(&self.counts),
            _alive: One::new(&self.counts, |counts| &counts.futures),
        }
    }
}

pub(crate) struct Answer {
    pending: usize,
    each: usize,
    counts: Arc<Counts>,
    _alive: One,
}

impl Future for Answer {
    type Output = Result<Response<Frames>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.pending > 0 {
            self.pending -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", "1".parse().unwrap());
        let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
        let frames = VecDeque::from([data("a"), data("b"), data("c"), Frame::trailers(trailers)]);
        Poll::Ready(Ok(Response::new(Frames {
            frames,
            pending: self.each,
            each: self.each,
            _alive: One::new(&self.counts, |counts| &counts.bodies),
        })))
    }
}

/// A body that is pending before each frame.
pub(crate) struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    pending: usize,
    each: usize,
    _alive: One,
}

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.pending > 0 {
            self.pending -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pending = self.each;
        Poll::Ready(self.frames.pop_front().map(Ok))
    }
}

/// How far a call got before it was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reached {
    Future,
    Body,
    End,
}

/// Calls, and drops whatever there is after `polls` polls of the call's future and body together.
pub(crate) fn drop_after<S, B>(service: &mut S, request: Request<sinew::Body>, polls: usize) -> Reached
where
    S: Service<Request<sinew::Body>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: HttpBody<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    make_ready(service);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut left = polls;
    let mut future = Box::pin(service.call(request));
    let response = loop {
        if left == 0 {
            return Reached::Future;
        }
        left -= 1;
        if let Poll::Ready(response) = future.as_mut().poll(&mut cx) {
            break response.unwrap();
        }
    };
    // As `.await` does: the future is gone before the body is read.
    drop(future);
    let mut body = Box::pin(response.into_body());
    while left > 0 {
        left -= 1;
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(frame)) => _ = frame.unwrap(),
            Poll::Ready(None) => return Reached::End,
            Poll::Pending => {}
        }
    }
    Reached::Body
}

/// Polls until ready.
pub(crate) fn make_ready<S, R>(service: &mut S)
where
    S: Service<R>,
    S::Error: std::fmt::Debug,
{
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for _ in 0..100 {
        if let Poll::Ready(ready) = service.poll_ready(&mut cx) {
            return ready.unwrap();
        }
    }
    panic!("not ready after 100 polls");
}

/// A request as a server gets it.
fn get() -> Request<sinew::Body> {
    Request::get("/").header("host", "s").body(sinew::Body::empty()).unwrap()
}

/// Every contract of a layer, around a strict service: `wrap` puts the layer around it, `held` says what the layer
/// itself still holds.
pub(crate) fn check<S, B>(wrap: impl Fn(Strict) -> S, held: impl Fn() -> u32)
where
    S: Service<Request<sinew::Body>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: HttpBody<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    // Ready before each call, on the service that is called; also on a clone of a service that was ready.
    let strict = Strict::new(1);
    let counts = Arc::clone(&strict.counts);
    let mut service = wrap(strict);
    for _ in 0..3 {
        assert_eq!(drop_after(&mut service, get(), usize::MAX), Reached::End);
        make_ready::<_, Request<sinew::Body>>(&mut service);
        let mut clone = service.clone();
        assert_eq!(drop_after(&mut clone, get(), usize::MAX), Reached::End);
    }
    assert_eq!(counts.calls.load(Relaxed), 6);
    drop(service);
    assert_eq!((counts.held(), held()), ((0, 0, 0), 0));

    // Clones hold nothing of the layer's, ready or not, and nothing at all when they are gone.
    let strict = Strict::new(1);
    let counts = Arc::clone(&strict.counts);
    let service = wrap(strict);
    for _ in 0..10_000 {
        drop(service.clone());
    }
    assert_eq!((counts.held(), held()), ((0, 0, 0), 0));
    let mut clones: Vec<_> = (0..10_000).map(|_| service.clone()).collect();
    clones.iter_mut().for_each(make_ready::<_, Request<sinew::Body>>);
    assert_eq!(held(), 0, "readiness reserves");
    drop(clones);
    assert_eq!((counts.held(), held()), ((0, 0, 0), 0));

    // Dropped wherever it stands, a call leaves nothing behind.
    let strict = Strict::new(2);
    let counts = Arc::clone(&strict.counts);
    let mut service = wrap(strict);
    let mut points = Vec::new();
    for polls in 0.. {
        let reached = drop_after(&mut service, get(), polls);
        let (_, futures, bodies) = counts.held();
        assert_eq!((futures, bodies, held()), (0, 0, 0), "dropped after {polls} polls ({reached:?})");
        points.push(reached);
        if reached == Reached::End {
            break;
        }
        assert!(polls < 100, "the call does not end");
    }
    let count = |reached| points.iter().filter(|point| **point == reached).count();
    assert!(count(Reached::Future) >= 3 && count(Reached::Body) >= 12, "{points:?}");
}
