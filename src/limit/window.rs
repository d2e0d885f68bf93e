//! A quota over a sliding window.
//!
//! Two counters would let almost twice the quota pass around the edge between two windows, a log of moments would cost
//! memory by request. The window is a ring of slots: a request is remembered for the window and at most a 32nd of it
//! longer, so in no stretch of time as long as the window do more pass than the quota.

use std::time::Duration;

use super::{bucket::nanos, policy::QuotaPolicy, standing::Standing};

const SLOTS: u64 = 32;
/// The slots of a window, and the one that is being filled.
const KEPT: usize = SLOTS as usize + 1;

/// What passed lately.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    slots: [u32; KEPT],
    sum: u32,
    /// The number of the slot that is being filled, counted from the epoch.
    current: u64,
    /// Nanoseconds.
    slot: u64,
}

impl Window {
    pub(crate) fn new(quota: &QuotaPolicy) -> Self {
        Self { slots: [0; KEPT], sum: 0, current: 0, slot: nanos(quota.window()).div_ceil(SLOTS).max(1) }
    }

    /// Forgets what is older than the window.
    fn advance(&mut self, now: u64) {
        let current = now / self.slot;
        if current <= self.current {
            return;
        }
        if current - self.current >= KEPT as u64 {
            self.slots = [0; KEPT];
            self.sum = 0;
        } else {
            for number in self.current + 1..=current {
                let slot = &mut self.slots[(number % KEPT as u64) as usize];
                self.sum -= std::mem::take(slot);
            }
        }
        self.current = current;
    }

    /// Counts one.
    ///
    /// # Errors
    /// How long until one more fits.
    pub(crate) fn take(&mut self, quota: u32, now: u64) -> Result<(), Duration> {
        self.advance(now);
        if self.sum < quota {
            self.slots[(self.current % KEPT as u64) as usize] += 1;
            self.sum += 1;
            return Ok(());
        }
        // The oldest slots have to go until there is room.
        let mut left = self.sum;
        for number in self.current + 1..=self.current + KEPT as u64 {
            left -= self.slots[(number % KEPT as u64) as usize];
            if left < quota {
                return Err(Duration::from_nanos(number * self.slot - now));
            }
        }
        Err(Duration::from_nanos(self.slot * SLOTS))
    }

    /// Takes over what another window remembers, as if it had all passed now if their lengths differ.
    pub(crate) fn carry(&mut self, before: &Window, now: u64) {
        let mut before = before.clone();
        before.advance(now);
        if before.slot == self.slot {
            *self = before;
        } else {
            self.advance(now);
            self.sum = before.sum;
            self.slots[(self.current % KEPT as u64) as usize] = before.sum;
        }
    }

    /// Whether it remembers nothing.
    pub(crate) fn is_fresh(&mut self, now: u64) -> bool {
        self.advance(now);
        self.sum == 0
    }

    /// When it will remember nothing, unless more passes.
    pub(crate) fn forgets_at(&self) -> u64 {
        let newest = (0..KEPT as u64)
            .map(|age| self.current.saturating_sub(age))
            .find(|number| self.slots[(number % KEPT as u64) as usize] > 0);
        newest.map_or(0, |number| (number + KEPT as u64) * self.slot)
    }

    pub(crate) fn standing(&mut self, quota: u32, now: u64) -> Standing {
        self.advance(now);
        let reset = self.forgets_at().saturating_sub(now);
        Standing {
            limit: quota,
            remaining: quota.saturating_sub(self.sum),
            reset: Duration::from_nanos(reset),
            window: Duration::from_nanos(self.slot * SLOTS),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn minute(requests: u32) -> QuotaPolicy {
        QuotaPolicy::new(requests, Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn a_quota_comes_back_as_the_window_slides() {
        let mut window = Window::new(&minute(10));
        let take = |window: &mut Window, at: u64| window.take(10, at * SECOND);
        for _ in 0..6 {
            take(&mut window, 0).unwrap();
        }
        for _ in 0..4 {
            take(&mut window, 30).unwrap();
        }
        let after = take(&mut window, 45).unwrap_err();
        assert!((15..18).contains(&after.as_secs()), "{after:?}");
        assert!(window.take(10, 45 * SECOND + after.as_nanos() as u64 - 1).is_err());
        assert_eq!((0..20).filter(|_| window.take(10, 45 * SECOND + after.as_nanos() as u64).is_ok()).count(), 6);
        assert_eq!((0..20).filter(|_| take(&mut window, 1000).is_ok()).count(), 10);
    }

    #[test]
    fn what_passed_counts_against_a_changed_quota() {
        let mut window = Window::new(&minute(10));
        for _ in 0..8 {
            window.take(10, 0).unwrap();
        }
        let mut changed = Window::new(&QuotaPolicy::new(10, Duration::from_secs(3600)).unwrap());
        changed.carry(&window, SECOND);
        assert_eq!((0..20).filter(|_| changed.take(10, SECOND).is_ok()).count(), 2);
        assert_eq!(changed.standing(10, SECOND).remaining, 0);
    }

    proptest! {
        #[test]
        fn no_stretch_as_long_as_the_window_sees_more_than_the_quota(
            gaps in proptest::collection::vec(0u64..8_000_000_000, 1..400),
            quota in 1u32..20,
        ) {
            let mut window = Window::new(&minute(quota));
            let mut now = 0;
            let mut passed = Vec::new();
            for gap in gaps {
                now += gap;
                if window.take(quota, now).is_ok() {
                    passed.push(now);
                }
                let inside = passed.iter().filter(|at| **at + 60 * SECOND > now).count();
                prop_assert!(inside as u32 <= quota);
                // And it is not refused much longer than it has to be.
                let remembered = passed.iter().filter(|at| **at + 62 * SECOND > now).count();
                prop_assert!(passed.last() == Some(&now) || remembered as u32 >= quota);
            }
        }
    }
}
