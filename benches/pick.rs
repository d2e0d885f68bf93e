//! What a pick costs: `cargo bench --bench pick`.
//!
//! One pick with its guard, taken and given back, by number of endpoints and policy, beside `Instant::now()` of the same
//! run and with the allocations of the loop. `-- --test` runs each case briefly and checks the allocations only.

#![allow(clippy::disallowed_methods, reason = "a bench measures the clock that the rule forbids")]

#[path = "support/alloc.rs"]
mod alloc;
#[path = "support/nanos.rs"]
mod nanos;

use std::{hint::black_box, time::Instant};

use sinew::balance::{BalancePolicy, Candidate, Cursor, EndpointSet, Member};

use self::nanos::nanos;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// As large as a small endpoint's state, so that endpoints do not share cache lines.
struct Endpoint {
    ready: std::sync::atomic::AtomicU8,
    _state: [u64; 6],
}

impl Candidate for Endpoint {
    fn available(&self) -> bool {
        self.ready.load(std::sync::atomic::Ordering::Relaxed) == 2
    }
}

fn set(n: usize, weights: fn(usize) -> u32, policy: BalancePolicy) -> EndpointSet<Endpoint> {
    let endpoint = |_| Member::new(Endpoint { ready: 2.into(), _state: [0; 6] });
    let members: Vec<_> = (0..n).map(endpoint).enumerate().map(|(index, member)| (member, weights(index))).collect();
    EndpointSet::new(members, policy, &Cursor::new())
}

fn main() {
    let test = std::env::args().any(|arg| arg == "--test");
    let (runs, turns) = if test { (1, 1_000) } else { (15, 400_000) };
    let clock = nanos(runs, turns, || {
        black_box(Instant::now());
    });
    println!("Instant::now() {clock:.1} ns; pick and guard in ns, the fastest of {runs} runs of {turns}");
    println!("{:>10} {:<32} {:>8} {:>8} {:>12}", "endpoints", "policy", "ns", "ratio", "allocations");
    let least = BalancePolicy::least_request(2).expect("two is allowed");
    let equal: fn(usize) -> u32 = |_| 1;
    let mixed: fn(usize) -> u32 = |index| 1 + index as u32 % 3;
    let mut allocated = false;
    for n in [10, 1_000, 10_000, 100_000] {
        for (name, policy, weights) in [
            ("least_request", least, equal),
            ("least_request, weighted", least, mixed),
            ("round_robin", BalancePolicy::RoundRobin, equal),
            ("round_robin, weighted", BalancePolicy::RoundRobin, mixed),
            ("random", BalancePolicy::Random, equal),
            ("random, weighted", BalancePolicy::Random, mixed),
        ] {
            let set = set(n, weights, policy);
            let pick = || drop(black_box(set.pick(|_| false)));
            pick();
            alloc::count(true);
            let before = alloc::thread();
            for _ in 0..1_000 {
                pick();
            }
            let allocations = (alloc::thread() - before).allocations;
            alloc::count(false);
            allocated |= allocations > 0;
            let ns = nanos(runs, turns, pick);
            println!("{n:>10} {name:<32} {ns:>8.1} {:>8.2} {allocations:>12}", ns / clock);
        }
    }
    if allocated {
        eprintln!("a pick allocates");
        std::process::exit(1);
    }
}
