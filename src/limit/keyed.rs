//! A limit for each key, in bounded memory.
//!
//! Keys come from callers, so there may be any number of them. A key is kept as its hash under secret seeds, and the
//! number of keys is bounded: when there is no room, keys that owe nothing are forgotten, since a key that comes back
//! finds the same limit. One that owes something is never forgotten, or a caller could get a fresh limit by making others
//! come; keys that find no room share one limit instead.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{bucket::Rate, policy::Allowance, standing::Standing, window::Window};
use crate::rt::{Epoch, Instant};

const SHARDS: usize = 16;

/// Who a limit is for: 128 bits of two keyed hashes, so that nobody finds a second key for the same limit.
pub(super) type Key = u128;

/// Secret seeds, of which keys are made.
#[derive(Debug)]
struct KeyHash {
    seeds: [RandomState; 2],
}

impl KeyHash {
    fn new() -> Self {
        Self { seeds: [RandomState::new(), RandomState::new()] }
    }

    fn hasher(&self) -> KeyHasher {
        KeyHasher { halves: [self.seeds[0].build_hasher(), self.seeds[1].build_hasher()] }
    }
}

/// Takes in one key.
#[derive(Debug)]
pub(super) struct KeyHasher {
    halves: [DefaultHasher; 2],
}

impl KeyHasher {
    pub(super) fn key(&self) -> Key {
        let [high, low] = &self.halves;
        u128::from(high.finish()) << 64 | u128::from(low.finish())
    }
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for half in &mut self.halves {
            half.write(bytes);
        }
    }

    fn finish(&self) -> u64 {
        self.halves[0].finish()
    }
}

/// A key is a hash already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _bytes: &[u8]) {}

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What one key has taken.
#[derive(Debug)]
struct Meter {
    full_at: u64,
    window: Option<Box<Window>>,
}

impl Meter {
    fn new(terms: &Terms) -> Self {
        Self { full_at: 0, window: terms.allowance.quota.as_ref().map(|quota| Box::new(Window::new(quota))) }
    }

    fn take(&mut self, terms: &Terms, nanos: u64) -> Result<(), Duration> {
        let full_at = match &terms.rate {
            Some(rate) => rate.take(self.full_at, rate.at(nanos))?,
            None => self.full_at,
        };
        if let (Some(window), Some(quota)) = (&mut self.window, &terms.allowance.quota) {
            window.take(quota.requests(), nanos)?;
        }
        self.full_at = full_at;
        Ok(())
    }

    /// Puts a token back. The quota keeps its count: it is refused rather too early than too late.
    fn give_back(&mut self, terms: &Terms) {
        if let Some(rate) = &terms.rate {
            self.full_at = rate.give_back(self.full_at);
        }
    }

    /// Whether it owes nothing.
    fn is_fresh(&mut self, terms: &Terms, nanos: u64) -> bool {
        terms.rate.is_none_or(|rate| self.full_at <= rate.at(nanos))
            && self.window.as_mut().is_none_or(|window| window.is_fresh(nanos))
    }

    fn carry(&mut self, before: &Terms, terms: &Terms, nanos: u64) {
        self.full_at = match (&before.rate, &terms.rate) {
            (Some(before), Some(rate)) => rate.carry(before, self.full_at, nanos),
            _ => 0,
        };
        let mut fresh = Self::new(terms).window;
        if let (Some(window), Some(before)) = (&mut fresh, &self.window) {
            window.carry(before, nanos);
        }
        self.window = fresh;
    }

    fn standing(&mut self, terms: &Terms, nanos: u64) -> Option<Standing> {
        let bucket = terms.rate.map(|rate| rate.standing(self.full_at, rate.at(nanos)));
        let quota = terms.allowance.quota.as_ref();
        let window = self.window.as_mut().zip(quota).map(|(window, quota)| window.standing(quota.requests(), nanos));
        match (bucket, window) {
            (Some(bucket), Some(window)) => Some(bucket.nearer(window)),
            (bucket, window) => bucket.or(window),
        }
    }
}

/// What each key may take.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Terms {
    allowance: Allowance,
    rate: Option<Rate>,
}

impl Terms {
    fn new(allowance: &Allowance, members: u32) -> Self {
        let quota = allowance.quota.map(|quota| quota.share(members));
        let rate = allowance.token_bucket.as_ref().map(|bucket| Rate::new(bucket, members));
        Self { allowance: Allowance { quota, ..*allowance }, rate }
    }
}

#[derive(Debug)]
struct Shard {
    terms: Terms,
    room: usize,
    meters: HashMap<Key, Meter, BuildHasherDefault<Identity>>,
    /// Not before this is any key worth looking at to be forgotten.
    sweep_at: u64,
}

/// A limit for each of a bounded number of keys, and one for the rest.
#[derive(Debug)]
pub(super) struct Keyed {
    epoch: Epoch,
    hash: KeyHash,
    shards: Box<[Mutex<Shard>]>,
    rest: Mutex<(Terms, Meter)>,
    overflows: AtomicU64,
}

impl Keyed {
    pub(super) fn new(allowance: &Allowance, members: u32, max_keys: u32, now: Instant) -> Self {
        let terms = Terms::new(allowance, members);
        let shards = if max_keys as usize > SHARDS * SHARDS { SHARDS } else { 1 };
        let shard = || Shard { terms, room: max_keys as usize / shards, meters: HashMap::default(), sweep_at: 0 };
        Self {
            epoch: Epoch::new(now),
            hash: KeyHash::new(),
            shards: (0..shards).map(|_| Mutex::new(shard())).collect(),
            rest: Mutex::new((terms, Meter::new(&terms))),
            overflows: AtomicU64::new(0),
        }
    }

    /// Takes in the parts of a key.
    pub(super) fn hasher(&self) -> KeyHasher {
        self.hash.hasher()
    }

    fn nanos(&self, now: Instant) -> u64 {
        self.epoch.nanos(now)
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        lock(&self.shards[(key >> 64) as usize % self.shards.len()])
    }

    /// Runs on the meter of a key, or on the shared one.
    fn with<T>(&self, key: Key, nanos: u64, run: impl FnOnce(&Terms, &mut Meter) -> T) -> T {
        let mut shard = self.shard(key);
        let Shard { terms, meters, .. } = &mut *shard;
        if let Some(meter) = meters.get_mut(&key) {
            return run(terms, meter);
        }
        if shard.make_room(nanos) {
            let terms = shard.terms;
            return run(&terms, shard.meters.entry(key).or_insert_with(|| Meter::new(&terms)));
        }
        drop(shard);
        self.overflows.fetch_add(1, Relaxed);
        let (terms, meter) = &mut *lock(&self.rest);
        run(terms, meter)
    }

    /// Takes one.
    ///
    /// # Errors
    /// How long until there is one.
    pub(super) fn take(&self, key: Key, now: Instant) -> Result<(), Duration> {
        let nanos = self.nanos(now);
        self.with(key, nanos, |terms, meter| meter.take(terms, nanos))
    }

    pub(super) fn give_back(&self, key: Key, now: Instant) {
        self.with(key, self.nanos(now), |terms, meter| meter.give_back(terms));
    }

    pub(super) fn standing(&self, key: Key, now: Instant) -> Option<Standing> {
        let nanos = self.nanos(now);
        self.with(key, nanos, |terms, meter| meter.standing(terms, nanos))
    }

    /// Changes what each key may take; what each took is kept.
    pub(super) fn set(&self, allowance: &Allowance, members: u32, max_keys: u32, now: Instant) {
        let (terms, nanos) = (Terms::new(allowance, members), self.nanos(now));
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.room = (max_keys as usize / self.shards.len()).max(1);
            let before = std::mem::replace(&mut shard.terms, terms);
            if before != terms {
                shard.meters.values_mut().for_each(|meter| meter.carry(&before, &terms, nanos));
                shard.sweep_at = 0;
            }
        }
        let (before, meter) = &mut *lock(&self.rest);
        if *before != terms {
            meter.carry(before, &terms, nanos);
            *before = terms;
        }
    }

    /// How many keys have a limit of their own now.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).meters.len()).sum()
    }
}

impl Shard {
    /// Whether one more key fits; keys that owe nothing make room.
    fn make_room(&mut self, nanos: u64) -> bool {
        if self.meters.len() < self.room {
            return true;
        }
        if nanos < self.sweep_at {
            return false;
        }
        let (terms, mut next) = (self.terms, u64::MAX);
        self.meters.retain(|_, meter| {
            if meter.is_fresh(&terms, nanos) {
                return false;
            }
            let full = terms.rate.map_or(0, |rate| rate.nanos(meter.full_at));
            let forgotten = meter.window.as_ref().map_or(0, |window| window.forgets_at());
            next = next.min(full.max(forgotten));
            true
        });
        self.sweep_at = next;
        self.meters.len() < self.room
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limit::policy::{BucketPolicy, QuotaPolicy},
        rt,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(max: u32, interval: Duration) -> Allowance {
        BucketPolicy::new(max, 1, interval).unwrap().into()
    }

    fn keys() -> impl Iterator<Item = Key> {
        (1..).map(|n: u128| n << 64 | n)
    }

    #[test]
    fn each_key_has_a_limit_of_its_own() {
        let now = rt::now();
        let keyed = Keyed::new(&bucket(2, SECOND), 1, 100, now);
        for key in keys().take(50) {
            assert!(keyed.take(key, now).is_ok() && keyed.take(key, now).is_ok());
            assert_eq!(keyed.take(key, now), Err(SECOND));
        }
        assert_eq!(keyed.len(), 50);
    }

    #[test]
    fn a_key_that_owes_is_never_forgotten_and_the_rest_share_one_limit() {
        let now = rt::now();
        let keyed = Keyed::new(&bucket(2, SECOND), 1, 10, now);
        let all: Vec<Key> = keys().take(1000).collect();
        for key in &all[..10] {
            keyed.take(*key, now).unwrap();
            keyed.take(*key, now).unwrap();
        }
        // Any number of new keys gets two between them.
        assert_eq!(all[10..].iter().filter(|key| keyed.take(**key, now).is_ok()).count(), 2);
        assert_eq!(keyed.overflows.load(Relaxed), 990);
        // And the first ones are still at their limit.
        assert!(all[..10].iter().all(|key| keyed.take(*key, now).is_err()));
        // Full again, they make room.
        let later = now + SECOND * 2;
        assert!(keyed.take(all[500], later).is_ok());
        assert_eq!(keyed.len(), 1);
    }

    #[test]
    fn the_number_of_keys_stays_bounded() {
        let now = rt::now();
        let keyed = Keyed::new(&bucket(2, SECOND), 1, 1000, now);
        for (n, key) in keys().take(20_000).enumerate() {
            let _ = keyed.take(key, now + Duration::from_millis(n as u64));
            assert!(keyed.len() <= 1000);
        }
    }

    #[test]
    fn a_changed_allowance_keeps_what_each_key_took() {
        let now = rt::now();
        let keyed = Keyed::new(&bucket(10, SECOND), 1, 100, now);
        for _ in 0..8 {
            keyed.take(7, now).unwrap();
        }
        let both = Allowance { quota: Some(QuotaPolicy::new(5, SECOND * 60).unwrap()), ..bucket(10, SECOND) };
        keyed.set(&both, 1, 100, now);
        assert_eq!((0..10).filter(|_| keyed.take(7, now).is_ok()).count(), 2);
        assert_eq!((0..10).filter(|_| keyed.take(8, now).is_ok()).count(), 5);
        assert_eq!(keyed.standing(8, now).unwrap().remaining, 0);
    }

    #[test]
    fn a_refused_quota_costs_no_token() {
        let now = rt::now();
        let both = Allowance { quota: Some(QuotaPolicy::new(1, SECOND * 60).unwrap()), ..bucket(3, SECOND) };
        let keyed = Keyed::new(&both, 1, 100, now);
        keyed.take(1, now).unwrap();
        assert!(keyed.take(1, now).is_err() && keyed.take(1, now).is_err());
        keyed.set(&bucket(3, SECOND), 1, 100, now);
        assert_eq!((0..10).filter(|_| keyed.take(1, now).is_ok()).count(), 2);
    }

    #[test]
    fn keys_of_different_parts_differ() {
        let hash = KeyHash::new();
        let key = |parts: &[&str]| {
            let mut hasher = hash.hasher();
            for part in parts {
                hasher.write_usize(part.len());
                hasher.write(part.as_bytes());
            }
            hasher.key()
        };
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["ab", ""]), key(&["a", "b"]));
    }
}
