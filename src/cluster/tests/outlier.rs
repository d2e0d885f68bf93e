use std::time::Duration;

use super::*;
use crate::{
    cluster::wait::Chosen,
    enforcement::Mode,
    health::{Flag, OutlierPolicy, Sample},
    rt,
};

fn choose(bench: &Bench, repeatable: bool) -> Chosen {
    let ask = Ask { repeatable, ..Ask::of(None, Want::Any) };
    match bench.cluster.try_ready(ask) {
        Ready::Go(chosen) => chosen,
        _ => panic!("nothing to choose"),
    }
}

impl Bench {
    fn feed(&self, name: &str, sample: Sample, times: usize) {
        for _ in 0..times {
            self.cluster.observed(&self.member(name), sample, rt::now());
        }
    }

    /// The service usually answers within 10 ms.
    fn usual(&self) {
        self.cluster.watch.latency.add(Duration::from_millis(10), 200);
    }

    fn has(&self, name: &str, flag: Flag) -> bool {
        self.member(name).availability.has(flag)
    }

    async fn reload(&self, with: impl FnOnce(&mut OutlierPolicy)) {
        let mut spec = (**self.cluster.policy.load()).clone();
        with(&mut spec.outlier_detection);
        self.cluster.update(&Arc::new(spec), None);
        self.settle().await;
    }
}

async fn bench(names: &[&str]) -> Bench {
    let endpoints = names.iter().map(|name| EndpointSpec::new(address(name))).collect();
    Bench::of(endpoints, |spec| spec.outlier_detection.max_ejection_time_jitter = Duration::ZERO).await
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_five_times_is_out_for_thirty_seconds_and_comes_back_by_one_call() {
    let bench = bench(&["a", "b", "c"]).await;
    bench.feed("b", Sample::Gateway, 4);
    bench.feed("b", Sample::Success, 1);
    bench.feed("b", Sample::Gateway, 4);
    assert!(!bench.has("b", Flag::EJECTED));
    bench.feed("b", Sample::Gateway, 1);
    assert_eq!(bench.picked(), ["a", "c"]);
    rt::sleep(Duration::from_millis(29_900)).await;
    assert_eq!(bench.picked(), ["a", "c"]);
    rt::sleep(Duration::from_millis(200)).await;
    assert!(bench.has("b", Flag::PROBATION) && !bench.has("b", Flag::EJECTED));
    let probe = loop {
        let Chosen { picked, probe, .. } = choose(&bench, true);
        match probe {
            Some(probe) => break probe,
            None => assert_ne!(&*picked.id, "memory:b"),
        }
    };
    assert_eq!(bench.picked(), ["a", "c"], "one call at a time");
    probe.found(Sample::Success);
    assert_eq!(bench.picked(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_takes_it_out_for_longer_and_a_dropped_one_makes_room() {
    let bench = bench(&["a", "b", "c"]).await;
    bench.feed("b", Sample::Local, 5);
    rt::sleep(Duration::from_secs(31)).await;
    let probe = |bench: &Bench| loop {
        if let Some(probe) = choose(bench, true).probe {
            return probe;
        }
    };
    drop(probe(&bench));
    probe(&bench).found(Sample::Gateway);
    rt::sleep(Duration::from_secs(59)).await;
    assert!(bench.has("b", Flag::EJECTED));
    rt::sleep(Duration::from_secs(2)).await;
    let hung = probe(&bench);
    rt::sleep(Duration::from_secs(6)).await;
    assert!(bench.has("b", Flag::EJECTED), "a probe that hangs has failed");
    drop(hung);
    assert!(bench.has("b", Flag::EJECTED));
}

#[tokio::test(start_paused = true)]
async fn exactly_one_of_many_concurrent_calls_is_the_probe() {
    let bench = bench(&["a", "b"]).await;
    bench.feed("b", Sample::Gateway, 5);
    rt::sleep(Duration::from_secs(31)).await;
    let chosen: Vec<_> = std::thread::scope(|scope| {
        let thread = |_| scope.spawn(|| (0..50).map(|_| choose(&bench, true)).collect::<Vec<_>>());
        let threads: Vec<_> = (0..4).map(thread).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(chosen.iter().filter(|chosen| &*chosen.picked.id == "memory:b").count(), 1);
    assert_eq!(chosen.iter().filter(|chosen| chosen.probe.is_some()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_three_that_all_fail_one_is_out_and_of_two_one() {
    for names in [&["a", "b", "c"][..], &["a", "b"]] {
        let bench = bench(names).await;
        for _ in 0..50 {
            for name in names {
                bench.feed(name, Sample::Gateway, 1);
            }
        }
        assert_eq!(bench.picked().len(), names.len() - 1);
    }
    let alone = bench(&["a"]).await;
    alone.feed("a", Sample::Gateway, 50);
    assert_eq!(alone.picked(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn each_priority_is_counted_by_itself() {
    let spec = |name: &str, priority| EndpointSpec::new(address(name)).priority(priority);
    let endpoints = vec![spec("a", 0), spec("b", 0), spec("x", 1), spec("y", 1), spec("z", 1)];
    let bench = Bench::of(endpoints, |_| {}).await;
    for name in ["a", "b", "x"] {
        bench.feed(name, Sample::Gateway, 5);
    }
    assert!(bench.has("a", Flag::EJECTED) && bench.has("x", Flag::EJECTED));
    assert_eq!(bench.picked(), ["b", "y", "z"], "the first priority is not emptied, and hands on what it lost");
}

#[tokio::test(start_paused = true)]
async fn a_virtual_ip_is_never_ejected() {
    let bench = bench(&[]).await;
    let endpoints = ["a", "b", "c"].map(|name| EndpointSpec::new(address(name))).into();
    bench.cluster.apply(EndpointUpdate::Reset { endpoints, kind: SetKind::Vip });
    bench.settle().await;
    bench.feed("a", Sample::Local, 500);
    assert!(!bench.has("a", Flag::EJECTED));
}

#[tokio::test(start_paused = true)]
async fn in_shadow_nothing_is_done_but_counted() {
    let bench = bench(&["a", "b", "c"]).await;
    bench.reload(|policy| policy.enforcement = Mode::Shadow).await;
    bench.feed("a", Sample::Gateway, 5);
    assert!(bench.member("a").availability.is_clear());
    let labels = [("service", "target"), ("cause", "consecutive_gateway_failure"), ("result", "shadow")];
    assert_eq!(bench.cluster.registry.counter("sinew_outliers_total", &labels).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_lets_everybody_back() {
    let bench = bench(&["a", "b", "c"]).await;
    bench.feed("a", Sample::Gateway, 5);
    assert_eq!(bench.picked(), ["b", "c"]);
    bench.reload(|policy| policy.enforcement = Mode::Off).await;
    assert_eq!(bench.picked(), ["a", "b", "c"]);
    bench.feed("a", Sample::Gateway, 50);
    assert!(bench.member("a").availability.is_clear());
}

#[tokio::test(start_paused = true)]
async fn an_ejection_outlives_new_connections_and_what_it_is_for_is_said() {
    let bench = bench(&["a", "b", "c"]).await;
    bench.feed("a", Sample::Gateway, 5);
    let mut spec = (**bench.cluster.policy.load()).clone();
    spec.timeouts.connect = Duration::from_secs(1);
    bench.cluster.update(&Arc::new(spec), None);
    bench.settle().await;
    assert_eq!(bench.picked(), ["b", "c"]);
    rt::sleep(Duration::from_secs(12)).await;
    let account = bench.member("a").account(rt::now()).unwrap();
    assert_eq!(account, "`memory:a` ejected 12.0s ago by `consecutive_gateway_failure`, for 18.0s more");
    rt::sleep(Duration::from_secs(20)).await;
    assert!(bench.has("a", Flag::PROBATION));
}

#[tokio::test(start_paused = true)]
async fn rates_are_compared_each_interval_while_there_are_calls() {
    let bench = bench(&["a", "b", "c"]).await;
    let begun = rt::now();
    bench.cluster.watch_calls();
    let mut served = 0;
    while !bench.has("a", Flag::EJECTED) {
        for name in ["a", "b", "c"] {
            // A third of its calls, never two in a row.
            let sample = if name == "a" && served % 3 == 0 { Sample::Server } else { Sample::Success };
            bench.feed(name, sample, 1);
        }
        served += 1;
        rt::sleep(Duration::from_millis(50)).await;
        assert!(served < 1_000, "never ejected");
    }
    let after = begun.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_millis(10_300)).contains(&after), "{after:?}");
    assert_eq!(bench.picked(), ["b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn calls_without_an_answer_are_judged_by_their_age_and_once() {
    let bench = bench(&["a", "b", "c"]).await;
    bench.usual();
    bench.cluster.watch_calls();
    rt::sleep(Duration::from_millis(150)).await;
    for name in ["b", "c"] {
        bench.feed(name, Sample::Success, 20);
    }
    let (member, sent) = (bench.member("a"), bench.cluster.watch.ages.now());
    for _ in 0..4 {
        member.unanswered.sent(sent);
    }
    rt::sleep(Duration::from_secs(5)).await;
    assert!(!bench.has("a", Flag::EJECTED), "four are too few, and counted once");
    member.unanswered.sent(bench.cluster.watch.ages.now());
    rt::sleep(Duration::from_millis(900)).await;
    assert!(!bench.has("a", Flag::EJECTED));
    rt::sleep(Duration::from_millis(400)).await;
    assert!(bench.has("a", Flag::EJECTED));
    assert!(bench.member("a").account(rt::now()).unwrap().contains("`unanswered`"));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_ejected_for_silence_while_the_others_are_silent_too() {
    let bench = bench(&["a", "b", "c"]).await;
    bench.cluster.watch_calls();
    rt::sleep(Duration::from_millis(150)).await;
    for _ in 0..10 {
        for name in ["a", "b", "c"] {
            bench.member(name).unanswered.sent(bench.cluster.watch.ages.now());
        }
        rt::sleep(Duration::from_millis(300)).await;
    }
    rt::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.picked(), ["a", "b", "c"]);
    // Where everything takes long, long is usual.
    assert!(bench.cluster.watch.unanswered_after() >= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn what_callers_give_up_counts_if_it_was_old_enough() {
    for (age, ejected) in [(900, false), (1_000, true)] {
        let bench = bench(&["a", "b", "c"]).await;
        bench.usual();
        bench.cluster.watch_calls();
        rt::sleep(Duration::from_millis(150)).await;
        bench.feed("b", Sample::Success, 20);
        bench.feed("c", Sample::Success, 20);
        for _ in 0..5 {
            let (started, sent) = (rt::now(), bench.cluster.watch.ages.now());
            rt::sleep(Duration::from_millis(age)).await;
            bench.cluster.given_up(&bench.member("a"), started, sent);
        }
        assert_eq!(bench.has("a", Flag::EJECTED), ejected, "{age} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stall_of_this_process_looks_like_is_held_against_nobody() {
    let bench = bench(&["a", "b", "c"]).await;
    bench.usual();
    bench.cluster.watch_calls();
    rt::sleep(Duration::from_millis(150)).await;
    bench.feed("b", Sample::Success, 20);
    bench.feed("c", Sample::Success, 20);
    let (started, sent) = (rt::now(), bench.cluster.watch.ages.now());
    for _ in 0..10 {
        bench.member("a").unanswered.sent(sent);
    }
    tokio::time::advance(Duration::from_millis(1_500)).await;
    for _ in 0..5 {
        bench.cluster.given_up(&bench.member("a"), started, sent);
        bench.cluster.observed(&bench.member("a"), Sample::Local, started);
    }
    rt::sleep(Duration::from_secs(2)).await;
    assert!(!bench.has("a", Flag::EJECTED));
    // And afterwards it is judged as ever.
    bench.feed("a", Sample::Local, 5);
    assert!(bench.has("a", Flag::EJECTED));
}

#[tokio::test(start_paused = true)]
async fn nobody_watches_while_there_are_no_calls() {
    let bench = bench(&["a", "b", "c"]).await;
    rt::sleep(Duration::from_secs(15)).await;
    let idle = bench.cluster.tasks.len();
    bench.cluster.watch_calls();
    assert!(bench.cluster.tasks.len() > idle);
    rt::sleep(Duration::from_secs(15)).await;
    assert_eq!(bench.cluster.tasks.len(), idle);
    let one = Bench::new(&["a"]).await;
    let idle = one.cluster.tasks.len();
    one.cluster.watch_calls();
    assert_eq!(one.cluster.tasks.len(), idle, "one endpoint is compared with nobody");
}
