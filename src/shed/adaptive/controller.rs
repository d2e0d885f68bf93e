//! Windows, probes and bounds around an algorithm.

use std::{
    sync::{
        Mutex,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use super::{Algorithm, Window, histogram::Histogram, policy::AdaptivePolicy};
use crate::rt::{Instant, Rng};

/// A window has at least so many samples.
const SAMPLES: u32 = 50;
/// A probe that was called for before its time comes at least so long after another.
const EARLIEST: Duration = Duration::from_secs(5);
/// How much the moments of probes are spread.
const JITTER: u32 = 15;
/// Work that took longer than this is dropped work for algorithms that know nothing else.
const FAR_TOO_LONG: Duration = Duration::from_secs(5);

/// The limit, and what moves it.
#[derive(Debug)]
pub(in crate::shed) struct Controller {
    policy: AdaptivePolicy,
    epoch: Instant,
    /// What admission reads: the limit, or half of it during a probe.
    effective: AtomicU32,
    /// The number of the window that runs.
    window: AtomicU32,
    /// Samples of requests that began before this window do not count.
    since: AtomicU32,
    /// Nanoseconds since the epoch at which the window may close.
    closes: AtomicU64,
    count: AtomicU32,
    /// The time of all samples, in microseconds.
    spent: AtomicU64,
    most: AtomicU32,
    dropped: AtomicBool,
    histogram: Histogram,
    /// What the last window said of the time to answer, in nanoseconds.
    usual: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    algorithm: Algorithm,
    limit: f64,
    phase: Phase,
    opened: Instant,
    probe_at: Instant,
    probed: Instant,
    rng: Rng,
}

/// What the window that runs is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It looks at the limit.
    Normal,
    /// Half of the limit holds, and what was admitted before runs out. It tells nothing: of what was admitted since, only
    /// the quick has ended.
    Settling,
    /// It looks at half of the limit.
    Probing,
}

/// A request that was admitted.
#[derive(Clone, Copy, Debug)]
pub(in crate::shed) struct Sample {
    /// Nanoseconds since the epoch.
    began: u64,
    window: u32,
}

/// How an admitted request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shed) enum Ended {
    /// It was answered.
    Answered,
    /// It was given up: its caller went away or its deadline passed. It would have taken longer.
    GivenUp,
    /// It failed for want of something: overload further down, perhaps.
    Failed,
    /// It says nothing: it was refused further below.
    Ignored,
}

impl Controller {
    /// `found` is the limit that was found under another policy.
    pub(in crate::shed) fn new(policy: AdaptivePolicy, found: Option<u32>, now: Instant, mut rng: Rng) -> Self {
        let limit = found.unwrap_or(policy.initial_limit).clamp(policy.min_limit, policy.max_limit);
        Self {
            epoch: now,
            effective: AtomicU32::new(limit),
            window: AtomicU32::new(0),
            since: AtomicU32::new(0),
            closes: AtomicU64::new(nanos(policy.sample_interval)),
            count: AtomicU32::new(0),
            spent: AtomicU64::new(0),
            most: AtomicU32::new(0),
            dropped: AtomicBool::new(false),
            histogram: Histogram::new(),
            usual: AtomicU64::new(0),
            state: Mutex::new(State {
                algorithm: Algorithm::new(&policy),
                limit: limit.into(),
                phase: Phase::Normal,
                opened: now,
                probe_at: now + rng.jitter(policy.min_rtt_interval, JITTER),
                probed: now,
                rng,
            }),
            policy,
        }
    }

    pub(in crate::shed) fn policy(&self) -> &AdaptivePolicy {
        &self.policy
    }

    /// Seconds that an answer takes without load.
    #[cfg(test)]
    pub(super) fn baseline(&self) -> f64 {
        match &self.state.lock().unwrap().algorithm {
            Algorithm::Gradient2(gradient) => gradient.baseline(),
            Algorithm::Vegas(_) | Algorithm::Aimd(_) => f64::NAN,
        }
    }

    /// How many may be in flight now.
    pub(in crate::shed) fn limit(&self) -> u32 {
        self.effective.load(Relaxed)
    }

    /// One was admitted as one of so many.
    pub(in crate::shed) fn admitted(&self, now: Instant, in_flight: u32) -> Sample {
        self.most.fetch_max(in_flight, Relaxed);
        Sample { began: self.nanos(now), window: self.window.load(Acquire) }
    }

    /// It has ended.
    pub(in crate::shed) fn ended(&self, sample: Sample, now: Instant, ended: Ended) {
        if sample.window < self.since.load(Acquire) {
            return;
        }
        let now_nanos = self.nanos(now);
        let took = Duration::from_nanos(now_nanos.saturating_sub(sample.began));
        match ended {
            Ended::Answered if took < FAR_TOO_LONG => {}
            Ended::Answered => self.dropped.store(true, Relaxed),
            // One that was given up early would have taken nobody knows how long.
            Ended::GivenUp if nanos(took) < self.usual.load(Relaxed) => return,
            Ended::GivenUp => self.dropped.store(true, Relaxed),
            Ended::Failed => return self.dropped.store(true, Relaxed),
            Ended::Ignored => return,
        }
        self.histogram.record(took);
        self.spent.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        let count = self.count.fetch_add(1, AcqRel) + 1;
        if count >= SAMPLES && now_nanos >= self.closes.load(Relaxed) {
            self.close(now);
        }
    }

    /// One of those who see that it is time closes the window, the others go on.
    #[cold]
    fn close(&self, now: Instant) {
        let Ok(mut state) = self.state.try_lock() else { return };
        let count = self.count.load(Acquire);
        if count < SAMPLES || self.nanos(now) < self.closes.load(Relaxed) {
            return;
        }
        let elapsed = now.saturating_duration_since(state.opened).as_secs_f64().max(1e-9);
        let spent = Duration::from_micros(self.spent.swap(0, Relaxed)).as_secs_f64();
        let Some(rtt) = self.histogram.take(self.policy.percentile.into()) else { return };
        self.count.store(0, Relaxed);
        self.usual.store(nanos(rtt), Relaxed);
        let window = Window {
            rtt,
            in_flight: spent / elapsed,
            most: self.most.swap(0, Relaxed),
            throughput: f64::from(count) / elapsed,
            dropped: self.dropped.swap(false, Relaxed),
            probe: state.phase == Phase::Probing,
        };
        let State { algorithm, limit, phase, .. } = &mut *state;
        if *phase != Phase::Settling {
            let next = algorithm.next(*limit, &window);
            *limit = next.clamp(self.policy.min_limit.into(), self.policy.max_limit.into());
        }
        let limit = *limit;
        state.opened = now;
        let number = self.window.load(Relaxed).wrapping_add(1);
        let mut lasts = self.policy.sample_interval;
        state.phase = match state.phase {
            Phase::Settling => Phase::Probing,
            Phase::Probing => {
                let State { rng, .. } = &mut *state;
                state.probe_at = now + rng.jitter(self.policy.min_rtt_interval, JITTER);
                state.probed = now;
                Phase::Normal
            }
            Phase::Normal => {
                let due = now >= state.probe_at || state.algorithm.fell(limit) && now >= state.probed + EARLIEST;
                if due && state.algorithm.wants_probe(limit) {
                    // What was admitted at the full limit says nothing about half of it.
                    self.since.store(number, Relaxed);
                    lasts = lasts.max(2 * rtt);
                    Phase::Settling
                } else {
                    Phase::Normal
                }
            }
        };
        let half = (limit / 2.0).max(self.policy.min_limit.into());
        self.effective.store(if state.phase == Phase::Normal { limit } else { half } as u32, Relaxed);
        self.window.store(number, Relaxed);
        self.closes.store(self.nanos(now) + nanos(lasts), Relaxed);
    }

    fn nanos(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.epoch))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
