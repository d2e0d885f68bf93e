use std::time::Duration;

use super::*;
use crate::{
    balance::{BalancePolicy, SlowStartPolicy},
    health::Flag,
    rt::{self, Rng},
};

fn spec(name: &str) -> EndpointSpec {
    EndpointSpec::new(address(name))
}

/// Endpoints whose windows of a minute are over.
async fn settled(names: impl Iterator<Item = String>, policy: SlowStartPolicy) -> Bench {
    let bench = Bench::of(names.map(|name| spec(&name)).collect(), |spec| {
        spec.load_balancer = BalancePolicy::Random;
        spec.slow_start = policy;
    })
    .await;
    pass(&bench, 61).await;
    bench
}

fn old(n: usize) -> impl Iterator<Item = String> {
    (0..n).map(|n| format!("old{n}"))
}

fn minute() -> SlowStartPolicy {
    SlowStartPolicy { window: Duration::from_secs(60), ..SlowStartPolicy::default() }
}

/// Lets seconds pass while there are calls.
async fn pass(bench: &Bench, seconds: u64) {
    for _ in 0..seconds {
        bench.cluster.watch_calls();
        rt::sleep(Duration::from_secs(1)).await;
    }
    bench.settle().await;
}

/// Of 10,000 calls, how many go there.
fn share(bench: &Bench, name: &str) -> usize {
    Rng::seed_local(11);
    (0..10_000).filter(|_| bench.pick().is_ok_and(|picked| picked == name)).count()
}

fn assert_about(found: usize, weight: usize, of_others: usize) {
    let expected = 10_000 * weight / (weight + of_others);
    // Four standard deviations.
    let most = 4.0 * (expected as f64 * (1.0 - expected as f64 / 10_000.0)).sqrt();
    assert!((found.abs_diff(expected) as f64) < most.max(8.0), "{found}, expected {expected}");
}

async fn add(bench: &Bench, name: &str) {
    bench.cluster.apply(EndpointUpdate::Upsert(vec![spec(name)]));
    bench.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_has_ten_per_cent_of_its_share_at_first_and_all_of_it_after_the_window() {
    let bench = settled(old(9), minute()).await;
    assert_about(share(&bench, "old0"), 1, 8);
    add(&bench, "new").await;
    let percent = |bench: &Bench| {
        let status = bench.cluster.status();
        status.endpoints.iter().find(|endpoint| endpoint.id.ends_with("new")).unwrap().slow_start_percent
    };
    assert_about(share(&bench, "new"), 10, 900);
    for (seconds, weight) in [(3, 10), (27, 50), (15, 75)] {
        pass(&bench, seconds).await;
        assert!(percent(&bench).unwrap().abs_diff(weight) <= 1, "{:?}", percent(&bench));
        assert_about(share(&bench, "new"), weight as usize, 900);
    }
    pass(&bench, 16).await;
    assert_eq!(percent(&bench), None);
    assert_about(share(&bench, "new"), 100, 900);
}

#[tokio::test(start_paused = true)]
async fn weights_and_slow_start_multiply() {
    let bench = settled(old(3), minute()).await;
    bench.cluster.apply(EndpointUpdate::Upsert(vec![spec("new").weight(4)]));
    bench.settle().await;
    assert_about(share(&bench, "new"), 40, 300);
    pass(&bench, 61).await;
    assert_about(share(&bench, "new"), 400, 300);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_begins_anew() {
    let bench = settled(old(10), minute()).await;
    let mark = |flag, holds| bench.cluster.mark(&bench.member("old0"), flag, holds);
    for flag in [Flag::HC_FAILED, Flag::EJECTED] {
        mark(flag, true);
        bench.settle().await;
        assert_eq!(share(&bench, "old0"), 0);
        mark(flag, false);
        bench.settle().await;
        assert_about(share(&bench, "old0"), 10, 900);
        pass(&bench, 61).await;
        assert_about(share(&bench, "old0"), 100, 900);
    }
    // One of two reasons is gone, the other is not.
    mark(Flag::HC_FAILED, true);
    mark(Flag::EJECTED, true);
    mark(Flag::HC_FAILED, false);
    assert_eq!(bench.member("old0").warmth.percent(rt::now().elapsed(), &minute()), None);
}

#[tokio::test(start_paused = true)]
async fn sets_of_less_than_four_and_endpoints_that_are_all_new_share_alike() {
    let bench = settled(old(2), minute()).await;
    add(&bench, "new").await;
    assert_about(share(&bench, "new"), 1, 2);
    assert!(bench.cluster.status().endpoints.iter().all(|endpoint| endpoint.slow_start_percent.is_none()));
    // The fourth makes newcomers of both.
    add(&bench, "newer").await;
    assert_about(share(&bench, "new"), 10, 210);
    assert_about(share(&bench, "newer"), 10, 210);

    let names = ["a", "b", "c", "d"];
    let bench = Bench::of(names.map(spec).into(), |spec| spec.load_balancer = BalancePolicy::Random).await;
    for name in names {
        assert_about(share(&bench, name), 1, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn off_is_the_whole_share_at_once_also_for_those_that_had_begun() {
    let bench = settled(old(9), SlowStartPolicy::off()).await;
    add(&bench, "new").await;
    assert_about(share(&bench, "new"), 1, 9);

    let bench = settled(old(9), minute()).await;
    add(&bench, "new").await;
    assert_about(share(&bench, "new"), 10, 900);
    let mut spec = (**bench.cluster.policy.load()).clone();
    spec.slow_start = SlowStartPolicy::off();
    bench.cluster.update(&Arc::new(spec), None);
    assert_about(share(&bench, "new"), 1, 9);
}

#[tokio::test(start_paused = true)]
async fn one_per_cent_of_a_share_among_130_is_something() {
    let policy = SlowStartPolicy { min_weight_percent: 1, ..minute() };
    let bench = settled(old(130), policy).await;
    bench.connect_all().await;
    pass(&bench, 61).await;
    add(&bench, "new").await;
    bench.connect_all().await;
    Rng::seed_local(3);
    let calls = (0..200_000).filter(|_| bench.pick().is_ok_and(|picked| picked == "new")).count();
    assert!((5..40).contains(&calls), "{calls} of 200,000, of which 15 are its share");
}

#[tokio::test(start_paused = true)]
async fn an_idle_newcomer_is_not_flooded_by_least_request() {
    let bench = Bench::of(old(9).map(|name| spec(&name)).collect(), |spec| spec.slow_start = minute()).await;
    pass(&bench, 61).await;
    // Three calls run on each.
    let held: Vec<_> = old(9).flat_map(|name| (0..3).map(move |_| name.clone())).collect();
    let held: Vec<_> = held.iter().map(|name| bench.member(name).acquire()).collect();
    add(&bench, "new").await;
    let found = share(&bench, "new");
    assert!(
        (60..300).contains(&found),
        "{found} of 10,000; a hundredth is its share, a fifth it would be by load alone"
    );
    pass(&bench, 61).await;
    let found = share(&bench, "new");
    assert!(found > 1_500, "{found}: by load, from now on");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_connects_anew_makes_nobody_new() {
    let bench = settled(old(9), minute()).await;
    add(&bench, "new").await;
    let mut spec = (**bench.cluster.policy.load()).clone();
    spec.timeouts.connect = Duration::from_secs(1);
    bench.cluster.update(&Arc::new(spec), None);
    bench.settle().await;
    bench.connect_all().await;
    assert_about(share(&bench, "new"), 10, 900);
    assert_about(share(&bench, "old0"), 100, 810);
}
