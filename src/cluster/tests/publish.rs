//! What a change of some endpoints of many costs.

use std::time::Duration;

use super::*;
use crate::rt;

const ENDPOINTS: usize = 10_000;

fn endpoint(index: usize, weight: u32) -> EndpointSpec {
    let mut spec = EndpointSpec::new(address(&format!("e{index}")));
    spec.weight = weight;
    spec.locality.zone = ["a", "b", "c"][index % 3].into();
    spec
}

/// Prints a figure, which only a release build has: `cargo test --release --lib -- --ignored --nocapture publishing`.
#[tokio::test]
#[ignore = "a figure, for release builds"]
async fn publishing_a_hundredth_of_ten_thousand_endpoints() {
    let all = (0..ENDPOINTS).map(|index| endpoint(index, 1)).collect();
    let bench = Bench::of(all, |_| {}).await;
    let mut took = Vec::new();
    for round in 0..100 {
        let changed = (0..ENDPOINTS / 100).map(|index| endpoint((index * 100 + round) % ENDPOINTS, 2)).collect();
        let begun = rt::now();
        bench.cluster.apply(EndpointUpdate::Upsert(changed));
        took.push(begun.elapsed());
        assert_eq!(bench.cluster.table.load().len(), ENDPOINTS);
    }
    took.sort_unstable();
    let micros = |took: Duration| took.as_secs_f64() * 1e6;
    println!(
        "{ENDPOINTS} endpoints in three zones, a hundredth changed, published in {:.0} µs (median), {:.0} to {:.0}",
        micros(took[50]),
        micros(took[0]),
        micros(took[99])
    );
}
