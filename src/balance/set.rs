//! The immutable set a pick reads.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    BalancePolicy, Candidate, Member, Picked,
    alias::Weighted,
    policy::{FULL_SCAN_BELOW, MAX_CHOICES},
    seats::{Equal, Seat, Seats, Table},
};
use crate::rt::Rng;

/// Whose turn it is. It outlives the sets, so that a new one goes on where the last one was, and begins at random, so
/// that many clients started together do not begin with the same endpoint.
#[derive(Clone)]
pub struct Cursor(Arc<AtomicU64>);

impl Cursor {
    /// A cursor at a random turn.
    pub fn new() -> Self {
        Self::at(Rng::local_u64() >> 1)
    }

    pub(super) fn at(turn: u64) -> Self {
        Self(Arc::new(AtomicU64::new(turn)))
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}

impl Default for Cursor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cursor").field(&self.0.load(Relaxed)).finish()
    }
}

/// Endpoints to choose from: built whole, never changed, shared by all threads.
///
/// Costs 8 bytes an endpoint, 32 where the weights differ.
pub struct EndpointSet<C> {
    table: Table<C>,
    policy: BalancePolicy,
    cursor: Cursor,
}

/// As many others are drawn before every endpoint is looked at.
const FURTHER_DRAWS: usize = 16;

impl<C: Candidate> EndpointSet<C> {
    /// A set of endpoints with their weights. A weight of 0 is never picked.
    pub fn new(members: impl IntoIterator<Item = (Member<C>, u32)>, policy: BalancePolicy, cursor: &Cursor) -> Self {
        let (members, weights): (Vec<_>, Vec<_>) = members.into_iter().filter(|(_, weight)| *weight > 0).unzip();
        let table = if weights.iter().all(|weight| *weight == weights[0]) {
            Table::Equal(Equal::new(members))
        } else {
            Table::Weighted(Weighted::new(members, &weights))
        };
        Self { table, policy, cursor: cursor.clone() }
    }

    /// Chooses an available endpoint that `skip` does not refuse; none only if there is none.
    ///
    /// Does not wait, allocate or lock. `skip` sees only candidates that were drawn, and may see one twice.
    pub fn pick(&self, skip: impl Fn(&C) -> bool) -> Option<Picked<C>> {
        self.pick_with(&mut Rng::local(), skip)
    }

    pub(crate) fn pick_with(&self, rng: &mut Rng, skip: impl Fn(&C) -> bool) -> Option<Picked<C>> {
        let usable = |member: &Member<C>| !skip(member) && member.available();
        match &self.table {
            Table::Equal(seats) if seats.len() == 0 => None,
            Table::Equal(seats) => self.pick_from(seats, rng, usable),
            Table::Weighted(seats) => self.pick_from(seats, rng, usable),
        }
        .map(|seat| seat.member.acquire())
    }

    fn pick_from<'a, S: Seats<C>>(
        &self,
        seats: &'a S,
        rng: &mut Rng,
        usable: impl Fn(&Member<C>) -> bool,
    ) -> Option<Seat<'a, C>> {
        let drawn = match self.policy {
            BalancePolicy::RoundRobin => seats.turn(self.cursor.next()),
            BalancePolicy::Random => seats.draw(rng),
            BalancePolicy::LeastRequest { choice_count } => {
                let n = seats.len();
                let choices = usize::from(choice_count).clamp(2, MAX_CHOICES);
                return match choices {
                    _ if n < FULL_SCAN_BELOW || n <= choices => self.scan(seats, rng, usable),
                    2 => {
                        let (first, second) = seats.two(rng);
                        match (usable(first.member), usable(second.member)) {
                            (true, true) => Some(better::<C, S>(first, second)),
                            (true, false) => self.search(seats, rng, usable, Some(first), choices),
                            (false, true) => self.search(seats, rng, usable, Some(second), choices),
                            (false, false) => self.search(seats, rng, usable, None, choices),
                        }
                    }
                    _ => self.many(seats, rng, usable, choices),
                };
            }
        };
        if usable(drawn.member) { Some(drawn) } else { self.search(seats, rng, usable, None, 1) }
    }

    /// The best of `choices` distinct ones.
    fn many<'a, S: Seats<C>>(
        &self,
        seats: &'a S,
        rng: &mut Rng,
        usable: impl Fn(&Member<C>) -> bool,
        choices: usize,
    ) -> Option<Seat<'a, C>> {
        let mut drawn: [Option<Seat<'a, C>>; MAX_CHOICES] = [None; MAX_CHOICES];
        let mut best: Option<Seat<'a, C>> = None;
        let mut found = 0;
        for at in 0..choices {
            let known = |seat: Seat<'a, C>| drawn[..at].iter().flatten().any(|known| known.member.same(seat.member));
            let mut seat = seats.draw(rng);
            for _ in 0..8 {
                if !known(seat) {
                    break;
                }
                seat = seats.seat(rng.below(seats.len() as u32) as usize);
            }
            if known(seat) {
                continue;
            }
            drawn[at] = Some(seat);
            if usable(seat.member) {
                found += 1;
                best = Some(best.map_or(seat, |best| better::<C, S>(best, seat)));
            }
        }
        match best {
            Some(best) if found * 2 >= choices => Some(best),
            best => self.search(seats, rng, usable, best, 2),
        }
    }

    /// Draws others until `wanted` can be compared, one of which may be there already.
    #[cold]
    #[inline(never)]
    fn search<'a, S: Seats<C>>(
        &self,
        seats: &'a S,
        rng: &mut Rng,
        usable: impl Fn(&Member<C>) -> bool,
        found: Option<Seat<'a, C>>,
        wanted: usize,
    ) -> Option<Seat<'a, C>> {
        if seats.len() <= FURTHER_DRAWS {
            return self.scan(seats, rng, usable);
        }
        let mut best = found;
        let mut count = usize::from(found.is_some());
        for _ in 0..FURTHER_DRAWS {
            if count >= wanted {
                break;
            }
            let seat = seats.draw(rng);
            if best.is_none_or(|best| !best.member.same(seat.member)) && usable(seat.member) {
                count += 1;
                best = Some(best.map_or(seat, |best| better::<C, S>(best, seat)));
            }
        }
        best.or_else(|| self.scan(seats, rng, usable))
    }

    /// Looks at every endpoint: the best for least request, one by weight otherwise.
    fn scan<'a, S: Seats<C>>(
        &self,
        seats: &'a S,
        rng: &mut Rng,
        usable: impl Fn(&Member<C>) -> bool,
    ) -> Option<Seat<'a, C>> {
        let compare = matches!(self.policy, BalancePolicy::LeastRequest { .. });
        let mut best = None;
        // Weights of the usable ones as good as the best: each takes its place with the chance of its share of them.
        let mut equals = 0;
        for seat in (0..seats.len()).map(|index| seats.seat(index)).filter(|seat| usable(seat.member)) {
            let weight = u64::from(seat.weight);
            match best {
                Some(other) if compare && beats::<C, S>(seat, other) => equals = weight,
                Some(other) if compare && beats::<C, S>(other, seat) => continue,
                _ => {
                    equals += weight;
                    if (u128::from(rng.next_u64()) * u128::from(equals)) >> 64 >= u128::from(weight) {
                        continue;
                    }
                }
            }
            best = Some(seat);
        }
        best
    }
}

/// The one with the lower cost for its weight; the first drawn where they are equal.
fn better<'a, C: Candidate, S: Seats<C>>(first: Seat<'a, C>, second: Seat<'a, C>) -> Seat<'a, C> {
    if beats::<C, S>(second, first) { second } else { first }
}

/// Whether `a` is strictly better than `b`, which was drawn before it.
///
/// Costs are compared as Envoy weighs them, `weight / (active + 1)`. One that is idle and was drawn first stays, whatever
/// the weights: candidates are drawn by weight, so the first drawn is a fair share, where the comparison would give all
/// of a trickle to the heaviest, and nothing to an endpoint that is new.
fn beats<C: Candidate, S: Seats<C>>(a: Seat<'_, C>, b: Seat<'_, C>) -> bool {
    let (a_load, b_load) = (a.member.in_flight(), b.member.in_flight());
    let (a_cost, b_cost) = (a.member.cost(a_load), b.member.cost(b_load));
    let (a_more, b_more) = (a.member.surcharge(), b.member.surcharge());
    if a_more | b_more != 0 {
        let weighted = S::WEIGHTED && b_load > 0;
        let (a_weight, b_weight) = if weighted { (a.weight, b.weight) } else { (1, 1) };
        return beats_clearly((a_cost, a_more, a_weight), (b_cost, b_more, b_weight));
    }
    if !S::WEIGHTED || b_load == 0 {
        return a_cost < b_cost;
    }
    u128::from(a_cost) * u128::from(b.weight) < u128::from(b_cost) * u128::from(a.weight)
}

/// The band of costs that count as equal, where something is held against one of the two.
const TIE: (u128, u128) = (9, 10);

/// Cost, surcharge and weight against those of another.
#[cold]
fn beats_clearly(a: (u64, u32, u32), b: (u64, u32, u32)) -> bool {
    let of = |(cost, more, _): (u64, u32, u32), other_weight: u32| {
        u128::from(cost) * (256 + u128::from(more)) * u128::from(other_weight)
    };
    of(a, b.2) * TIE.1 < of(b, a.2) * TIE.0
}

impl<C> EndpointSet<C> {
    /// The endpoints that can be picked, in the order given.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member<C>> {
        let n = match &self.table {
            Table::Equal(seats) => seats.len(),
            Table::Weighted(seats) => seats.len(),
        };
        (0..n).map(|index| match &self.table {
            Table::Equal(seats) => seats.seat(index).member,
            Table::Weighted(seats) => seats.seat(index).member,
        })
    }

    /// The policy.
    pub fn policy(&self) -> BalancePolicy {
        self.policy
    }
}

impl<C> fmt::Debug for EndpointSet<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointSet").field("members", &self.members().len()).field("policy", &self.policy).finish()
    }
}
