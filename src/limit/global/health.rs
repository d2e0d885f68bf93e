//! Whether a service that fails is worth asking.

use std::time::Duration;

use crate::rt::Instant;

/// So many failures in a row, and it is left alone.
const FAILURES: u32 = 5;
/// For so long; then one request asks alone.
const REST: Duration = Duration::from_secs(1);

/// How asking went lately.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
    /// Until when it is left alone, once it failed often enough.
    rests_until: Option<Instant>,
    probing: bool,
}

/// The right to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    Among,
    /// Nobody else asks until this one has ended.
    Probe,
}

/// What a change means to an operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Failed,
    LeftAlone,
    Back,
}

impl Health {
    /// Whether to ask now.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Turn> {
        let Some(until) = self.rests_until else { return Some(Turn::Among) };
        if now < until || self.probing {
            return None;
        }
        self.probing = true;
        Some(Turn::Probe)
    }

    pub(super) fn answered(&mut self) -> Option<Change> {
        let failed = self.failures > 0;
        *self = Self::default();
        failed.then_some(Change::Back)
    }

    pub(super) fn failed(&mut self, turn: Turn, now: Instant) -> Option<Change> {
        self.failures = self.failures.saturating_add(1);
        match turn {
            Turn::Probe => {
                self.probing = false;
                self.rests_until = Some(now + REST);
                None
            }
            // One that began before the service was left alone does not prolong that.
            Turn::Among if self.rests_until.is_some() => None,
            Turn::Among if self.failures >= FAILURES => {
                self.rests_until = Some(now + REST);
                Some(Change::LeftAlone)
            }
            Turn::Among => (self.failures == 1).then_some(Change::Failed),
        }
    }

    /// The request went away before there was an answer.
    pub(super) fn given_up(&mut self, turn: Turn) {
        if turn == Turn::Probe {
            self.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt;

    #[test]
    fn after_five_failures_it_is_left_alone_for_a_second_and_then_asked_by_one() {
        let (mut health, start) = (Health::default(), rt::now());
        let changes: Vec<_> = (0..5).map(|_| health.failed(Turn::Among, start)).collect();
        assert_eq!(changes, [Some(Change::Failed), None, None, None, Some(Change::LeftAlone)]);
        // Of those that were asking already.
        assert_eq!(health.failed(Turn::Among, start + REST / 2), None);
        assert_eq!(health.turn(start + REST - Duration::from_nanos(1)), None);
        assert_eq!(health.turn(start + REST), Some(Turn::Probe));
        assert_eq!(health.turn(start + REST * 9), None);
        assert_eq!(health.failed(Turn::Probe, start + REST), None);
        assert_eq!(health.turn(start + REST * 2 - Duration::from_nanos(1)), None);
        assert_eq!(health.turn(start + REST * 2), Some(Turn::Probe));
        assert_eq!(health.answered(), Some(Change::Back));
        assert_eq!((health.turn(start), health.turn(start)), (Some(Turn::Among), Some(Turn::Among)));
    }

    #[test]
    fn a_success_in_between_begins_the_count_anew() {
        let (mut health, start) = (Health::default(), rt::now());
        for _ in 0..4 {
            health.failed(Turn::Among, start);
        }
        assert_eq!(health.answered(), Some(Change::Back));
        assert_eq!(health.answered(), None);
        for _ in 0..4 {
            health.failed(Turn::Among, start);
        }
        assert_eq!(health.turn(start), Some(Turn::Among));
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_turn_to_the_next() {
        let (mut health, start) = (Health::default(), rt::now());
        for _ in 0..5 {
            health.failed(Turn::Among, start);
        }
        assert_eq!(health.turn(start + REST), Some(Turn::Probe));
        health.given_up(Turn::Among);
        assert_eq!(health.turn(start + REST), None);
        health.given_up(Turn::Probe);
        assert_eq!(health.turn(start + REST), Some(Turn::Probe));
    }
}
