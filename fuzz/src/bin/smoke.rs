//! Every target on a stable toolchain: seeds, mutations of them, and mutations of what came of those.
//!
//! `cargo run --release --bin smoke -- [--seconds N] [--seed N] [TARGET...]`
//!
//! Without coverage to steer by, what is new is judged by how long an input took and by its length, and the seeds carry the
//! grammar: `fuzz/seeds/TARGET` has one file each. An input that panics is written to `artifacts/` and ends the run with 1; one
//! that takes longer than a second likewise.

use std::{
    fs, panic,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// SplitMix64: the same seed makes the same inputs.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

const MOST: usize = 16 * 1024;
const TOO_SLOW: Duration = Duration::from_secs(1);

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        match dice.below(10) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.next() as u8,
            2 => input.insert(at, dice.next() as u8),
            3 if at < input.len() => drop(input.remove(at)),
            4 => {
                let end = (at + dice.below(32)).min(input.len());
                drop(input.drain(at..end));
            }
            5 => {
                let end = (at + dice.below(64)).min(input.len());
                let piece = input[at..end].to_vec();
                let to = dice.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            6 => {
                let other = &corpus[dice.below(corpus.len())];
                let from = dice.below(other.len() + 1);
                let end = (from + dice.below(256)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            7 => {
                const ODD: &[&[u8]] = &[
                    b"\0",
                    b"\xff",
                    b"\r\n",
                    b"..",
                    b"//",
                    b"%2e",
                    b"%",
                    b"{",
                    b"}",
                    b"[",
                    b"\"",
                    b":",
                    b";",
                    b",",
                    b"=",
                    b"*",
                    b"\x30\x80",
                    b"\x84\xff\xff\xff\xff",
                    b"18446744073709551616",
                    b"-1",
                    b"4294967296",
                    b"\xf0\x9f\xa6\x80",
                    b"&a ",
                    b"*a",
                    b"<<",
                    b"!!binary ",
                    b"- ",
                    b"\n  ",
                    b"${A:-",
                    b"PROXY ",
                    b"spiffe://",
                    b"Host:",
                    b"null",
                    b"1e999",
                ];
                let word = ODD[dice.below(ODD.len())];
                input.splice(at..at, word.iter().copied());
            }
            8 => {
                let number = [0u32, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 0x00ff_ffff, u32::MAX][dice.below(10)];
                let bytes = number.to_be_bytes();
                let end = (at + 4).min(input.len());
                input.splice(at..end, bytes[4 - (end - at)..].iter().copied());
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(MOST);
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let mut seeds: Vec<_> = files.iter().filter_map(|path| fs::read(path).ok()).collect();
    seeds.push(Vec::new());
    seeds
}

fn run(name: &str, target: fn(&[u8]), limit: Duration, seed: u64) -> bool {
    let mut corpus = seeds(name);
    let given = corpus.len();
    let mut dice = Dice(seed);
    let (began, mut runs, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
    while began.elapsed() < limit || runs < given as u64 {
        let mut input = match usize::try_from(runs) {
            Ok(run) if run < given => corpus[run].clone(),
            _ => {
                let mut input = corpus[dice.below(corpus.len())].clone();
                mutate(&mut input, &corpus, &mut dice);
                input
            }
        };
        let start = Instant::now();
        let ended = panic::catch_unwind(|| target(&input));
        let took = start.elapsed();
        runs += 1;
        if ended.is_err() || took > TOO_SLOW {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts");
            let path = folder.join(format!("{name}-{seed}-{runs}"));
            let _ = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, &input));
            println!(
                "{name}: {} after {took:?}: {}",
                if ended.is_err() { "panicked" } else { "too slow" },
                path.display()
            );
            return false;
        }
        // Stages of mutation: now and then one is kept in the place of another, never in that of a seed.
        if took > slowest || dice.below(64) == 0 {
            slowest = slowest.max(took);
            input.shrink_to_fit();
            if corpus.len() < given + 512 {
                corpus.push(input);
            } else {
                let at = given + dice.below(512);
                corpus[at] = input;
            }
        }
    }
    println!("{name}: {runs} executions in {:.1} s, slowest {slowest:?}, no crash", began.elapsed().as_secs_f64());
    true
}

fn main() -> ExitCode {
    let (mut seconds, mut seed, mut names) = (10, 1, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|value| value.parse().ok()).expect("a number follows");
        match argument.as_str() {
            "--seconds" => seconds = number(),
            "--seed" => seed = number(),
            _ => names.push(argument),
        }
    }
    if let Some(unknown) = names.iter().find(|name| !sinew::fuzzing::TARGETS.iter().any(|(known, _)| known == name)) {
        println!("there is no target `{unknown}`");
        return ExitCode::FAILURE;
    }
    let mut all = true;
    for (name, target) in sinew::fuzzing::TARGETS {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            all &= run(name, *target, Duration::from_secs(seconds), seed);
        }
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
