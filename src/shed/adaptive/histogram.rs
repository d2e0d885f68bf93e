//! Durations of one window, counted without a lock.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// 32 buckets to each power of two of nanoseconds: a duration is known within 3 %.
const SUB_BITS: u32 = 5;
const BUCKETS: usize = 40 << SUB_BITS;

#[derive(Debug)]
pub(super) struct Histogram {
    buckets: Box<[AtomicU32]>,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect() }
    }

    pub(super) fn record(&self, duration: Duration) {
        self.buckets[bucket(duration)].fetch_add(1, Relaxed);
    }

    /// Takes everything out; this percentile of it.
    pub(super) fn take(&self, percentile: f64) -> Option<Duration> {
        let counts: Vec<u32> = self.buckets.iter().map(|bucket| bucket.swap(0, Relaxed)).collect();
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let mut left = (total as f64 * percentile / 100.0).max(1.0);
        counts.iter().enumerate().find_map(|(index, count)| {
            let count = f64::from(*count);
            if count >= left {
                // As if the durations in a bucket were spread evenly.
                let (low, high) = (low(index), low(index + 1));
                return Some(Duration::from_nanos((low + (high - low) * left / count) as u64));
            }
            left -= count;
            None
        })
    }
}

fn bucket(duration: Duration) -> usize {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1);
    let exponent = 63 - nanos.leading_zeros();
    let index = if exponent < SUB_BITS {
        nanos as usize
    } else {
        let sub = (nanos >> (exponent - SUB_BITS)) & ((1 << SUB_BITS) - 1);
        (((exponent - SUB_BITS + 1) as usize) << SUB_BITS) + sub as usize
    };
    index.min(BUCKETS - 1)
}

/// Where a bucket begins.
fn low(index: usize) -> f64 {
    if index < 1 << SUB_BITS {
        return index as f64;
    }
    let exponent = (index >> SUB_BITS) as i32 - 1;
    let sub = index & ((1 << SUB_BITS) - 1);
    2f64.powi(exponent) * ((1 << SUB_BITS) + sub) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_of_a_spread() {
        let histogram = Histogram::new();
        (1..=1000).for_each(|millis| histogram.record(Duration::from_millis(millis)));
        let p90 = histogram.take(90.0).unwrap();
        assert!((p90.as_secs_f64() - 0.9).abs() < 0.01, "{p90:?}");
        assert_eq!(histogram.take(90.0), None);
    }

    proptest! {
        #[test]
        fn a_duration_is_known_within_a_thirtieth(nanos in 1u64..500_000_000_000) {
            let index = bucket(Duration::from_nanos(nanos));
            let exact = nanos as f64;
            prop_assert!(low(index) <= exact && exact < low(index + 1), "{index}: {} {exact} {}", low(index), low(index + 1));
            prop_assert!(low(index + 1) - low(index) <= exact / 30.0 + 1.0);
        }
    }
}
