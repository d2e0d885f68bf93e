//! The median of a service's response times, for what "too long" means.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// Four buckets to each power of two of milliseconds, up to some 18 minutes: known within an eighth.
const BUCKETS: usize = 80;

/// Response times. Old ones fade: [`fade`](Self::fade) halves their weight.
#[derive(Debug)]
pub(crate) struct Median {
    counts: [AtomicU32; BUCKETS],
    samples: AtomicU32,
}

impl Default for Median {
    fn default() -> Self {
        Self { counts: [const { AtomicU32::new(0) }; BUCKETS], samples: AtomicU32::new(0) }
    }
}

/// With fewer samples every one is wanted, with more one in sixteen is as good.
const FEW: u32 = 256;

fn bucket(time: Duration) -> usize {
    // In quarters of a millisecond, so that the first buckets are whole.
    let quarters = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).saturating_mul(4).max(4);
    let exponent = 63 - quarters.leading_zeros();
    let sub = (quarters >> (exponent - 2)) & 3;
    (((exponent - 2) << 2) as usize + sub as usize).min(BUCKETS - 1)
}

fn lowest(bucket: usize) -> Duration {
    let (exponent, sub) = (bucket as u32 >> 2, bucket as u64 & 3);
    Duration::from_micros(((4 + sub) << exponent) * 250)
}

impl Median {
    /// Whether a sample is wanted; `dice` are 64 random bits.
    #[inline]
    pub(crate) fn wants(&self, dice: impl FnOnce() -> u64) -> bool {
        self.samples.load(Relaxed) < FEW || dice() & 15 == 0
    }

    pub(crate) fn add(&self, time: Duration, times: u32) {
        self.counts[bucket(time)].fetch_add(times, Relaxed);
        self.samples.fetch_add(times, Relaxed);
    }

    /// The median, nothing without samples.
    pub(crate) fn read(&self) -> Duration {
        let counts = self.counts.each_ref().map(|count| u64::from(count.load(Relaxed)));
        let half = counts.iter().sum::<u64>().div_ceil(2);
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= half && seen > 0 {
                return lowest(bucket);
            }
        }
        Duration::ZERO
    }

    /// What is known counts half from now on.
    pub(crate) fn fade(&self) {
        let mut left = 0;
        for count in self.counts.iter().filter(|count| count.load(Relaxed) > 0) {
            let half = count.load(Relaxed) / 2;
            count.store(half, Relaxed);
            left += half;
        }
        self.samples.store(left, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_median_follows_what_came_last() {
        let median = Median::default();
        assert_eq!(median.read(), Duration::ZERO);
        median.add(Duration::from_millis(10), 100);
        assert_eq!(median.read(), Duration::from_millis(10));
        median.add(Duration::from_secs(2), 99);
        assert_eq!(median.read(), Duration::from_millis(10));
        for _ in 0..10 {
            median.fade();
        }
        assert_eq!(median.read(), Duration::ZERO);
        assert!(median.wants(|| 1));
        median.add(Duration::from_secs(2), 1_000);
        assert!(!median.wants(|| 1) && median.wants(|| 16));
    }

    proptest! {
        #[test]
        fn a_time_is_known_within_a_fifth(millis in 1u64..600_000) {
            let time = Duration::from_millis(millis);
            let known = lowest(bucket(time));
            prop_assert!(known <= time && time <= known.mul_f64(1.26), "{known:?} for {time:?}");
        }
    }
}
