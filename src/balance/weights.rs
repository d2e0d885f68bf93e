//! Drawing an index by weight in constant expected time.
//!
//! Cumulated weights alone take a binary search, whose mispredicted branches cost more than the rest of a pick. A guide
//! table (Chen and Asau 1974) of one entry per endpoint says where to begin, and at most one more step is expected
//! however the weights are skewed. 12 bytes an endpoint, and none at all while the weights are equal.

use crate::rt::Rng;

/// Weights of at least one endpoint, none of them 0.
pub(super) enum Weights {
    Equal(u32),
    Table(Table),
}

pub(super) struct Table {
    /// Sum of the weights up to and with each endpoint.
    ends: Box<[u64]>,
    /// For each of `n` equal parts of the sum, the endpoint at its beginning.
    guide: Box<[u32]>,
    total: u64,
    /// Coprime to `total` and near its golden section.
    stride: u64,
}

/// 2^64 / golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The `x`-th of 2^64 equal steps through `0..n`.
fn scale(x: u64, n: u64) -> u64 {
    ((u128::from(x) * u128::from(n)) >> 64) as u64
}

impl Weights {
    pub(super) fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |divisor, &weight| gcd(u64::from(weight), divisor)).max(1);
        if weights.iter().all(|&weight| weight == weights[0]) {
            return Self::Equal(u32::try_from(weights.len()).unwrap_or(u32::MAX));
        }
        let mut total = 0;
        let ends: Box<[u64]> = weights
            .iter()
            .map(|&weight| {
                total += u64::from(weight) / divisor;
                total
            })
            .collect();
        let parts = ends.len() as u128;
        let mut at = 0;
        let guide = (0..parts)
            .map(|part| {
                let begin = (part * u128::from(total) / parts) as u64;
                while ends[at] <= begin {
                    at += 1;
                }
                at as u32
            })
            .collect();
        let mut stride = scale(GOLDEN, total).max(1);
        while gcd(stride, total) != 1 {
            stride += 1;
        }
        Self::Table(Table { ends, guide, total, stride })
    }

    /// An index by chance.
    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        match self {
            Self::Equal(n) => rng.below(*n) as usize,
            Self::Table(table) => table.draw(rng.next_u64()),
        }
    }

    /// The `turn`-th index of a sequence in which each comes as often as its weight says, evenly spread.
    ///
    /// Equal weights come in order. Unequal ones step through the sum of the weights by its golden section: within any
    /// run of as many turns as the sum, each comes exactly as often as its weight, as with earliest deadline first, but
    /// without a heap or a lock, and with nothing but the turn as state.
    pub(super) fn turn(&self, turn: u64) -> usize {
        match self {
            Self::Equal(n) => (turn % u64::from(*n)) as usize,
            Self::Table(table) => table.at(match u32::try_from(table.total) {
                Ok(_) => (turn % table.total) * table.stride % table.total,
                // The product would not fit; at this size the exact cycle would not end anyway.
                Err(_) => scale(turn.wrapping_mul(GOLDEN), table.total),
            }),
        }
    }

    /// The weight of an endpoint, relative to the others.
    pub(super) fn of(&self, index: usize) -> u64 {
        match self {
            Self::Equal(_) => 1,
            Self::Table(table) => table.ends[index] - index.checked_sub(1).map_or(0, |before| table.ends[before]),
        }
    }
}

impl Table {
    /// The endpoint at the `x`-th of 2^64 equal steps through the sum. Part and position come from the same `x`, since a
    /// division would cost as much as the rest.
    fn draw(&self, x: u64) -> usize {
        let part = scale(x, self.guide.len() as u64) as usize;
        self.from(part, scale(x, self.total))
    }

    fn at(&self, position: u64) -> usize {
        // `position < total`, so neither index leaves its table.
        let part = match u32::try_from(self.total) {
            Ok(_) => (position * self.guide.len() as u64 / self.total) as usize,
            Err(_) => (u128::from(position) * self.guide.len() as u128 / u128::from(self.total)) as usize,
        };
        self.from(part, position)
    }

    /// `part` begins at or before `position`.
    fn from(&self, part: usize, position: u64) -> usize {
        let mut at = self.guide[part] as usize;
        while self.ends[at] <= position {
            at += 1;
        }
        at
    }
}
