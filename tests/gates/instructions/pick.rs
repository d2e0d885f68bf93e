//! Picks, and nothing else: `pick POLICY WEIGHTS TURNS`. Built by the gate from the sources of balancing alone.

#![allow(dead_code, missing_docs)]

#[path = "../../../src/balance"]
pub mod balance {
    mod alias;
    mod member;
    mod policy;
    mod seats;
    mod set;
    pub use self::{
        member::{Candidate, Member, Picked},
        policy::BalancePolicy,
        set::{Cursor, EndpointSet},
    };
}

#[path = "../../../src/rt"]
pub(crate) mod rt {
    mod rng;
    pub(crate) use self::rng::Rng;
}

use std::{
    env,
    hint::black_box,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use balance::{BalancePolicy, Candidate, Cursor, EndpointSet, Member};

struct Endpoint {
    ready: AtomicU8,
    _state: [u64; 6],
}

impl Candidate for Endpoint {
    fn available(&self) -> bool {
        self.ready.load(Relaxed) == 2
    }
}

fn main() {
    let args: Vec<String> = env::args().collect();
    let policy = match args[1].as_str() {
        "round_robin" => BalancePolicy::RoundRobin,
        "random" => BalancePolicy::Random,
        _ => BalancePolicy::default(),
    };
    let weight = |index: u32| if args[2] == "equal" { 1 } else { 1 + index % 3 };
    let turns: u32 = args[3].parse().expect("a number of picks");
    let member = |index| (Member::new(Endpoint { ready: 2.into(), _state: [0; 6] }), weight(index));
    let set = EndpointSet::new((0..1_000).map(member), policy, &Cursor::new());
    for _ in 0..turns {
        drop(black_box(set.pick(|_| false)));
    }
}
