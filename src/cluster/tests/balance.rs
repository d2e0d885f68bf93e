//! Who gets how much while endpoints fail: seeded arrivals on paused time, for as many seconds as it takes to tell.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    cluster::wait::Chosen,
    enforcement::Mode,
    health::Sample,
    rt::{self, Rng},
};

/// What one endpoint saw.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    calls: u32,
    failures: u32,
}

/// Calls at `rate` a second for `seconds`, at random times; an endpoint answers one after what `behave` says.
async fn simulate(
    bench: &Bench,
    seed: u64,
    rate: u32,
    seconds: u64,
    mut behave: impl FnMut(&str, &mut Rng) -> (Duration, Sample),
) -> BTreeMap<String, Seen> {
    Rng::seed_local(seed);
    let mut rng = Rng::seeded(seed);
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let (mut next, end) = (rt::now(), rt::now() + Duration::from_secs(seconds));
    while next < end {
        rt::sleep_until(next).await;
        let even = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        next += Duration::from_secs_f64(-(1.0 - even).ln() / f64::from(rate));
        let ask = Ask { repeatable: true, ..Ask::of(None, Want::Any) };
        bench.cluster.watch_calls();
        let Ready::Go(Chosen { picked, slot, probe, .. }) = bench.cluster.try_ready(ask) else { continue };
        let name = picked.id.strip_prefix("memory:").unwrap().to_owned();
        let (takes, sample) = behave(&name, &mut rng);
        let count = seen.entry(name).or_default();
        count.calls += 1;
        count.failures += u32::from(sample.is_failure());
        let (cluster, started, sent) = (bench.cluster.clone(), rt::now(), bench.cluster.watch.ages.now());
        picked.unanswered.sent(sent);
        tokio::spawn(async move {
            rt::sleep(takes).await;
            picked.unanswered.over(sent);
            if let Some(probe) = probe {
                probe.found(sample);
            }
            cluster.observed(&picked, sample, started);
            drop((slot, picked));
        });
    }
    seen
}

fn share(seen: &BTreeMap<String, Seen>, name: &str) -> f64 {
    let all: u32 = seen.values().map(|seen| seen.calls).sum();
    f64::from(seen.get(name).map_or(0, |seen| seen.calls)) / f64::from(all)
}

/// One of three answers at once, and a share of its answers are failures; the others take 100 ms.
async fn fast_failing(share_of_failures: u32, rate: u32, outliers: Mode) -> f64 {
    let endpoints = ["bad", "b", "c"].map(|name| EndpointSpec::new(address(name))).into();
    let bench = Bench::of(endpoints, |spec| spec.outlier_detection.enforcement = outliers).await;
    let seen = simulate(&bench, 7, rate, 60, |name, rng| match name {
        "bad" if rng.below(100) < share_of_failures => (Duration::from_millis(1), Sample::Gateway),
        "bad" => (Duration::from_millis(100), Sample::Success),
        _ => (Duration::from_millis(100), Sample::Success),
    })
    .await;
    share(&seen, "bad")
}

#[tokio::test(start_paused = true)]
async fn a_host_that_fails_fast_gets_next_to_nothing() {
    for (failing, most) in [(100, 0.02), (50, 0.20), (20, 0.334)] {
        for rate in [20, 500] {
            let share = fast_failing(failing, rate, Mode::Enforce).await;
            assert!(share <= most, "{failing} % failing at {rate}/s: {share:.4} of the calls");
        }
    }
}

/// What balancing does by itself, by the cost of failures. Two thirds, were it to look at load alone.
#[tokio::test(start_paused = true)]
async fn without_ejection_a_host_that_fails_fast_still_gets_little() {
    for (failing, rate, most) in [(100, 500, 0.02), (50, 500, 0.20), (20, 500, 0.334), (100, 20, 0.10), (50, 20, 0.20)]
    {
        let share = fast_failing(failing, rate, Mode::Off).await;
        assert!(share <= most, "{failing} % failing at {rate}/s: {share:.4} of the calls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stray_error_starves_nobody() {
    let bench = Bench::new(&["a", "b", "c"]).await;
    let answer = |_: &str, _: &mut Rng| (Duration::from_millis(10), Sample::Success);
    simulate(&bench, 1, 20, 10, answer).await;
    bench.cluster.observed(&bench.member("a"), Sample::Gateway, rt::now());
    let seen = simulate(&bench, 2, 20, 10, answer).await;
    assert!(share(&seen, "a") >= 0.25, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn errors_that_all_have_alike_move_no_calls() {
    for per_cent in [1, 10] {
        let bench = Bench::new(&["a", "b", "c"]).await;
        let seen = simulate(&bench, 3, 300, 60, |_, rng| {
            let failed = rng.below(100) < per_cent;
            (Duration::from_millis(20), if failed { Sample::Server } else { Sample::Success })
        })
        .await;
        for name in ["a", "b", "c"] {
            assert!((0.28..0.39).contains(&share(&seen, name)), "{per_cent} %: {seen:?}");
        }
    }
}

/// One of three takes 300 ms, and all of them fail now and then. By what is in flight alone it gets as much less as it is
/// slower: a twenty-first beside hosts of 30 ms, a seventh beside hosts of 100.
#[tokio::test(start_paused = true)]
async fn a_slow_host_gets_little_although_all_fail_now_and_then() {
    for (others, most) in [(30, 0.08), (100, 0.16)] {
        for mode in [Mode::Enforce, Mode::Off] {
            let endpoints = ["slow", "b", "c"].map(|name| EndpointSpec::new(address(name))).into();
            let bench = Bench::of(endpoints, |spec| spec.outlier_detection.enforcement = mode).await;
            let seen = simulate(&bench, 5, 500, 60, |name, rng| {
                let failed = rng.below(100) == 0;
                let takes = Duration::from_millis(if name == "slow" { 300 } else { others });
                (takes, if failed { Sample::Gateway } else { Sample::Success })
            })
            .await;
            let share = share(&seen, "slow");
            assert!(share <= most, "{mode:?}, beside {others} ms: {share:.4} of the calls");
        }
    }
}

/// A host does five calls at a time, 100 a second, and refuses the others at once.
async fn overloaded(load: u32, marked: bool, limit: usize, mode: Mode) -> f64 {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let endpoints = names.map(|name| EndpointSpec::new(address(name))).into();
    let bench = Bench::of(endpoints, |spec| spec.outlier_detection.enforcement = mode).await;
    let mut busy: BTreeMap<String, Vec<rt::Instant>> = BTreeMap::new();
    let seconds = 60;
    let seen = simulate(&bench, 5, load * 10, seconds, |name, _| {
        let now = rt::now();
        let calls = busy.entry(name.to_owned()).or_default();
        calls.retain(|until| *until > now);
        if calls.len() < limit {
            let takes = Duration::from_millis(10 * limit as u64);
            calls.push(now + takes);
            (takes, Sample::Success)
        } else {
            (Duration::from_millis(1), if marked { Sample::Shed } else { Sample::Gateway })
        }
    })
    .await;
    let good: u32 = seen.values().map(|seen| seen.calls - seen.failures).sum();
    f64::from(good) / (1_000.0 * seconds as f64)
}

/// Refusals that say that they are, and refusals that look like failures.
#[tokio::test(start_paused = true)]
async fn ten_hosts_that_shed_at_110_per_cent_do_nine_tenths_of_what_they_can() {
    for (limit, marked, load) in
        [(20, false, 110), (20, true, 110), (50, false, 110), (50, true, 110), (20, false, 130), (50, false, 200)]
    {
        let goodput = overloaded(load, marked, limit, Mode::Enforce).await;
        let what = format!("{limit} at a time, marked {marked}, load {load} %");
        assert!(goodput >= 0.90, "{what}: {goodput:.3} of what they could do");
    }
}
