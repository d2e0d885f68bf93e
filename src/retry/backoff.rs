//! How long to wait before a retry.

use std::time::Duration;

use crate::rt::Rng;

/// Exponential back-off with jitter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Backoff {
    /// The scale of the first wait. Default 25 ms, at least 1 ms.
    pub base_interval: Duration,
    /// No wait is longer. Default ten times the base, at least the base.
    pub max_interval: Duration,
    /// How waits are spread. Default [`Jitter::Full`].
    pub jitter: Jitter,
}

/// How waits are spread, so that callers that failed together do not come back together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Jitter {
    /// Uniform between 0 and (2^n − 1) × base before the n-th retry, as Envoy does.
    #[default]
    Full,
    /// Half of that, plus a uniform share of the other half.
    Equal,
    /// Uniform between the base and three times the wait before.
    Decorrelated,
    /// Base × 2^(n − 1), moved by up to 20 %, as gRPC does (gRFC A6).
    Grpc,
}

impl Jitter {
    /// Its name in `jitter`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Jitter::Full => "full",
            Jitter::Equal => "equal",
            Jitter::Decorrelated => "decorrelated",
            Jitter::Grpc => "grpc",
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(25))
    }
}

impl Backoff {
    /// Waits on this scale, up to ten times of it.
    pub const fn new(base_interval: Duration) -> Self {
        Self { base_interval, max_interval: base_interval.saturating_mul(10), jitter: Jitter::Full }
    }

    /// Sets the longest wait.
    #[must_use]
    pub const fn max_interval(mut self, max_interval: Duration) -> Self {
        self.max_interval = max_interval;
        self
    }

    /// Sets how waits are spread.
    #[must_use]
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.base_interval < Duration::from_millis(1) {
            return Err(("retry_back_off.base_interval", "it must be at least 1ms".into()));
        }
        if self.max_interval < self.base_interval {
            return Err(("retry_back_off.max_interval", "it must be at least `base_interval`".into()));
        }
        Ok(())
    }

    /// The wait before the `retry`-th retry, from 1. `before` is the last wait, zero for the first.
    pub(crate) fn delay(&self, retry: u32, before: Duration, rng: &mut Rng) -> Duration {
        let (base, max) = (nanos(self.base_interval), nanos(self.max_interval));
        let power = |exponent: u32| 1u64.checked_shl(exponent).unwrap_or(u64::MAX);
        let wait = match self.jitter {
            Jitter::Full => below(rng, base.saturating_mul(power(retry) - 1).min(max)),
            Jitter::Equal => {
                let half = base.saturating_mul(power(retry) - 1).min(max) / 2;
                half + below(rng, half)
            }
            Jitter::Decorrelated => {
                let most = nanos(before).saturating_mul(3).max(base).min(max);
                base.min(most) + below(rng, most.saturating_sub(base))
            }
            Jitter::Grpc => {
                let middle = base.saturating_mul(power(retry.saturating_sub(1))).min(max);
                let fifth = middle / 5;
                middle - fifth + below(rng, fifth.saturating_mul(2))
            }
        };
        Duration::from_nanos(wait)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// Uniform in `0..most`; 0 for 0.
fn below(rng: &mut Rng, most: u64) -> u64 {
    if most == 0 { 0 } else { rng.next_u64() % most }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn waits(back_off: Backoff, retry: u32) -> (Duration, Duration) {
        let mut rng = Rng::seeded(7);
        let mut waits: Vec<_> = (0..10_000).map(|_| back_off.delay(retry, Duration::ZERO, &mut rng)).collect();
        waits.sort_unstable();
        (waits[0], waits[9_999])
    }

    #[test]
    fn the_nth_wait_is_uniform_below_2_to_the_n_less_1_times_25_ms_and_at_most_250_ms() {
        for (retry, below) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250), (200, 250)] {
            let (least, most) = waits(Backoff::default(), retry);
            assert!(least < MS(below) / 100 && most < MS(below) && most > MS(below) * 98 / 100, "{retry}: {most:?}");
        }
    }

    #[test]
    fn equal_jitter_waits_at_least_half() {
        let (least, most) = waits(Backoff::default().jitter(Jitter::Equal), 2);
        assert!(least >= MS(75) / 2 && most < MS(75));
    }

    #[test]
    fn grpc_jitter_stays_within_a_fifth() {
        let back_off = Backoff::new(MS(100)).max_interval(MS(1000)).jitter(Jitter::Grpc);
        for (retry, middle) in [(1, 100), (2, 200), (4, 800), (5, 1000), (70, 1000)] {
            let (least, most) = waits(back_off, retry);
            assert!(least >= MS(middle) * 8 / 10 && most < MS(middle) * 12 / 10, "{retry}");
        }
    }

    #[test]
    fn decorrelated_waits_grow_from_the_wait_before() {
        let back_off = Backoff::default().jitter(Jitter::Decorrelated);
        let mut rng = Rng::seeded(3);
        for before in [0, 25, 50, 200] {
            let most = MS(25).max(MS(before) * 3).min(MS(250));
            for _ in 0..1_000 {
                let wait = back_off.delay(2, MS(before), &mut rng);
                assert!((MS(25)..=most).contains(&wait), "{wait:?} after {before} ms");
            }
        }
    }
}
