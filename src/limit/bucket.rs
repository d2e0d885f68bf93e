//! A token bucket in one word: when it will be full again.
//!
//! The state is a moment, so nothing has to be refilled, and one compare-and-swap admits exactly, however many threads
//! take at once (the "virtual scheduling" form of the generic cell rate algorithm, ITU-T I.371). Time is counted in units
//! of which a nanosecond has a whole number and a token has a whole number, so no rate is rounded that a configuration is
//! likely to ask for; other rates are rounded down by less than one in 100,000.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{policy::BucketPolicy, standing::Standing};
use crate::rt::{
    Epoch, Instant,
    sync::{
        ArcSwap, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Units of time per nanosecond are at most this, so that nine years fit into a word.
const FINEST: u64 = 64;

/// How fast a bucket fills and how much it holds. A token costs `token` units, a nanosecond brings `per_nano`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rate {
    per_nano: u64,
    token: u64,
    capacity: u64,
}

impl Rate {
    /// The share of one of `members` in a limit that holds for all of them together.
    pub(crate) fn new(policy: &BucketPolicy, members: u32) -> Self {
        let (fill, interval) = (u64::from(policy.tokens_per_fill()), nanos(policy.fill_interval()));
        let divisor = gcd(fill, interval);
        let (per_nano, token) = match fill / divisor {
            exact @ ..=FINEST => (exact, interval / divisor),
            _ => (FINEST, (interval * FINEST).div_ceil(fill)),
        };
        let capacity = token.saturating_mul(policy.max_tokens().into());
        // A share holds the same units, each token costs more of them. At least one token has to fit.
        let token = token.saturating_mul(u64::from(members.max(1))).min(1 << 61);
        Self { per_nano, token, capacity: capacity.max(token) }
    }

    pub(crate) fn at(&self, nanos: u64) -> u64 {
        nanos.saturating_mul(self.per_nano)
    }

    /// The nanosecond of a moment, rounded up.
    pub(crate) fn nanos(&self, units: u64) -> u64 {
        units.div_ceil(self.per_nano)
    }

    fn span(&self, units: u64) -> Duration {
        Duration::from_nanos(self.nanos(units))
    }

    /// When a bucket that is full at `full_at` will be full once a token is taken now.
    ///
    /// # Errors
    /// How long until there is one.
    pub(crate) fn take(&self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let next = full_at.max(now).saturating_add(self.token);
        let latest = now.saturating_add(self.capacity);
        if next <= latest { Ok(next) } else { Err(self.span(next - latest)) }
    }

    pub(crate) fn give_back(&self, full_at: u64) -> u64 {
        full_at.saturating_sub(self.token)
    }

    /// The moment of a bucket that gave out as much as one of `before` did. Emptier than empty it never is.
    pub(crate) fn carry(&self, before: &Rate, full_at: u64, nanos: u64) -> u64 {
        let given = full_at.saturating_sub(before.at(nanos));
        let given = u128::from(given) * u128::from(self.token) / u128::from(before.token);
        let given = u64::try_from(given).unwrap_or(u64::MAX).min(self.capacity);
        self.at(nanos).saturating_add(given)
    }

    pub(crate) fn standing(&self, full_at: u64, now: u64) -> Standing {
        let given = full_at.saturating_sub(now);
        let tokens = |units: u64| u32::try_from(units / self.token).unwrap_or(u32::MAX);
        Standing {
            limit: tokens(self.capacity),
            remaining: tokens(self.capacity.saturating_sub(given)),
            reset: self.span(given),
            window: self.span(self.capacity),
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Stands for "moved on" in place of a moment.
const CLOSED: u64 = u64::MAX;

/// A bucket shared by everything that takes from it. A change of its rate keeps what was given out.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    epoch: Epoch,
    current: ArcSwap<Generation>,
    /// Held while a generation is replaced.
    editing: Mutex<()>,
}

/// The bucket at one rate.
#[derive(Debug)]
struct Generation {
    rate: Rate,
    full_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        let generation = Generation { rate, full_at: AtomicU64::new(0) };
        Self { epoch: Epoch::new(now), current: ArcSwap::from_pointee(generation), editing: Mutex::default() }
    }

    fn nanos(&self, now: Instant) -> u64 {
        self.epoch.nanos(now)
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one.
    pub(crate) fn take(&self, now: Instant) -> Result<(), Duration> {
        let nanos = self.nanos(now);
        self.change(|rate, full_at| rate.take(full_at, rate.at(nanos)))
    }

    /// Puts a token back that was taken and not used.
    pub(crate) fn give_back(&self) {
        let _: Result<(), ()> = self.change(|rate, full_at| Ok(rate.give_back(full_at)));
    }

    fn change<E>(&self, change: impl Fn(&Rate, u64) -> Result<u64, E>) -> Result<(), E> {
        loop {
            let current = self.current.load();
            let mut full_at = current.full_at.load(Relaxed);
            while full_at != CLOSED {
                let next = change(&current.rate, full_at)?.min(CLOSED - 1);
                match current.full_at.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                    Ok(_) => return Ok(()),
                    Err(changed) => full_at = changed,
                }
            }
            drop(current);
            // The next generation is about to be there.
            let _edited = self.editing.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn set_rate(&self, rate: Rate, now: Instant) {
        let _editing = self.editing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load();
        if before.rate == rate {
            return;
        }
        let full_at = before.full_at.swap(CLOSED, Relaxed);
        let full_at = rate.carry(&before.rate, full_at, self.nanos(now));
        self.current.store(Arc::new(Generation { rate, full_at: AtomicU64::new(full_at) }));
    }

    pub(crate) fn standing(&self, now: Instant) -> Standing {
        let current = self.current.load();
        current.rate.standing(current.full_at.load(Relaxed), current.rate.at(self.nanos(now)))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicBool, AtomicU32},
        },
        thread,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::rt;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(max: u32, fill: u32, interval: Duration) -> BucketPolicy {
        BucketPolicy::new(max, fill, interval).unwrap()
    }

    fn bucket(max: u32, fill: u32, interval: Duration) -> (TokenBucket, Instant) {
        let now = rt::now();
        (TokenBucket::new(Rate::new(&policy(max, fill, interval), 1), now), now)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (bucket, start) = bucket(10, 4, SECOND);
        assert_eq!((0..20).filter(|_| bucket.take(start).is_ok()).count(), 10);
        assert_eq!(bucket.take(start), Err(SECOND / 4));
        assert!(bucket.take(start + SECOND / 4 - Duration::from_nanos(1)).is_err());
        assert!(bucket.take(start + SECOND / 4).is_ok());
        // An idle bucket is full and no fuller.
        assert_eq!((0..20).filter(|_| bucket.take(start + SECOND * 3600).is_ok()).count(), 10);
    }

    #[test]
    fn sixty_four_threads_take_exactly_what_there_is() {
        let (bucket, start) = bucket(1000, 1000, SECOND);
        let (taken, together) = (AtomicU32::new(0), Barrier::new(64));
        thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    // The same moments for everyone: 1,000 at once, then 500 more half a second later.
                    for moment in [start, start + SECOND / 2] {
                        together.wait();
                        for _ in 0..200 {
                            taken.fetch_add(bucket.take(moment).is_ok().into(), Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(taken.load(Relaxed), 1500);
    }

    #[test]
    fn nothing_is_won_or_lost_while_the_rate_changes() {
        let (bucket, start) = bucket(500, 1, SECOND * 3600);
        let (taken, done) = (AtomicU32::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                // Other rates, the same 500 tokens.
                for round in 1.. {
                    bucket.set_rate(Rate::new(&policy(500, 1, SECOND * (3600 + round % 7)), 1), start);
                    if done.load(Relaxed) {
                        break;
                    }
                }
            });
            let takers: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            taken.fetch_add(bucket.take(start).is_ok().into(), Relaxed);
                            thread::yield_now();
                        }
                    })
                })
                .collect();
            for taker in takers {
                taker.join().unwrap();
            }
            done.store(true, Relaxed);
        });
        // Each conversion between two rates rounds down by less than a unit.
        assert_eq!(taken.load(Relaxed), 500);
    }

    #[test]
    fn a_lowered_bucket_gives_nothing_until_less_than_it_holds_is_given_out() {
        let (bucket, start) = bucket(100, 10, SECOND);
        for _ in 0..50 {
            bucket.take(start).unwrap();
        }
        bucket.set_rate(Rate::new(&policy(10, 10, SECOND), 1), start);
        assert_eq!(bucket.take(start), Err(SECOND / 10));
        // A reload that says the same fills nothing.
        bucket.set_rate(Rate::new(&policy(10, 10, SECOND), 1), start);
        assert!(bucket.take(start).is_err());
        bucket.set_rate(Rate::new(&policy(20, 10, SECOND), 1), start);
        assert_eq!((0..50).filter(|_| bucket.take(start).is_ok()).count(), 10);
    }

    #[test]
    fn a_token_given_back_can_be_taken_again() {
        let (bucket, start) = bucket(1, 1, SECOND);
        bucket.take(start).unwrap();
        bucket.give_back();
        assert!(bucket.take(start).is_ok() && bucket.take(start).is_err());
    }

    #[test]
    fn members_share_exactly_and_each_has_at_least_one() {
        let share = |max, members| {
            let now = rt::now();
            let bucket = TokenBucket::new(Rate::new(&policy(max, 10, SECOND), members), now);
            let burst = (0..200).filter(|_| bucket.take(now).is_ok()).count();
            (burst, bucket.take(now).unwrap_err())
        };
        assert_eq!(share(100, 3), (33, Duration::from_nanos(200_000_000)));
        assert_eq!(share(2, 7), (1, Duration::from_millis(700)));
    }

    #[test]
    fn the_standing_tells_what_headers_say() {
        let (bucket, start) = bucket(60, 1, SECOND);
        for _ in 0..15 {
            bucket.take(start).unwrap();
        }
        let standing = bucket.standing(start);
        assert_eq!((standing.limit, standing.remaining), (60, 45));
        assert_eq!((standing.reset, standing.window), (SECOND * 15, SECOND * 60));
    }

    proptest! {
        /// Never more than burst and rate allow, and hardly less.
        #[test]
        fn the_rate_holds(max in 1u32..50, fill in 1u32..5_000_000, millis in 1u64..100_000, steps in 1u64..300) {
            let policy = policy(max, fill, Duration::from_millis(millis));
            let now = rt::now();
            let bucket = TokenBucket::new(Rate::new(&policy, 1), now);
            let step = Duration::from_nanos((millis * 1_000_000 / u64::from(fill)).max(1) / 3 + 1);
            let mut taken = 0u64;
            for n in 0..=steps {
                for _ in 0..3 {
                    taken += u64::from(bucket.take(now + step * n as u32).is_ok());
                }
            }
            let elapsed = (step * steps as u32).as_nanos() as f64;
            let most = f64::from(max) + elapsed * f64::from(fill) / (millis as f64 * 1e6);
            prop_assert!(taken as f64 <= most + 1e-6, "{taken} of {most}");
        }
    }
}
