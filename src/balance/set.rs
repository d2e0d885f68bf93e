//! The immutable set a pick reads.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{BalancePolicy, Candidate, Member, Picked, weights::Weights};
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
/// Costs 8 bytes an endpoint, 20 where the weights differ.
pub struct EndpointSet<C> {
    members: Box<[Member<C>]>,
    weights: Weights,
    policy: BalancePolicy,
    cursor: Cursor,
}

/// Fewer than this are compared all at once.
const FULL_SCAN_BELOW: usize = 4;

/// As many others are drawn before every endpoint is looked at.
const FURTHER_DRAWS: usize = 16;

/// [`BalancePolicy::least_request`] allows no more.
const MAX_CHOICES: usize = 10;

impl<C: Candidate> EndpointSet<C> {
    /// A set of endpoints with their weights. A weight of 0 is never picked.
    pub fn new(members: impl IntoIterator<Item = (Member<C>, u32)>, policy: BalancePolicy, cursor: &Cursor) -> Self {
        let (members, weights): (Vec<_>, Vec<_>) = members.into_iter().filter(|(_, weight)| *weight > 0).unzip();
        Self { weights: Weights::new(&weights), members: members.into(), policy, cursor: cursor.clone() }
    }

    /// Chooses an available endpoint that `skip` does not refuse; none only if there is none.
    ///
    /// Does not wait, allocate or lock. `skip` sees only candidates that were drawn, and may see one twice.
    pub fn pick(&self, skip: impl Fn(&C) -> bool) -> Option<Picked<C>> {
        self.pick_with(&mut Rng::local(), skip)
    }

    pub(crate) fn pick_with(&self, rng: &mut Rng, skip: impl Fn(&C) -> bool) -> Option<Picked<C>> {
        let usable = |index: usize| {
            let endpoint = &*self.members[index];
            !skip(endpoint) && endpoint.available()
        };
        let n = self.members.len();
        let drawn = match self.policy {
            _ if n == 0 => return None,
            BalancePolicy::RoundRobin => Some(self.weights.turn(self.cursor.next())),
            BalancePolicy::Random => Some(self.weights.draw(rng)),
            BalancePolicy::LeastRequest { choice_count } => {
                let choices = usize::from(choice_count).clamp(2, MAX_CHOICES);
                match choices {
                    _ if n < FULL_SCAN_BELOW || n <= choices => None,
                    2 => {
                        let (first, second) = self.two(rng);
                        match (usable(first), usable(second)) {
                            (true, true) => return Some(self.members[self.better(first, second)].acquire()),
                            (true, false) => return self.search(rng, usable, Some(first), choices),
                            (false, true) => return self.search(rng, usable, Some(second), choices),
                            (false, false) => return self.search(rng, usable, None, choices),
                        }
                    }
                    _ => return self.many(rng, usable, choices),
                }
            }
        };
        match drawn {
            Some(index) if usable(index) => Some(self.members[index].acquire()),
            Some(_) => self.search(rng, usable, None, 1),
            None => self.scan(rng, usable),
        }
    }

    /// The one with the lower cost for its weight; the first drawn where they are equal.
    fn better(&self, first: usize, second: usize) -> usize {
        if self.beats(second, first) { second } else { first }
    }

    /// Whether `index` is strictly better than `other`, which was drawn before it.
    ///
    /// Costs are compared as Envoy weighs them, `weight / (active + 1)`. Two idle ones are equal whatever their weights:
    /// candidates are drawn by weight, so the first drawn is a fair share of a trickle, where the comparison would give
    /// all of it to the heaviest.
    fn beats(&self, index: usize, other: usize) -> bool {
        let (a, b) = (&self.members[index], &self.members[other]);
        let (a_load, b_load) = (a.in_flight(), b.in_flight());
        match &self.weights {
            Weights::Equal(_) => a.cost(a_load) < b.cost(b_load),
            Weights::Table(_) if a_load == 0 && b_load == 0 => a.cost(0) < b.cost(0),
            weights => {
                u128::from(a.cost(a_load)) * u128::from(weights.of(other))
                    < u128::from(b.cost(b_load)) * u128::from(weights.of(index))
            }
        }
    }

    /// Two distinct endpoints, drawn by weight. There are at least two.
    fn two(&self, rng: &mut Rng) -> (usize, usize) {
        let first = self.weights.draw(rng);
        (first, self.other(rng, first))
    }

    /// An endpoint other than `first`, drawn by weight. There are at least two.
    fn other(&self, rng: &mut Rng, first: usize) -> usize {
        let n = self.members.len();
        if let Weights::Table(_) = self.weights {
            for _ in 0..4 {
                let second = self.weights.draw(rng);
                if second != first {
                    return second;
                }
            }
        }
        // Equal weights, or one that takes nearly all.
        let second = rng.below((n - 1) as u32) as usize;
        second + usize::from(second >= first)
    }

    /// The best of `choices` distinct ones.
    fn many(&self, rng: &mut Rng, usable: impl Fn(usize) -> bool, choices: usize) -> Option<Picked<C>> {
        let mut drawn = [usize::MAX; MAX_CHOICES];
        let mut best: Option<usize> = None;
        let mut found = 0;
        for at in 0..choices {
            let mut index = self.weights.draw(rng);
            for _ in 0..8 {
                if !drawn[..at].contains(&index) {
                    break;
                }
                index = rng.below(self.members.len() as u32) as usize;
            }
            if drawn[..at].contains(&index) {
                continue;
            }
            drawn[at] = index;
            if usable(index) {
                found += 1;
                best = Some(best.map_or(index, |best| self.better(best, index)));
            }
        }
        match best {
            Some(best) if found * 2 >= choices => Some(self.members[best].acquire()),
            best => self.search(rng, usable, best, 2),
        }
    }

    /// Draws others until `wanted` can be compared, one of which may be there already.
    #[cold]
    #[inline(never)]
    fn search(
        &self,
        rng: &mut Rng,
        usable: impl Fn(usize) -> bool,
        found: Option<usize>,
        wanted: usize,
    ) -> Option<Picked<C>> {
        if self.members.len() <= FURTHER_DRAWS {
            return self.scan(rng, usable);
        }
        let mut best = found;
        let mut count = usize::from(found.is_some());
        for _ in 0..FURTHER_DRAWS {
            if count >= wanted {
                break;
            }
            let index = self.weights.draw(rng);
            if best != Some(index) && usable(index) {
                count += 1;
                best = Some(best.map_or(index, |best| self.better(best, index)));
            }
        }
        match best {
            Some(best) => Some(self.members[best].acquire()),
            None => self.scan(rng, usable),
        }
    }

    /// Looks at every endpoint: the best for least request, one by weight otherwise.
    fn scan(&self, rng: &mut Rng, usable: impl Fn(usize) -> bool) -> Option<Picked<C>> {
        let compare = matches!(self.policy, BalancePolicy::LeastRequest { .. });
        let mut best = None;
        // Weights of the usable ones as good as the best: each takes its place with the chance of its share of them.
        let mut equals = 0;
        for index in (0..self.members.len()).filter(|&index| usable(index)) {
            let weight = self.weights.of(index);
            match best {
                Some(other) if compare && self.beats(index, other) => equals = weight,
                Some(other) if compare && self.beats(other, index) => continue,
                _ => {
                    equals += weight;
                    if (u128::from(rng.next_u64()) * u128::from(equals)) >> 64 >= u128::from(weight) {
                        continue;
                    }
                }
            }
            best = Some(index);
        }
        best.map(|index| self.members[index].acquire())
    }
}

impl<C> EndpointSet<C> {
    /// The endpoints that can be picked, in the order given.
    pub fn members(&self) -> &[Member<C>] {
        &self.members
    }

    /// The policy.
    pub fn policy(&self) -> BalancePolicy {
        self.policy
    }
}

impl<C> fmt::Debug for EndpointSet<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointSet").field("members", &self.members.len()).field("policy", &self.policy).finish()
    }
}
