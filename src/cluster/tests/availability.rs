use super::*;
use crate::health::Flag;

#[tokio::test(start_paused = true)]
async fn an_endpoint_with_something_against_it_is_passed_over() {
    let bench = Bench::new(&["a", "b", "c"]).await;
    assert_eq!(bench.picked(), ["a", "b", "c"]);
    for flag in [Flag::EJECTED, Flag::HC_FAILED, Flag::DRAINING] {
        assert!(bench.cluster.mark(&bench.member("b"), flag, true));
        assert_eq!(bench.picked(), ["a", "c"], "{flag:?}");
        assert!(bench.cluster.mark(&bench.member("b"), flag, false));
        assert_eq!(bench.picked(), ["a", "b", "c"], "{flag:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_three_the_last_usable_one_takes_all_and_without_it_the_doubted_serve() {
    let bench = Bench::new(&["a", "b", "c"]).await;
    bench.cluster.mark(&bench.member("a"), Flag::EJECTED, true);
    bench.cluster.mark(&bench.member("b"), Flag::HC_FAILED, true);
    assert_eq!(bench.picked(), ["c"]);
    bench.cluster.mark(&bench.member("c"), Flag::DRAINING, true);
    assert_eq!(bench.picked(), ["a", "b"], "never to one that is draining");
    bench.cluster.mark(&bench.member("a"), Flag::EJECTED, false);
    assert_eq!(bench.picked(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn from_four_on_less_than_half_is_panic() {
    let names = ["a", "b", "c", "d"];
    let bench = Bench::new(&names).await;
    for name in &names[..2] {
        bench.cluster.mark(&bench.member(name), Flag::EJECTED, true);
    }
    assert_eq!(bench.picked(), ["c", "d"]);
    bench.cluster.mark(&bench.member("c"), Flag::EJECTED, true);
    assert_eq!(bench.picked(), names);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_connected_to_counts_as_not_usable_and_is_never_admitted() {
    let bench = Bench::new(&["a", "b", "down1", "down2"]).await;
    assert_eq!(bench.picked(), ["a", "b"]);
    bench.cluster.mark(&bench.member("a"), Flag::EJECTED, true);
    assert_eq!(bench.picked(), ["a", "b"], "one of four is usable");
}

#[tokio::test(start_paused = true)]
async fn flags_outlive_a_new_table_and_end_with_the_endpoint() {
    let bench = Bench::new(&["a", "b", "c"]).await;
    bench.cluster.mark(&bench.member("b"), Flag::EJECTED, true);
    let names = ["a", "b", "c", "d"].map(|name| EndpointSpec::new(address(name)));
    bench.cluster.apply(EndpointUpdate::Upsert(names.into()));
    bench.settle().await;
    assert_eq!(bench.picked(), ["a", "c", "d"]);
    bench.cluster.apply(EndpointUpdate::Remove(vec![crate::model::EndpointId::new("memory:b")]));
    bench.cluster.apply(EndpointUpdate::Upsert(vec![EndpointSpec::new(address("b"))]));
    bench.settle().await;
    assert_eq!(bench.picked(), ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_with_nowhere_to_go_is_told_so() {
    let bench = Bench::new(&["a"]).await;
    bench.cluster.mark(&bench.member("a"), Flag::DRAINING, true);
    let error = bench.pick().unwrap_err();
    assert_eq!(error.code(), Code::NoHealthyEndpoint);
    assert!(error.to_string().contains("1 of 1 excluded"), "{error}");
}
