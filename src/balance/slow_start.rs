//! Endpoints that are new get their share little by little.
//!
//! A process that has just started is slow: caches are empty, pools unfilled, code not compiled. A balancer that looks at
//! load alone prefers exactly that one, since it is idle. So the weight of an endpoint grows with its age, as in Envoy:
//! `weight × max(min_weight_percent, (age / window)^(1 / aggression))`. Envoy's known trouble with a low floor, that a new
//! endpoint got nothing for long after its window, comes of deadlines computed from the small weight; here a draw has no
//! memory, so a weight counts from the moment it is published.
//!
//! Weights are part of a set, and a pick knows nothing of ages: sets are built anew a hundred times in a window while
//! an endpoint is new, and not at all otherwise.

use std::time::Duration;

/// How an endpoint's share grows after it came, or came back: `load_balancer.slow_start`.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct SlowStartPolicy {
    /// How long it takes to the full share. Default 30 s; 0 is off, otherwise 1 s to 1 h.
    pub window: Duration,
    /// How it grows: 1 in a straight line, above 1 faster at first, below 1 slower at first. Default 1; 0.01 to 100.
    pub aggression: f64,
    /// What it begins with, in per cent of its weight. Default 10, 1 to 100.
    pub min_weight_percent: u32,
}

impl Default for SlowStartPolicy {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), aggression: 1.0, min_weight_percent: 10 }
    }
}

impl SlowStartPolicy {
    /// Everybody gets the full share at once.
    pub fn off() -> Self {
        Self { window: Duration::ZERO, ..Self::default() }
    }

    /// Whether new endpoints get less.
    pub fn is_on(&self) -> bool {
        !self.window.is_zero()
    }

    /// Checks bounds.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let windows = Duration::from_secs(1)..=Duration::from_secs(3_600);
        if self.is_on() && !windows.contains(&self.window) {
            return Err(("slow_start.window", format!("{:?} is not 1s to 1h, or 0 for off", self.window)));
        }
        if !(0.01..=100.0).contains(&self.aggression) {
            return Err(("slow_start.aggression", format!("{} is not 0.01 to 100", self.aggression)));
        }
        if !(1..=100).contains(&self.min_weight_percent) {
            let message = format!("{} is not 1 to 100", self.min_weight_percent);
            return Err(("slow_start.min_weight_percent", message));
        }
        Ok(())
    }

    /// What an endpoint of this age has of its weight, in per cent; `None` for all of it.
    pub(crate) fn percent(&self, age: Duration) -> Option<u32> {
        if age >= self.window {
            return None;
        }
        let part = (age.as_secs_f64() / self.window.as_secs_f64()).powf(1.0 / self.aggression);
        Some(((part * 100.0) as u32).clamp(self.min_weight_percent, 99))
    }

    /// How long a share that was computed is right, to within a hundredth of the window.
    pub(crate) fn step(&self) -> Duration {
        self.window / 100
    }
}

/// In smaller sets everybody gets the full share at once: where one of three is new, the two others could not take over
/// what it does not get.
pub(crate) const FEWEST: usize = 4;

/// The weights with the shares of those that are new. Where all are new alike there is nobody to take over, and nothing
/// changes.
pub(crate) fn weigh<M>(members: &mut [(M, u32)], percent: impl Fn(&M) -> Option<u32>) {
    const WHOLE: u32 = 100;
    if members.len() < FEWEST {
        return;
    }
    let share = |(member, _): &(M, u32)| percent(member).unwrap_or(WHOLE);
    let first = members.first().map(share);
    if members.iter().all(|member| Some(share(member)) == first) {
        return;
    }
    for member in members {
        let share = share(member);
        member.1 = match member.1 {
            0 => 0,
            weight => u32::try_from(u64::from(weight) * u64::from(share)).unwrap_or(u32::MAX),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_share_grows_from_the_floor_in_a_line() {
        let policy = SlowStartPolicy { window: seconds(60), ..SlowStartPolicy::default() };
        for (age, percent) in [(0, Some(10)), (3, Some(10)), (6, Some(10)), (30, Some(50)), (59, Some(98)), (60, None)]
        {
            assert_eq!(policy.percent(seconds(age)), percent, "{age} s");
        }
    }

    #[test]
    fn aggression_bends_the_line() {
        let of = |aggression| {
            let policy = SlowStartPolicy { window: seconds(100), aggression, ..SlowStartPolicy::default() };
            policy.percent(seconds(25)).unwrap()
        };
        assert_eq!((of(1.0), of(2.0), of(0.5)), (25, 50, 10), "0.25, its square root, and its square below the floor");
    }

    #[test]
    fn off_is_the_whole_share() {
        assert_eq!(SlowStartPolicy::off().percent(Duration::ZERO), None);
        assert!(!SlowStartPolicy::off().is_on() && SlowStartPolicy::default().is_on());
    }

    #[test]
    fn small_sets_and_those_that_are_all_new_alike_keep_their_weights() {
        let weighed = |ages: &[u64]| {
            let policy = SlowStartPolicy::default();
            let mut members: Vec<_> = ages.iter().map(|age| (seconds(*age), 3)).collect();
            weigh(&mut members, |age| policy.percent(*age));
            members.into_iter().map(|(_, weight)| weight).collect::<Vec<_>>()
        };
        assert_eq!(weighed(&[0, 30, 30]), [3, 3, 3]);
        assert_eq!(weighed(&[0, 0, 1, 0]), [3, 3, 3, 3], "all are at the floor");
        assert_eq!(weighed(&[0, 15, 30, 99]), [30, 150, 300, 300]);
    }

    #[test]
    fn weights_stay_in_bounds() {
        let mut members = [(10, u32::MAX), (100, u32::MAX), (100, 0), (100, 1)];
        weigh(&mut members, |percent| Some(*percent));
        assert_eq!(members.map(|(_, weight)| weight), [u32::MAX, u32::MAX, 0, 100]);
    }

    #[test]
    fn bounds_are_named() {
        let wrong = |policy: SlowStartPolicy| policy.check().unwrap_err().0;
        let base = SlowStartPolicy::default();
        assert!(base.check().is_ok() && SlowStartPolicy::off().check().is_ok());
        assert_eq!(wrong(SlowStartPolicy { window: Duration::from_millis(1), ..base }), "slow_start.window");
        assert_eq!(wrong(SlowStartPolicy { aggression: 0.0, ..base }), "slow_start.aggression");
        assert_eq!(wrong(SlowStartPolicy { aggression: f64::NAN, ..base }), "slow_start.aggression");
        assert_eq!(wrong(SlowStartPolicy { min_weight_percent: 0, ..base }), "slow_start.min_weight_percent");
    }
}
