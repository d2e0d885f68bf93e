//! How slow a stranger may be.
//!
//! A peer without identity costs memory for as long as its exchanges are open, and pays nothing to keep them so. Three
//! rules, each judged from two readings of an exchange's meter and the time between them:
//! - a request body that the application waits for comes at a rate, or not for much longer;
//! - a part of a response that was handed over is taken;
//! - an exchange in which nothing moves ends.
//!
//! Time in which the application is what the exchange waits for counts only for the last. The first reading of an exchange
//! is where its times begin, so each rule may be late by the time between two readings, never early.

use std::time::Duration;

use super::limits::Limits;
use crate::body::Reading;

/// How much good behaviour is remembered: a fast start pays for a pause of this long, and no longer.
const CREDIT: Duration = Duration::from_secs(60);

/// The rule that an exchange broke. The text is the label of the metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slow {
    Body,
    Send,
    Idle,
}

impl Slow {
    pub(super) const ALL: [Self; 3] = [Self::Body, Self::Send, Self::Idle];

    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Body => "body_rate",
            Self::Send => "send_stall",
            Self::Idle => "stream_idle",
        }
    }
}

/// What is remembered of an exchange between two readings.
#[derive(Default, Debug)]
pub(super) struct Pace {
    last: Option<Reading>,
    /// What is left of the patience with its body.
    patience: Option<Duration>,
    stalled: Duration,
    idle: Duration,
}

impl Pace {
    /// The reading now, `elapsed` after the last one.
    pub(super) fn judge(&mut self, now: Reading, elapsed: Duration, limits: &Limits) -> Option<Slow> {
        let last = self.last.replace(now)?;
        let received = now.received.saturating_sub(last.received);
        if last.asked && now.asked {
            let paid = Duration::from_secs_f64(received as f64 / limits.body_rate.max(1) as f64);
            let patience = self.patience.unwrap_or(limits.body_grace).saturating_add(paid).min(CREDIT);
            match patience.checked_sub(elapsed) {
                Some(left) if !left.is_zero() => self.patience = Some(left),
                _ => return Some(Slow::Body),
            }
        }
        let moved = received > 0 || now.given != last.given;
        self.stalled = if now.offered && last.offered && !moved { self.stalled + elapsed } else { Duration::ZERO };
        if self.stalled >= limits.send_stall {
            return Some(Slow::Send);
        }
        self.idle = if moved { Duration::ZERO } else { self.idle + elapsed };
        (self.idle >= limits.stream_idle).then_some(Slow::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 5;

    /// Reads every five seconds, and says which rule was broken when.
    fn run(seconds: u64, mut reading: impl FnMut(u64) -> Reading) -> Option<(Slow, u64)> {
        let limits = Limits::default();
        let mut pace = Pace::default();
        (0..=seconds)
            .step_by(STEP as usize)
            .find_map(|second| Some((pace.judge(reading(second), Duration::from_secs(STEP), &limits)?, second)))
    }

    fn upload(received: u64) -> Reading {
        Reading { asked: true, received, ..Reading::default() }
    }

    #[test]
    fn a_body_that_does_not_come_has_ten_seconds() {
        assert_eq!(run(60, |_| upload(0)), Some((Slow::Body, 10)));
        assert_eq!(run(600, |second| upload(second * 500)), Some((Slow::Body, 20)));
    }

    #[test]
    fn a_kilobyte_a_second_is_enough() {
        assert_eq!(run(3_600, |second| upload(second * 1024)), None);
    }

    #[test]
    fn a_fast_start_pays_for_a_minute() {
        assert_eq!(run(600, |second| upload(if second == 0 { 0 } else { 100 << 20 })), Some((Slow::Body, 60)));
    }

    #[test]
    fn an_application_that_does_not_ask_is_waited_for_until_the_exchange_is_idle() {
        assert_eq!(run(600, |_| Reading::default()), Some((Slow::Idle, 300)));
        let working = |second| Reading { given: second as u32, ..Reading::default() };
        assert_eq!(run(6_000, working), None);
    }

    #[test]
    fn a_part_that_is_not_taken_has_thirty_seconds() {
        let stalled = |_| Reading { offered: true, given: 1, ..Reading::default() };
        assert_eq!(run(600, stalled), Some((Slow::Send, 30)));
        let slow = |second| Reading { offered: true, given: (second / 25) as u32, ..Reading::default() };
        assert_eq!(run(6_000, slow), None);
    }
}
