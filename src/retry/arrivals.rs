//! How many of the requests that arrive are repetitions of others.
//!
//! A server that sheds and whose callers retry is asked again and again for what it refused: the load that it sheds is made
//! of its own refusals. It can end that by saying so, once retries are a good part of what arrives.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Arrivals that are remembered.
const SIZE: u64 = 1_000;
const WORDS: usize = SIZE.div_ceil(64) as usize;
/// Beyond this share of repetitions nobody should retry.
const MOST: u32 = (SIZE / 10) as u32;

/// The last 1,000 arrivals: a bit for each that was a repetition. Lock-free; two arrivals that meet at one bit after a whole
/// turn of the window may be counted as one.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    next: AtomicU64,
    bits: [AtomicU64; WORDS],
    repeated: AtomicU32,
}

impl Arrivals {
    #[inline]
    pub(crate) fn record(&self, repeated: bool) {
        let at = self.next.fetch_add(1, Relaxed) % SIZE;
        let (word, bit) = (&self.bits[(at / 64) as usize], 1 << (at % 64));
        // Most arrivals are the first of their kind, as was the one they replace: then nothing is written.
        if (word.load(Relaxed) & bit != 0) == repeated {
            return;
        }
        let before = if repeated { word.fetch_or(bit, Relaxed) } else { word.fetch_and(!bit, Relaxed) };
        if (before & bit != 0) != repeated {
            if repeated {
                self.repeated.fetch_add(1, Relaxed);
            } else {
                self.repeated.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Whether at least a tenth of the last 1,000 arrivals were repetitions.
    pub(crate) fn are_repetitive(&self) -> bool {
        self.repeated.load(Relaxed) >= MOST
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn from_a_tenth_of_the_last_thousand() {
        let arrivals = Arrivals::default();
        for n in 0..1_000 {
            arrivals.record(n % 10 == 0);
            assert_eq!(arrivals.are_repetitive(), n >= 990, "{n}");
        }
        // One less, and it is over.
        arrivals.record(false);
        assert!(!arrivals.are_repetitive());
        for _ in 0..100 {
            arrivals.record(true);
        }
        assert!(arrivals.are_repetitive());
        for _ in 0..1_000 {
            arrivals.record(false);
        }
        assert_eq!(arrivals.repeated.load(Relaxed), 0);
    }

    #[test]
    fn many_threads_leave_the_count_right() {
        let arrivals = Arrivals::default();
        thread::scope(|scope| {
            for thread in 0..4 {
                let arrivals = &arrivals;
                scope.spawn(move || (0..50_000).for_each(|n| arrivals.record((n + thread) % 7 == 0)));
            }
        });
        let bits: u32 = arrivals.bits.iter().map(|word| word.load(Relaxed).count_ones()).sum();
        assert_eq!(bits, arrivals.repeated.load(Relaxed));
    }
}
