//! What a split must look like, and how long calls took.

use std::{ops::RangeInclusive, time::Duration};

/// The counts that a fair split of `n` calls with probability `p` stays within in 99.9 % of all runs: the exact quantiles
/// of the binomial distribution.
pub(crate) fn binomial_band(n: u64, p: f64) -> RangeInclusive<u64> {
    const TAIL: f64 = 0.0005;
    let (ln_p, ln_q) = (p.ln(), (1.0 - p).ln());
    // ln P(X = 0), then each next term from the one before; logarithms, since P(X = 0) underflows.
    let mut ln_term = n as f64 * ln_q;
    let mut below = 0.0;
    let mut low = None;
    for k in 0..=n {
        below += ln_term.exp();
        if low.is_none() && below > TAIL {
            low = Some(k);
        }
        if below >= 1.0 - TAIL {
            return low.unwrap_or(k)..=k;
        }
        ln_term += ((n - k) as f64 / (k + 1) as f64).ln() + ln_p - ln_q;
    }
    low.unwrap_or(0)..=n
}

/// The value that a share of all values is not above.
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((sorted.len() as f64 * share) as usize).min(last)).copied().unwrap_or_default()
}
