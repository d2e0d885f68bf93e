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
    block_on(async {
        call(&mut service, &request, 1_000).await;
        alloc::count(true);
        let before = alloc::thread();
        call(&mut service, &request, 1_000).await;
        let allocations = (alloc::thread() - before).allocations as f64 / 1_000.0;
        alloc::count(false);
        let mut fastest = f64::INFINITY;
        for _ in 0..runs {
            let begun = Instant::now();
            call(&mut service, &request, turns).await;
            fastest = fastest.min(begun.elapsed().as_nanos() as f64 / f64::from(turns));
        }
        (fastest, allocations)
    })
}

async fn call<S, R>(service: &mut S, request: &impl Fn() -> R, turns: u32)
where
    S: Service<R, Error: std::fmt::Debug>,
{
    for _ in 0..turns {
        let ready = service.ready().await.expect("it is ready");
        drop(black_box(ready.call(request()).await.expect("it answers")));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(tokio::task::unconstrained(future))
}

/// Has one of them run, by its name.
macro_rules! named {
    ($name:expr, |$service:ident| $run:expr) => {
        named!($name, |$service| $run, bare five timeout rate breaker bulkhead retry)
    };
    ($name:expr, |$service:ident| $run:expr, bare five $($layer:ident)+) => {
        match $name {
            "bare" => {
                let $service = tower::service_fn(five::bare);
                $run
            }
            "five" => {
                let $service = five::five();
                $run
            }
            $(stringify!($layer) => {
                let $service = five::$layer(tower::service_fn(five::bare));
                $run
            })+
            name => panic!("there is no {name}"),
        }
    };
}

/// Each alone, outermost first.
const LAYERS: [&str; 5] = ["timeout", "rate", "breaker", "bulkhead", "retry"];

fn ours() -> Request<Body> {
    Request::new(Body::empty())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, mode, name, turns, ..] = args.as_slice()
        && mode == "--turns-of"
    {
        let turns = turns.parse().expect("a number of calls");
        named!(name.as_str(), |service| {
            let mut service = service;
            block_on(call(&mut service, &ours, turns));
        });
        return ExitCode::SUCCESS;
    }
    let test = args.iter().any(|arg| arg == "--test") || !args.iter().any(|arg| arg == "--bench");
    let (runs, turns) = if test { (1, 1_000) } else { (15, 100_000) };
    let begun = Instant::now();
    for _ in 0..turns {
        black_box(Instant::now());
    }
    let clock = begun.elapsed().as_nanos() as f64 / f64::from(turns);
    println!("Instant::now() {clock:.1} ns; the fastest of {runs} runs of {turns} calls");
    println!("{:<18} {:>10} {:>12} {:>8} {:>12}", "five layers of", "ns a call", "without it", "ratio", "allocations");
    let row = |name: &str, (with, allocated): (f64, f64), (bare, bare_allocated): (f64, f64)| {
        let (ns, allocations) = (with - bare, allocated - bare_allocated);
        println!("{name:<18} {ns:>10.1} {bare:>12.1} {:>8.2} {allocations:>12.2}", ns / clock);
        (ns, allocations)
    };
    let bare = measure(tower::service_fn(five::bare), ours, runs, turns);
    let (ns, allocations) = row("sinew", measure(five::five(), ours, runs, turns), bare);
    let other = || Request::new(Bytes::new());
    let other_bare = measure(tower::service_fn(answer), other, runs, turns);
    row("tower-resilience", measure(theirs(), other, runs, turns), other_bare);
    println!("ours, one by one");
    for name in LAYERS {
        row(name, named!(name, |service| measure(service, ours, runs, turns)), bare);
    }
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
