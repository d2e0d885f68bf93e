//! When a flush waits for one turn of the other tasks.
//!
//! Waiting costs a second poll of the connection, and gains whatever the tasks that run in between write as well. Who
//! writes twice without having heard anything in between has written for several callers: there a wait is tried. While
//! waits gain, every flush waits; one that gained nothing is the last for a while, ever longer. So a connection with one
//! call at a time never waits, and one whose callers are many writes once for all of them.
//!
//! A turn is short unless the tasks compute: where one took long, responses that are ready are not held back by those that
//! are not.

use std::time::Duration;

use crate::rt::Instant;

/// A turn that takes longer is not waited for again soon.
const LONG: Duration = Duration::from_millis(2);
/// Flushes that do not wait after a wait that gained nothing: at first, and at most.
const PASSED: (u32, u32) = (4, 256);
/// The same after a turn that was long.
const LATER: u32 = 64;

/// What is remembered between flushes.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Writes since the last flush.
    writes: u32,
    /// Something was received since the last flush.
    heard: bool,
    /// How many writes there had been, and when, as the flush began to wait.
    waiting: Option<(u32, Instant)>,
    /// The last wait gained something.
    gaining: bool,
    /// Flushes that do not wait, after the last wait that gained nothing and from now on.
    passed: u32,
    passing: u32,
}

impl Turns {
    pub(super) fn wrote(&mut self) {
        self.writes = self.writes.saturating_add(1);
    }

    pub(super) fn received(&mut self) {
        self.heard = true;
    }

    /// Whether the flush that is due waits. The next one does not.
    pub(super) fn waits(&mut self, now: impl Fn() -> Instant) -> bool {
        if let Some((before, since)) = self.waiting {
            let long = now().saturating_duration_since(since) >= LONG;
            self.gaining = self.writes > before && !long;
            self.passed = match (self.gaining, long) {
                (true, _) => 0,
                (false, false) => (self.passed * 2).clamp(PASSED.0, PASSED.1),
                (false, true) => LATER,
            };
            self.passing = self.passed;
            return false;
        }
        if !self.gaining {
            if self.heard {
                return false;
            }
            if self.passing > 0 {
                self.passing -= 1;
                return false;
            }
        }
        self.waiting = Some((self.writes, now()));
        true
    }

    /// The flush has begun.
    pub(super) fn flushed(&mut self) {
        (self.writes, self.heard, self.waiting) = (0, false, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt;

    /// A poll that writes so often, and a second one, if the flush waits, that writes `more`. Whether it waited.
    fn flush(turns: &mut Turns, writes: u32, more: u32, took: Duration) -> bool {
        let start = rt::now();
        (0..writes).for_each(|_| turns.wrote());
        let waited = turns.waits(|| start);
        if waited {
            (0..more).for_each(|_| turns.wrote());
            assert!(!turns.waits(|| start + took), "a flush waits once");
        }
        turns.flushed();
        waited
    }

    #[test]
    fn one_call_at_a_time_never_waits() {
        let mut turns = Turns::default();
        for _ in 0..100 {
            turns.received();
            assert!(!flush(&mut turns, 1, 0, Duration::ZERO));
        }
    }

    #[test]
    fn who_writes_twice_in_a_row_waits_and_goes_on_while_that_gains() {
        let mut turns = Turns::default();
        turns.received();
        assert!(!flush(&mut turns, 1, 1, Duration::ZERO));
        for _ in 0..10 {
            assert!(flush(&mut turns, 1, 1, Duration::ZERO));
            turns.received();
        }
        assert!(flush(&mut turns, 1, 0, Duration::ZERO), "the first that gains nothing");
        turns.received();
        assert!(!flush(&mut turns, 1, 1, Duration::ZERO));
    }

    #[test]
    fn waits_that_gain_nothing_become_rare() {
        let mut turns = Turns::default();
        let waits = (0..10_000).filter(|_| flush(&mut turns, 1, 0, Duration::ZERO)).count();
        assert!((40..60).contains(&waits), "{waits}");
        let mut turns = Turns::default();
        let waits = (0..650).filter(|_| flush(&mut turns, 1, 1, LONG)).count();
        assert_eq!(waits, 10, "after a long turn {LATER} flushes pass");
    }
}
