//! How much each priority takes.
//!
//! Switching everything to the next priority when the first has lost its last endpoint is too late, and when it has lost
//! its first one too early. Envoy's way is taken here: a priority is provisioned with `overprovisioning_factor` per cent
//! of what it needs, so it takes everything until less than that share of its endpoints is left, and from there hands on
//! what is missing.

use crate::enforcement::{Mode, Percent};

/// What happens when endpoints of the first priority are lost, and when few are left: keys of `load_balancer`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FailoverPolicy {
    /// How priorities take over from each other.
    pub failover: Failover,
    /// Whether calls leave the first priority: [`Mode::Off`], never; [`Mode::Shadow`], never, and those that would have are
    /// counted. Default [`Mode::Enforce`].
    pub enforcement: Mode,
    /// The share of calls that may leave it; the others are served by it or fail. A call that waits is asked anew each
    /// time it may be sent. Default all.
    pub percentage: Percent,
    /// How many per cent of its need a priority is provisioned with. Default 140, 100 to 1000: with 140 it takes
    /// everything while at least 5 of 7 of its endpoints are usable.
    pub overprovisioning_factor: u32,
    /// When less than this share of a priority, in per cent, is usable and no other priority makes up for it, ejected
    /// endpoints and those that failed their health checks are used as well. Below four endpoints this happens only when
    /// none is usable. Default 50, 0 to 100; 0 never uses them.
    pub healthy_panic_threshold: u32,
    /// Fails calls instead of using such endpoints. Default false.
    pub fail_traffic_on_panic: bool,
}

impl Default for FailoverPolicy {
    fn default() -> Self {
        Self {
            failover: Failover::Spill,
            enforcement: Mode::Enforce,
            percentage: Percent::ALL,
            overprovisioning_factor: 140,
            healthy_panic_threshold: 50,
            fail_traffic_on_panic: false,
        }
    }
}

impl FailoverPolicy {
    /// Whether every call may leave the first priority.
    pub(crate) fn is_whole(&self) -> bool {
        self.enforcement == Mode::Enforce && self.percentage == Percent::ALL
    }

    /// Says which key is out of bounds, and why.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        if !(100..=1_000).contains(&self.overprovisioning_factor) {
            let reason = format!("{} is out of bounds: it must be 100 to 1000", self.overprovisioning_factor);
            return Err(("overprovisioning_factor", reason));
        }
        if self.healthy_panic_threshold > 100 {
            let reason = format!("{} is out of bounds: it must be 0 to 100", self.healthy_panic_threshold);
            return Err(("healthy_panic_threshold", reason));
        }
        Ok(())
    }
}

/// How priorities take over from each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Failover {
    /// Gradually, as Envoy does: what a priority can no longer take goes to the next.
    #[default]
    Spill,
    /// Altogether, as gRPC does: everything goes to the first priority that has a usable endpoint.
    Switch,
}

impl Failover {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spill => "spill",
            Self::Switch => "switch",
        }
    }
}

/// The endpoints of a priority, and how many of them are usable.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Count {
    pub(crate) usable: usize,
    pub(crate) total: usize,
}

/// What one priority takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Load {
    /// Of all calls, in per cent; together 100.
    pub(crate) percent: u32,
    /// Whether too few of its endpoints are usable.
    pub(crate) panic: bool,
}

/// What each priority takes; `in_panic` judges one of them by itself.
///
/// Whole numbers as in Envoy: of 100 endpoints 72 usable take all, 71 take 99 %, 50 take 70 %. While the usable ones of
/// all priorities together suffice there is no panic anywhere. If every priority is in panic, calls go by the number of
/// endpoints.
pub(crate) fn loads(policy: &FailoverPolicy, counts: &[Count], in_panic: impl Fn(Count) -> bool) -> Vec<Load> {
    match policy.failover {
        Failover::Spill => spill(policy.overprovisioning_factor, counts, in_panic),
        Failover::Switch => switch(counts, in_panic),
    }
}

fn spill(factor: u32, counts: &[Count], in_panic: impl Fn(Count) -> bool) -> Vec<Load> {
    let health = |count: &Count| match count.total {
        0 => 0,
        total => (u64::from(factor) * count.usable as u64 / total as u64).min(100) as u32,
    };
    let health: Vec<u32> = counts.iter().map(health).collect();
    let together = health.iter().sum::<u32>().min(100);
    let panic = |count: &Count| together < 100 && in_panic(*count);
    let mut loads: Vec<Load> = counts.iter().map(|count| Load { percent: 0, panic: panic(count) }).collect();
    if loads.iter().zip(counts).all(|(load, count)| load.panic || count.total == 0) {
        let all: usize = counts.iter().map(|count| count.total).sum();
        for (load, count) in loads.iter_mut().zip(counts) {
            load.percent = (100 * count.total as u64).checked_div(all as u64).unwrap_or(0) as u32;
        }
        give_the_rest(&mut loads, |index| counts[index].total > 0);
        return loads;
    }
    let mut left = 100;
    for (load, health) in loads.iter_mut().zip(&health) {
        load.percent = (health * 100).checked_div(together).unwrap_or(0).min(left);
        left -= load.percent;
    }
    give_the_rest(&mut loads, |index| health[index] > 0);
    loads
}

/// What rounding left over goes to the first that can take it.
fn give_the_rest(loads: &mut [Load], takes: impl Fn(usize) -> bool) {
    let left = 100 - loads.iter().map(|load| load.percent).sum::<u32>();
    let first = (0..loads.len()).find(|index| takes(*index)).unwrap_or(0);
    if let Some(load) = loads.get_mut(first) {
        load.percent += left;
    }
}

fn switch(counts: &[Count], in_panic: impl Fn(Count) -> bool) -> Vec<Load> {
    let usable = counts.iter().position(|count| count.usable > 0);
    // Nobody is usable: the first that has any endpoints is asked to do what it can.
    let first = usable.or_else(|| counts.iter().position(|count| count.total > 0)).unwrap_or(0);
    let load = |(index, count): (usize, &Count)| Load {
        percent: if index == first { 100 } else { 0 },
        panic: usable.is_none() && in_panic(*count),
    };
    counts.iter().enumerate().map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(policy: &FailoverPolicy, counts: &[(usize, usize)]) -> (Vec<u32>, Vec<bool>) {
        let counts: Vec<_> = counts.iter().map(|&(usable, total)| Count { usable, total }).collect();
        let threshold = policy.healthy_panic_threshold as usize;
        let in_panic = |count: Count| match count.total {
            0 => false,
            1..4 => threshold > 0 && count.usable == 0,
            total => count.usable * 100 < total * threshold,
        };
        loads(policy, &counts, in_panic).into_iter().map(|load| (load.percent, load.panic)).unzip()
    }

    fn percents(counts: &[(usize, usize)]) -> Vec<u32> {
        of(&FailoverPolicy::default(), counts).0
    }

    #[test]
    fn a_priority_hands_on_what_its_endpoints_no_longer_take() {
        for (usable, first) in [(100, 100), (72, 100), (71, 99), (50, 70), (25, 35), (1, 1), (0, 0)] {
            assert_eq!(percents(&[(usable, 100), (100, 100)]), [first, 100 - first], "{usable} usable");
        }
        assert_eq!(percents(&[(25, 100), (25, 100), (100, 100)]), [35, 35, 30]);
        assert_eq!(percents(&[(0, 10), (0, 0), (10, 10)]), [0, 0, 100]);
    }

    #[test]
    fn where_all_together_do_not_suffice_each_takes_in_proportion() {
        assert_eq!(percents(&[(50, 100), (20, 100)]), [72, 28], "70 and 28 of 98, the rest to the first");
        let policy = FailoverPolicy { healthy_panic_threshold: 0, ..FailoverPolicy::default() };
        assert_eq!(of(&policy, &[(20, 100), (30, 100)]).0, [40, 60], "28 and 42 of 70");
        assert_eq!(of(&policy, &[(1, 7), (1, 7), (1, 7)]).0, [34, 33, 33]);
        assert_eq!(of(&policy, &[(0, 7), (1, 7), (1, 7)]).0, [0, 50, 50]);
    }

    #[test]
    fn panic_is_judged_for_each_priority_and_never_while_others_make_up_for_it() {
        let policy = FailoverPolicy::default();
        assert_eq!(of(&policy, &[(5, 10)]), (vec![100], vec![false]));
        assert_eq!(of(&policy, &[(4, 10)]), (vec![100], vec![true]));
        assert_eq!(of(&policy, &[(1, 10), (10, 10)]), (vec![14, 86], vec![false, false]));
        assert_eq!(of(&policy, &[(1, 10), (5, 10)]), (vec![17, 83], vec![true, false]));
    }

    #[test]
    fn if_all_are_in_panic_calls_go_by_the_number_of_endpoints() {
        let policy = FailoverPolicy::default();
        assert_eq!(of(&policy, &[(0, 10), (1, 30)]), (vec![25, 75], vec![true, true]));
        assert_eq!(of(&policy, &[(0, 1), (0, 2)]), (vec![34, 66], vec![true, true]));
        assert_eq!(of(&policy, &[(0, 0), (0, 2)]), (vec![0, 100], vec![false, true]));
    }

    #[test]
    fn without_panic_and_without_a_usable_endpoint_the_first_priority_stands_for_all() {
        let policy = FailoverPolicy { healthy_panic_threshold: 0, ..FailoverPolicy::default() };
        assert_eq!(of(&policy, &[(0, 10), (0, 10)]), (vec![100, 0], vec![false, false]));
    }

    #[test]
    fn another_factor_moves_the_point_where_it_begins() {
        let policy = FailoverPolicy { overprovisioning_factor: 100, ..FailoverPolicy::default() };
        assert_eq!(of(&policy, &[(99, 100), (1, 1)]).0, [99, 1]);
        let policy = FailoverPolicy { overprovisioning_factor: 200, ..FailoverPolicy::default() };
        assert_eq!(of(&policy, &[(50, 100), (1, 1)]).0, [100, 0]);
    }

    #[test]
    fn a_switch_is_all_or_nothing() {
        let policy = FailoverPolicy { failover: Failover::Switch, ..FailoverPolicy::default() };
        assert_eq!(of(&policy, &[(1, 100), (100, 100)]), (vec![100, 0], vec![false, false]));
        assert_eq!(of(&policy, &[(0, 100), (1, 100), (9, 9)]), (vec![0, 100, 0], vec![false; 3]));
        assert_eq!(of(&policy, &[(0, 3), (0, 3)]), (vec![100, 0], vec![true, true]));
    }

    #[test]
    fn no_priorities_are_no_loads() {
        assert_eq!(percents(&[]), Vec::<u32>::new());
    }

    #[test]
    fn bounds_are_named() {
        let policy = FailoverPolicy { overprovisioning_factor: 99, ..FailoverPolicy::default() };
        assert_eq!(policy.check().unwrap_err().0, "overprovisioning_factor");
        let policy = FailoverPolicy { healthy_panic_threshold: 101, ..FailoverPolicy::default() };
        assert_eq!(policy.check().unwrap_err().0, "healthy_panic_threshold");
        assert!(FailoverPolicy::default().check().is_ok());
    }
}
