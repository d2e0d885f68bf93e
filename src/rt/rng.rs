//! A small random generator per thread, seeded so that a test can repeat its dice.

use std::{
    cell::Cell,
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, passes BigCrush, one multiply chain per draw.
///
/// For balancing, jitter and identifiers that need no secrecy.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
}

thread_local! {
    static LOCAL: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// A generator that repeats its draws.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 random bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// Uniform in `0..n` by Lemire's multiply-shift; 0 for `n == 0`.
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// 64 random bits of this thread's generator.
    pub(crate) fn local_u64() -> u64 {
        LOCAL.with(|state| {
            let next = state.get().wrapping_add(GAMMA);
            state.set(next);
            mix(next)
        })
    }

    /// Makes this thread's draws repeatable.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn seed_local(seed: u64) {
        LOCAL.with(|state| state.set(seed));
    }

    /// A generator that continues from this thread's, for a run of draws without touching the thread-local again.
    pub(crate) fn local() -> Self {
        Self::seeded(Self::local_u64())
    }

    /// `base` moved by up to ±`percent` of itself.
    pub(crate) fn jitter(&mut self, base: Duration, percent: u32) -> Duration {
        let span = u64::try_from(base.as_nanos()).unwrap_or(u64::MAX / 200) / 100 * u64::from(percent);
        let offset = if span == 0 { 0 } else { self.next_u64() % (2 * span) };
        (base + Duration::from_nanos(offset)).saturating_sub(Duration::from_nanos(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_draws_are_uniform() {
        let draw = |seed| {
            let mut rng = Rng::seeded(seed);
            (0..60_000).map(|_| rng.below(6)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        let mut counts = [0u32; 6];
        for n in draw(7) {
            counts[n as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (9_600..10_400).contains(&c)), "{counts:?}");
    }

    #[test]
    fn jitter_stays_in_its_band() {
        let mut rng = Rng::seeded(1);
        for _ in 0..1_000 {
            let jittered = rng.jitter(Duration::from_secs(10), 20);
            assert!((Duration::from_secs(8)..=Duration::from_secs(12)).contains(&jittered));
        }
    }
}
