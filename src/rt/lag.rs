//! How late this process is: whether tasks that are ready wait for a thread.
//!
//! A process that does not get to run sees every peer stall: timers fire, and the answers that came in time wait unread.
//! A canary, a task that sleeps for a moment over and over, knows the difference. How long ago it should have run is also
//! the shortest way to know that more is asked of a process than it can do: on HTTP/1.1, where calls queue in the kernel,
//! the only way.
//!
//! The canary runs while somebody holds a [`Watching`], and the readings cost two loads.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use super::{Instant, TaskSet};

/// How often the canary runs.
const PERIOD: Duration = Duration::from_millis(10);

/// Being late by more is a stall, and for a while it is known when it was.
const STALL: Duration = Duration::from_millis(250);

/// How many stalls are known.
const KEPT: usize = 16;

/// The canary and its readings.
#[derive(Debug)]
pub(crate) struct Lag {
    begun: Instant,
    /// When the canary should run next, in microseconds since `begun`; 0 while nobody watches.
    due: AtomicU64,
    watching: AtomicU32,
    stalls: Mutex<VecDeque<(Instant, Instant)>>,
}

/// Has the canary run while it is held.
#[derive(Debug)]
pub(crate) struct Watching(Arc<Lag>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watching.fetch_sub(1, SeqCst);
    }
}

impl Lag {
    /// Being late by more is a stall.
    pub(crate) const STALL: Duration = STALL;

    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: super::now(),
            due: AtomicU64::new(0),
            watching: AtomicU32::new(0),
            stalls: Mutex::default(),
        })
    }

    /// Has the canary run as long as the result is held. Begins it, if nobody else has.
    pub(crate) fn watch(self: &Arc<Self>, tasks: &TaskSet) -> Watching {
        if self.watching.fetch_add(1, SeqCst) == 0 && self.due.load(SeqCst) == 0 {
            let due = super::now() + PERIOD;
            if self.due.compare_exchange(0, self.micros(due), SeqCst, SeqCst).is_ok() {
                tasks.spawn(canary(Arc::downgrade(self), due));
            }
        }
        Watching(Arc::clone(self))
    }

    /// How late the canary is now. Nothing while nobody watches.
    pub(crate) fn at(&self, now: Instant) -> Duration {
        match self.due.load(Relaxed) {
            0 => Duration::ZERO,
            due => Duration::from_micros(self.micros(now).saturating_sub(due)),
        }
    }

    /// Whether this process stalled at any time between the two, as far as somebody watched: what seems to have happened
    /// to others then happened to it.
    pub(crate) fn stalled(&self, from: Instant, to: Instant) -> bool {
        // The canary itself may be among the tasks that have not run yet.
        if self.at(to) > STALL {
            return true;
        }
        self.stalls().iter().any(|(begun, ended)| *begun < to && *ended > from)
    }

    fn ran(&self, due: Instant, now: Instant, next: u64) {
        if now.saturating_duration_since(due) > STALL {
            let mut stalls = self.stalls();
            if stalls.len() == KEPT {
                stalls.pop_front();
            }
            stalls.push_back((due, now));
            tracing::warn!("this process did not run for {:?}", now.saturating_duration_since(due));
        }
        self.due.store(next, SeqCst);
    }

    fn stalls(&self) -> MutexGuard<'_, VecDeque<(Instant, Instant)>> {
        self.stalls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never 0.
    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

async fn canary(lag: Weak<Lag>, mut due: Instant) {
    loop {
        super::sleep_until(due).await;
        let Some(lag) = lag.upgrade() else { return };
        let now = super::now();
        let next = now + PERIOD;
        if lag.watching.load(SeqCst) == 0 {
            lag.ran(due, now, 0);
            // Whoever began to watch meanwhile saw a canary, unless it saw the 0.
            if lag.watching.load(SeqCst) == 0 || lag.due.compare_exchange(0, lag.micros(next), SeqCst, SeqCst).is_err()
            {
                return;
            }
        } else {
            lag.ran(due, now, lag.micros(next));
        }
        due = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_runs_while_nobody_watches_and_one_canary_for_all_who_do() {
        let tasks = TaskSet::new();
        let lag = tasks.lag();
        assert_eq!((tasks.len(), lag.at(super::super::now())), (0, Duration::ZERO));
        let (one, two) = (lag.watch(&tasks), lag.watch(&tasks));
        assert_eq!(tasks.len(), 1);
        drop(one);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(tasks.len(), 1);
        drop(two);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(tasks.len(), 0);
        let _again = lag.watch(&tasks);
        assert_eq!(tasks.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn on_time_there_is_no_lag_and_time_that_passes_at_once_is_a_stall() {
        let tasks = TaskSet::new();
        let lag = Arc::clone(tasks.lag());
        let _watching = lag.watch(&tasks);
        let now = super::super::now;
        let begun = now();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(lag.at(now()) <= PERIOD && !lag.stalled(begun, now()));
        // Nothing runs in between: the canary is late, and does not know it yet.
        let before = now();
        tokio::time::advance(Duration::from_millis(400)).await;
        let (after, known) = (now(), lag.stalls().len());
        assert_eq!(known, usize::from(lag.at(after) <= STALL), "known once the canary ran, and seen before");
        assert!(lag.stalled(before, after));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(lag.at(now()) <= PERIOD);
        assert!(lag.stalled(before, now()) && lag.stalled(before + Duration::from_millis(390), now()));
        assert!(!lag.stalled(begun, before) && !lag.stalled(now() - Duration::from_millis(40), now()));
    }
}
