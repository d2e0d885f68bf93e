//! Instructions of what is too short to time: counted by valgrind, so neither the machine nor its load matters.
//!
//! What is counted is built by itself with optimisation, since tests are not. A compiler of another version may come out
//! a little differently; what was counted was by 1.95.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const TURNS: u32 = 50_000;

/// Instructions of one pick with its guard, taken and given back, at most: what was counted and 5 %.
const PICKS: [(&str, &str, f64); 6] = [
    ("least_request", "equal", 116.0),
    ("least_request", "mixed", 144.0),
    ("round_robin", "equal", 62.0),
    ("round_robin", "mixed", 88.0),
    ("random", "equal", 74.0),
    ("random", "mixed", 78.0),
];

#[test]
fn a_pick_takes_as_many_instructions_as_it_did() {
    if !counts("a pick") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("pick");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gates/instructions/pick.rs");
    let mut build = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()));
    build.args(["--edition", "2024", "-O", "-C", "codegen-units=1", "--cap-lints", "allow"]);
    succeed(build.arg(source).arg("-o").arg(&program).output().expect("rustc"));
    let mut missed = Vec::new();
    for (policy, weights, most) in PICKS {
        let count = |turns: u32| collected(&program, &[policy, weights, &turns.to_string()]) as f64;
        let each = (count(2 * TURNS) - count(TURNS)) / f64::from(TURNS);
        println!("{policy}, {weights} weights: {each:.1} instructions a pick, at most {most}");
        if each > most {
            missed.push(format!("{policy}, {weights} weights: {each:.1} instructions a pick, at most {most}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Instructions of one decision among a thousand rules, its view included, at most: what was counted and a tenth, since the
/// seeds of hash maps are others in each process.
const DECISIONS: [(&str, f64); 5] =
    [("principal", 1_475.0), ("path", 1_612.0), ("template", 2_285.0), ("network", 1_896.0), ("mixed", 3_180.0)];

#[test]
fn a_decision_takes_as_many_instructions_as_it_did() {
    if !counts("a decision") {
        return;
    }
    let Some(folder) = built("authz") else { return };
    let program = folder.join("decisions");
    let mut missed = Vec::new();
    for (shape, most) in DECISIONS {
        let count = |turns: u32| collected(&program, &["--turns", shape, &turns.to_string()]) as f64;
        let each = (count(TURNS) - count(0)) / f64::from(TURNS);
        println!("by {shape}: {each:.1} instructions a decision, at most {most}");
        if each > most {
            missed.push(format!("by {shape}: {each:.1} instructions a decision, at most {most}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Instructions that the five layers of resilience add to a call, at most: what was counted and 5 %.
const FIVE: f64 = 4_552.0;

#[test]
fn five_layers_of_resilience_take_as_many_instructions_as_they_did() {
    if !counts("the five layers") {
        return;
    }
    let Some(folder) = built("five") else { return };
    let program = folder.join("five");
    let each = |layers: &str| {
        let count = |turns: u32| collected(&program, &[layers, &turns.to_string()]) as f64;
        (count(2 * TURNS) - count(TURNS)) / f64::from(TURNS)
    };
    let (five, bare) = (each("five"), each("bare"));
    let added = five - bare;
    println!("{five:.1} instructions a call, {bare:.1} without the layers: {added:.1}, at most {FIVE}");
    assert!(added <= FIVE, "the five layers add {added:.1} instructions to a call, at most {FIVE}");
}

/// Whether there is somebody to count instructions; said aloud if not.
fn counts(what: &str) -> bool {
    let there = Command::new("valgrind").arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: valgrind is not installed, so nobody counts the instructions of {what}");
    }
    there
}

/// Where the package of this name is built: with optimisation, and apart from everything else, since cargo may be building
/// that. It is kept. `None`, said aloud, where it cannot be built.
fn built(package: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = root.join("tests/gates/instructions").join(package).join("Cargo.toml");
    if !manifest.exists() {
        eprintln!("SKIPPED: {} is no part of a published package", manifest.display());
        return None;
    }
    let target = root.join("target/gates");
    let mut build = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--release", "--locked", "--offline", "--manifest-path"]).arg(&manifest);
    let built = build.arg("--target-dir").arg(&target).output().expect("cargo");
    if !built.status.success() && String::from_utf8_lossy(&built.stderr).contains("offline") {
        eprintln!("SKIPPED: its crates are not here: {}", String::from_utf8_lossy(&built.stderr));
        return None;
    }
    succeed(built);
    Some(target.join("release"))
}

fn collected(program: &Path, args: &[&str]) -> u64 {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = succeed(valgrind.args(args).output().expect("valgrind"));
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.unwrap_or_else(|| panic!("valgrind says how many instructions there were:\n{text}"))
}

fn succeed(output: Output) -> Output {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}
