use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use proptest::prelude::*;

use super::{BalancePolicy, Candidate, Cursor, EndpointSet, Member, Picked};
use crate::rt::Rng;

struct Host {
    id: usize,
    up: AtomicBool,
}

impl Candidate for Host {
    fn available(&self) -> bool {
        self.up.load(Relaxed)
    }
}

const LEAST: BalancePolicy = BalancePolicy::LeastRequest { choice_count: 2 };

fn hosts(weights: &[u32]) -> Vec<(Member<Host>, u32)> {
    let host = |(id, weight): (usize, &u32)| (Member::new(Host { id, up: AtomicBool::new(true) }), *weight);
    weights.iter().enumerate().map(host).collect()
}

fn set(weights: &[u32], policy: BalancePolicy) -> EndpointSet<Host> {
    EndpointSet::new(hosts(weights), policy, &Cursor::at(0))
}

fn counts(set: &EndpointSet<Host>, seed: u64, picks: usize) -> HashMap<usize, usize> {
    let mut rng = Rng::seeded(seed);
    let mut counts = HashMap::new();
    for _ in 0..picks {
        *counts.entry(set.pick_with(&mut rng, |_| false).unwrap().id).or_default() += 1;
    }
    counts
}

/// χ² of observed counts against weights; the bound is that of p = 0.001 for two degrees of freedom.
fn fits(counts: &HashMap<usize, usize>, weights: &[u32]) -> bool {
    let total: usize = counts.values().sum();
    let sum: u32 = weights.iter().sum();
    let chi: f64 = weights
        .iter()
        .enumerate()
        .map(|(id, weight)| {
            let expected = total as f64 * f64::from(*weight) / f64::from(sum);
            let observed = counts.get(&id).copied().unwrap_or(0) as f64;
            (observed - expected).powi(2) / expected
        })
        .sum();
    chi < 13.8
}

#[test]
fn round_robin_is_exact_from_whatever_turn_it_begins() {
    for begin in 0..800 {
        let set = EndpointSet::new(hosts(&[1, 2, 5]), BalancePolicy::RoundRobin, &Cursor::at(begin));
        let counts = counts(&set, 1, 800);
        for (id, expected) in [(0, 100usize), (1, 200), (2, 500)] {
            assert!(counts[&id].abs_diff(expected) <= 1, "from {begin}: {counts:?}");
        }
    }
}

#[test]
fn a_heavy_host_has_its_turns_between_those_of_the_others() {
    let set = set(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 9], BalancePolicy::RoundRobin);
    let turns: Vec<_> = (0..180).filter_map(|_| set.pick(|_| false)).map(|picked| picked.id == 9).collect();
    for window in turns.windows(18) {
        let heavy = window.iter().filter(|heavy| **heavy).count();
        assert!((6..=12).contains(&heavy), "{heavy} of 18, not about 9: {turns:?}");
    }
    assert!(turns.windows(5).all(|run| run.contains(&false)), "{turns:?}");
}

#[test]
fn round_robin_with_equal_weights_goes_in_turn_and_on_across_a_publish() {
    let cursor = Cursor::at(0);
    let members = hosts(&[1, 1, 1]);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let set = EndpointSet::new(members.clone(), BalancePolicy::RoundRobin, &cursor);
        for _ in 0..4 {
            seen.push(set.pick(|_| false).unwrap().id);
        }
    }
    assert_eq!(seen, [0, 1, 2, 0, 1, 2, 0, 1]);
}

#[test]
fn the_first_picks_of_many_clients_follow_the_weights() {
    let weights = [1, 2, 5];
    let mut first = HashMap::new();
    let mut rng = Rng::seeded(3);
    for _ in 0..1_000 {
        let set = EndpointSet::new(hosts(&weights), BalancePolicy::RoundRobin, &Cursor::at(rng.next_u64() >> 1));
        *first.entry(set.pick_with(&mut rng, |_| false).unwrap().id).or_default() += 1;
    }
    assert!(fits(&first, &weights), "{first:?}");
}

#[test]
fn random_and_idle_least_request_follow_the_weights() {
    let weights = [1, 2, 5, 0];
    assert!(fits(&counts(&set(&weights, BalancePolicy::Random), 2, 10_000), &weights[..3]));
    let spread = [1, 2, 5];
    assert!(fits(&counts(&set(&spread, LEAST), 1, 10_000), &spread));
    assert!(!counts(&set(&weights, LEAST), 1, 10_000).contains_key(&3));
}

#[test]
fn weights_far_apart_are_kept() {
    for policy in [BalancePolicy::RoundRobin, BalancePolicy::Random] {
        let weights = [1, u32::MAX, 1_000_003];
        let counts = counts(&set(&weights, policy), 1, 1_000_000);
        assert!((150..330).contains(&counts[&2]), "{policy:?}: {counts:?}");
        assert!(counts.get(&0).copied().unwrap_or_default() < 3, "{policy:?}: {counts:?}");
    }
}

#[test]
fn of_two_hosts_the_busy_one_is_never_picked_while_the_other_is_idle() {
    let set = set(&[1, 1], LEAST);
    let _busy: Vec<_> = (0..10).map(|_| set.members().next().unwrap().acquire()).collect();
    let mut rng = Rng::seeded(5);
    for _ in 0..10_000 {
        assert_eq!(set.pick_with(&mut rng, |_| false).unwrap().id, 1);
    }
}

#[test]
fn two_distinct_hosts_are_compared() {
    // With replacement the busiest of four would be picked once in sixteen.
    let set = set(&[1, 1, 1, 1], LEAST);
    let _busy = set.members().nth(2).unwrap().acquire();
    assert!(!counts(&set, 9, 10_000).contains_key(&2));
}

#[test]
fn weights_divide_the_load_of_held_calls() {
    let set = set(&[1, 3], LEAST);
    let mut rng = Rng::seeded(11);
    let held: Vec<Picked<Host>> = (0..400).filter_map(|_| set.pick_with(&mut rng, |_| false)).collect();
    let heavy = held.iter().filter(|picked| picked.id == 1).count();
    assert!((297..=303).contains(&heavy), "{heavy}");
    drop(held);
    assert!(set.members().all(|member| member.in_flight() == 0));
}

#[test]
fn a_cold_host_is_neither_flooded_nor_starved() {
    // Nine hosts hold four calls each, the tenth is new: it fills up to its share and not beyond.
    let set = set(&[1; 10], LEAST);
    let mut held: Vec<_> = set.members().take(9).flat_map(|member| (0..4).map(|_| member.acquire())).collect();
    let mut rng = Rng::seeded(2);
    for _ in 0..400 {
        let _ended = held.remove(rng.below(held.len() as u32) as usize);
        held.extend(set.pick_with(&mut rng, |_| false));
    }
    let cold = set.members().nth(9).unwrap().in_flight();
    assert!((2..=6).contains(&cold), "{cold}");
}

#[test]
fn a_pick_outlives_its_set_and_counts_as_load_until_dropped() {
    let members = hosts(&[1]);
    let set = EndpointSet::new(members.clone(), LEAST, &Cursor::new());
    let picked = set.pick(|_| false).unwrap();
    drop(set);
    assert_eq!(members[0].0.in_flight(), 1);
    assert!(picked.is(&members[0].0));
    drop(picked);
    assert_eq!(members[0].0.in_flight(), 0);
}

#[test]
fn load_returns_to_zero_across_threads() {
    let set = Arc::new(set(&[1; 8], LEAST));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let _picked = set.pick(|_| false);
                    let _other = set.members().nth(3).unwrap().clone();
                }
            });
        }
    });
    assert!(set.members().all(|member| member.in_flight() == 0));
}

#[test]
fn only_drawn_candidates_are_asked() {
    let set = set(&[1; 1_000], LEAST);
    let asked = Cell::new(0);
    let _picked = set.pick(|_| {
        asked.set(asked.get() + 1);
        false
    });
    assert_eq!(asked.get(), 2);
}

proptest! {
    #[test]
    fn turns_come_as_often_as_their_weights_in_a_round(weights in proptest::collection::vec(1u32..12, 2..20)) {
        let n = weights.len();
        let round = n * weights.iter().sum::<u32>() as usize;
        let counts = counts(&set(&weights, BalancePolicy::RoundRobin), 1, round);
        for (id, weight) in weights.iter().enumerate() {
            prop_assert_eq!(counts[&id], n * *weight as usize, "{:?}", counts);
        }
    }

    #[test]
    fn a_usable_endpoint_is_found_if_there_is_one_and_nothing_else_ever(
        weights in proptest::collection::vec(0u32..4, 1..60),
        up in proptest::collection::vec(any::<bool>(), 60),
        skip in proptest::collection::vec(any::<bool>(), 60),
        policy in prop_oneof![
            Just(BalancePolicy::RoundRobin),
            Just(BalancePolicy::Random),
            (2u8..=10).prop_map(|choice_count| BalancePolicy::LeastRequest { choice_count }),
        ],
        seed in any::<u64>(),
    ) {
        let members = hosts(&weights);
        for (member, _) in &members {
            member.up.store(up[member.id], Relaxed);
        }
        let exists = members.iter().any(|(member, weight)| *weight > 0 && up[member.id] && !skip[member.id]);
        let set = EndpointSet::new(members, policy, &Cursor::at(seed >> 1));
        let mut rng = Rng::seeded(seed);
        for _ in 0..20 {
            let picked = set.pick_with(&mut rng, |host| skip[host.id]);
            prop_assert_eq!(picked.is_some(), exists);
            if let Some(picked) = picked {
                prop_assert!(up[picked.id] && !skip[picked.id] && weights[picked.id] > 0);
            }
        }
    }
}
