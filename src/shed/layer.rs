//! Admission as a Tower layer around any HTTP service.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    adaptive::{AdaptivePolicy, Ended},
    policy::ShedPolicy,
    series::Series,
    shedder::{Admitted, Asked, Cause, Policies, Shedder},
};
use crate::{
    context::{Criticality, Inbound, SINEW_SHED},
    error::{BoxError, Code, Error, Kind},
    provide::{Fixed, Provide},
    rt::{self, Instant, Lag, Rng, TaskSet, Watching},
};

/// A request that admission can weigh.
pub trait Weighed {
    /// Whether it is let in whatever the load, and counts as nobody: health checks, upgrades, event streams.
    fn is_exempt(&self) -> bool;

    /// How important it is.
    fn criticality(&self) -> Criticality;

    /// Whose it is: under overload all of a user's requests stand or fall together.
    fn user(&self) -> Option<&str>;

    /// When it came. Default: now.
    fn at(&self) -> std::time::Instant {
        rt::now().into_std()
    }
}

impl<B> Weighed for Request<B> {
    fn is_exempt(&self) -> bool {
        is_exempt(self)
    }

    fn criticality(&self) -> Criticality {
        Inbound::of(self.extensions()).map(|inbound| inbound.context.criticality()).unwrap_or_default()
    }

    fn user(&self) -> Option<&str> {
        let inner = Inbound::of(self.extensions())?.context.inner();
        inner.fairness_key.as_deref().or(inner.request_id.as_deref())
    }
}

/// Health checks have to see a process that is busy as busy and not as dead; what stays open for long is not work.
pub(crate) fn is_exempt<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    let streams =
        |value: &HeaderValue| value.as_bytes().windows(17).any(|at| at.eq_ignore_ascii_case(b"text/event-stream"));
    matches!(path, "/livez" | "/readyz")
        || path.starts_with("/grpc.health.v1.Health/")
        || request.method() == Method::CONNECT
        || request.headers().contains_key(header::UPGRADE)
        || request.headers().get_all(header::ACCEPT).iter().any(streams)
}

/// A shedder, and the canary that tells how late the process is.
#[derive(Debug)]
pub struct Admission {
    shedder: Arc<Shedder>,
    lag: Option<Lagging>,
}

/// The canary runs from the first request on: there is a runtime then.
#[derive(Debug)]
struct Lagging {
    lag: Arc<Lag>,
    tasks: TaskSet,
    watching: OnceLock<Watching>,
}

impl Lagging {
    fn at(&self, now: Instant) -> Duration {
        self.watching.get_or_init(|| self.lag.watch(&self.tasks));
        self.lag.at(now)
    }
}

impl Admission {
    /// `before` is what it takes the place of.
    pub(crate) fn make(policies: Policies, before: Option<&Self>, series: Series, tasks: &TaskSet) -> Arc<Self> {
        let shedder = Shedder::make(policies, before.map(|before| &*before.shedder), series, rt::now());
        let lag = shedder.looks_at_lag().then(|| Lagging {
            lag: Arc::clone(tasks.lag()),
            tasks: tasks.clone(),
            watching: OnceLock::new(),
        });
        Arc::new(Self { shedder, lag })
    }

    pub(crate) fn shedder(&self) -> &Shedder {
        &self.shedder
    }

    fn admit(&self, request: &impl Weighed) -> Result<InWork, Error> {
        if request.is_exempt() {
            return Ok(InWork(None));
        }
        let at = Instant::from_std(request.at());
        let asked = Asked { criticality: request.criticality(), user: request.user(), at };
        let lag = self.lag.as_ref().map_or(Duration::ZERO, |lag| lag.at(at));
        self.shedder.admit(&asked, lag, &mut Rng::local()).map(|admitted| InWork(Some(admitted))).map_err(refusal)
    }
}

#[cold]
fn refusal(cause: Cause) -> Error {
    let message = match cause {
        Cause::InFlight(n) => format!("{n} requests are in work, which is the limit; the caller may try elsewhere"),
        Cause::Lag(lag) => format!("this process is {lag:.0?} behind; the caller may try elsewhere"),
        Cause::Level => "this process is overloaded, and what is more important comes first".into(),
    };
    Error::new(Code::OverloadShed, message)
        .with_headers(|headers| _ = headers.insert(SINEW_SHED, HeaderValue::from_static("1")))
}

/// Refuses requests with E033 when more is asked than can be done.
///
/// The decision is made in `call`, before the service is called: work that only waits for its turn to be refused would be
/// work too. What counts as in work is a request until its response headers, since a caller that reads slowly must not
/// hold a place.
///
/// ```
/// use sinew::shed::{LoadShedLayer, ShedPolicy};
///
/// # async fn example() -> Result<(), sinew::Error> {
/// let layer = LoadShedLayer::new(ShedPolicy::new().max_in_flight(200))?;
/// # let _ = tower::Layer::layer(&layer, tower::service_fn(|_: http::Request<String>| async { Ok::<_, sinew::Error>(http::Response::new(String::new())) }));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct LoadShedLayer<Src = Fixed<Arc<Admission>>> {
    source: Src,
}

impl LoadShedLayer {
    /// Sheds by a fixed limit, by lag, or both. Lag is that of the tokio runtime of the first request.
    ///
    /// # Errors
    /// E055 if a value is out of its bounds, or nothing is shed.
    pub fn new(policy: ShedPolicy) -> Result<Self, Error> {
        policy.check().map_err(|(field, reason)| wrong("load_shed", field, reason))?;
        Ok(Self::alone(Policies::new(Some(&policy), None)))
    }

    /// Finds the limit by itself.
    ///
    /// # Errors
    /// E055 if a value is out of its bounds.
    pub fn adaptive(policy: AdaptivePolicy) -> Result<Self, Error> {
        policy.check().map_err(|(field, reason)| wrong("adaptive_concurrency", field, reason))?;
        Ok(Self::alone(Policies::new(None, Some(&policy))))
    }

    fn alone(policies: Policies) -> Self {
        Self { source: Fixed(Admission::make(policies, None, Series::default(), &TaskSet::new())) }
    }
}

fn wrong(key: &str, field: &str, reason: &str) -> Error {
    Error::new(Code::BadRequest, format!("{key}.{field}: {reason}"))
}

impl<Src> LoadShedLayer<Src> {
    /// Finds the admission for each request; none admits.
    pub const fn with(source: Src) -> Self {
        Self { source }
    }
}

impl<S, Src: Clone> Layer<S> for LoadShedLayer<Src> {
    type Service = LoadShed<S, Src>;

    fn layer(&self, inner: S) -> Self::Service {
        LoadShed { inner, source: self.source.clone() }
    }
}

/// The service made by [`LoadShedLayer`].
#[derive(Clone, Debug)]
pub struct LoadShed<S, Src = Fixed<Arc<Admission>>> {
    inner: S,
    source: Src,
}

impl<S, Src, R, B> Service<R> for LoadShed<S, Src>
where
    S: Service<R, Response = Response<B>>,
    S::Error: Into<BoxError>,
    Src: Provide<Arc<Admission>, R>,
    R: Weighed,
{
    type Response = Response<B>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(foreign)
    }

    #[inline]
    fn call(&mut self, request: R) -> Self::Future {
        let in_work = match self.source.provide(&request) {
            None => InWork(None),
            Some(admission) => match admission.admit(&request) {
                Ok(in_work) => in_work,
                Err(error) => return ResponseFuture { state: State::Refused { error: Some(error) } },
            },
        };
        ResponseFuture { state: State::Running { future: self.inner.call(request), in_work } }
    }
}

fn foreign(error: impl Into<BoxError>) -> Error {
    Error::from_boxed(error.into(), Code::Internal, "the service under admission failed")
}

/// A request in work; dropped, it was given up.
#[derive(Debug)]
struct InWork(Option<Admitted>);

impl InWork {
    fn leave(&mut self, ended: Ended) {
        if let Some(admitted) = self.0.take() {
            admitted.leave(ended, rt::now);
        }
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.leave(Ended::GivenUp);
    }
}

pin_project! {
    /// The future of a [`LoadShed`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Running { #[pin] future: F, in_work: InWork },
        Refused { error: Option<Error> },
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<B>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Running { future, in_work } => {
                let result = ready!(future.poll(cx)).map_err(foreign);
                in_work.leave(match &result {
                    Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => Ended::Failed,
                    Ok(response) if response.status().is_server_error() => Ended::Ignored,
                    Ok(_) => Ended::Answered,
                    Err(error) if error.kind() == Kind::Timeout => Ended::GivenUp,
                    Err(_) => Ended::Ignored,
                });
                Poll::Ready(result)
            }
            // Taken once: the future is over with it.
            StateProjection::Refused { error } => error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
        }
    }
}
