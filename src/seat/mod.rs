//! Places in the stacks where users put code of their own.
//!
//! A seat is an `Option<Arc<dyn Seat>>` around the rest of the stack: unused it costs nothing, used it costs one boxed
//! future and one boxed body. Inside a seat the request carries its context as an extension.

mod layer;

pub(crate) use self::layer::{Carrier, SeatLayer};

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::Body,
    error::{BoxError, Code, Error},
};

/// Where a seat stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Position {
    /// Client, once per call: below the overall deadline, above the retry loop.
    Outer,
    /// Client, once per attempt: below the attempt's metrics, above admission and pick.
    Attempt,
    /// Server, once per request: below everything of the mesh, above the application.
    Server,
}

/// What a seat answers with.
pub type SeatFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

/// Code of the user's own at a [`Position`].
pub trait Seat: Send + Sync + 'static {
    /// Handles a request; `next` is the rest of the stack. Dropping the future cancels the call.
    fn call(&self, request: Request<Body>, next: Next) -> SeatFuture;
}

/// The rest of the stack below a seat.
pub struct Next {
    run: Box<dyn FnOnce(Request<Body>) -> SeatFuture + Send>,
}

impl Next {
    pub(crate) fn new(run: impl FnOnce(Request<Body>) -> SeatFuture + Send + 'static) -> Self {
        Self { run: Box::new(run) }
    }

    /// Sends the request on.
    pub fn run(self, request: Request<Body>) -> SeatFuture {
        (self.run)(request)
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next")
    }
}

/// A seat from a closure.
#[derive(Clone, Debug)]
pub struct SeatFn<F>(F);

/// A seat from a closure `Fn(Request<Body>, Next) -> Future`.
pub fn seat_fn<F, R>(f: F) -> SeatFn<F>
where
    F: Fn(Request<Body>, Next) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Response<Body>, Error>> + Send + 'static,
{
    SeatFn(f)
}

impl<F, R> Seat for SeatFn<F>
where
    F: Fn(Request<Body>, Next) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Response<Body>, Error>> + Send + 'static,
{
    fn call(&self, request: Request<Body>, next: Next) -> SeatFuture {
        Box::pin((self.0)(request, next))
    }
}

/// Several seats as one, the first outermost.
pub(crate) fn chain(seats: impl IntoIterator<Item = Arc<dyn Seat>>) -> Option<Arc<dyn Seat>> {
    let mut seats: Vec<_> = seats.into_iter().collect();
    let mut chain = seats.pop()?;
    while let Some(outer) = seats.pop() {
        chain = Arc::new(Pair { outer, inner: chain });
    }
    Some(chain)
}

struct Pair {
    outer: Arc<dyn Seat>,
    inner: Arc<dyn Seat>,
}

impl Seat for Pair {
    fn call(&self, request: Request<Body>, next: Next) -> SeatFuture {
        let inner = self.inner.clone();
        self.outer.call(request, Next::new(move |request| inner.call(request, next)))
    }
}

/// A Tower layer as a seat. The layer's service is made once, so its state is shared by all calls.
pub struct LayerSeat<S> {
    service: S,
}

impl<S> LayerSeat<S> {
    /// Makes the layer's service around the rest of the stack.
    pub fn new<L>(layer: &L) -> Self
    where
        L: Layer<NextService, Service = S>,
    {
        Self { service: layer.layer(NextService { _private: () }) }
    }
}

impl<S> fmt::Debug for LayerSeat<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayerSeat")
    }
}

impl<S, B> Seat for LayerSeat<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(&self, mut request: Request<Body>, next: Next) -> SeatFuture {
        request.extensions_mut().insert(Carried(Arc::new(std::sync::Mutex::new(Some(next)))));
        let mut service = self.service.clone();
        Box::pin(async move {
            let foreign = |error: S::Error| Error::from_boxed(error.into(), Code::Internal, "a layer at a seat failed");
            std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(foreign)?;
            let response = service.call(request).await.map_err(foreign)?;
            Ok(response.map(Body::new))
        })
    }
}

/// The rest of the stack, travelling through the layer with its request.
#[derive(Clone)]
struct Carried(Arc<std::sync::Mutex<Option<Next>>>);

/// The service a layer at a seat wraps: the rest of the stack of the request it is called with.
#[derive(Clone, Debug)]
pub struct NextService {
    _private: (),
}

impl Service<Request<Body>> for NextService {
    type Response = Response<Body>;
    type Error = Error;
    type Future = SeatFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> SeatFuture {
        let next = request.extensions_mut().remove::<Carried>().and_then(|carried| match carried.0.lock() {
            Ok(mut next) => next.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        });
        match next {
            Some(next) => next.run(request),
            None => Box::pin(std::future::ready(Err(Error::new(
                Code::Internal,
                "a layer at a seat sent a request twice, or one it made itself: pass on the request it was given, once",
            )))),
        }
    }
}
