use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const SEC: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn found(ips: &[&str], ttl: u64) -> Answer<IpAddr> {
    Answer::Found { records: ips.iter().map(|text| ip(text)).collect(), ttl: SEC * ttl as u32 }
}

fn nodata() -> Answer<IpAddr> {
    Answer::Nothing { rcode: "NODATA", ttl: None }
}

fn failed() -> Answer<IpAddr> {
    Answer::Failed("SERVFAIL".into())
}

fn round(v4: Answer<IpAddr>, v6: Answer<IpAddr>) -> Round {
    Round { targets: None, hosts: vec![("".into(), HostAnswer { v4, v6 })] }
}

fn ids(engine: &mut Engine, now: Instant) -> Vec<String> {
    let mut ids: Vec<_> = engine.view(now).unwrap().endpoints.iter().map(|spec| spec.id.to_string()).collect();
    ids.sort();
    ids
}

fn engine() -> (Engine, Instant) {
    let start = crate::rt::now();
    (Engine::new(Some(80), start), start)
}

#[test]
fn nothing_is_known_before_the_first_good_answer() {
    let (mut engine, t) = engine();
    assert_eq!(engine.view(t), None);
    for bad in [nodata(), failed(), Answer::Nothing { rcode: "NXDOMAIN", ttl: None }] {
        engine.apply(t, round(bad.clone(), bad));
        assert_eq!(engine.view(t), None);
        assert!(engine.problem().is_some());
    }
}

#[test]
fn the_next_round_is_due_by_ttl_within_floor_and_cap() {
    let negative = |ttl| Answer::Nothing { rcode: "NXDOMAIN", ttl: Some(SEC * ttl) };
    for (v4, v6, due) in [
        (found(&["10.0.0.1"], 0), nodata(), 5),
        (found(&["10.0.0.1"], 20), nodata(), 20),
        (found(&["10.0.0.1"], 20), found(&["::1"], 10), 10),
        (found(&["10.0.0.1"], 1_000_000), nodata(), 3600),
        (found(&["10.0.0.1"], 20), failed(), 5),
        (failed(), failed(), 5),
        (nodata(), nodata(), 5),
        (negative(30), negative(20), 20),
        (negative(3600), negative(3600), 60),
    ] {
        let (mut engine, t) = engine();
        engine.apply(t, round(v4.clone(), v6.clone()));
        assert_eq!(engine.due() - t, SEC * due, "{v4:?} {v6:?}");
    }
}

#[test]
fn an_absent_address_stops_within_max_of_ttl_and_30_s_of_its_withdrawal() {
    // Asked by TTL from 0; withdrawn right after it was last seen, the earliest moment: the strictest case.
    for (ttl, gone_at) in [(1, 30), (5, 30), (20, 30), (29, 30), (30, 30), (100, 100)] {
        let (mut engine, start) = engine();
        engine.apply(start, round(found(&["10.0.0.1", "10.0.0.2"], ttl), nodata()));
        let mut t = start;
        let mut changes = Vec::new();
        while t < start + SEC * 400 {
            if t >= engine.due() {
                engine.apply(t, round(found(&["10.0.0.1"], ttl), nodata()));
            }
            if ids(&mut engine, t).len() == 1 {
                changes.push((t - start).as_secs());
                break;
            }
            t = engine.next_expiry().map_or(engine.due(), |expiry| expiry.min(engine.due()));
        }
        assert_eq!(changes, [gone_at], "TTL {ttl}");
    }
}

#[test]
fn an_address_that_comes_back_in_time_is_never_gone() {
    let (mut engine, t) = engine();
    engine.apply(t, round(found(&["10.0.0.1", "10.0.0.2"], 5), nodata()));
    engine.apply(t + SEC * 20, round(found(&["10.0.0.1"], 5), nodata()));
    engine.apply(t + SEC * 29, round(found(&["10.0.0.2"], 5), nodata()));
    assert_eq!(ids(&mut engine, t + SEC * 40), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(ids(&mut engine, t + SEC * 50), ["10.0.0.2:80"]);
}

#[test]
fn failures_and_negative_answers_keep_the_last_good_for_ever() {
    for bad in [nodata(), failed(), Answer::Nothing { rcode: "NXDOMAIN", ttl: None }] {
        let (mut engine, t) = engine();
        engine.apply(t, round(found(&["10.0.0.1", "10.0.0.2"], 5), nodata()));
        assert_eq!(engine.problem(), None);
        engine.apply(t + SEC * 5, round(bad.clone(), bad));
        assert_eq!(ids(&mut engine, t + SEC * 100_000).len(), 2);
        assert!(engine.problem().is_some());
        engine.apply(t + SEC * 100_001, round(found(&["10.0.0.3"], 5), nodata()));
        assert_eq!((ids(&mut engine, t + SEC * 100_001), engine.problem()), (vec!["10.0.0.3:80".into()], None));
    }
}

#[test]
fn a_family_that_fails_keeps_its_addresses_while_the_other_moves() {
    let (mut engine, t) = engine();
    engine.apply(t, round(found(&["10.0.0.1", "10.0.0.2"], 5), found(&["fd::1"], 5)));
    engine.apply(t + SEC * 5, round(failed(), found(&["fd::2"], 5)));
    assert_eq!(ids(&mut engine, t + SEC * 60), ["10.0.0.1:80", "10.0.0.2:80", "[fd::2]:80"]);
    assert_eq!(engine.problem().unwrap(), "A: SERVFAIL, AAAA: ok");
}

#[test]
fn nodata_withdraws_a_family_only_while_the_other_answers() {
    let (mut engine, t) = engine();
    engine.apply(t, round(found(&["10.0.0.1", "10.0.0.2"], 5), found(&["fd::1"], 5)));
    engine.apply(t + SEC * 5, round(failed(), nodata()));
    assert_eq!(ids(&mut engine, t + SEC * 60).len(), 3);
    engine.apply(t + SEC * 60, round(found(&["10.0.0.1", "10.0.0.2"], 5), nodata()));
    assert_eq!(ids(&mut engine, t + SEC * 60), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(engine.problem(), None);
}

#[test]
fn one_address_or_one_of_each_family_is_a_vip() {
    for (v4, v6, kind, count) in [
        (found(&["10.0.0.1"], 5), nodata(), SetKind::Vip, 1),
        (nodata(), found(&["fd::1"], 5), SetKind::Vip, 1),
        (found(&["10.0.0.1"], 5), found(&["fd::1"], 5), SetKind::Vip, 1),
        (found(&["10.0.0.1", "10.0.0.2"], 5), nodata(), SetKind::Replicas, 2),
        (found(&["10.0.0.1"], 5), found(&["fd::1", "fd::2"], 5), SetKind::Replicas, 3),
    ] {
        let (mut engine, t) = engine();
        engine.apply(t, round(v4, v6));
        let view = engine.view(t).unwrap();
        assert_eq!((view.kind, view.endpoints.len()), (kind, count));
    }
    let (mut engine, t) = engine();
    engine.apply(t, round(found(&["10.0.0.1"], 5), failed()));
    engine.apply(t, round(found(&["10.0.0.1"], 5), found(&["fd::1"], 5)));
    let view = engine.view(t).unwrap();
    assert_eq!(view.endpoints[0].id.as_str(), "10.0.0.1:80", "the id outlives the other family");
    let addresses: Vec<_> = view.endpoints[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["[fd::1]:80", "10.0.0.1:80"]);
}

fn target(host: &str, port: u16, priority: u16, weight: u16) -> Target {
    Target { priority, host: host.into(), port, weight }
}

fn srv(targets: &[Target], hosts: &[(&str, &str)]) -> Round {
    Round {
        targets: Some(Answer::Found { records: targets.to_vec(), ttl: SEC * 5 }),
        hosts: hosts
            .iter()
            .map(|(name, ip)| ((*name).into(), HostAnswer { v4: found(&[ip], 5), v6: nodata() }))
            .collect(),
    }
}

#[test]
fn srv_brings_ports_weights_and_priorities() {
    let t = crate::rt::now();
    let mut engine = Engine::new(None, t);
    engine.apply(t, srv(&[target("a.", 81, 0, 10), target("b.", 82, 1, 0)], &[("a.", "10.0.0.1"), ("b.", "10.0.0.2")]));
    let view = engine.view(t).unwrap();
    let got: Vec<_> = view.endpoints.iter().map(|spec| (spec.id.as_str(), spec.weight, spec.priority)).collect();
    assert_eq!(got, [("10.0.0.1:81", 10, 0), ("10.0.0.2:82", 1, 1)]);
    // A changed weight holds at once, although the old record is still remembered.
    engine.apply(
        t + SEC * 5,
        srv(&[target("a.", 81, 0, 20), target("b.", 82, 1, 0)], &[("a.", "10.0.0.1"), ("b.", "10.0.0.2")]),
    );
    let weights = |view: View| view.endpoints.iter().map(|spec| spec.weight).collect::<VecDeque<_>>();
    let mut all: Vec<_> = weights(engine.view(t + SEC * 5).unwrap()).into();
    all.sort();
    assert_eq!(all, [1, 20]);
}

#[test]
fn a_withdrawn_srv_service_becomes_empty_and_an_unresolvable_one_does_not() {
    let t = crate::rt::now();
    let mut engine = Engine::new(None, t);
    engine.apply(t, srv(&[target("a.", 81, 0, 1)], &[("a.", "10.0.0.1")]));
    let broken = HostAnswer { v4: failed(), v6: failed() };
    let mut other = srv(&[target("b.", 81, 0, 1)], &[]);
    other.hosts.push(("b.".into(), broken));
    engine.apply(t + SEC * 5, other);
    assert_eq!(ids(&mut engine, t + SEC * 100), ["10.0.0.1:81"]);
    assert!(engine.problem().unwrap().starts_with("b. "));
    engine.apply(t + SEC * 100, srv(&[], &[]));
    assert!(ids(&mut engine, t + SEC * 200).is_empty());
}

fn any_answer(v6: bool) -> impl Strategy<Value = Answer<IpAddr>> {
    let record = (1u16..5).prop_map(move |n| if v6 { ip(&format!("fd::{n}")) } else { ip(&format!("10.0.0.{n}")) });
    prop_oneof![
        (proptest::collection::vec(record, 1..4), 0u64..90)
            .prop_map(|(records, ttl)| Answer::Found { records, ttl: Duration::from_secs(ttl) }),
        Just(nodata()),
        Just(Answer::Nothing { rcode: "NXDOMAIN", ttl: Some(SEC * 10) }),
        Just(failed()),
    ]
}

proptest! {
    #[test]
    fn a_set_once_known_is_never_empty_and_lacks_nothing_that_was_just_answered(
        rounds in proptest::collection::vec((any_answer(false), any_answer(true), 0u64..120), 1..40)
    ) {
        let (mut engine, start) = engine();
        let mut t = start;
        let mut known = false;
        for (v4, v6, wait) in rounds {
            let fresh: Vec<IpAddr> = [&v4, &v6]
                .into_iter()
                .flat_map(|answer| match answer {
                    Answer::Found { records, .. } => records.clone(),
                    _ => Vec::new(),
                })
                .collect();
            known |= !fresh.is_empty();
            engine.apply(t, round(v4, v6));
            prop_assert!(engine.due() >= t + TTL_FLOOR && engine.due() <= t + TTL_CAP);
            for t in [t, t + SEC * wait as u32] {
                let view = engine.view(t);
                prop_assert_eq!(view.is_some(), known);
                if let Some(view) = view {
                    prop_assert!(!view.endpoints.is_empty());
                    let addresses: BTreeSet<Address> =
                        view.endpoints.iter().flat_map(|spec| spec.addresses.iter().cloned()).collect();
                    prop_assert!(fresh.iter().all(|ip| addresses.contains(&SocketAddr::new(*ip, 80).into())));
                    let unique: BTreeSet<_> = view.endpoints.iter().map(|spec| spec.id.clone()).collect();
                    prop_assert_eq!(unique.len(), view.endpoints.len());
                }
            }
            t += SEC * wait as u32;
        }
    }
}
