//! The order of the server stack. One of the two files that name an order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    access::{Access, Audience},
    app::App,
    authenticate::AuthenticateLayer,
    authorize::AuthorizeLayer,
    callers::Callers,
    canonical::CanonicalLayer,
    deadline::{CallersDeadline, ExpiredLayer},
    inbound::Served,
    tree::TreeLayer,
};
use crate::{
    body::{Body, ErasableLayer},
    canon::PathNormalization,
    error::{BoxError, Error},
    instrument::Registry,
    limit::{self, Fleet, RateLimitLayer, RateLimitPolicy, RateLimiter},
    peer::Peer,
    provide::Provide,
    rescue::{Reader, Rescue, RescueLayer},
    retry::Arrivals,
    rt::{self, TaskSet},
    seat::{Seat, SeatLayer},
    shed::{self, Admission, LoadShedLayer, Policies},
    telemetry::{CallSeries, Record, TelemetryLayer},
    timeout::TimeoutLayer,
};

/// What every connection of one mesh shares.
pub(crate) struct ServerShared {
    series: Arc<CallSeries>,
    /// The user's seat, swapped by reloads; a request keeps the one it met.
    seat: ArcSwapOption<Arc<dyn Seat>>,
    /// The index of the level in [`PathNormalization::ALL`]: a byte, because every request reads it.
    normalization: AtomicU8,
    /// Who may ask for what; nothing while everyone may ask for everything.
    access: ArcSwapOption<Access>,
    /// Read before `rate_limit`: a request pays for what is there.
    limited: AtomicBool,
    rate_limit: ArcSwapOption<RateLimiter>,
    /// How many of the requests are repetitions of others.
    pub(super) arrivals: Arrivals,
    /// What is asked of callers; nothing while nothing is.
    callers: ArcSwapOption<Callers>,
    /// Read before `admission`.
    shedding: AtomicBool,
    admission: ArcSwapOption<Admission>,
}

impl ServerShared {
    pub(crate) fn new(series: Arc<CallSeries>) -> Arc<Self> {
        Arc::new(Self {
            series,
            seat: ArcSwapOption::empty(),
            normalization: AtomicU8::new(0),
            access: ArcSwapOption::empty(),
            limited: AtomicBool::new(false),
            rate_limit: ArcSwapOption::empty(),
            arrivals: Arrivals::default(),
            callers: ArcSwapOption::empty(),
            shedding: AtomicBool::new(false),
            admission: ArcSwapOption::empty(),
        })
    }

    pub(crate) fn set_seat(&self, seat: Option<Arc<dyn Seat>>) {
        self.seat.store(seat.map(Arc::new));
    }

    /// What is in work stays counted, and a limit that was found is where the next begins.
    pub(crate) fn set_admission(&self, policies: Policies, tasks: &TaskSet, registry: &Registry) {
        let before = self.admission.load_full();
        if before.as_ref().map(|before| *before.shedder().policies()).unwrap_or_default() == policies {
            return;
        }
        let admission = (!policies.is_empty()).then(|| {
            let series = shed::Series::new(registry, self.series.service());
            Admission::make(policies, before.as_deref(), series, tasks)
        });
        self.shedding.store(admission.is_some(), Relaxed);
        self.admission.store(admission);
    }

    /// For the gauges.
    pub(crate) fn report(&self) {
        if let Some(admission) = &*self.admission.load() {
            admission.shedder().report();
        }
    }

    /// A changed limit keeps what was counted.
    pub(crate) fn set_rate_limit(&self, policy: Option<&RateLimitPolicy>, registry: &Registry, fleet: &Fleet) {
        let before = self.rate_limit.load_full();
        if before.as_ref().map(|before| before.policy()) == policy {
            return;
        }
        let limiter = policy.map(|policy| {
            let what = "the rate limit of this service (`inbound.rate_limit`)".into();
            let place = ["inbound", self.series.service(), "_inbound"];
            let series = limit::Series::new(registry, place, what, policy.global.is_some());
            RateLimiter::make(policy.clone(), before.as_deref(), series, fleet, rt::now())
        });
        self.limited.store(limiter.is_some(), Relaxed);
        self.rate_limit.store(limiter);
    }

    pub(crate) fn set_normalization(&self, level: PathNormalization) {
        let index = PathNormalization::ALL.iter().position(|other| *other == level).unwrap_or_default();
        self.normalization.store(index as u8, Relaxed);
    }
}

impl ServerShared {
    pub(crate) fn set_access(&self, access: Access) {
        self.access.store((!access.is_open()).then(|| Arc::new(access)));
    }

    pub(crate) fn set_callers(&self, callers: Option<Callers>) {
        self.callers.store(callers.map(Arc::new));
    }

    #[inline]
    pub(super) fn callers(&self) -> Option<Arc<Callers>> {
        self.callers.load_full()
    }

    /// Whether this request may go on.
    ///
    /// # Errors
    /// E051 where a rule denies it, E055 where it has no one meaning to the rules.
    #[inline]
    pub(super) fn authorize(&self, served: &Served) -> Result<(), Error> {
        match &*self.access.load() {
            Some(access) => access.check(served),
            None => Ok(()),
        }
    }
}

impl Provide<Record, Served> for Arc<ServerShared> {
    fn provide(&self, served: &Served) -> Option<Record> {
        Some(Record::open(Arc::clone(&self.series), served.cx.started, served.cx.grpc))
    }
}

impl Provide<Arc<dyn Seat>, Served> for Arc<ServerShared> {
    fn provide(&self, _served: &Served) -> Option<Arc<dyn Seat>> {
        self.seat.load().as_deref().cloned()
    }
}

impl Provide<PathNormalization, Served> for Arc<ServerShared> {
    fn provide(&self, _served: &Served) -> Option<PathNormalization> {
        PathNormalization::ALL.get(usize::from(self.normalization.load(Relaxed))).copied()
    }
}

impl Provide<Arc<RateLimiter>, Served> for Arc<ServerShared> {
    #[inline]
    fn provide(&self, _served: &Served) -> Option<Arc<RateLimiter>> {
        if self.limited.load(Relaxed) { self.rate_limit.load_full() } else { None }
    }
}

impl Provide<Arc<Admission>, Served> for Arc<ServerShared> {
    #[inline]
    fn provide(&self, _served: &Served) -> Option<Arc<Admission>> {
        if self.shedding.load(Relaxed) { self.admission.load_full() } else { None }
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
    shared: Arc<ServerShared>,
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
    let app = App::new(app);
    // Above the application and below everything of the mesh, so that user code sees only admitted requests.
    let app = SeatLayer::with(Arc::clone(&shared)).layer(app);
    // Below the check of who asks, so that strangers use up nobody's limit; above all work for the request.
    let app = RateLimitLayer::with(Arc::clone(&shared)).layer(app);
    // Below everything that learns who asks, above user code, which sees only what is allowed.
    let app = AuthorizeLayer::new(Arc::clone(&shared)).layer(app);
    // Above the rules, which ask who it is.
    let app = AuthenticateLayer::new(Arc::clone(&shared)).layer(app);
    // Below the refusal of expired work, above user code: what it may not exceed is the caller's deadline.
    let app = TimeoutLayer::with(CallersDeadline).layer(app);
    let app = ErasableLayer.layer(app);
    // Above everything that looks at what is asked for: rules, routes, user code and the application see one meaning.
    let app = CanonicalLayer::with(Arc::clone(&shared)).layer(app);
    // Above everything that looks at a request, since that is work; below the refusal of what nobody waits for.
    let app = LoadShedLayer::with(Arc::clone(&shared)).layer(app);
    // Above everything that costs: the cheapest refusal comes first.
    let app = ExpiredLayer.layer(app);
    // Above all that can fail; below the metrics, which read the cause from the answer.
    let app = RescueLayer::with(Always).layer(app);
    // Above the rescue, so that refusals say it too: what was spent on retries below, and that nobody should retry.
    let app = TreeLayer::new(Arc::clone(&shared)).layer(app);
    // Above all: refusals and dropped requests are inside the record.
    TelemetryLayer::with(shared).layer(app)
}

/// The stack of one connection: knows its peer.
#[derive(Clone)]
pub(crate) struct Connection<S> {
    stack: S,
    peer: Peer,
    audience: Audience,
}

/// The service for one connection. Cloned for each request.
pub(crate) fn connection<S, B>(
    shared: Arc<ServerShared>,
    app: S,
    peer: Peer,
    audience: Audience,
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
    Connection { stack: stack(shared, app), peer, audience }
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
        self.stack.call(Served::new(request, self.peer.clone(), self.audience, rt::now()))
    }
}
