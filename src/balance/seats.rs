//! What a pick draws from.

use super::{Member, alias::Weighted};
use crate::rt::Rng;

/// The endpoints of a set as a policy looks at them: at least one, none with weight 0.
///
/// A draw is a reference and not an index: what an index leads to is one more cache line that has to arrive before the
/// next.
pub(super) trait Seats<C> {
    /// Whether weights differ.
    const WEIGHTED: bool;

    fn len(&self) -> usize;

    /// The `index`-th in the order given.
    fn seat(&self, index: usize) -> Seat<'_, C>;

    /// One by chance, as often as its weight says.
    fn draw(&self, rng: &mut Rng) -> Seat<'_, C>;

    /// Two distinct ones by chance. There are at least two.
    fn two(&self, rng: &mut Rng) -> (Seat<'_, C>, Seat<'_, C>);

    /// Whose turn it is: as often as its weight says, evenly spread.
    fn turn(&self, turn: u64) -> Seat<'_, C>;
}

/// An endpoint that was drawn, and its weight relative to the others.
pub(super) struct Seat<'a, C> {
    pub(super) member: &'a Member<C>,
    pub(super) weight: u32,
}

impl<C> Clone for Seat<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Seat<'_, C> {}

/// Both kinds, told apart once a pick.
pub(super) enum Table<C> {
    Equal(Equal<C>),
    Weighted(Weighted<C>),
}

/// Endpoints of the same weight.
pub(super) struct Equal<C> {
    members: Box<[Member<C>]>,
}

impl<C> Equal<C> {
    pub(super) fn new(members: Vec<Member<C>>) -> Self {
        Self { members: members.into() }
    }
}

impl<C> Seats<C> for Equal<C> {
    const WEIGHTED: bool = false;

    fn len(&self) -> usize {
        self.members.len()
    }

    fn seat(&self, index: usize) -> Seat<'_, C> {
        Seat { member: &self.members[index], weight: 1 }
    }

    fn draw(&self, rng: &mut Rng) -> Seat<'_, C> {
        self.seat(rng.below(self.members.len() as u32) as usize)
    }

    fn two(&self, rng: &mut Rng) -> (Seat<'_, C>, Seat<'_, C>) {
        let n = self.members.len() as u32;
        let (first, second) = (rng.below(n), rng.below(n - 1));
        (self.seat(first as usize), self.seat((second + u32::from(second >= first)) as usize))
    }

    fn turn(&self, turn: u64) -> Seat<'_, C> {
        self.seat((turn % self.members.len() as u64) as usize)
    }
}
