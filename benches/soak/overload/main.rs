//! What a server still does when it is asked for two, five and ten times as much as it can: beside tonic with tower's
//! layers, and against what is physically there.
//!
//! ```text
//! cargo bench --bench soak_overload                           # 5 rounds of 20 s a row and variant, a spike of 60 s
//! cargo bench --bench soak_overload -- --seconds 4 --rounds 2
//! cargo bench --bench soak_overload -- --row h2/5x            # the rows that contain it
//! cargo bench --bench soak_overload -- --test                 # a fraction of a second each: that it runs
//! ```
//!
//! The server is one thread on a core of its own. Its handler burns 1 ms of that thread's time, so it can do nearly a
//! thousand calls a second. A generator on another core asks at random times (Poisson), whatever comes back, over eight
//! HTTP/2 connections or as many HTTP/1.1 connections as it takes. A call is good if it is answered rightly within 100 ms of when
//! it was to be sent.
//!
//! Refusing costs something too. With s of CPU for a call that is served, r for one that is refused, both measured in the
//! same run, λ calls asked for a second and U of a second of the core left to the server by others, more than
//! (U − λ·r) / (s − r) cannot be served: `bound`. r is that of sinew in every row. A round is void if the generator
//! was itself too busy, or late.

#![allow(clippy::disallowed_methods, reason = "a bench measures the clock that the rule forbids")]

mod cpu;
mod load;
mod server;
mod spike;
#[path = "../support.rs"]
mod support;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use self::{
    load::{Plan, Round, Wire},
    server::{Server, Variant},
    support::{Checks, Options, allow_sockets},
};

/// Shares of the bound.
const BARS: [(u32, f64); 3] = [(2, 0.97), (5, 0.95), (10, 0.90)];

struct Run {
    warm: Duration,
    length: Duration,
    rounds: usize,
    rows: String,
    short: bool,
}

/// What a call costs the server, in seconds.
#[derive(Clone, Copy)]
struct Costs {
    served: f64,
    refused: f64,
}

impl Costs {
    fn bound(self, asked: f64, ours: f64) -> f64 {
        (ours - asked * self.refused) / (self.served - self.refused)
    }
}

fn main() -> ExitCode {
    let options = Options::parse(20.0, 0.3);
    let run = Run {
        warm: Duration::from_secs_f64(options.seconds / 4.0),
        length: options.duration(),
        rounds: argument("--rounds").and_then(|text| text.parse().ok()).unwrap_or(if options.short { 1 } else { 5 }),
        rows: argument("--row").unwrap_or_default(),
        short: options.short,
    };
    allow_sockets();
    println!(
        "Instant::now() {:.0} ns; {} cores; {} rounds of {:?} after {:?}",
        clock_cost(),
        std::thread::available_parallelism().map_or(1, usize::from),
        run.rounds,
        run.length,
        run.warm
    );
    let mut checks = Checks::default();
    cpu::pin_to(cpu::GENERATOR);
    for wire in [Wire::Grpc, Wire::Http1] {
        rows(wire, &run, &mut checks);
    }
    if wanted(&run, "spike") {
        spike::run(if run.short { 0.02 } else { run.length.as_secs_f64() / 20.0 }, run.short, &mut checks);
    }
    checks.finish()
}

fn wanted(run: &Run, row: &str) -> bool {
    row.contains(&run.rows)
}

fn rows(wire: Wire, run: &Run, checks: &mut Checks) {
    let wanted: Vec<_> = BARS.into_iter().filter(|(times, _)| wanted(run, &format!("{wire}/{times}x"))).collect();
    if wanted.is_empty() {
        return;
    }
    let closed = Server::start(Variant::Sinew, wire, false);
    let served = load::closed(&closed, wire, run.length.min(Duration::from_secs(5)));
    drop(closed);
    println!("{wire}: {:.1} us of CPU for a call that is served", served * 1e6);
    for (times, bar) in wanted {
        row(wire, times, bar, served, run, checks);
    }
}

fn row(wire: Wire, times: u32, bar: f64, served: f64, run: &Run, checks: &mut Checks) {
    let rate = f64::from(times) / served;
    let plan = |seed| Plan { rate, warm: run.warm, length: run.length, seed };
    let refused = {
        let server = Server::start(Variant::Sinew, wire, true);
        let refusing = load::open(&server, wire, &plan(7));
        checks.hold(refusing.good == 0, || format!("{wire}/{times}x: {} served at limit 0", refusing.good));
        refusing.cpu_per_call
    };
    let costs = Costs { served, refused };
    let variants: &[Variant] = match wire {
        Wire::Grpc => &[Variant::Sinew, Variant::Tower],
        Wire::Http1 => &[Variant::Sinew],
    };
    let mut rounds: Vec<Vec<Round>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 0..run.rounds {
        // ABBA: whatever drifts meets both.
        let mut order: Vec<usize> = (0..variants.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let server = Server::start(variants[at], wire, false);
            rounds[at].push(load::open(&server, wire, &plan(round as u64)));
        }
    }
    for (variant, rounds) in variants.iter().zip(rounds) {
        let label = format!("{wire}/{times}x {variant}");
        let valid: Vec<_> = rounds.iter().filter(|round| round.void().is_none()).collect();
        for void in rounds.iter().filter_map(Round::void) {
            println!("{label}: a round is void, {void}");
        }
        let all: Vec<_> = rounds.iter().collect();
        let judged = if valid.is_empty() { &all } else { &valid };
        let share = median(judged.iter().map(|round| round.goodput / costs.bound(round.asked, round.ours)));
        let goodput = median(judged.iter().map(|round| round.goodput));
        let bound = median(judged.iter().map(|round| costs.bound(round.asked, round.ours)));
        let of = |figure: fn(&Round) -> f64| median(judged.iter().map(|round| figure(round)));
        let told = match (variant, wire) {
            (Variant::Sinew, Wire::Grpc) => format!("bar {:.0} %", bar * 100.0),
            _ => "no bar".into(),
        };
        println!(
            "{label}: {:.1} % of the bound ({told}): asked {:.0}/s, good {goodput:.0}/s, bound {bound:.0}/s, p50 {:.1} ms, \
             p99 {:.1} ms; {} calls, of which {} refused, {} late, {} failed; refusal {:.1} us; server {:.1} % of its core, \
             generator {:.1} %, sent {:.2} % in time",
            share * 100.0,
            of(|round| round.asked),
            of(|round| round.p50_ms),
            of(|round| round.p99_ms),
            judged.iter().map(|round| round.calls).sum::<u64>(),
            judged.iter().map(|round| round.refused).sum::<u64>(),
            judged.iter().map(|round| round.late).sum::<u64>(),
            judged.iter().map(|round| round.failed).sum::<u64>(),
            costs.refused * 1e6,
            of(|round| round.ours) * 100.0,
            of(|round| round.busy) * 100.0,
            of(|round| round.in_time) * 100.0,
        );
        let calls: u64 = judged.iter().map(|round| round.calls).sum();
        checks.hold(calls > 0, || format!("{label}: no call was made"));
        if *variant == Variant::Sinew {
            let served: u64 = judged.iter().map(|round| round.good + round.late).sum();
            checks.hold(served > 0, || format!("{label}: no call was served"));
            if !run.short && wire == Wire::Grpc && !valid.is_empty() {
                checks.hold(share >= bar, || {
                    format!("{label}: {:.1} % of the bound, the bar is {:.0} %", share * 100.0, bar * 100.0)
                });
            }
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn argument(name: &str) -> Option<String> {
    let args: Vec<_> = std::env::args().collect();
    args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1).cloned())
}

fn clock_cost() -> f64 {
    const READS: u32 = 200_000;
    let start = Instant::now();
    for _ in 0..READS {
        std::hint::black_box(Instant::now());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(READS)
}
