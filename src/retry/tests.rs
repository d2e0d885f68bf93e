//! The layer around services that fail in every way.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{
    body::Body,
    context::Call,
    error::{Code, Delivery, Error, Origin},
    provide::Fixed,
    rt,
};

/// What a server saw of each attempt.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(HeaderMap, Bytes)>>>);

impl Seen {
    fn attempts(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn bodies(&self) -> Vec<Bytes> {
        self.0.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }
}

type Answers = dyn Fn(usize) -> Result<Response<Body>, Error> + Send + Sync;

/// A service that reads each request whole and answers its n-th, from 0, as `answers` says.
fn server<A>(
    seen: &Seen,
    answers: A,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Error, Future: Send> + Clone + use<A>
where
    A: Fn(usize) -> Result<Response<Body>, Error> + Send + Sync + 'static,
{
    let (seen, answers): (Seen, Arc<Answers>) = (seen.clone(), Arc::new(answers));
    service_fn(move |request: Request<Body>| {
        let (seen, answers) = (seen.clone(), Arc::clone(&answers));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let attempt = {
                let mut seen = seen.0.lock().unwrap();
                seen.push((parts.headers, body));
                seen.len() - 1
            };
            answers(attempt)
        }
    })
}

fn status(status: u16) -> Result<Response<Body>, Error> {
    Ok(Response::builder().status(status).body(Body::from("x")).unwrap())
}

fn with(status: u16, headers: &[(&str, &str)]) -> Result<Response<Body>, Error> {
    let builder = Response::builder().status(status);
    Ok(headers
        .iter()
        .fold(builder, |builder, (name, value)| builder.header(*name, *value))
        .body(Body::empty())
        .unwrap())
}

fn get() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

fn policy(conditions: &[Condition]) -> RetryPolicy {
    RetryPolicy::default().on(conditions.iter().copied())
}

fn layer(policy: RetryPolicy) -> RetryLayer {
    RetryLayer::new(policy).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_sent_again_until_it_succeeds_or_as_often_as_the_policy_says() {
    let seen = Seen::default();
    let service = layer(RetryPolicy::idempotent()).layer(server(&seen, |n| status(if n < 2 { 503 } else { 200 })));
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
    assert_eq!(seen.attempts(), 3);

    let seen = Seen::default();
    let service = layer(RetryPolicy::idempotent()).layer(server(&seen, |_| status(503)));
    let response = service.oneshot(get()).await.unwrap();
    assert_eq!((response.status().as_u16(), seen.attempts()), (503, 3));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "x");
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_processed_is_sent_again_only_if_twice_is_as_good_as_once() {
    let all = policy(Condition::ALL);
    let post = || Request::post("/").body(Body::from("x")).unwrap();
    let mut asked = post();
    asked.extensions_mut().insert(Call::new().idempotent(true));
    let mut put = post();
    *put.method_mut() = Method::PUT;
    let mut keyed = post();
    keyed.headers_mut().insert("idempotency-key", "1".parse().unwrap());
    let mut not = get();
    not.extensions_mut().insert(Call::new().idempotent(false));
    let mut never = get();
    never.extensions_mut().insert(Call::new().no_retry());
    for (request, attempts) in [(post(), 1), (get(), 3), (put, 3), (keyed, 3), (asked, 3), (not, 1), (never, 1)] {
        for answer in [|| status(503), || Err(Error::new(Code::PeerReset, "x"))] {
            let seen = Seen::default();
            let (parts, body) = request_parts(&request);
            let service = layer(all.clone()).layer(server(&seen, move |_| answer()));
            let _ = service.oneshot(Request::from_parts(parts, body)).await;
            assert_eq!(seen.attempts(), attempts, "{request:?}");
        }
    }
    let anyway = RetryPolicy { require_idempotent: false, ..all };
    let seen = Seen::default();
    let _ = layer(anyway).layer(server(&seen, |_| status(503))).oneshot(post()).await;
    assert_eq!(seen.attempts(), 3);
}

fn request_parts(request: &Request<Body>) -> (http::request::Parts, Body) {
    let (mut parts, _) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.headers = request.headers().clone();
    parts.extensions = request.extensions().clone();
    (parts, Body::from("x"))
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_is_sent_again_whatever_the_method() {
    let refused = || Err(Error::new(Code::PeerReset, "x").with_delivery(Delivery::RefusedStream));
    let seen = Seen::default();
    let service = layer(policy(&[Condition::RefusedStream, Condition::Reset]));
    let service = service.layer(server(&seen, move |n| if n < 2 { refused() } else { status(200) }));
    let response = service.oneshot(Request::post("/").body(Body::from("hello")).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(seen.bodies(), ["hello", "hello", "hello"]);

    // A shed marker says the same of an answer, if its sender is known to be of the mesh.
    let seen = Seen::default();
    let service = layer(policy(&[Condition::GatewayError]));
    let shed = |n| if n == 0 { with(503, &[("sinew-shed", "1")]) } else { status(200) };
    let service = service.layer(server(&seen, shed));
    let response = service.oneshot(Request::post("/").body(Body::from("hello")).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), seen.attempts()), (503, 1));
}

#[tokio::test(start_paused = true)]
async fn the_default_sends_again_what_never_left_and_nothing_else() {
    let post = || Request::post("/").body(Body::from("x")).unwrap();
    let service = |seen: &Seen, answer: fn() -> Result<Response<Body>, Error>| {
        layer(RetryPolicy::default()).layer(server(seen, move |n| if n == 0 { answer() } else { status(200) }))
    };
    let unsent =
        || Err(Error::new(Code::ConnectFailed, "x").with_delivery(Delivery::Unsent).returning(Body::from("x")));
    let seen = Seen::default();
    assert_eq!(service(&seen, unsent).oneshot(post()).await.unwrap().status(), 200);
    assert_eq!(seen.attempts(), 2);
    for answer in [|| status(503), || status(429), || Err(Error::new(Code::PeerReset, "x"))] {
        let seen = Seen::default();
        let _ = service(&seen, answer).oneshot(get()).await;
        assert_eq!(seen.attempts(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_left_costs_nothing_and_what_the_peer_refused_draws_on_the_budget() {
    let failing = |delivery| {
        move |_| Err(Error::new(Code::ConnectionClosed, "x").with_delivery(delivery).returning(Body::empty()))
    };
    for (delivery, calls, attempts) in [
        (Delivery::Unsent, 3, 3 * 9),
        (Delivery::GoawayUnprocessed, 3, 3 * 9),
        // Ten tokens, two for each call.
        (Delivery::RefusedStream, 20, 20 + 10),
    ] {
        let seen = Seen::default();
        let service = layer(RetryPolicy::default()).layer(server(&seen, failing(delivery)));
        for _ in 0..calls {
            service.clone().oneshot(get()).await.unwrap_err();
        }
        assert_eq!(seen.attempts(), attempts, "{delivery:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_of_a_failing_backend_are_bounded_whatever_it_fails_with() {
    let failures: [(&str, fn() -> Result<Response<Body>, Error>); 3] = [
        ("503", || status(503)),
        ("reset", || Err(Error::new(Code::PeerReset, "x"))),
        ("refused", || Err(Error::new(Code::PeerReset, "x").with_delivery(Delivery::RefusedStream))),
    ];
    let eager = RetryPolicy { back_off: Backoff::new(Duration::from_millis(1)), ..policy(Condition::ALL) };
    for (name, failure) in failures {
        for failing in [100, 50] {
            let (seen, begun) = (Seen::default(), rt::now());
            let calls = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&calls);
            // By call, so that a retry of a failing one fails too.
            let service =
                server(&seen, move |_| if count.load(Relaxed) % 100 < failing { failure() } else { status(200) });
            let service = layer(eager.clone()).layer(service);
            for n in 0..2_000 {
                calls.store(n * 37, Relaxed);
                let _ = service.clone().oneshot(get()).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let seconds = begun.elapsed().as_secs_f64();
            let retries = (seen.attempts() - 2_000) as f64;
            let bound = 10.0 + seconds / 10.0 + if failing == 100 { 0.0 } else { 0.1 * 2_000.0 };
            assert!(retries <= bound, "{name}, {failing} % failing: {retries} retries, at most {bound}");
            assert!(
                retries >= bound * 0.8,
                "{name}, {failing} % failing: {retries} retries of {bound}: the budget is used"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn clones_and_services_of_one_layer_share_a_budget_and_handles_may() {
    let seen = Seen::default();
    let layer = layer(policy(&[Condition::ServerError]));
    for _ in 0..10 {
        let service = layer.layer(server(&seen, |_| status(500)));
        for _ in 0..10 {
            let _ = service.clone().oneshot(get()).await;
        }
    }
    assert_eq!(seen.attempts(), 100 + 10);
    let one = Handle::new(policy(&[Condition::ServerError]), HedgePolicy::default()).unwrap();
    let two = one.sharing(policy(&[Condition::GatewayError]), HedgePolicy::default()).unwrap();
    let seen = Seen::default();
    for handle in [one, two] {
        let service = RetryLayer::with(Fixed(handle)).layer(server(&seen, |_| status(503)));
        for _ in 0..10 {
            let _ = service.clone().oneshot(get()).await;
        }
    }
    assert_eq!(seen.attempts(), 20 + 10);
}

#[tokio::test(start_paused = true)]
async fn a_push_back_is_waited_for_and_a_negative_one_ends_it() {
    let policy = policy(&[Condition::RetriableStatusCodes, Condition::Unavailable]);
    let policy = RetryPolicy { retriable_status_codes: vec![http::StatusCode::TOO_MANY_REQUESTS], ..policy };
    let took = |headers: &'static [(&'static str, &'static str)], code: u16, grpc: bool| {
        let policy = policy.clone();
        async move {
            let (seen, begun) = (Seen::default(), rt::now());
            let answer = move |n| if n == 0 { with(code, headers) } else { status(200) };
            let service = layer(policy).layer(server(&seen, answer));
            let mut request = get();
            if grpc {
                request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                request.extensions_mut().insert(Call::new().idempotent(true));
            }
            let _ = service.oneshot(request).await;
            (seen.attempts(), begun.elapsed())
        }
    };
    assert_eq!(took(&[("retry-after", "2")], 429, false).await, (2, Duration::from_secs(2)));
    assert_eq!(took(&[("retry-after", "600")], 429, false).await, (2, Duration::from_secs(30)));
    assert_eq!(took(&[("x-ratelimit-reset", "3")], 429, false).await, (2, Duration::from_secs(3)));
    let pushed = [("grpc-status", "14"), ("grpc-retry-pushback-ms", "700")];
    assert_eq!(took(Box::leak(Box::new(pushed)), 200, true).await, (2, Duration::from_millis(700)));
    let never = [("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")];
    assert_eq!(took(Box::leak(Box::new(never)), 200, true).await, (1, Duration::ZERO));
    assert_eq!(took(&[("sinew-no-retry", "1")], 429, false).await, (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_per_try_timeout_is_a_reset_and_the_deadline_is_not() {
    for (origin, attempts) in [(Origin::Peer, 3), (Origin::Mesh, 1)] {
        let seen = Seen::default();
        let late = move |_| Err(Error::new(Code::TimeoutRequest, "x").with_origin(origin));
        let _ = layer(RetryPolicy::idempotent()).layer(server(&seen, late)).oneshot(get()).await;
        assert_eq!(seen.attempts(), attempts, "{origin:?}");
    }
}

/// A gRPC response whose status comes after `wait`.
fn grpc(code: &'static str, data: bool, wait: Duration) -> Result<Response<Body>, Error> {
    let mut frames: Vec<Result<Frame<Bytes>, Error>> = Vec::new();
    if data {
        frames.push(Ok(Frame::data(Bytes::from_static(b"message"))));
    }
    frames.push(Ok(Frame::trailers(
        [(http::HeaderName::from_static("grpc-status"), code.parse().unwrap())].into_iter().collect(),
    )));
    let frames = tokio_stream::StreamExt::then(tokio_stream::iter(frames), move |frame| async move {
        rt::sleep(wait).await;
        frame
    });
    let body = Body::new(StreamBody::new(Box::pin(frames)));
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

fn grpc_request() -> Request<Body> {
    let mut request = Request::post("/a.B/C").header("content-type", "application/grpc").body(Body::from("x")).unwrap();
    request.extensions_mut().insert(Call::new().idempotent(true));
    request
}

#[tokio::test(start_paused = true)]
async fn a_status_in_trailers_is_seen_unless_a_message_came_first_or_it_comes_too_late() {
    let ms = Duration::from_millis;
    for (data, wait, attempts) in [(false, ms(0), 3), (false, ms(15), 3), (false, ms(30), 1), (true, ms(0), 1)] {
        let seen = Seen::default();
        let service = layer(policy(&[Condition::Unavailable])).layer(server(&seen, move |_| grpc("14", data, wait)));
        let response = service.oneshot(grpc_request()).await.unwrap();
        assert_eq!(seen.attempts(), attempts, "{data} {wait:?}");
        // What was looked at is still there.
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "14");
        assert_eq!(body.to_bytes(), if data { "message" } else { "" });
    }
    // Attempts are counted for the server as gRPC counts them.
    let seen = Seen::default();
    let service = layer(policy(&[Condition::Unavailable])).layer(server(&seen, |_| grpc("14", false, Duration::ZERO)));
    let _ = service.oneshot(grpc_request()).await;
    let before: Vec<_> =
        seen.0.lock().unwrap().iter().map(|(headers, _)| headers.get("grpc-previous-rpc-attempts").cloned()).collect();
    assert_eq!(before, [None, Some("1".parse().unwrap()), Some("2".parse().unwrap())]);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_comes_after_trailers_never_end_hands_the_headers_up_after_20_ms() {
    let seen = Seen::default();
    let service = layer(policy(&[Condition::Unavailable]));
    let service = service.layer(server(&seen, |_| grpc("14", true, Duration::from_secs(3600))));
    let begun = rt::now();
    let response = service.oneshot(grpc_request()).await.unwrap();
    assert_eq!((begun.elapsed(), response.status().as_u16()), (Duration::from_millis(20), 200));
}

fn streamed(chunks: Vec<Bytes>) -> Body {
    let frames = chunks.into_iter().map(|chunk| Ok::<_, Error>(Frame::data(chunk)));
    Body::new(StreamBody::new(tokio_stream::iter(frames)))
}

#[tokio::test(start_paused = true)]
async fn a_streamed_body_is_sent_again_whole_up_to_the_limit_and_once_beyond_it() {
    for (size, attempts) in [(0, 3), (1, 3), (64 * 1024, 3), (64 * 1024 + 1, 1)] {
        for chunk in [1_000, 16 * 1024, 64 * 1024 + 1] {
            let whole = Bytes::from((0..size).map(|n| n as u8).collect::<Vec<_>>());
            let chunks: Vec<_> = whole.chunks(chunk).map(Bytes::copy_from_slice).collect();
            let seen = Seen::default();
            let service = layer(RetryPolicy::idempotent()).layer(server(&seen, |_| status(503)));
            let _ = service.oneshot(Request::put("/").body(streamed(chunks)).unwrap()).await;
            assert_eq!(seen.bodies(), vec![whole; attempts], "{size} in chunks of {chunk}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_retry_begins_that_could_not_end_before_the_deadline() {
    let seen = Seen::default();
    let policy = RetryPolicy { min_remaining: Some(Duration::from_secs(2)), ..RetryPolicy::idempotent() };
    let service = layer(policy).layer(server(&seen, |_| status(503)));
    let deadline = rt::now() + Duration::from_secs(1);
    let context =
        crate::context::Context::new(crate::context::Inner { deadline: Some(deadline), ..Default::default() });
    context.scope(service.clone().oneshot(get())).await.unwrap();
    assert_eq!(seen.attempts(), 1);
    service.oneshot(get()).await.unwrap();
    assert_eq!(seen.attempts(), 1 + 3);
}

#[tokio::test(start_paused = true)]
async fn only_requests_with_the_headers_that_are_asked_for() {
    let wanted = vec![(http::HeaderName::from_static("x-retry"), crate::matching::StringMatch::Present(true))];
    let policy = RetryPolicy { retriable_request_headers: wanted, ..RetryPolicy::idempotent() };
    for (header, attempts) in [("x-retry", 3), ("x-other", 1)] {
        let seen = Seen::default();
        let service = layer(policy.clone()).layer(server(&seen, |_| status(503)));
        let _ = service.oneshot(Request::get("/").header(header, "1").body(Body::empty()).unwrap()).await;
        assert_eq!(seen.attempts(), attempts, "{header}");
    }
}

#[test]
fn policies_out_of_bounds_are_refused() {
    let refused = |policy: RetryPolicy| RetryLayer::new(policy).unwrap_err();
    assert!(refused(RetryPolicy::default().num_retries(11)).contains("0 to 10"));
    let back_off = Backoff::new(Duration::from_millis(100)).max_interval(Duration::from_millis(10));
    assert!(refused(RetryPolicy { back_off, ..RetryPolicy::default() }).contains("at least `base_interval`"));
    let many = RetryLayer::hedged(
        RetryPolicy::default().num_retries(8),
        HedgePolicy { max_hedged_attempts: 4, ..HedgePolicy::after(Duration::from_millis(5)) },
    );
    assert!(many.unwrap_err().contains("at most 10"));
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A service whose n-th attempt, from 0, answers after `after(n)` with `answer(n)`. Counts all attempts, and those that are
/// running.
fn timed<T, A>(
    seen: &Arc<AtomicUsize>,
    running: &Arc<AtomicUsize>,
    after: T,
    answer: A,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Error, Future: Send> + Clone + use<T, A>
where
    T: Fn(usize) -> Duration + Clone + Send + 'static,
    A: Fn(usize) -> Result<Response<Body>, Error> + Clone + Send + 'static,
{
    let (seen, running) = (Arc::clone(seen), Arc::clone(running));
    service_fn(move |_: Request<Body>| {
        let nth = seen.fetch_add(1, Relaxed);
        running.fetch_add(1, Relaxed);
        let running = Running(Arc::clone(&running));
        let (after, answer) = (after(nth), answer.clone());
        async move {
            let _running = running;
            rt::sleep(after).await;
            answer(nth)
        }
    })
}

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A layer that may hedge every call after 50 ms, its share saved up.
async fn hedged(policy: RetryPolicy, hedge: HedgePolicy) -> RetryLayer {
    let layer = RetryLayer::hedged(policy, HedgePolicy { max_extra_load_percent: 99, ..hedge }).unwrap();
    let fast = layer.layer(service_fn(|_: Request<Body>| async { status(200) }));
    for _ in 0..10 {
        fast.clone().oneshot(get()).await.unwrap();
    }
    layer
}

#[tokio::test(start_paused = true)]
async fn whoever_answers_first_ends_the_others() {
    let layer = hedged(RetryPolicy::default(), HedgePolicy::after(MS(50))).await;
    for (first, second, took) in [(1000, 10, 60), (55, 10, 55), (40, 10, 40), (1000, 1000, 1000)] {
        let (seen, running) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let after = move |n| MS(if n == 0 { first } else { second });
        let begun = rt::now();
        let response = layer.layer(timed(&seen, &running, after, |_| status(200))).oneshot(get()).await;
        assert_eq!((response.unwrap().status().as_u16(), begun.elapsed()), (200, MS(took)));
        assert_eq!((seen.load(Relaxed), running.load(Relaxed)), (if first < 50 { 1 } else { 2 }, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_waits_for_the_other_attempt_and_lets_the_next_begin() {
    // The hedge fails, the first succeeds later.
    let layer = hedged(RetryPolicy::idempotent(), HedgePolicy::after(MS(50))).await;
    let (seen, running) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let answer = |n| if n == 0 { status(200) } else { status(503) };
    let service = layer.layer(timed(&seen, &running, |n| MS(if n == 0 { 200 } else { 10 }), answer));
    let begun = rt::now();
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
    assert_eq!((begun.elapsed(), seen.load(Relaxed)), (MS(200), 2));
    // The first fails while its hedge runs: a second hedge begins at once, and wins.
    let two = HedgePolicy { max_hedged_attempts: 2, ..HedgePolicy::after(MS(50)) };
    let layer = hedged(RetryPolicy { tree_allowance: 5, ..RetryPolicy::idempotent() }, two).await;
    let (seen, running) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let answer = |n| if n == 2 { status(200) } else { status(503) };
    let after = |n| MS([60, 500, 10][n]);
    let begun = rt::now();
    let response = layer.layer(timed(&seen, &running, after, answer)).oneshot(get()).await.unwrap();
    assert_eq!((response.status().as_u16(), begun.elapsed(), running.load(Relaxed)), (200, MS(70), 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_without_reason_or_right() {
    let hang = |_| Duration::from_secs(1);
    let attempts = |layer: RetryLayer, request: Request<Body>| async move {
        let (seen, running) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let _ = layer.layer(timed(&seen, &running, hang, |_| status(200))).oneshot(request).await;
        seen.load(Relaxed)
    };
    let after = HedgePolicy::after(MS(50));
    assert_eq!(attempts(hedged(RetryPolicy::default(), after).await, get()).await, 2);
    // The tree's allowance is used up.
    let poor = RetryPolicy { tree_allowance: 0, ..RetryPolicy::default() };
    assert_eq!(attempts(hedged(poor, after).await, get()).await, 1);
    // A POST, unless it says that twice is as good as once.
    let post = || Request::post("/").body(Body::from("x")).unwrap();
    assert_eq!(attempts(hedged(RetryPolicy::default(), after).await, post()).await, 1);
    let mut idempotent = post();
    idempotent.extensions_mut().insert(Call::new().idempotent(true));
    assert_eq!(attempts(hedged(RetryPolicy::default(), after).await, idempotent).await, 2);
    // An upload that is still on its way.
    let endless = tokio_stream::pending::<Result<Frame<Bytes>, Error>>();
    let request = Request::put("/").body(Body::new(StreamBody::new(endless))).unwrap();
    assert_eq!(attempts(hedged(RetryPolicy::default(), after).await, request).await, 1);
    // A server pushed back within the last second.
    let layer = hedged(RetryPolicy::default(), after).await;
    let busy = layer.layer(service_fn(|_: Request<Body>| async { with(503, &[("retry-after", "1")]) }));
    busy.oneshot(get()).await.unwrap();
    assert_eq!(attempts(layer.clone(), get()).await, 1);
    rt::sleep(Duration::from_secs(1)).await;
    assert_eq!(attempts(layer, get()).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_percentile_hedges_the_slowest_calls_within_its_share_and_follows_a_shift() {
    let layer = RetryLayer::hedged(RetryPolicy::default(), HedgePolicy::percentile(90.0)).unwrap();
    let (seen, running) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let usual = Arc::new(AtomicUsize::new(10));
    let scale = Arc::clone(&usual);
    // One of twenty attempts hangs for a second.
    let after = move |n: usize| MS(if n % 20 == 19 { 1000 } else { scale.load(Relaxed) as u64 });
    let service = layer.layer(timed(&seen, &running, after, |_| status(200)));
    let mut slow = Vec::new();
    for usual_ms in [10, 40] {
        usual.store(usual_ms, Relaxed);
        // A window of its own.
        rt::sleep(Duration::from_secs(120)).await;
        let (before, mut late) = (seen.load(Relaxed), 0);
        for n in 0..1_000 {
            let begun = rt::now();
            service.clone().oneshot(get()).await.unwrap();
            let took = begun.elapsed();
            // Hedged about when nine of ten are over.
            late += usize::from(n >= 100 && took > MS(usual_ms as u64 * 5 / 2));
        }
        let attempts = seen.load(Relaxed) - before;
        assert!(attempts <= 1_050 + 10, "{attempts} attempts of 1,000 calls: at most 5 % more");
        slow.push(late);
    }
    // What its share of 5 % does not bear is all that is late.
    assert!(slow.iter().all(|late| *late <= 15), "{slow:?}");
    assert_eq!(running.load(Relaxed), 0);
}
