//! Both stacks side by side with bare hyper and bare tonic: CPU, latency and allocations per call.
//!
//! ```text
//! cargo bench --bench stack                                        # a table
//! cargo bench --bench stack -- --json                              # one object a line
//! cargo bench --bench stack -- --case grpc/1024 --rounds 10 --seconds 5
//! cargo bench --bench stack -- --test                              # a few calls of each case
//! cargo bench --bench stack -- --case h2/1024/c64/ct --profile sinew    # one side alone, for a profiler
//! cargo bench --bench stack -- --case c64 --sidecars               # beside two Envoys, where there is one to run
//! ```
//!
//! A case is `{h1|h2|grpc}/{0|1024}/c{1|64|256}/{ct|mt}[/mtls]`: protocol, bytes each way, callers in a closed loop, the
//! runtime (`ct` current_thread, `mt` multi_thread with two workers), and mutual TLS (`bare`: rustls as it comes). Client and server share the process, so CPU per
//! call is that of both. Absolute figures move twofold with the machine's load: read the ratios. Each is the median over
//! rounds, the two variants of a round run one right after the other, and their order alternates (ABBA).
//!
//! `bare` is hyper for h1 (one connection for each caller) and h2 (one connection), tonic for grpc (one connection).

#![allow(clippy::disallowed_methods, reason = "a bench measures the clock that the rule forbids")]

#[path = "../support/alloc.rs"]
mod alloc;
mod case;
#[allow(unused_imports, reason = "shared with the gates")]
#[path = "../support/echo/mod.rs"]
mod echo;
#[allow(dead_code, reason = "shared with the interop tests")]
#[path = "../../tests/interop/peer.rs"]
mod peer;
mod report;
mod side;
mod sidecar;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::{
    case::Case,
    report::{Beside, Header, Report},
    side::{Round, Side, Variant},
};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let cases: Vec<Case> = Case::all().into_iter().filter(|case| case.to_string().contains(&options.case)).collect();
    if cases.is_empty() {
        eprintln!("no case contains `{}`; a case looks like `grpc/1024/c64/ct`", options.case);
        return ExitCode::from(2);
    }
    allow_sockets();
    match options.mode {
        Mode::Test => cases.iter().for_each(|case| case.check()),
        Mode::Sidecars => {
            Beside::header();
            cases.into_iter().filter(Case::beside_sidecars).try_for_each(|case| beside(case, &options));
        }
        Mode::Profile(variant) => cases.iter().for_each(|case| profile(*case, variant, &options)),
        Mode::Table | Mode::Json => {
            let header = Header { rounds: options.rounds, seconds: options.seconds, clock: clock_cost() };
            header.print(options.mode == Mode::Json);
            for case in cases {
                measure(case, &options).print(options.mode == Mode::Json);
            }
        }
    }
    ExitCode::SUCCESS
}

fn measure(case: Case, options: &Options) -> Report {
    let mut bare = case.side(Variant::Bare);
    let mut sinew = case.side(Variant::Sinew);
    let counted = (bare.count(case.counted_calls()), sinew.count(case.counted_calls()));
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let (first, second) = if round % 2 == 0 { (&mut bare, &mut sinew) } else { (&mut sinew, &mut bare) };
        let (first, second) = (one_round(&mut **first, options), one_round(&mut **second, options));
        rounds.push(if round % 2 == 0 { (first, second) } else { (second, first) });
    }
    Report { case, rounds, counted }
}

/// `None` if there are no sidecars.
fn beside(case: Case, options: &Options) -> Option<()> {
    let mut sides: [Box<dyn Side>; 3] =
        [case.side(Variant::Bare), case.side(Variant::Sinew), Box::new(case.sidecars()?)];
    let rounds = (0..options.rounds).map(|_| sides.each_mut().map(|side| one_round(&mut **side, options))).collect();
    Beside { case, rounds }.print();
    Some(())
}

/// A warm-up of a tenth, then the round.
fn one_round(side: &mut dyn Side, options: &Options) -> Round {
    side.round(options.seconds / 10);
    side.round(options.seconds)
}

fn profile(case: Case, variant: Variant, options: &Options) {
    let mut side = case.side(variant);
    let round = side.round(options.seconds * options.rounds);
    println!("{case} {variant}: {:.2} us CPU per call over {} calls", round.cpu_us_per_call, round.calls);
}

/// What reading the clock costs here, in nanoseconds; each call of the bench pays it once.
fn clock_cost() -> f64 {
    const READS: u32 = 1_000_000;
    let start = Instant::now();
    for _ in 0..READS {
        std::hint::black_box(Instant::now());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(READS)
}

/// 256 callers of both variants over HTTP/1.1 hold more sockets than the usual soft limit.
fn allow_sockets() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(8192, |maximum| maximum.min(8192));
    if limit.current.is_some_and(|current| current < wanted) {
        // Where it is refused, the case that needs it says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

const USAGE: &str = "usage: cargo bench --bench stack -- [--json] [--case FILTER] [--rounds N] [--seconds S] [--profile bare|sinew] [--sidecars] [--test]";

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Table,
    Json,
    Test,
    Profile(Variant),
    Sidecars,
}

struct Options {
    mode: Mode,
    case: String,
    rounds: u32,
    seconds: Duration,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            Self { mode: Mode::Table, case: String::new(), rounds: 6, seconds: Duration::from_millis(500) };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("`{arg}` needs a value"));
            match arg.as_str() {
                // Cargo adds it.
                "--bench" => {}
                "--json" => options.mode = Mode::Json,
                "--sidecars" => options.mode = Mode::Sidecars,
                "--test" => options.mode = Mode::Test,
                "--profile" => options.mode = Mode::Profile(value()?.parse()?),
                "--case" => options.case = value()?,
                "--rounds" => {
                    options.rounds = value()?.parse().map_err(|error| format!("--rounds: {error}"))?;
                    if options.rounds == 0 {
                        return Err("--rounds must be at least 1".into());
                    }
                }
                "--seconds" => {
                    let seconds: f64 = value()?.parse().map_err(|error| format!("--seconds: {error}"))?;
                    options.seconds =
                        Duration::try_from_secs_f64(seconds).map_err(|error| format!("--seconds: {error}"))?;
                }
                other => return Err(format!("`{other}` is not a flag of this bench")),
            }
        }
        Ok(options)
    }
}
