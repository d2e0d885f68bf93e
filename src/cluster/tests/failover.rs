use super::*;
use crate::{
    balance::{Failover, FailoverKey, LocalityMode, LocalityPolicy, ZoneAware},
    enforcement::{Mode, Percent},
    health::Flag,
    model::{MeshSpec, Snapshot},
    name::Locality,
    rt::Rng,
};

/// `a0..` at priority 0, `b0..` at priority 1.
fn two_priorities(first: usize, second: usize) -> Vec<EndpointSpec> {
    let first = (0..first).map(|n| EndpointSpec::new(address(&format!("a{n}"))));
    let second = (0..second).map(|n| EndpointSpec::new(address(&format!("b{n}"))).priority(1));
    first.chain(second).collect()
}

fn placed(name: &str, zone: &str) -> EndpointSpec {
    EndpointSpec::new(address(name)).locality(Locality { zone: zone.into(), ..Locality::default() })
}

fn mesh(zone: &str) -> MeshSpec {
    let mut mesh = Snapshot::new(ServiceName::new("own").unwrap()).mesh;
    mesh.locality.zone = zone.into();
    mesh
}

/// Of 10,000 calls, how many go to endpoints whose names begin so.
fn share(bench: &Bench, prefix: &str) -> usize {
    Rng::seed_local(7);
    (0..10_000).filter(|_| bench.pick().is_ok_and(|name| name.starts_with(prefix))).count()
}

fn about(found: usize, expected: usize) -> bool {
    // More than four standard deviations of the most uncertain case.
    found.abs_diff(expected) < 220
}

async fn eject(bench: &Bench, names: impl IntoIterator<Item = String>) {
    for name in names {
        bench.cluster.mark(&bench.member(&name), Flag::HC_FAILED, true);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_first_priority_loses_spills_to_the_next() {
    let bench = Bench::of(two_priorities(100, 20), |_| {}).await;
    bench.connect_all().await;
    assert_eq!(share(&bench, "b"), 0);
    let mut out = 0;
    for (left, stays) in [(72, 100), (71, 99), (50, 70), (25, 35), (0, 0)] {
        eject(&bench, (out..100 - left).map(|n| format!("a{n}"))).await;
        out = 100 - left;
        let status = &bench.cluster.status().priorities;
        assert_eq!((status[0].load, status[1].load), (stays, 100 - stays), "{left} left");
        assert!(status.iter().all(|priority| !priority.panic), "{status:?}");
        let found = share(&bench, "a");
        assert!(about(found, stays as usize * 100), "{left} left: {found} of 10,000");
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_cannot_be_connected_to_count_as_lost() {
    let mut endpoints = two_priorities(1, 2);
    endpoints.push(EndpointSpec::new(address("down1")));
    let bench = Bench::of(endpoints, |_| {}).await;
    // One of two is 70 %.
    let found = share(&bench, "a");
    assert!(about(found, 7_000), "{found}");
}

#[tokio::test(start_paused = true)]
async fn a_switch_takes_everything_as_long_as_one_is_usable() {
    let bench = Bench::of(two_priorities(4, 2), |spec| spec.failover.failover = Failover::Switch).await;
    eject(&bench, (0..3).map(|n| format!("a{n}"))).await;
    assert_eq!(bench.picked(), ["a3"]);
    eject(&bench, ["a3".to_owned()]).await;
    assert_eq!(bench.picked(), ["b0", "b1"]);
    bench.cluster.mark(&bench.member("a1"), Flag::HC_FAILED, false);
    assert_eq!(bench.picked(), ["a1"]);
}

#[tokio::test(start_paused = true)]
async fn panic_is_of_one_priority_and_only_while_the_others_do_not_make_up_for_it() {
    let bench = Bench::of(two_priorities(10, 10), |_| {}).await;
    eject(&bench, (0..9).map(|n| format!("a{n}"))).await;
    assert!(!bench.picked().contains(&"a0".into()), "the second priority has enough");
    eject(&bench, (0..5).map(|n| format!("b{n}"))).await;
    let status = bench.cluster.status().priorities;
    assert_eq!((status[0].panic, status[1].panic), (true, false), "{status:?}");
    let picked = bench.picked();
    assert!(picked.contains(&"a0".into()) && !picked.contains(&"b0".into()), "{picked:?}");
}

#[tokio::test(start_paused = true)]
async fn instead_of_panic_calls_can_fail() {
    let bench = Bench::of(two_priorities(4, 0), |spec| spec.failover.fail_traffic_on_panic = true).await;
    eject(&bench, (0..2).map(|n| format!("a{n}"))).await;
    assert_eq!(bench.picked(), ["a2", "a3"]);
    eject(&bench, ["a2".to_owned()]).await;
    let error = bench.pick().unwrap_err();
    assert_eq!(error.code(), Code::NoHealthyEndpoint);
    assert!(error.to_string().contains("4 of 4 excluded"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn while_the_first_priority_connects_the_next_serves() {
    let mut endpoints = two_priorities(0, 1);
    endpoints.push(EndpointSpec::new(address("hang")));
    let bench = Bench::of(endpoints, |_| {}).await;
    assert_eq!(bench.picked(), ["b0"]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_agree_with_this_process_come_first() {
    let keys = ["region", "zone", "rack=r1"].map(|key| key.parse::<FailoverKey>().unwrap());
    let bench = Bench::of(vec![], |spec| spec.locality.failover_priority = keys.into()).await;
    let mut own = mesh("z1");
    own.locality.region = "eu".into();
    bench.cluster.home.set(&own);
    let at = |name: &str, region: &str, zone: &str, rack: &str| {
        let locality = Locality { region: region.into(), zone: zone.into(), ..Locality::default() };
        EndpointSpec::new(address(name)).locality(locality).labels([("rack".into(), rack.into())].into())
    };
    let endpoints = vec![
        at("far", "us", "z1", "r1"),
        at("region", "eu", "z2", "r1"),
        at("zone", "eu", "z1", "r2"),
        at("rack", "eu", "z1", "r1"),
        at("later", "eu", "z1", "r1").priority(1),
    ];
    bench.cluster.apply(EndpointUpdate::Reset { endpoints, kind: SetKind::Replicas });
    bench.settle().await;
    for name in ["rack", "zone", "region", "far", "later"] {
        assert_eq!(bench.picked(), [name]);
        bench.cluster.mark(&bench.member(name), Flag::HC_FAILED, true);
    }
    // Somewhere else another one is the nearest.
    for name in ["rack", "zone", "region", "far", "later"] {
        bench.cluster.mark(&bench.member(name), Flag::HC_FAILED, false);
    }
    own.locality.region = "us".into();
    assert!(bench.cluster.home.set(&own) && !bench.cluster.home.set(&own));
    bench.cluster.moved();
    assert_eq!(bench.picked(), ["far"]);
}

/// Endpoints 25/50/25 in three zones, this process in the first, its peers 40/40/20: the own service's cluster last.
async fn zoned(mode: LocalityMode) -> (Bench, Arc<Cluster>) {
    let zones = [("x", 25), ("y", 50), ("z", 25)];
    let endpoints =
        zones.iter().flat_map(|(zone, count)| (0..*count).map(move |n| placed(&format!("{zone}{n}"), zone)));
    let bench = Bench::of(endpoints.collect(), |spec| {
        spec.locality = LocalityPolicy { mode, ..LocalityPolicy::default() };
    })
    .await;
    let home = Arc::clone(&bench.cluster.home);
    home.set(&mesh("x"));
    let own = Arc::new(ServiceSpec::new(ServiceName::new("own").unwrap()));
    let own = Cluster::new(&own, &home, Arc::new(Everywhere), TaskSet::new(), &Registry::default());
    let peers = [("x", 4), ("y", 4), ("z", 2)];
    let peers = peers.iter().flat_map(|(zone, count)| (0..*count).map(move |n| placed(&format!("o{zone}{n}"), zone)));
    own.apply(EndpointUpdate::Reset { endpoints: peers.collect(), kind: SetKind::Replicas });
    bench.settle().await;
    (bench, own)
}

#[tokio::test(start_paused = true)]
async fn as_much_stays_in_the_zone_as_its_endpoints_bear() {
    let (bench, own) = zoned(LocalityMode::ZoneAware(ZoneAware::default())).await;
    let zones = &bench.cluster.status().priorities[0].zones;
    assert_eq!(
        zones.iter().map(|(zone, share)| (zone.as_str(), *share)).collect::<Vec<_>>(),
        [("x", 62.5), ("y", 25.0), ("z", 12.5)]
    );
    let found = ["x", "y", "z"].map(|zone| share(&bench, zone));
    assert!(about(found[0], 6_250) && about(found[1], 2_500) && about(found[2], 1_250), "{found:?}");
    // Half of the own zone is lost: 13 of 88 endpoints for 40 % of the callers.
    eject(&bench, (0..12).map(|n| format!("x{n}"))).await;
    let found = share(&bench, "x");
    assert!(about(found, 3_692), "{found}");
    // Nobody knows the peers any more.
    own.close();
    let found = share(&bench, "x");
    assert!(about(found, 10_000 * 13 / 88), "{found}");
}

#[tokio::test(start_paused = true)]
async fn all_stays_in_a_zone_with_endpoints_enough() {
    let (bench, _own) = zoned(LocalityMode::ZoneAware(ZoneAware::default())).await;
    bench.cluster.home.set(&mesh("y"));
    bench.cluster.moved();
    assert_eq!(share(&bench, "y"), 10_000);
    // Called at one that is not there, any is taken rather than none.
    eject(&bench, (0..50).map(|n| format!("y{n}"))).await;
    assert_eq!(share(&bench, "y"), 0);
    assert!(bench.pick().is_ok());
}

#[tokio::test(start_paused = true)]
async fn zones_have_weights() {
    let weights = [("x", 3), ("y", 1)].map(|(zone, weight)| (zone.into(), weight));
    let (bench, _own) = zoned(LocalityMode::Weighted(weights.into())).await;
    let found = ["x", "y", "z"].map(|zone| share(&bench, zone));
    assert!(about(found[0], 7_500) && about(found[1], 2_500) && found[2] == 0, "{found:?}");
    eject(&bench, (0..25).map(|n| format!("x{n}"))).await;
    assert_eq!(share(&bench, "y"), 10_000);
    eject(&bench, (0..50).map(|n| format!("y{n}"))).await;
    assert!(bench.cluster.status().priorities[0].panic, "25 of 100 are left");
}

#[tokio::test(start_paused = true)]
async fn a_large_set_is_counted_once_for_many_events() {
    let bench = Bench::of(two_priorities(600, 1), |_| {}).await;
    bench.connect_all().await;
    eject(&bench, (0..300).map(|n| format!("a{n}"))).await;
    assert_eq!(bench.cluster.status().priorities[0].load, 100, "not counted yet");
    assert_eq!(share(&bench, "a0"), 0, "but never picked");
    crate::rt::sleep(std::time::Duration::from_millis(1)).await;
    bench.settle().await;
    assert_eq!(bench.cluster.status().priorities[0].load, 70);
}

fn shadowed(bench: &Bench) -> u64 {
    bench.cluster.failovers_in_shadow.get()
}

#[tokio::test(start_paused = true)]
async fn without_failover_calls_stay_with_the_first_priority_and_its_own_panic() {
    let bench = Bench::of(two_priorities(4, 4), |spec| spec.failover.enforcement = Mode::Off).await;
    bench.connect_all().await;
    eject(&bench, ["a0".to_owned(), "a1".to_owned()]).await;
    assert_eq!(bench.picked(), ["a2", "a3"]);
    // One of four is fewer than half: with failover the second priority makes up for it, here nobody does.
    eject(&bench, ["a2".to_owned()]).await;
    assert_eq!(bench.picked(), ["a0", "a1", "a2", "a3"]);
    let status = bench.cluster.status().priorities;
    assert_eq!((status[0].load, status[0].panic, status[1].load), (100, true, 0));
    assert_eq!(shadowed(&bench), 0);
}

#[tokio::test(start_paused = true)]
async fn in_shadow_calls_stay_and_those_that_would_have_gone_elsewhere_are_counted() {
    let bench = Bench::of(two_priorities(4, 4), |spec| spec.failover.enforcement = Mode::Shadow).await;
    bench.connect_all().await;
    assert_eq!(share(&bench, "a"), 10_000);
    assert_eq!(shadowed(&bench), 0);
    // Two of four are 70 %.
    eject(&bench, ["a0".to_owned(), "a1".to_owned()]).await;
    assert_eq!(share(&bench, "a"), 10_000);
    assert!(about(shadowed(&bench) as usize, 3_000), "{}", shadowed(&bench));
    let status = bench.cluster.status().priorities;
    assert_eq!((status[0].load, status[1].load), (100, 0));
}

#[tokio::test(start_paused = true)]
async fn in_shadow_a_call_that_fails_where_another_priority_could_serve_it_is_counted() {
    let mut endpoints = two_priorities(0, 2);
    endpoints.push(EndpointSpec::new(address("down1")));
    let bench = Bench::of(endpoints, |spec| spec.failover.enforcement = Mode::Shadow).await;
    bench.connect_all().await;
    assert!(bench.pick().is_err());
    assert_eq!(shadowed(&bench), 1);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_calls_may_leave_the_first_priority() {
    let bench = Bench::of(two_priorities(4, 4), |spec| {
        spec.failover.percentage = Percent::of_millionths(250_000);
        spec.failover.failover = Failover::Switch;
    })
    .await;
    bench.connect_all().await;
    eject(&bench, (0..4).map(|n| format!("a{n}"))).await;
    // The others are served in panic.
    let (stayed, left) = (share(&bench, "a"), share(&bench, "b"));
    assert!(about(stayed, 7_500) && about(left, 2_500), "{stayed} {left}");
}
