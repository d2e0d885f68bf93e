//! How many retries a backend bears: a bucket that successes fill.
//!
//! Retries of a failing backend multiply its load at the worst moment, and a fixed number of retries per call does so by
//! that number. Here every retry and every hedge takes one token from a bucket that all routes, clones and hedges of a
//! backend share: a success puts in a fifth of one, each second a tenth, and it begins with ten. So while everything
//! fails there are at most 10 + t/10 s retries however many calls there are, and while half of them fail a tenth of the
//! calls more.
//!
//! The token is taken when the retry is decided and so is held through its back-off; what was never sent gives it back.
//! The bucket holds ten, or as many as the successes of ten seconds fill, whichever is more. All numbers are
//! fixed-point: a ratio of 0.7 is 0.7, not 1.

use std::{sync::Arc, time::Duration};

use crate::rt::{
    Epoch, Instant,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Ten-thousandths of a token, so that a tenth of one per second is one per millisecond.
const TOKEN: u64 = 10_000;
const PER_SUCCESS: u64 = TOKEN / 5;
const RESERVE: u64 = 10 * TOKEN;
const SECONDS: u64 = 10;

/// The retry budget of one backend. Lock-free; time is an argument.
#[derive(Debug)]
pub(crate) struct Budget {
    epoch: Epoch,
    tokens: AtomicU64,
    /// Milliseconds since the epoch for which the bucket has been filled.
    filled: AtomicU64,
    /// The second of the latest call.
    second: AtomicU64,
    /// How many there were in the nine seconds before it.
    before: AtomicU64,
    /// Calls by second: the second in the upper half, the count in the lower.
    calls: [AtomicU64; SECONDS as usize],
}

impl Budget {
    /// What it holds at first, and what a success and a second put in: tokens.
    pub(crate) const RATES: (u64, f64, f64) =
        (RESERVE / TOKEN, PER_SUCCESS as f64 / TOKEN as f64, 1_000.0 / TOKEN as f64);

    pub(crate) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch: Epoch::new(now),
            tokens: AtomicU64::new(RESERVE),
            filled: AtomicU64::new(0),
            second: AtomicU64::new(0),
            before: AtomicU64::new(0),
            calls: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    fn elapsed(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.epoch.nanos(now))
    }

    /// A call begins. Not an attempt: what is sent again is the same call. How many there were in this second before.
    #[inline]
    pub(crate) fn call(&self, now: Instant) -> u32 {
        let second = self.elapsed(now).as_secs();
        let bucket = &self.calls[(second % SECONDS) as usize];
        let mut seen = bucket.load(Relaxed);
        loop {
            if seen >> 32 == second {
                return bucket.fetch_add(1, Relaxed) as u32;
            }
            match bucket.compare_exchange_weak(seen, second << 32 | 1, Relaxed, Relaxed) {
                Ok(_) => {
                    self.turn(second);
                    return 0;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// The first call of a second.
    fn turn(&self, second: u64) {
        if self.second.fetch_max(second, Relaxed) <= second {
            let others = self.calls.iter().enumerate().filter(|(index, _)| *index as u64 != second % SECONDS);
            self.before.store(others.map(|(_, bucket)| recent(bucket, second)).sum(), Relaxed);
        }
    }

    /// A call succeeded. It began before, so the second of the latest call is exact enough and no clock is read.
    #[inline]
    pub(crate) fn success(&self) {
        let tokens = self.tokens.load(Relaxed);
        if tokens + PER_SUCCESS <= RESERVE {
            // The smallest bucket has room, so its size does not matter.
            self.tokens.fetch_add(PER_SUCCESS, Relaxed);
            return;
        }
        let second = self.second.load(Relaxed);
        let calls = self.before.load(Relaxed) + recent(&self.calls[(second % SECONDS) as usize], second);
        if tokens < (calls * PER_SUCCESS).max(RESERVE) {
            self.add(PER_SUCCESS, (calls * PER_SUCCESS).max(RESERVE));
        }
    }

    /// Takes a token for one retry or hedge; `None` if the backend bears no more.
    pub(crate) fn withdraw(self: &Arc<Self>, now: Instant) -> Option<Charge> {
        let elapsed = self.elapsed(now);
        let size = self.size(elapsed.as_secs());
        let elapsed = elapsed.as_millis() as u64;
        let filled = self.filled.fetch_max(elapsed, Relaxed);
        self.add(elapsed.saturating_sub(filled), size);
        let taken = self.tokens.fetch_update(Relaxed, Relaxed, |tokens| tokens.min(size).checked_sub(TOKEN));
        taken.is_ok().then(|| Charge { budget: Arc::clone(self), sent: false })
    }

    fn add(&self, tokens: u64, size: u64) {
        if tokens > 0 {
            let _ = self.tokens.fetch_update(Relaxed, Relaxed, |now| (now < size).then(|| (now + tokens).min(size)));
        }
    }

    /// How much it can hold in this second.
    fn size(&self, second: u64) -> u64 {
        let calls: u64 = self.calls.iter().map(|bucket| recent(bucket, second)).sum();
        (calls * PER_SUCCESS).max(RESERVE)
    }

    /// Whole tokens that are there, for status and tests.
    #[cfg(test)]
    pub(crate) fn tokens(&self) -> f64 {
        self.tokens.load(Relaxed) as f64 / TOKEN as f64
    }
}

/// The calls of a second, if it is one of the ten up to this one.
fn recent(bucket: &AtomicU64, second: u64) -> u64 {
    let seen = bucket.load(Relaxed);
    if (seen >> 32) + SECONDS > second { seen & u64::from(u32::MAX) } else { 0 }
}

/// The token of one retry or hedge, held from the decision to the end of the attempt.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    sent: bool,
}

impl Charge {
    /// The attempt was sent: the token is spent.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
    }

    /// It turned out that it was not.
    pub(crate) fn unsent(&mut self) {
        self.sent = false;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.sent {
            self.budget.tokens.fetch_add(TOKEN, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::rt;

    fn take(budget: &Arc<Budget>, now: Instant) -> bool {
        budget.withdraw(now).is_some_and(|mut charge| {
            charge.sent();
            true
        })
    }

    /// Calls at `rate` per second for `seconds`, of which each `failing` of 100 fail and are retried once if the budget
    /// allows.
    fn run(rate: u64, seconds: u64, failing: u64) -> u64 {
        let begin = rt::now();
        let budget = Budget::new(begin);
        let mut retries = 0;
        for n in 0..rate * seconds {
            let now = begin + Duration::from_micros(n * 1_000_000 / rate);
            budget.call(now);
            if (n * failing / 100) != ((n + 1) * failing / 100) {
                retries += u64::from(take(&budget, now));
            } else {
                budget.success();
            }
        }
        retries
    }

    #[test]
    fn while_everything_fails_ten_and_one_each_ten_seconds() {
        assert_eq!(run(1000, 60, 100), 15);
        assert_eq!(run(20, 600, 100), 69);
    }

    #[test]
    fn while_half_fails_a_tenth_of_the_calls_more() {
        for (rate, seconds) in [(1000, 60), (20, 600)] {
            let calls = rate * seconds;
            let retries = run(rate, seconds, 50);
            assert!(retries <= calls / 10 + 10 + seconds / 10, "{retries}");
            assert!(retries >= calls * 95 / 1000, "{retries} of {calls}: the budget is used");
        }
    }

    #[test]
    fn a_ratio_is_a_ratio() {
        // 30 % failing wants fewer than successes pay for, 70 % is cut to 0.2 × 30 %.
        assert_eq!(run(1000, 10, 10), 1000);
        let retries = run(1000, 100, 70);
        assert!((5_900..=6_030).contains(&retries), "{retries}");
    }

    #[test]
    fn the_bucket_holds_a_fifth_of_the_calls_of_ten_seconds() {
        let begin = rt::now();
        let budget = Budget::new(begin);
        for _ in 0..1_000 {
            budget.call(begin);
            budget.success();
        }
        assert_eq!(budget.tokens(), 200.0);
        let later = begin + Duration::from_secs(9);
        assert_eq!((0..1_000).filter(|_| take(&budget, later)).count(), 200);
        for _ in 0..1_000 {
            budget.success();
        }
        assert_eq!(budget.tokens(), 200.0);
        // The calls are forgotten, and with them what they filled.
        let later = begin + Duration::from_secs(10);
        assert_eq!((0..1_000).filter(|_| take(&budget, later)).count(), 10);
    }

    #[test]
    fn what_was_never_sent_gives_its_token_back() {
        let now = rt::now();
        let budget = Budget::new(now);
        let held: Vec<_> = (0..20).map_while(|_| budget.withdraw(now)).collect();
        assert_eq!(held.len(), 10);
        drop(held);
        assert_eq!(budget.tokens(), 10.0);
    }

    #[test]
    fn many_threads_take_no_more_than_there_is() {
        let now = rt::now();
        let budget = Budget::new(now);
        let later = now + Duration::from_secs(100);
        let taken: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut taken = 0;
                        for n in 0..20_000u64 {
                            let at = now + Duration::from_millis(n * 5);
                            budget.call(at);
                            taken += usize::from(take(&budget, at));
                            if n % 3 == 0 {
                                drop(budget.withdraw(at));
                            }
                        }
                        taken
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let left = (0..1_000).filter(|_| take(&budget, later)).count();
        assert!((19..=20).contains(&(taken + left)), "{taken} and {left}: ten to begin with and ten in 100 s");
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_bound(steps in proptest::collection::vec((0u64..50, 0u8..3), 1..2_000)) {
            let begin = rt::now();
            let budget = Budget::new(begin);
            let (mut now, mut successes, mut retries) = (begin, 0.0, 0.0);
            for (ms, step) in steps {
                now += Duration::from_millis(ms);
                budget.call(now);
                match step {
                    0 => retries += f64::from(u8::from(take(&budget, now))),
                    1 => {
                        budget.success();
                        successes += 1.0;
                    }
                    _ => drop(budget.withdraw(now)),
                }
                let seconds = (now - begin).as_secs_f64();
                prop_assert!(retries <= 10.0 + 0.2 * successes + seconds / 10.0 + 1e-9);
            }
        }
    }
}
