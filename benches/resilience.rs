//! Five layers on the happy path, ours and those of `tower-resilience`: `cargo bench --bench resilience`.
//!
//! Timeout, retry, circuit breaker, rate limit and bulkhead around a service that answers at once, in one task; what the service takes by itself is taken off.
//! Beside `Instant::now()` of the same run, and with the allocations of a call. `-- --test` runs each briefly and checks
//! the allocations only; `tests/gates` does so too.

#![allow(clippy::disallowed_methods, reason = "a bench measures the clock that the rule forbids")]

#[path = "support/alloc.rs"]
mod alloc;
#[path = "support/five.rs"]
mod five;

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    process::ExitCode,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use sinew::Body;
use tower::{Layer, Service, ServiceExt};
use tower_resilience::{
    bulkhead::BulkheadLayer, circuitbreaker::CircuitBreakerLayer, ratelimiter::RateLimiterLayer, retry::RetryLayer,
    timelimiter::TimeLimiterLayer,
};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// With ours at most.
const BAR_NS: f64 = 250.0;

fn answer(_: Request<Bytes>) -> Ready<Result<Response<Bytes>, Infallible>> {
    ready(Ok(Response::new(Bytes::new())))
}

/// In the same order.
fn theirs() -> impl Service<Request<Bytes>, Response = Response<Bytes>, Error: std::fmt::Debug, Future: Future> + Clone
{
    let service = tower::service_fn(answer);
    let retry = RetryLayer::<Request<Bytes>, Response<Bytes>, Infallible>::builder();
    let service = retry.max_attempts(3).fixed_backoff(Duration::from_millis(25)).build().layer(service);
    let bulkhead = BulkheadLayer::builder().max_concurrent_calls(1_000).build().expect("within bounds");
    let service = bulkhead.layer(service);
    let breaker = CircuitBreakerLayer::builder().failure_rate_threshold(0.5).sliding_window_size(100);
    let service = breaker.build().expect("within bounds").layer(service);
    let rate = RateLimiterLayer::builder().limit_for_period(1_000_000_000).refresh_period(Duration::from_secs(1));
    let service = rate.build().expect("within bounds").layer(service);
    TimeLimiterLayer::builder().timeout_duration(Duration::from_secs(10)).build().layer(service)
}

/// One call after the other: the fastest of several runs, in nanoseconds, and the allocations of a call.
fn measure<S, R>(mut service: S, request: impl Fn() -> R, runs: usize, turns: u32) -> (f64, f64)
where
    S: Service<R, Error: std::fmt::Debug>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(tokio::task::unconstrained(async {
        let once = async |service: &mut S| {
            let ready = service.ready().await.expect("it is ready");
            drop(black_box(ready.call(request()).await.expect("it answers")));
        };
        for _ in 0..1_000 {
            once(&mut service).await;
        }
        alloc::count(true);
        let before = alloc::thread();
        for _ in 0..1_000 {
            once(&mut service).await;
        }
        let allocations = (alloc::thread() - before).allocations as f64 / 1_000.0;
        alloc::count(false);
        let mut fastest = f64::INFINITY;
        for _ in 0..runs {
            let begun = Instant::now();
            for _ in 0..turns {
                once(&mut service).await;
            }
            fastest = fastest.min(begun.elapsed().as_nanos() as f64 / f64::from(turns));
        }
        (fastest, allocations)
    }))
}

fn main() -> ExitCode {
    let test = std::env::args().any(|arg| arg == "--test") || !std::env::args().any(|arg| arg == "--bench");
    let (runs, turns) = if test { (1, 1_000) } else { (15, 100_000) };
    let begun = Instant::now();
    for _ in 0..turns {
        black_box(Instant::now());
    }
    let clock = begun.elapsed().as_nanos() as f64 / f64::from(turns);
    println!("Instant::now() {clock:.1} ns; the fastest of {runs} runs of {turns} calls");
    println!("{:<18} {:>10} {:>12} {:>8} {:>12}", "five layers of", "ns a call", "without it", "ratio", "allocations");
    let ours = || Request::new(Body::empty());
    let other = || Request::new(Bytes::new());
    let own = |(with, allocated): (f64, f64), (bare, bare_allocated): (f64, f64)| {
        (with - bare, bare, allocated - bare_allocated)
    };
    let rows = [
        (
            "sinew",
            own(measure(five::five(), ours, runs, turns), measure(tower::service_fn(five::bare), ours, runs, turns)),
        ),
        (
            "tower-resilience",
            own(measure(theirs(), other, runs, turns), measure(tower::service_fn(answer), other, runs, turns)),
        ),
    ];
    for (name, (ns, bare, allocations)) in &rows {
        println!("{name:<18} {ns:>10.1} {bare:>12.1} {:>8.2} {allocations:>12.2}", ns / clock);
    }
    let [(_, (ns, _, allocations)), _] = rows;
    if allocations > 0.0 {
        eprintln!("ours allocate");
        return ExitCode::FAILURE;
    }
    if !test && ns > BAR_NS {
        eprintln!("{ns:.1} ns, at most {BAR_NS} ns");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
