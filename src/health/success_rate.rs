//! How well an endpoint has done lately, for what a call costs there.
//!
//! Failing is quicker than working: a balancer that looks at load or latency alone sends most calls to the host that fails
//! them all (two thirds, with three hosts and peak-EWMA). So the cost of an endpoint is divided by the square of its
//! success rate. A fixed penalty for each failure would be simpler, and was simulated to starve a host for ten seconds after
//! one stray error.

use std::time::Duration;

use crate::rt::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The weight of one call in the average.
const ALPHA: f64 = 0.02;
/// Without calls the rate comes back to 1 in this time (to within a third).
const RELAXES_IN: f64 = 30.0;
/// It is never thought worse, or it could not come back.
const FLOOR: f64 = 0.01;
/// Better than this is good.
const GOOD: f64 = 0.999;

/// An average of successes and failures that relaxes to 1. 0 stands for 1, the common case; otherwise the rate as a
/// float, above the milliseconds at which it was that.
#[derive(Debug, Default)]
pub(crate) struct SuccessRate(AtomicU64);

/// What failing adds to the cost of a call, in 256ths of it.
pub(crate) type Surcharge = u32;

impl SuccessRate {
    /// Whether it is 1.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// Takes in a call at a time since some beginning. What it adds to the cost from now on.
    pub(crate) fn took(&self, succeeded: bool, at: Duration) -> Surcharge {
        let sample = if succeeded { 1.0 } else { 0.0 };
        self.change(at, |rate| rate + ALPHA * (sample - rate))
    }

    /// Lets time pass. What it adds to the cost from now on.
    pub(crate) fn relax(&self, at: Duration) -> Surcharge {
        self.change(at, |rate| rate)
    }

    /// It is judged anew, as good as the others are.
    pub(crate) fn reset(&self) {
        self.0.store(0, Relaxed);
    }

    /// The rate at a time.
    pub(crate) fn at(&self, at: Duration) -> f64 {
        relaxed(self.0.load(Relaxed), millis(at))
    }

    fn change(&self, at: Duration, to: impl Fn(f64) -> f64) -> Surcharge {
        let at = millis(at);
        let mut rate = 1.0;
        let update = |bits| {
            rate = to(relaxed(bits, at)).max(FLOOR);
            Some(if rate > GOOD { 0 } else { u64::from((rate as f32).to_bits()) << 32 | u64::from(at) })
        };
        // Never refused.
        let _ = self.0.fetch_update(Relaxed, Relaxed, update);
        if rate > GOOD { 0 } else { ((1.0 / (rate * rate) - 1.0) * 256.0) as Surcharge }
    }
}

/// Wraps after seven weeks, when whatever it was has relaxed.
fn millis(at: Duration) -> u32 {
    at.as_millis() as u32
}

fn relaxed(bits: u64, at: u32) -> f64 {
    if bits == 0 {
        return 1.0;
    }
    let (rate, since) = (f64::from(f32::from_bits((bits >> 32) as u32)), bits as u32);
    // Another thread may have been a little later.
    let passed = at.wrapping_sub(since).cast_signed().max(0);
    1.0 - (1.0 - rate) * (-f64::from(passed) / 1_000.0 / RELAXES_IN).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn one_failure_costs_four_per_cent_and_is_forgotten() {
        let rate = SuccessRate::default();
        assert!(rate.is_whole());
        assert_eq!(rate.took(false, seconds(1)), 10, "1 / 0.98² - 1 is 4 % of 256");
        assert!((rate.at(seconds(1)) - 0.98).abs() < 1e-6);
        assert!((rate.at(seconds(31)) - (1.0 - 0.02 / std::f64::consts::E)).abs() < 1e-6);
        assert_eq!(rate.relax(seconds(200)), 0);
        assert!(rate.is_whole());
    }

    #[test]
    fn an_endpoint_that_only_fails_costs_up_to_ten_thousand_times_as_much() {
        let rate = SuccessRate::default();
        let mut last = 0;
        for _ in 0..1_000 {
            let next = rate.took(false, seconds(1));
            assert!(next >= last);
            last = next;
        }
        assert_eq!(last, 9_999 * 256);
        rate.reset();
        assert_eq!(rate.relax(seconds(1)), 0);
    }

    #[test]
    fn the_average_is_that_of_the_last_fifty_or_so() {
        let rate = SuccessRate::default();
        for n in 0..2_000 {
            rate.took(n % 2 == 0, seconds(1));
        }
        assert!((0.45..0.55).contains(&rate.at(seconds(1))));
        // A clock that went around, or a thread that was late.
        assert!(rate.at(seconds(0)) <= 0.56);
    }
}
