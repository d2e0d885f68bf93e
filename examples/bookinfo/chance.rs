//! A coin, for the variants of `ratings`.

use std::hash::{BuildHasher, RandomState};

/// Heads or tails. Every `RandomState` has new keys, which is all the chance this needs.
pub(crate) fn one_in_two() -> bool {
    RandomState::new().hash_one(0).is_multiple_of(2)
}
