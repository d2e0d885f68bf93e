//! Each public layer around a strict service.

use std::{sync::Arc, time::Duration};

use http::Request;
use sinew::{
    Body, Mesh, Network,
    breaker::{CircuitBreakerLayer, CircuitPolicy, Limit, LimitLayer},
    enforcement::Percent,
    fault::{Abort, Delay, FaultLayer, FaultPolicy},
    limit::{
        Answer, Asking, BucketPolicy, CountLimits, GlobalEntry, GlobalPolicy, Query, RateLimitLayer, RateLimitPolicy,
    },
    mirror::{MirrorLayer, MirrorPolicy},
    provide::Fixed,
    retry::{Condition, Handle, HedgePolicy, RetryLayer, RetryPolicy},
    seat::{LayerSeat, Next, Seat, SeatFuture},
    shed::{
        AdaptivePolicy, LoadShedLayer, ShedPolicy,
        throttle::{ThrottleLayer, ThrottlePolicy},
    },
    timeout::TimeoutLayer,
};
use tower::{Layer, Service, ServiceExt};

use crate::probe::{self, Strict};

#[tokio::test(start_paused = true)]
async fn the_timeout_layer() {
    probe::check(|strict| TimeoutLayer::new(Duration::from_secs(1)).layer(strict), || 0);
}

#[tokio::test(start_paused = true)]
async fn the_fault_layer() {
    // Slow responses wait for time, which does not pass here; what passes untouched is probed, and delays below.
    let rare = FaultPolicy::new().abort(Abort::Header, Percent::ALL);
    let layer = FaultLayer::new(rare).unwrap();
    probe::check(|strict| layer.layer(strict), || 0);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_call_is_made_on_the_service_that_was_ready() {
    let delayed = FaultPolicy::new().delay(Delay::Fixed(Duration::from_secs(1)), Percent::ALL);
    let strict = Strict::new(1);
    let counts = Arc::clone(&strict.counts);
    let mut service = FaultLayer::new(delayed).unwrap().layer(strict);
    for calls in 1..4 {
        probe::make_ready::<_, Request<Body>>(&mut service);
        let response = service.call(Request::new(Body::empty())).await.unwrap();
        drop(response);
        assert_eq!((counts.calls.load(std::sync::atomic::Ordering::Relaxed), counts.held()), (calls, (0, 0, 0)));
    }
    probe::make_ready::<_, Request<Body>>(&mut service);
    drop(service.call(Request::new(Body::empty())));
    drop(service);
    assert_eq!((counts.calls.load(std::sync::atomic::Ordering::Relaxed), counts.held()), (3, (0, 0, 0)));
}

#[tokio::test]
async fn the_mirror_layer() {
    // Copies are another service's business: what is probed is that the call passes as it is.
    let rare = MirrorPolicy::new().percent(Percent::NONE);
    let to = tower::service_fn(|_: Request<Body>| async { Ok::<_, sinew::Error>(http::Response::new(Body::empty())) });
    let layer = MirrorLayer::new(rare, to).unwrap();
    probe::check(|strict| layer.layer(strict), || 0);
}

#[tokio::test]
async fn a_mirror_gets_a_copy_once_it_is_ready() {
    let (original, mirror) = (Strict::new(0), Strict::new(0));
    let counts = [&original, &mirror].map(|strict| Arc::clone(&strict.counts));
    let mut service = MirrorLayer::new(MirrorPolicy::new(), mirror).unwrap().layer(original);
    probe::make_ready::<_, Request<Body>>(&mut service);
    drop(service.call(Request::new(Body::from("x"))).await.unwrap());
    let copied = async {
        while counts[1].calls.load(std::sync::atomic::Ordering::Relaxed) == 0 || counts[1].held() != (0, 0, 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), copied).await.expect("the copy is sent and read");
    assert_eq!(counts[0].calls.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_retry_layer() {
    let layer = RetryLayer::new(RetryPolicy::idempotent()).unwrap();
    probe::check(|strict| layer.layer(strict), || 0);
    let hedged = RetryLayer::hedged(RetryPolicy::idempotent(), HedgePolicy::after(Duration::from_secs(1))).unwrap();
    probe::check(|strict| hedged.layer(strict), || 0);
    // A policy that is found for each request.
    let found = RetryLayer::with(Fixed(Handle::new(RetryPolicy::default(), HedgePolicy::default()).unwrap()));
    probe::check(|strict| found.layer(strict), || 0);
}

/// Answers 503 from a service that insists on readiness.
#[derive(Clone)]
struct Failing(Strict);

impl Service<Request<Body>> for Failing {
    type Response = http::Response<Body>;
    type Error = sinew::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, sinew::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), sinew::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx).map(|ready| {
            ready.unwrap();
            Ok(())
        })
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = self.0.call(request);
        Box::pin(async move {
            drop(asked.await.unwrap());
            let mut response = http::Response::new(Body::from("busy"));
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            Ok(response)
        })
    }
}

/// Every attempt asks for readiness, and a call that is dropped between its attempts, or in any of them, leaves nothing.
#[tokio::test(start_paused = true)]
async fn each_attempt_is_made_on_a_service_that_is_ready_and_may_be_dropped_anywhere() {
    let policy = RetryPolicy::default().on([Condition::GatewayError]);
    for drop_after in 0..60 {
        let strict = Strict::new(1);
        let counts = Arc::clone(&strict.counts);
        let mut service = RetryLayer::new(policy.clone()).unwrap().layer(Failing(strict));
        probe::make_ready::<_, Request<Body>>(&mut service);
        let mut call = Box::pin(service.call(Request::<Body>::default()));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut response = None;
        for _ in 0..drop_after {
            if let std::task::Poll::Ready(result) = call.as_mut().poll(&mut cx) {
                response = Some(result.unwrap());
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let ended = response.is_some();
        drop((call, response, service));
        assert_eq!(counts.held(), (0, 0, 0), "dropped after {drop_after} polls");
        let calls = counts.calls.load(std::sync::atomic::Ordering::Relaxed);
        assert!(!ended || calls == 3, "{calls} attempts after {drop_after} polls");
        assert!(drop_after < 59 || ended, "the call ends");
    }
}

#[test]
fn the_limit_layer() {
    let limit = Limit::new(100_000);
    probe::check(|strict| LimitLayer::with(Fixed(Arc::clone(&limit))).layer(strict), || limit.used());
}

#[test]
fn the_load_shed_layer() {
    let layer = LoadShedLayer::new(ShedPolicy::new().max_in_flight(100_000).max_lag(None)).unwrap();
    probe::check(|strict| layer.layer(strict), || 0);
    let layer = LoadShedLayer::adaptive(AdaptivePolicy::default()).unwrap();
    probe::check(|strict| layer.layer(strict), || 0);
}

#[tokio::test]
async fn what_is_shed_leaves_the_service_ready_and_what_is_given_up_makes_room() {
    let strict = Strict::new(1);
    let counts = Arc::clone(&strict.counts);
    let mut service = LoadShedLayer::new(ShedPolicy::new().max_in_flight(1).max_lag(None)).unwrap().layer(strict);
    let mut clone = service.clone();
    probe::make_ready::<_, Request<Body>>(&mut clone);
    let held = clone.call(Request::new(Body::empty()));
    probe::make_ready::<_, Request<Body>>(&mut service);
    let refused = service.call(Request::new(Body::empty())).await.map(|_| ()).unwrap_err();
    assert_eq!((refused.code(), counts.held()), (sinew::Code::OverloadShed, (1, 1, 0)));
    drop(held);
    assert!(service.call(Request::new(Body::empty())).await.is_ok());
}

#[test]
fn the_throttle_layer() {
    let layer = ThrottleLayer::new(ThrottlePolicy::new()).unwrap();
    probe::check(|strict| layer.layer(strict), || 0);
}

#[test]
fn the_circuit_breaker_layer() {
    let layer = CircuitBreakerLayer::new(CircuitPolicy::new()).unwrap();
    probe::check(|strict| layer.layer(strict), || 0);
}

#[tokio::test]
async fn an_open_circuit_leaves_the_service_ready_and_calls_nothing() {
    let strict = Strict::new(0);
    let counts = Arc::clone(&strict.counts);
    let layer = CircuitBreakerLayer::new(CircuitPolicy::new()).unwrap();
    let mut service = layer.layer(strict);
    layer.handle().open();
    probe::make_ready::<_, Request<Body>>(&mut service);
    let refused = service.call(Request::new(Body::empty())).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), sinew::Code::CircuitOpen);
    assert_eq!(counts.held(), (1, 0, 0));
    layer.handle().reset();
    assert!(service.call(Request::new(Body::empty())).await.is_ok());
}

#[test]
fn the_rate_limit_layer_that_asks_elsewhere() {
    /// Answers when polled a second time.
    struct Counts;
    impl CountLimits for Counts {
        fn ask(&self, _query: Query) -> Asking {
            Box::pin(async {
                tokio::task::yield_now().await;
                Ok(Answer::new(false))
            })
        }
    }
    let global = GlobalPolicy::new("counts".parse().unwrap(), "d").descriptor([GlobalEntry::fixed("generic_key", "x")]);
    let layer = RateLimitLayer::asking(RateLimitPolicy::counted_by(global), Counts).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _inside = runtime.enter();
    probe::check(|strict| layer.layer(strict), || 0);
}

#[test]
fn the_rate_limit_layer() {
    let rate = BucketPolicy::new(1_000_000, 1, Duration::from_secs(1)).unwrap();
    let layer = RateLimitLayer::new(RateLimitPolicy::new(rate)).unwrap();
    probe::check(|strict| layer.layer(strict), || 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_over_the_rate_leaves_the_service_ready_and_clones_share_the_limit() {
    let rate = BucketPolicy::new(1, 1, Duration::from_secs(1)).unwrap();
    let strict = Strict::new(0);
    let counts = Arc::clone(&strict.counts);
    let mut service = RateLimitLayer::new(RateLimitPolicy::new(rate)).unwrap().layer(strict);
    let mut clone = service.clone();
    probe::make_ready::<_, Request<Body>>(&mut clone);
    assert!(clone.call(Request::new(Body::empty())).await.is_ok());
    probe::make_ready::<_, Request<Body>>(&mut service);
    let refused = service.call(Request::new(Body::empty())).await.map(|_| ()).unwrap_err();
    assert_eq!((refused.code(), refused.retry_after()), (sinew::Code::RateLimited, Some(Duration::from_secs(1))));
    assert_eq!(counts.held(), (1, 0, 0));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(service.call(Request::new(Body::empty())).await.is_ok());
}

#[tokio::test]
async fn a_refused_call_leaves_the_service_ready_and_takes_nothing() {
    let limit = Limit::new(0);
    let strict = Strict::new(0);
    let counts = Arc::clone(&strict.counts);
    let mut service = LimitLayer::with(Fixed(Arc::clone(&limit))).layer(strict);
    probe::make_ready::<_, Request<Body>>(&mut service);
    let refused = service.call(Request::new(Body::empty())).await;
    assert_eq!(refused.map(|_| ()).unwrap_err().code(), sinew::Code::Overflow);
    assert_eq!((counts.held(), limit.used()), ((1, 0, 0), 0));
    limit.set_max(1);
    assert!(service.call(Request::new(Body::empty())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_server_layer() {
    let mesh = Mesh::builder("s").build().await.unwrap();
    let layer = mesh.server_layer();
    probe::check(|strict| layer.layer(strict), || 0);
}

/// A layer whose service is as strict as the innermost one: the seat has to ask it.
#[derive(Clone)]
struct StrictLayer(Strict);

#[derive(Clone)]
struct StrictBetween<S> {
    strict: Strict,
    inner: S,
}

impl<S: Clone> Layer<S> for StrictLayer {
    type Service = StrictBetween<S>;

    fn layer(&self, inner: S) -> StrictBetween<S> {
        StrictBetween { strict: self.0.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for StrictBetween<S>
where
    S: Service<Request<Body>, Response = http::Response<Body>, Error = sinew::Error>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = sinew::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, sinew::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), sinew::Error>> {
        let strict = Service::<Request<Body>>::poll_ready(&mut self.strict, cx);
        std::task::ready!(strict).unwrap();
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = self.strict.call(Request::<Body>::default());
        let next = self.inner.call(request);
        Box::pin(async move {
            asked.await.unwrap();
            next.await
        })
    }
}

/// Seats under the client and the server stack, with a layer that insists on readiness.
#[tokio::test(start_paused = true)]
async fn a_layer_at_a_seat_is_ready_before_each_call() {
    let (outer, attempt, server) = (Strict::new(1), Strict::new(1), Strict::new(1));
    let counts = [&outer, &attempt, &server].map(|strict| Arc::clone(&strict.counts));
    let network = Network::new();
    let serving = Mesh::builder("s").network(&network).server_layer(StrictLayer(server)).build().await.unwrap();
    let listener = serving.listen("memory:s").await.unwrap();
    let app =
        tower::service_fn(|_: Request<Body>| async { Ok::<_, sinew::Error>(http::Response::new(Body::from("x"))) });
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let mesh = Mesh::builder("c")
        .network(&network)
        .service("s", |s| s.endpoints(["memory:s"]))
        .outer_layer(StrictLayer(outer))
        .attempt_layer(StrictLayer(attempt))
        .build()
        .await
        .unwrap();
    let client = mesh.client("s");
    for _ in 0..5 {
        let response = client.clone().oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(sinew::ResponseExt::text(response).await.unwrap(), "x");
    }
    for counts in counts {
        assert_eq!(counts.calls.load(std::sync::atomic::Ordering::Relaxed), 5);
        assert_eq!(counts.held(), (0, 0, 0));
    }
}

/// A seat in front of a seat: what stands behind is run once, or dropped whole.
#[tokio::test(start_paused = true)]
async fn a_seat_may_drop_the_rest_of_the_stack() {
    struct Refuses;
    impl Seat for Refuses {
        fn call(&self, _request: Request<Body>, next: Next) -> SeatFuture {
            drop(next);
            Box::pin(std::future::ready(Ok(http::Response::new(Body::from("seat")))))
        }
    }
    let inner = Strict::new(1);
    let counts = Arc::clone(&inner.counts);
    let mesh = Mesh::builder("c")
        .service("s", |s| s.endpoints(["127.0.0.1:1"]))
        .outer(Refuses)
        .attempt(LayerSeat::new(&StrictLayer(inner)))
        .build()
        .await
        .unwrap();
    let text = sinew::ResponseExt::text(mesh.client("s").get("/").send().await.unwrap()).await.unwrap();
    assert_eq!((text.as_str(), counts.calls.load(std::sync::atomic::Ordering::Relaxed)), ("seat", 0));
}
