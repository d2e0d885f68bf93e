//! The order of the server stack. One of the two files that name an order.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    app::App,
    authenticate::AuthenticateLayer,
    authorize::AuthorizeLayer,
    body_limit::BodyLimitLayer,
    canonical::CanonicalLayer,
    deadline::{CallersDeadline, ExpiredLayer},
    inbound::Served,
    open::OpenConnection,
    policy::Pinned,
    tree::TreeLayer,
};
use crate::{
    body::{Body, ErasableLayer},
    error::{BoxError, Error},
    limit::RateLimitLayer,
    provide::Provide,
    rescue::{Reader, Rescue, RescueLayer},
    rt,
    seat::SeatLayer,
    shed::LoadShedLayer,
    telemetry::{CallSeries, Record, TelemetryLayer},
    timeout::TimeoutLayer,
};

/// Every request is counted.
#[derive(Clone)]
struct Counted(Arc<CallSeries>);

impl Provide<Record, Served> for Counted {
    fn provide(&self, served: &Served) -> Option<Record> {
        Some(Record::open(Arc::clone(&self.0), served.cx.started, served.cx.grpc))
    }
}

/// Every peer gets an answer.
#[derive(Clone)]
struct Always;

impl Provide<Rescue, Served> for Always {
    fn provide(&self, served: &Served) -> Option<Rescue> {
        Some(Rescue { grpc: served.cx.grpc, reader: Reader::Peer })
    }
}

/// The stack around an application, outermost first.
fn stack<S, B>(
    open: Arc<OpenConnection>,
    app: S,
) -> impl Service<
    Served,
    Response = Response<impl HttpBody<Data = Bytes, Error = Error> + Send>,
    Error = Error,
    Future: Send,
> + Clone
+ Send
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let shared = Arc::clone(&open.shared);
    let app = App::new(app);
    // Above the application and below everything of the mesh, so that user code sees only admitted requests.
    let app = SeatLayer::with(Pinned).layer(app);
    // Below the check of who asks, so that strangers use up nobody's limit; above all work for the request.
    let app = RateLimitLayer::with(Pinned).layer(app);
    // Below everything that learns who asks, above user code, which sees only what is allowed.
    let app = AuthorizeLayer::new(open).layer(app);
    // Above the rules, which ask who it is.
    let app = AuthenticateLayer.layer(app);
    // Above everything that reads the body.
    let app = BodyLimitLayer::with(Pinned).layer(app);
    // Below the refusal of expired work, above user code: what it may not exceed is the caller's deadline.
    let app = TimeoutLayer::with(CallersDeadline).layer(app);
    let app = ErasableLayer.layer(app);
    // Above everything that looks at what is asked for: rules, routes, user code and the application see one meaning.
    let app = CanonicalLayer::with(Pinned).layer(app);
    // Above everything that looks at a request, since that is work; below the refusal of what nobody waits for.
    let app = LoadShedLayer::with(Pinned).layer(app);
    // Above everything that costs: the cheapest refusal comes first.
    let app = ExpiredLayer.layer(app);
    // Above all that can fail; below the metrics, which read the cause from the answer.
    let app = RescueLayer::with(Always).layer(app);
    let series = Arc::clone(&shared.series);
    // Above the rescue, so that refusals say it too: what was spent on retries below, and that nobody should retry.
    let app = TreeLayer::new(shared).layer(app);
    // Above all: refusals and dropped requests are inside the record.
    TelemetryLayer::with(Counted(series)).layer(app)
}

/// The stack of one connection: knows its peer.
#[derive(Clone)]
pub(crate) struct Connection<S> {
    stack: S,
    open: Arc<OpenConnection>,
}

/// The service for one connection. Cloned for each request.
pub(crate) fn connection<S, B>(
    open: Arc<OpenConnection>,
    app: S,
) -> Connection<
    impl Service<
        Served,
        Response = Response<impl HttpBody<Data = Bytes, Error = Error> + Send>,
        Error = Error,
        Future: Send,
    > + Clone
    + Send,
>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Connection { stack: stack(Arc::clone(&open), app), open }
}

impl<S, B> Service<Request<Body>> for Connection<S>
where
    S: Service<Served, Response = Response<B>, Error = Error>,
{
    type Response = Response<B>;
    type Error = Error;
    type Future = S::Future;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<Body>) -> S::Future {
        let open = &self.open;
        self.stack.call(Served::new(request, open.peer.clone(), open.audience, open.shared.pin(), rt::now()))
    }
}
