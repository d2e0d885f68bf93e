//! What was asked and what was accepted lately.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::ThrottlePolicy;
use crate::rt::{Instant, Rng};

const SLOTS: u64 = 10;
/// So many sent in a second, all of them accepted, end a shortage.
const ENOUGH: u32 = 20;

/// Requests and accepts of the last seconds, without a lock. A slot that is begun by several threads at once may lose a
/// few counts.
#[derive(Debug)]
pub(crate) struct Throttler {
    policy: ThrottlePolicy,
    epoch: Instant,
    /// Nanoseconds of a slot.
    slot: u64,
    slots: [Slot; SLOTS as usize],
    second: Second,
}

#[derive(Debug, Default)]
struct Slot {
    number: AtomicU64,
    requests: AtomicU32,
    accepts: AtomicU32,
}

/// The second that runs.
#[derive(Debug, Default)]
struct Second {
    number: AtomicU64,
    sent: AtomicU32,
    refused: AtomicU32,
}

impl Throttler {
    pub(crate) fn new(policy: ThrottlePolicy, now: Instant) -> Self {
        let slot = u64::try_from(policy.window.as_nanos()).unwrap_or(u64::MAX).div_ceil(SLOTS);
        Self { policy, epoch: now, slot, slots: Default::default(), second: Second::default() }
    }

    pub(crate) fn policy(&self) -> &ThrottlePolicy {
        &self.policy
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The slot of a moment, emptied if it was of an earlier one.
    fn slot(&self, now: Instant) -> &Slot {
        let number = self.nanos(now) / self.slot;
        let slot = &self.slots[(number % SLOTS) as usize];
        let before = slot.number.load(Relaxed);
        if before != number && slot.number.compare_exchange(before, number, Relaxed, Relaxed).is_ok() {
            slot.requests.store(0, Relaxed);
            slot.accepts.store(0, Relaxed);
        }
        slot
    }

    /// Requests and accepts within the window.
    fn sums(&self, now: Instant) -> (u32, u32) {
        let number = self.nanos(now) / self.slot;
        let recent = self.slots.iter().filter(|slot| slot.number.load(Relaxed) + SLOTS > number);
        recent.fold((0, 0), |(requests, accepts), slot| {
            (requests + slot.requests.load(Relaxed), accepts + slot.accepts.load(Relaxed))
        })
    }

    /// The share of calls that is refused here.
    pub(crate) fn probability(&self, now: Instant) -> f64 {
        let (requests, accepts) = self.sums(now);
        let (requests, accepts) = (f64::from(requests), f64::from(accepts));
        let p = (requests - self.policy.multiplier * accepts) / (requests + 1.0);
        p.clamp(0.0, f64::from(self.policy.max_rejection.millionths()) / 1e6)
    }

    /// Whether calls are refused, one that runs and asks left out: it has had no answer yet.
    pub(crate) fn is_refusing(&self, now: Instant) -> bool {
        let (requests, accepts) = self.sums(now);
        f64::from(requests.saturating_sub(1)) > self.policy.multiplier * f64::from(accepts)
    }

    /// Counts a call. True if it is to be refused here.
    pub(crate) fn refuses(&self, now: Instant, rng: &mut Rng) -> bool {
        let probability = self.probability(now);
        self.slot(now).requests.fetch_add(1, Relaxed);
        let refuses = probability > 0.0 && f64::from(rng.below(1 << 30)) < probability * f64::from(1 << 30);
        if !refuses {
            self.begin_second(now);
            self.second.sent.fetch_add(1, Relaxed);
        }
        refuses
    }

    /// What became of a call that was sent.
    pub(crate) fn answered(&self, now: Instant, accepted: bool) {
        if accepted {
            self.slot(now).accepts.fetch_add(1, Relaxed);
        } else {
            self.begin_second(now);
            self.second.refused.fetch_add(1, Relaxed);
        }
    }

    /// Looks at the second that has ended, and begins the next.
    fn begin_second(&self, now: Instant) {
        let number = self.nanos(now) / 1_000_000_000;
        let before = self.second.number.load(Relaxed);
        if before == number || self.second.number.compare_exchange(before, number, Relaxed, Relaxed).is_err() {
            return;
        }
        let (sent, refused) = (self.second.sent.swap(0, Relaxed), self.second.refused.swap(0, Relaxed));
        if number == before + 1 && sent >= ENOUGH && refused == 0 && self.probability(now) > 0.0 {
            for slot in &self.slots {
                slot.requests.store(0, Relaxed);
                slot.accepts.store(0, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{enforcement::Percent, rt};

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn throttler() -> (Throttler, Instant) {
        let now = rt::now();
        (Throttler::new(ThrottlePolicy::default(), now), now)
    }

    /// `rate` calls a second for so many seconds, of which the service accepts `accepts` in a hundred. How many were sent.
    fn run(throttler: &Throttler, now: &mut Instant, rng: &mut Rng, seconds: u32, rate: u32, accepts: u32) -> u32 {
        let mut sent = 0;
        for n in 0..seconds * rate {
            *now += SECOND / rate;
            if !throttler.refuses(*now, rng) {
                sent += 1;
                throttler.answered(*now, n % 100 < accepts);
            }
        }
        sent
    }

    #[test]
    fn the_probability_is_that_of_the_book() {
        let (throttler, now) = throttler();
        let mut rng = Rng::seeded(1);
        for n in 0..100 {
            // Before anything is refused.
            throttler.slot(now).requests.fetch_add(1, Relaxed);
            throttler.answered(now, n < 40);
        }
        assert!((throttler.probability(now) - 20.0 / 101.0).abs() < 1e-9, "{}", throttler.probability(now));
        // Forgotten after the window.
        assert_eq!(throttler.probability(now + 11 * SECOND), 0.0);
        assert!(!throttler.refuses(now + 11 * SECOND, &mut rng));
    }

    #[test]
    fn a_service_that_accepts_half_is_asked_for_everything() {
        let (throttler, mut now) = throttler();
        let sent = run(&throttler, &mut now, &mut Rng::seeded(1), 60, 100, 55);
        assert!(sent > 5_950, "{sent}");
    }

    #[test]
    fn a_service_that_accepts_nothing_still_gets_a_fifth() {
        let (throttler, mut now) = throttler();
        let mut rng = Rng::seeded(1);
        run(&throttler, &mut now, &mut rng, 20, 100, 0);
        let sent = run(&throttler, &mut now, &mut rng, 60, 100, 0);
        assert!((1_050..1_350).contains(&sent), "{sent}");
    }

    #[test]
    fn the_end_of_an_outage_is_noticed_within_two_windows() {
        for rate in [10, 100, 1000] {
            let (throttler, mut now) = throttler();
            let mut rng = Rng::seeded(1);
            run(&throttler, &mut now, &mut rng, 60, rate, 0);
            run(&throttler, &mut now, &mut rng, 20, rate, 100);
            assert_eq!(throttler.probability(now), 0.0, "{rate} a second");
        }
    }

    #[test]
    fn twenty_accepted_in_a_second_end_it_at_once() {
        let (throttler, mut now) = throttler();
        let mut rng = Rng::seeded(1);
        run(&throttler, &mut now, &mut rng, 60, 1000, 0);
        assert!(throttler.probability(now) > 0.79);
        run(&throttler, &mut now, &mut rng, 3, 1000, 100);
        assert_eq!(throttler.probability(now), 0.0);
    }

    #[test]
    fn what_comes_back_late_counts_when_it_comes() {
        let (throttler, now) = throttler();
        let mut rng = Rng::seeded(1);
        for _ in 0..50 {
            assert!(!throttler.refuses(now, &mut rng));
            // Nothing is known of it yet, so its being made counts against the service.
            throttler.answered(now + 500 * MS, true);
        }
        assert_eq!(throttler.probability(now + 600 * MS), 0.0);
        let full = ThrottlePolicy { max_rejection: Percent::ALL, ..ThrottlePolicy::default() };
        let hanging = Throttler::new(full, now);
        (0..50).for_each(|_| _ = hanging.refuses(now, &mut rng));
        assert!(hanging.probability(now) > 0.9);
    }
}
