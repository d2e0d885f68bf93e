//! Who is shed first: a level for each request, and a threshold that moves with the overload.
//!
//! A level is the criticality and, within it, a place by user, so that under overload the same users are served and the
//! same users are refused, rather than everyone a little: a page of twenty calls, each refused with 10 %, is a page that
//! fails nine times in ten. Users that ask for much more than others stand behind them.
//!
//! Ten times a second the share that had to be refused, and how arrivals spread over the levels, give the threshold below
//! which requests are refused in the next tick. What still arrives above the limit is refused whatever its level, and
//! from then on nothing less critical is admitted for the rest of the tick.

use std::{
    hash::BuildHasher,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    context::Criticality,
    rt::{Instant, Rng},
};

const TICK: Duration = Duration::from_millis(100);
/// Places within a criticality.
const PLACES: u32 = 100;
const LEVELS: usize = 4 * PLACES as usize;
/// Cells in which the use by users is counted.
const USERS: usize = 1024;
/// For how long the order of users stays the same.
const ORDER: Duration = Duration::from_secs(3600);

/// How important a request is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Level(u32);

impl Level {
    /// 0 for the least critical, 3 for the most.
    pub(super) fn band(self) -> u32 {
        self.0 / PLACES
    }
}

/// Unknown to callers, so that nobody can choose a name with a good place; in tests always the same.
#[cfg(not(test))]
type Seed = std::hash::RandomState;
#[cfg(test)]
type Seed = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// The threshold, and what moves it.
#[derive(Debug)]
pub(super) struct Levels {
    epoch: Instant,
    seed: Seed,
    /// By level, in this tick.
    arrivals: Box<[AtomicU32]>,
    /// Requests by user, older ones weighing less.
    users: Box<[AtomicU32]>,
    /// Who has asked more often than this stands behind the others.
    often: AtomicU32,
    /// Below this nothing is admitted.
    threshold: AtomicU32,
    /// Of the threshold's own level, this share in millionths is not: one user alone may be more than has to go.
    part: AtomicU32,
    /// Nor below this, until the tick ends.
    floor: AtomicU32,
    /// The highest band that arrived in the last tick.
    top: AtomicU32,
    by_level: AtomicU32,
    by_limit: AtomicU32,
    /// Nanoseconds since the epoch.
    ends: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The share of arrivals that is refused by their level.
    share: f64,
    /// How arrivals spread, older ones weighing less.
    spread: Box<[f64]>,
}

impl Levels {
    pub(super) fn new(now: Instant) -> Self {
        let cells = |n| (0..n).map(|_| AtomicU32::new(0)).collect();
        Self {
            epoch: now,
            seed: Seed::default(),
            arrivals: cells(LEVELS),
            users: cells(USERS),
            often: AtomicU32::new(u32::MAX),
            threshold: AtomicU32::new(0),
            part: AtomicU32::new(0),
            floor: AtomicU32::new(0),
            top: AtomicU32::new(0),
            by_level: AtomicU32::new(0),
            by_limit: AtomicU32::new(0),
            ends: AtomicU64::new(nanos(TICK)),
            state: Mutex::new(State { share: 0.0, spread: vec![0.0; LEVELS].into() }),
        }
    }

    /// The level of a request of this user. Without a user its place is what the dice say.
    pub(super) fn level(&self, criticality: Criticality, user: Option<&str>, now: Instant, rng: &mut Rng) -> Level {
        let place = match user {
            None => rng.below(PLACES),
            Some(user) => {
                let order = now.saturating_duration_since(self.epoch).as_secs() / ORDER.as_secs();
                let hash = self.seed.hash_one((user, order));
                let asked = self.users[self.seed.hash_one(user) as usize % USERS].fetch_add(1, Relaxed);
                let place = (hash >> 32) as u32 % (PLACES / 2);
                if asked > self.often.load(Relaxed) { place } else { PLACES / 2 + place }
            }
        };
        Level((3 - u32::from(criticality.level())) * PLACES + place)
    }

    /// Counts an arrival. False if its level is refused now.
    pub(super) fn arrive(&self, level: Level, now: Instant, rng: &mut Rng) -> bool {
        if nanos(now.saturating_duration_since(self.epoch)) >= self.ends.load(Relaxed) {
            self.tick(now);
        }
        self.arrivals[level.0 as usize].fetch_add(1, Relaxed);
        let threshold = self.threshold.load(Relaxed);
        let refused = level.0 < threshold.max(self.floor.load(Relaxed))
            || level.0 == threshold && rng.below(1_000_000) < self.part.load(Relaxed);
        if refused {
            self.by_level.fetch_add(1, Relaxed);
        }
        !refused
    }

    /// Whether something more critical than this arrives, for which room is kept.
    pub(super) fn is_below_top(&self, level: Level) -> bool {
        level.band() < self.top.load(Relaxed)
    }

    /// One of this level was refused although its level is not.
    pub(super) fn refused(&self, level: Level) {
        self.by_limit.fetch_add(1, Relaxed);
        self.floor.fetch_max(level.band() * PLACES, Relaxed);
    }

    #[cold]
    fn tick(&self, now: Instant) {
        let Ok(mut state) = self.state.try_lock() else { return };
        let elapsed = nanos(now.saturating_duration_since(self.epoch));
        if elapsed < self.ends.load(Relaxed) {
            return;
        }
        self.ends.store(elapsed + nanos(TICK), Relaxed);
        let State { share, spread } = &mut *state;
        let (mut arrived, mut total, mut top) = (0.0, 0.0, 0);
        for (level, (old, new)) in spread.iter_mut().zip(&self.arrivals).enumerate() {
            let new = f64::from(new.swap(0, Relaxed));
            *old = *old / 2.0 + new;
            arrived += new;
            total += *old;
            if new > 0.0 {
                top = level as u32 / PLACES;
            }
        }
        let by_level = f64::from(self.by_level.swap(0, Relaxed));
        let by_limit = f64::from(self.by_limit.swap(0, Relaxed));
        *share = if by_limit > 0.0 {
            // Less than was refused: what is refused by level though there was room would be lost work.
            let needed = 0.8 * (by_level + by_limit) / arrived.max(1.0);
            if *share == 0.0 { needed } else { (*share + needed) / 2.0 }
        } else {
            // Everything that was not refused by level found room, so there may be more.
            *share / 2.0
        };
        if *share < 0.02 {
            *share = 0.0;
        }
        let (mut left, mut threshold, mut part) = (*share * total, 0, 0.0);
        for (level, arrivals) in spread.iter().enumerate().filter(|_| *share > 0.0) {
            if *arrivals > left {
                (threshold, part) = (level, left / arrivals);
                break;
            }
            left -= arrivals;
        }
        self.threshold.store(threshold as u32, Relaxed);
        self.part.store((part * 1e6) as u32, Relaxed);
        self.floor.store(0, Relaxed);
        self.top.store(top, Relaxed);
        self.often.store(self.usual().saturating_mul(2), Relaxed);
    }

    /// How often users ask, on average. Makes older requests weigh less.
    fn usual(&self) -> u32 {
        let (mut users, mut asked) = (0u64, 0u64);
        for cell in &self.users {
            let count = cell.load(Relaxed);
            if count > 0 {
                users += 1;
                asked += u64::from(count);
                cell.fetch_sub(count.div_ceil(8), Relaxed);
            }
        }
        u32::try_from(asked / users.max(1)).unwrap_or(u32::MAX)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
