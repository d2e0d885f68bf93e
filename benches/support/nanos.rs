//! Timing of what takes nanoseconds.

#![allow(clippy::disallowed_methods, reason = "a bench measures the clock that the rule forbids")]

use std::time::Instant;

/// The fastest of several runs: what the code costs, not what the machine was doing besides.
pub(crate) fn nanos(runs: usize, turns: u32, mut f: impl FnMut()) -> f64 {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..turns {
                f();
            }
            start.elapsed().as_nanos() as f64 / f64::from(turns)
        })
        .fold(f64::INFINITY, f64::min)
}
