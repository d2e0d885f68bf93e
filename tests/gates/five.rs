//! The five layers of resilience on the happy path.

use tower::{Service, ServiceExt};

use super::alloc;

#[path = "../../benches/support/five.rs"]
mod layers;

/// Nothing is kept, boxed or counted on the heap while all goes well.
#[test]
fn timeout_retry_breaker_rate_limit_and_bulkhead_allocate_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut service = layers::five();
    let mut bare = tower::service_fn(layers::bare);
    runtime.block_on(async {
        let request = || http::Request::new(sinew::Body::empty());
        let mut counted = Vec::new();
        alloc::count(true);
        for _ in 0..2 {
            let before = alloc::thread();
            for _ in 0..1_000 {
                drop(bare.ready().await.expect("ready").call(request()).await.expect("an answer"));
            }
            let between = alloc::thread();
            for _ in 0..1_000 {
                drop(service.ready().await.expect("ready").call(request()).await.expect("an answer"));
            }
            let (bare, five) = (between - before, alloc::thread() - between);
            counted.push((bare.allocations, five.allocations));
        }
        println!("allocations of 1,000 calls, bare and through the five: {counted:?}");
        let (bare, five) = counted[1];
        assert!(five <= bare, "{five} allocations in 1,000 calls, {bare} without the layers");
    });
}
