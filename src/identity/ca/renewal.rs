//! When to ask an authority again.

use std::time::Duration;

use crate::rt::Rng;

/// The wait after the first failure; doubled after each further one.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait after failures.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest wait when there is no certificate, or little is left of it.
const URGENT: Duration = Duration::from_secs(5);

/// How much of a certificate's life is left, and how long it was when it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Life {
    pub(super) left: Duration,
    pub(super) whole: Duration,
}

/// Counts failures.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    failures: u32,
}

impl Renewal {
    /// A certificate came: when the next one is asked for.
    ///
    /// What is left counts and not what the certificate says of its beginning, which authorities set back.
    pub(super) fn renewed(&mut self, left: Duration, rng: &mut Rng) -> Duration {
        self.failures = 0;
        rng.jitter(left / 2, 10).max(FIRST)
    }

    /// None came: when it is tried again.
    pub(super) fn failed(&mut self, life: Option<Life>, rng: &mut Rng) -> Duration {
        let wait = FIRST * (1 << self.failures.min(7));
        self.failures = self.failures.saturating_add(1);
        let most = match life {
            Some(life) if life.left > life.whole / 10 => LONGEST.min(life.whole / 10),
            _ => URGENT,
        };
        rng.jitter(wait.min(most.max(FIRST)), 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn within(wait: Duration, of: Duration, percent: u32) {
        let band = of / 100 * percent;
        assert!((of - band..=of + band).contains(&wait), "{wait:?} is not about {of:?}");
    }

    #[test]
    fn renewed_at_half_of_what_is_left_and_not_all_at_once() {
        let mut rng = Rng::seeded(1);
        let waits: Vec<_> = (0..100).map(|_| Renewal::default().renewed(HOUR, &mut rng)).collect();
        waits.iter().for_each(|wait| within(*wait, HOUR / 2, 10));
        let spread = *waits.iter().max().unwrap() - *waits.iter().min().unwrap();
        assert!(spread > HOUR / 20, "{spread:?}");
        assert_eq!(Renewal::default().renewed(Duration::ZERO, &mut rng), FIRST, "never in a circle");
    }

    #[test]
    fn failures_are_retried_later_each_time_and_sooner_when_it_is_urgent() {
        let mut rng = Rng::seeded(2);
        let mut renewal = Renewal::default();
        let most = Some(Life { left: HOUR / 2, whole: HOUR });
        for seconds in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            within(renewal.failed(most, &mut rng), Duration::from_secs_f64(seconds), 20);
        }
        within(renewal.failed(Some(Life { left: HOUR / 20, whole: HOUR }), &mut rng), URGENT, 20);
        within(renewal.failed(None, &mut rng), URGENT, 20);
        let short = Duration::from_secs(10);
        within(renewal.failed(Some(Life { left: short / 2, whole: short }), &mut rng), short / 10, 20);
        renewal.renewed(HOUR, &mut rng);
        within(renewal.failed(most, &mut rng), FIRST, 20);
    }
}
