//! One reading of the clock for layers that stand directly upon each other.
//!
//! Each layer wants to know when a call came by, a reading takes longer than most layers do, and no time passes between
//! two of ours. So a layer hands what it read to the one below, for the time of its `call`. To a service of anybody
//! else's nothing is handed: what runs there may take its time, and may make calls of its own.

use std::{any::type_name, cell::Cell};

use super::Instant;

thread_local! {
    static HANDED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Those who take what they are handed before they do anything else.
const LAYERS: [&str; 5] = [
    "timeout::layer::Timeout<",
    "limit::layer::RateLimit<",
    "breaker::circuit_layer::CircuitBreaker<",
    "breaker::layer::LimitService<",
    "retry::layer::Retry<",
];

/// A name of a type is no promise of the language's. Where it is not what is expected the clock is read once more.
#[inline(always)]
fn takes<S>() -> bool {
    let name = type_name::<S>().strip_prefix(concat!(env!("CARGO_CRATE_NAME"), "::"));
    name.is_some_and(|name| LAYERS.iter().any(|layer| name.starts_with(layer)))
}

/// What the layer directly above has just read.
#[inline]
pub(crate) fn handed() -> Option<Instant> {
    HANDED.take()
}

/// What the layer directly above has just read, or else the time.
#[inline]
pub(crate) fn moment() -> Instant {
    handed().unwrap_or_else(super::now)
}

/// Leaves what was read to whoever asked for what was made of it.
#[inline]
pub(crate) fn leave(moment: Instant) {
    HANDED.set(Some(moment));
}

/// Hands the time to a service `S` that is called before the result is dropped.
#[inline]
pub(crate) fn hand<S>(moment: Option<Instant>) -> Handing {
    HANDED.set(moment.filter(|_| takes::<S>()));
    Handing
}

/// Nothing is left behind, not even by a panic.
#[must_use = "what is handed is taken back at once"]
pub(crate) struct Handing;

impl Drop for Handing {
    #[inline]
    fn drop(&mut self) {
        HANDED.set(None);
    }
}
