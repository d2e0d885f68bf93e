//! Unequal weights: one cache line a draw, however many endpoints there are.
//!
//! Cumulated weights take a search, whose mispredicted branches and dependent loads cost more than the rest of a pick. An
//! alias table (Walker 1977, Vose 1991) has as many slots as endpoints, each shared by at most two of them: a draw is a
//! slot and a comparison. A slot holds the endpoints themselves, so that what is drawn is on the line that was read.
//! 32 bytes an endpoint.
//!
//! Turns use the same table: slot after slot, which the processor sees coming, at another offset in each pass. Both are
//! steps by the golden section, so that a heavy endpoint's turns do not come in a row. In as many passes as a slot has
//! parts every part of every slot has had its turn, so each endpoint comes exactly as often as its weight says, as with
//! earliest deadline first, but without a heap or a lock, and with nothing but the number of the turn as state. In less
//! than a round an endpoint is off by at most one for each slot that it has a share of.

use super::{
    Member,
    seats::{Seat, Seats},
};
use crate::rt::Rng;

/// Endpoints of different weights.
pub(super) struct Weighted<C> {
    slots: Box<[Slot<C>]>,
    /// How many parts a slot has.
    parts: u64,
    /// How many parts further the same slot is entered in the next pass. Coprime to `parts`.
    by_pass: u64,
    /// How many parts further the next slot is entered.
    by_slot: u64,
}

/// What is shared by two. The first is the endpoint whose number the slot has.
#[repr(align(32))]
struct Slot<C> {
    members: [Member<C>; 2],
    weights: [u32; 2],
    /// Parts of the first.
    first: u32,
}

/// A slot has no more parts than this.
const MOST_PARTS: u64 = 1 << 31;

/// 2^64 / golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The `x`-th of 2^64 equal steps through `0..n`, and how far it is to the next, in parts of 2^64.
fn scale(x: u64, n: u64) -> (u64, u64) {
    let product = u128::from(x) * u128::from(n);
    ((product >> 64) as u64, product as u64)
}

/// How an endpoint's slot is shared.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// What of it is the endpoint's own.
    first: u64,
    /// Whose the rest is; the endpoint itself if there is none.
    other: usize,
}

/// Puts as many shares into as many slots of `room`, at most two in each. The sum of the shares is that of the slots, so
/// whatever the smallest leaves of a slot, the largest fills.
fn fill(mut left: Vec<u64>, room: u64) -> Vec<Share> {
    let mut shares: Vec<Share> = (0..left.len()).map(|own| Share { first: room, other: own }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..left.len()).partition(|&own| left[own] < room);
    while let (Some(own), Some(&other)) = (small.pop(), large.last()) {
        shares[own] = Share { first: left[own], other };
        left[other] -= room - left[own];
        if left[other] < room {
            large.pop();
            small.push(other);
        }
    }
    shares
}

impl<C> Weighted<C> {
    /// A table of weights that are not 0.
    pub(super) fn new(members: Vec<Member<C>>, weights: &[u32]) -> Self {
        let n = weights.len() as u64;
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        // Multiplied by the number of slots, so that a slot is a whole number of parts.
        let mut common = 0;
        for &weight in weights {
            common = gcd(u64::from(weight), common);
            if common == 1 {
                break;
            }
        }
        let divisor = gcd(common * n, total);
        let exact = total / divisor;
        let shares = fill(weights.iter().map(|&weight| u64::from(weight) * n / divisor).collect(), exact);
        let parts = exact.min(MOST_PARTS);
        let first = |share: &Share| match exact == parts {
            true => share.first as u32,
            false => (u128::from(share.first) * u128::from(parts)).div_ceil(u128::from(exact)) as u32,
        };
        let others: Vec<Member<C>> = shares.iter().map(|share| members[share.other].clone()).collect();
        let slot = |(((own, other), weight), share): (((Member<C>, Member<C>), &u32), &Share)| Slot {
            members: [own, other],
            weights: [*weight, weights[share.other]],
            first: first(share),
        };
        let slots = members.into_iter().zip(others).zip(weights).zip(&shares).map(slot).collect();
        let by_slot = scale(GOLDEN, parts).0.max(1);
        let mut by_pass = by_slot;
        while gcd(by_pass, parts) != 1 {
            by_pass += 1;
        }
        Self { slots, parts, by_pass, by_slot }
    }
}

impl<C> Slot<C> {
    /// Whose a part is. Indexed rather than branched on: which of the two it is cannot be predicted.
    fn at(&self, part: u32) -> Seat<'_, C> {
        let which = usize::from(part >= self.first);
        Seat { member: &self.members[which], weight: self.weights[which] }
    }
}

impl<C> Seats<C> for Weighted<C> {
    const WEIGHTED: bool = true;

    fn len(&self) -> usize {
        self.slots.len()
    }

    fn seat(&self, index: usize) -> Seat<'_, C> {
        let slot = &self.slots[index];
        Seat { member: &slot.members[0], weight: slot.weights[0] }
    }

    fn draw(&self, rng: &mut Rng) -> Seat<'_, C> {
        // Slot and part come from one number: what is left of it after the slot is as random.
        let (slot, rest) = scale(rng.next_u64(), self.slots.len() as u64);
        self.slots[slot as usize].at(scale(rest, self.parts).0 as u32)
    }

    fn two(&self, rng: &mut Rng) -> (Seat<'_, C>, Seat<'_, C>) {
        let first = self.draw(rng);
        for _ in 0..4 {
            let second = self.draw(rng);
            if !second.member.same(first.member) {
                return (first, second);
            }
        }
        // One takes nearly all.
        let index = rng.below(self.slots.len() as u32) as usize;
        let second = self.seat(index);
        match second.member.same(first.member) {
            true => (first, self.seat((index + 1) % self.slots.len())),
            false => (first, second),
        }
    }

    fn turn(&self, turn: u64) -> Seat<'_, C> {
        let n = self.slots.len() as u64;
        let (pass, slot) = (turn / n, turn % n);
        // Neither product leaves 64 bits: parts have 31, and so many slots fit no memory.
        let part = (pass % self.parts * self.by_pass + slot * self.by_slot) % self.parts;
        self.slots[slot as usize].at(part as u32)
    }
}
