//! Asking a second endpoint before the first has answered.
//!
//! The slowest few of many calls are often slow by chance: a pause, a lost packet, a long queue at one endpoint. A second
//! attempt at another endpoint that starts when the first is slower than most cuts that tail for a few percent of load;
//! started for everything, or while the backend is overloaded, it doubles the load and the latency with it. So a hedge
//! draws on the retry budget, costs one of the tree's allowance, is capped to a share of the calls, never goes to an
//! endpoint that was asked already, and whoever answers first ends the others.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    enforcement::{Mode, Percent},
    rt::Instant,
};

/// `hedge` of a service or a route. Off by default.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct HedgePolicy {
    /// When a further attempt starts.
    pub mode: HedgeMode,
    /// How many attempts may run besides the first. Default 1, 1 to 4.
    pub max_hedged_attempts: u8,
    /// Share of the calls that may be hedged, in percent. Default 5, 1 to 99. The retry budget holds as well.
    pub max_extra_load_percent: u8,
    /// Whether only idempotent calls are hedged, by the rules of
    /// [`RetryPolicy::require_idempotent`](super::RetryPolicy::require_idempotent). Default true.
    pub require_idempotent: bool,
    /// The share of the hedges that are decided that is really sent. Default all.
    pub percentage: Percent,
    /// Whether hedges are sent. In shadow they are decided and counted, and not sent. Default [`Mode::Enforce`].
    pub enforcement: Mode,
}

/// When a further attempt starts.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum HedgeMode {
    /// Never.
    Off,
    /// After this long. At least 1 ms.
    Fixed(Duration),
    /// When the call is slower than this percentage of the calls of the last minute, at least 1 ms. Not before 100 calls
    /// were seen.
    Percentile(f32),
    /// When the per-try timeout passes; the attempt that is late goes on.
    PerTryTimeout,
}

/// Largest `max_hedged_attempts`.
pub(crate) const MOST_HEDGES: u8 = 4;

impl Default for HedgePolicy {
    fn default() -> Self {
        Self {
            mode: HedgeMode::Off,
            max_hedged_attempts: 1,
            max_extra_load_percent: 5,
            require_idempotent: true,
            percentage: Percent::ALL,
            enforcement: Mode::Enforce,
        }
    }
}

impl HedgePolicy {
    /// The earliest hedge, and the calls that must have been seen in so long before a percentile is believed.
    pub(crate) const BOUNDS: (Duration, u64, Duration) = (LEAST, MIN_SAMPLES, WINDOW);

    /// A further attempt after `delay`.
    pub fn after(delay: Duration) -> Self {
        Self { mode: HedgeMode::Fixed(delay), ..Self::default() }
    }

    /// A further attempt when the call is slower than `percentile` percent of the others.
    pub fn percentile(percentile: f32) -> Self {
        Self { mode: HedgeMode::Percentile(percentile), ..Self::default() }
    }

    /// Whether anything is hedged.
    pub fn is_on(&self) -> bool {
        self.mode != HedgeMode::Off && self.enforcement != Mode::Off
    }

    /// Checks bounds.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        match self.mode {
            HedgeMode::Fixed(delay) if delay < LEAST => return Err(("delay", "it must be at least 1ms".into())),
            HedgeMode::Percentile(percentile) if !(50.0..=99.9).contains(&percentile) => {
                return Err(("percentile", format!("{percentile} is out of bounds: it must be 50 to 99.9")));
            }
            _ => {}
        }
        if !(1..=MOST_HEDGES).contains(&self.max_hedged_attempts) {
            let message = format!("{} is out of bounds: it must be 1 to {MOST_HEDGES}", self.max_hedged_attempts);
            return Err(("max_hedged_attempts", message));
        }
        if !(1..=99).contains(&self.max_extra_load_percent) {
            let message = format!("{} is out of bounds: it must be 1 to 99", self.max_extra_load_percent);
            return Err(("max_extra_load_percent", message));
        }
        Ok(())
    }
}

/// No hedge is earlier.
const LEAST: Duration = Duration::from_millis(1);
/// Calls that must have been seen before a percentile is believed.
const MIN_SAMPLES: u64 = 100;
const WINDOW: Duration = Duration::from_secs(60);
/// Log-linear: 8 to each power of two of microseconds, so a latency is known within 6 %.
const SUB_BITS: u32 = 3;
const BUCKETS: usize = 30 << SUB_BITS;

/// How many calls may be hedged: each call adds its share of one, each hedge takes one.
#[derive(Debug, Default)]
pub(crate) struct Load {
    hundredths: AtomicU64,
}

/// At most ten hedges are saved up, so that a calm hour does not pay for a burst.
const MOST_LOAD: u64 = 10 * 100;

impl Load {
    pub(crate) fn call(&self, percent: u8) {
        if self.hundredths.load(Relaxed) < MOST_LOAD {
            self.hundredths.fetch_add(percent.into(), Relaxed);
        }
    }

    pub(crate) fn take(&self) -> bool {
        self.hundredths.fetch_update(Relaxed, Relaxed, |have| have.checked_sub(100)).is_ok()
    }
}

/// The latencies of the last one to two minutes. Lock-free; time is an argument.
///
/// Two histograms take turns of a minute: one is filled while both are read, and what is read changes as soon as the new
/// one alone has enough.
#[derive(Debug)]
pub(crate) struct Latencies {
    epoch: Instant,
    turn: AtomicU64,
    halves: [Half; 2],
}

#[derive(Debug)]
struct Half {
    count: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Half {
    fn clear(&self) {
        self.count.store(0, Relaxed);
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }
}

impl Latencies {
    pub(crate) fn new(now: Instant) -> Box<Self> {
        let half = || Half { count: AtomicU64::new(0), buckets: [const { AtomicU64::new(0) }; BUCKETS] };
        Box::new(Self { epoch: now, turn: AtomicU64::new(0), halves: [half(), half()] })
    }

    /// The half that is being filled.
    fn current(&self, now: Instant) -> usize {
        let turn = now.saturating_duration_since(self.epoch).as_secs() / WINDOW.as_secs();
        let seen = self.turn.load(Relaxed);
        if turn > seen && self.turn.compare_exchange(seen, turn, Relaxed, Relaxed).is_ok() {
            self.halves[(turn % 2) as usize].clear();
            if turn - seen > 1 {
                self.halves[((turn + 1) % 2) as usize].clear();
            }
        }
        (turn % 2) as usize
    }

    pub(crate) fn record(&self, took: Duration, now: Instant) {
        let half = &self.halves[self.current(now)];
        half.buckets[bucket(took)].fetch_add(1, Relaxed);
        half.count.fetch_add(1, Relaxed);
    }

    /// What this percentage of calls stays under, once enough calls were seen.
    pub(crate) fn percentile(&self, percent: f32, now: Instant) -> Option<Duration> {
        let current = self.current(now);
        let (new, old) = (&self.halves[current], &self.halves[1 - current]);
        let alone = new.count.load(Relaxed) >= MIN_SAMPLES;
        let total = new.count.load(Relaxed) + if alone { 0 } else { old.count.load(Relaxed) };
        if total < MIN_SAMPLES {
            return None;
        }
        let rank = (total as f64 * f64::from(percent) / 100.0).ceil() as u64;
        let mut seen = 0;
        for (index, bucket) in new.buckets.iter().enumerate() {
            seen += bucket.load(Relaxed) + if alone { 0 } else { old.buckets[index].load(Relaxed) };
            if seen >= rank {
                return Some(upper(index).max(LEAST));
            }
        }
        None
    }
}

fn bucket(duration: Duration) -> usize {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX - 1) + 1;
    let exponent = 63 - micros.leading_zeros();
    let index = match exponent.checked_sub(SUB_BITS) {
        None => micros as usize,
        Some(shift) => {
            (((exponent - SUB_BITS + 1) as usize) << SUB_BITS) + ((micros >> shift) as usize & ((1 << SUB_BITS) - 1))
        }
    };
    index.min(BUCKETS - 1)
}

/// The end of a bucket.
fn upper(index: usize) -> Duration {
    let (group, sub) = (index >> SUB_BITS, (index & ((1 << SUB_BITS) - 1)) as u64);
    let micros = match group {
        0 => sub + 1,
        group => ((1 << SUB_BITS) + sub + 1) << (group - 1),
    };
    Duration::from_micros(micros.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rt;

    #[test]
    fn a_percentile_is_believed_from_100_calls_and_follows_a_shift_within_a_window() {
        let begin = rt::now();
        let latencies = Latencies::new(begin);
        for n in 0..99 {
            latencies.record(Duration::from_millis(10 + n % 3), begin);
        }
        assert_eq!(latencies.percentile(95.0, begin), None);
        latencies.record(Duration::from_millis(10), begin);
        let p95 = latencies.percentile(95.0, begin).unwrap();
        assert!((Duration::from_millis(12)..Duration::from_millis(13)).contains(&p95), "{p95:?}");
        // Everything takes 50 ms from now on: known a minute later at the latest.
        for second in 1..=60 {
            for _ in 0..10 {
                latencies.record(Duration::from_millis(50), begin + Duration::from_secs(second));
            }
        }
        for _ in 0..MIN_SAMPLES {
            latencies.record(Duration::from_millis(50), begin + Duration::from_secs(61));
        }
        let p50 = latencies.percentile(50.0, begin + Duration::from_secs(61)).unwrap();
        assert!((Duration::from_millis(50)..Duration::from_millis(54)).contains(&p50), "{p50:?}");
        // After two quiet minutes nothing is known.
        assert_eq!(latencies.percentile(50.0, begin + Duration::from_secs(300)), None);
    }

    #[test]
    fn a_share_of_slow_calls_shows_at_its_percentile() {
        let begin = rt::now();
        let latencies = Latencies::new(begin);
        for n in 0..1_000 {
            let ms = if n % 20 == 0 { 200 } else { 5 };
            latencies.record(Duration::from_millis(ms), begin);
        }
        assert!(latencies.percentile(90.0, begin).unwrap() < Duration::from_millis(6));
        assert!(latencies.percentile(99.0, begin).unwrap() >= Duration::from_millis(200));
    }

    #[test]
    fn hedges_are_at_most_their_share_of_the_calls() {
        let load = Load::default();
        let mut hedges = 0;
        for _ in 0..10_000 {
            load.call(5);
            hedges += u32::from(load.take());
        }
        assert_eq!(hedges, 500);
    }

    proptest! {
        #[test]
        fn a_latency_is_known_within_an_eighth(micros in 1u64..60_000_000) {
            let end = upper(bucket(Duration::from_micros(micros))).as_micros() as u64;
            prop_assert!(end >= micros && end <= micros + micros / 7 + 1, "{end} for {micros}");
        }
    }
}
