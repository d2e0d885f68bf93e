//! What a reader sees: each ratio with what it is a ratio of.

use std::time::Duration;

use serde::Serialize;

use super::{
    case::Case,
    side::{Counted, Round, Variant},
};

pub(crate) struct Header {
    pub(crate) rounds: u32,
    pub(crate) seconds: Duration,
    pub(crate) clock: f64,
}

impl Header {
    /// To stderr where stdout is for a machine.
    pub(crate) fn print(&self, json: bool) {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        let text = format!(
            "{} rounds of {:?} a side, ABBA; {cores} cores, load {load}, Instant::now() {:.1} ns\n\
             ratio: sinew to bare, median of the rounds (least-greatest); bare: hyper for h1 and h2, tonic for grpc",
            self.rounds, self.seconds, self.clock
        );
        if json {
            eprintln!("{text}");
            return;
        }
        println!("{text}\n");
        println!(
            "{:<18} | {:^37} | {:^21} | {:^21} | {:^13} | {:^15}",
            "", "CPU us/call", "p50 us", "p99 us", "allocs/call", "bytes/call"
        );
        println!(
            "{:<18} | {:>7} {:>7} {:>6} {:<14} | {:>7} {:>7} {:>5} | {:>7} {:>7} {:>5} | {:>6} {:>6} | {:>7} {:>7}",
            "case",
            "bare",
            "sinew",
            "ratio",
            "(range)",
            "bare",
            "sinew",
            "ratio",
            "bare",
            "sinew",
            "ratio",
            "bare",
            "added",
            "bare",
            "sinew"
        );
    }
}

/// A measured case: `bare` first in every pair.
pub(crate) struct Report {
    pub(crate) case: Case,
    pub(crate) rounds: Vec<(Round, Round)>,
    pub(crate) counted: (Counted, Counted),
}

/// The stable form for machines.
#[derive(Serialize)]
struct Line {
    case: String,
    variant: String,
    cpu_us_per_call: f64,
    cpu_ratio: f64,
    p50_us: f64,
    p99_us: f64,
    allocations_per_call: f64,
    added_allocations: f64,
    bytes_per_call: f64,
}

impl Report {
    pub(crate) fn print(&self, json: bool) {
        if json {
            for variant in [Variant::Bare, Variant::Sinew] {
                println!("{}", serde_json::to_string(&self.line(variant)).expect("plain numbers"));
            }
            return;
        }
        let (bare, sinew) = (self.line(Variant::Bare), self.line(Variant::Sinew));
        let ratios: Vec<f64> = self.rounds.iter().map(|(bare, sinew)| cpu_ratio(bare, sinew)).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "{:<18} | {:>7.2} {:>7.2} {:>6.3} {:<14} | {:>7.1} {:>7.1} {:>5.2} | {:>7.1} {:>7.1} {:>5.2} | {:>6.1} {:>+6.1} | {:>7.0} {:>7.0}",
            self.case,
            bare.cpu_us_per_call,
            sinew.cpu_us_per_call,
            sinew.cpu_ratio,
            format!("({least:.3}-{greatest:.3})"),
            bare.p50_us,
            sinew.p50_us,
            self.median(|bare, sinew| sinew.p50_us / bare.p50_us),
            bare.p99_us,
            sinew.p99_us,
            self.median(|bare, sinew| sinew.p99_us / bare.p99_us),
            bare.allocations_per_call,
            sinew.added_allocations,
            bare.bytes_per_call,
            sinew.bytes_per_call,
        );
    }

    fn line(&self, variant: Variant) -> Line {
        let counted = self.pick(variant, &self.counted);
        Line {
            case: self.case.to_string(),
            variant: variant.to_string(),
            cpu_us_per_call: self.median_of(variant, |round| round.cpu_us_per_call),
            cpu_ratio: match variant {
                Variant::Bare => 1.0,
                Variant::Sinew => self.median(cpu_ratio),
            },
            p50_us: self.median_of(variant, |round| round.p50_us),
            p99_us: self.median_of(variant, |round| round.p99_us),
            allocations_per_call: counted.allocations_per_call(),
            added_allocations: counted.allocations_per_call() - self.counted.0.allocations_per_call(),
            bytes_per_call: counted.bytes_per_call(),
        }
    }

    fn median_of(&self, variant: Variant, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(|round| figure(self.pick(variant, round))))
    }

    fn median(&self, figure: impl Fn(&Round, &Round) -> f64) -> f64 {
        median(self.rounds.iter().map(|(bare, sinew)| figure(bare, sinew)))
    }

    fn pick<'a, T>(&self, variant: Variant, pair: &'a (T, T)) -> &'a T {
        match variant {
            Variant::Bare => &pair.0,
            Variant::Sinew => &pair.1,
        }
    }
}

/// What stands beside the bare connection: sinew, and two sidecars. A round of each, one after the other.
pub(crate) struct Beside {
    pub(crate) case: Case,
    pub(crate) rounds: Vec<[Round; 3]>,
}

impl Beside {
    pub(crate) fn header() {
        println!(
            "what both stacks add to a bare hyper connection with mutual TLS, and what two Envoys add; CPU us/call\n\n\
             {:<18} | {:>7} {:>7} {:>8} | {:>7} {:>8} | share (a thirtieth is 0.033)",
            "case", "bare", "sinew", "sidecars", "added", "by those"
        );
    }

    pub(crate) fn print(&self) {
        let of = |at: usize| median(self.rounds.iter().map(|round| round[at].cpu_us_per_call));
        let added =
            |at: usize| median(self.rounds.iter().map(|round| round[at].cpu_us_per_call - round[0].cpu_us_per_call));
        println!(
            "{:<18} | {:>7.2} {:>7.2} {:>8.2} | {:>+7.2} {:>+8.2} | {:>6.3}",
            self.case,
            of(0),
            of(1),
            of(2),
            added(1),
            added(2),
            added(1) / added(2)
        );
    }
}

fn cpu_ratio(bare: &Round, sinew: &Round) -> f64 {
    sinew.cpu_us_per_call / bare.cpu_us_per_call
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) }
}
