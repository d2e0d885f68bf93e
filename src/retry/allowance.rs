//! What one call may spend of its tree's allowance.
//!
//! Each hop that retries multiplies the attempts of the hops below it: three attempts at each of four hops are 81 at the
//! leaf. Here a tree of calls shares one number. A hop that was entered with `r` passes `r − 1` on with each attempt and
//! pays one for each further attempt; a response says how much was spent below, and a response that is lost is counted
//! as all that was passed. So whatever the depth, and whatever is lost, a leaf sees at most one attempt more than the
//! root's number for each attempt it would see without failures.

/// The remainder of one call, and what its attempts in flight were given of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Allowance {
    granted: u8,
    left: u8,
    out: u8,
    passes: bool,
}

impl Allowance {
    /// `passes`: whether those who are called take part. Those who do not are given nothing and cannot spend it.
    pub(crate) fn new(granted: u8, passes: bool) -> Self {
        Self { granted, left: granted, out: 0, passes }
    }

    /// What is left beyond what attempts in flight may spend.
    pub(crate) fn left(&self) -> u8 {
        self.left.saturating_sub(self.out)
    }

    /// An attempt begins: what it passes on. A further attempt that is not free costs one.
    pub(crate) fn pass(&mut self, costs: bool) -> u8 {
        self.left -= u8::from(costs).min(self.left);
        let passed = if self.passes { self.left().saturating_sub(1) } else { 0 };
        self.out += passed;
        passed
    }

    /// An attempt ended: `spent` is what its response said, none if there was no response that could say.
    pub(crate) fn ended(&mut self, passed: u8, spent: Option<u8>) {
        self.out = self.out.saturating_sub(passed);
        self.left = self.left.saturating_sub(spent.unwrap_or(passed).min(passed));
    }

    /// What this call spent so far, its attempts in flight included as if they were lost.
    pub(crate) fn spent(&self) -> u8 {
        self.granted - self.left()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_attempt_costs_one_and_a_lost_response_all_that_was_passed() {
        let mut allowance = Allowance::new(2, true);
        let passed = allowance.pass(false);
        assert_eq!((passed, allowance.left()), (1, 1));
        allowance.ended(passed, Some(0));
        assert_eq!(allowance.left(), 2);
        let passed = allowance.pass(true);
        assert_eq!((passed, allowance.left()), (0, 1));
        let mut lost = Allowance::new(3, true);
        let passed = lost.pass(false);
        lost.ended(passed, None);
        assert_eq!((passed, lost.left(), lost.spent()), (2, 1, 2));
    }

    #[test]
    fn a_response_cannot_spend_more_than_it_was_given() {
        let mut allowance = Allowance::new(3, true);
        let passed = allowance.pass(false);
        allowance.ended(passed, Some(200));
        assert_eq!((allowance.left(), allowance.spent()), (1, 2));
        let mut nothing = Allowance::new(0, true);
        assert_eq!(nothing.pass(false), 0);
        nothing.ended(0, Some(9));
        assert_eq!((nothing.left(), nothing.spent()), (0, 0));
    }

    #[test]
    fn those_who_do_not_take_part_lose_nothing() {
        let mut allowance = Allowance::new(2, false);
        assert_eq!((allowance.pass(false), allowance.left()), (0, 2));
        allowance.ended(0, None);
        assert_eq!((allowance.pass(true), allowance.pass(true), allowance.left()), (0, 0, 0));
    }

    #[test]
    fn attempts_in_flight_split_what_is_left() {
        let mut allowance = Allowance::new(5, true);
        let first = allowance.pass(false);
        assert_eq!((first, allowance.left()), (4, 1));
        let second = allowance.pass(true);
        assert_eq!((second, allowance.left()), (0, 0));
        allowance.ended(first, Some(1));
        assert_eq!((allowance.left(), allowance.spent()), (3, 2));
    }
}
