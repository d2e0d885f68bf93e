//! The client's half: a caller that is refused for overload stops asking, in proportion.
//!
//! A server that sheds still pays for each refusal, and under a multiple of its load it can do nothing else. So a caller
//! remembers how many calls it made in the last seconds and how many of them were accepted, and once it makes more than
//! `multiplier` times as many as are accepted, refuses the rest by itself.
//!
//! # Source
//! Site Reliability Engineering, chapter 21, "Client-side throttling": P = max(0, (requests - K accepts) / (requests + 1)).
//! Calls are counted when they are made, those that are refused here too. Different: at most `max_rejection` is refused,
//! so that a service that recovers is noticed, and after a second in which at least 20 calls were sent and all were
//! accepted what was before is forgotten.

mod engine;
mod layer;

use std::time::Duration;

pub use self::layer::{ResponseFuture, Throttle, ThrottleHandle, ThrottleLayer, Throttled};
pub(crate) use self::{engine::Throttler, layer::Series};
use crate::enforcement::{Mode, Percent};

/// `throttle`: when calls are refused here because the service refuses many.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct ThrottlePolicy {
    /// How many times more calls are made than are accepted before some are refused here: K. Default 2, 1 to 100.
    pub multiplier: f64,
    /// How long calls are remembered. Default 10 s, 1 s to 10 min.
    pub window: Duration,
    /// The largest share that is refused here. Default 80 %.
    pub max_rejection: Percent,
    /// The share of refusals that are really made. Default all.
    pub percentage: Percent,
    /// Whether it acts. Default [`Mode::Enforce`].
    pub mode: Mode,
}

impl Default for ThrottlePolicy {
    fn default() -> Self {
        Self {
            multiplier: 2.0,
            window: Duration::from_secs(10),
            max_rejection: Percent::of_millionths(800_000),
            percentage: Percent::ALL,
            mode: Mode::Enforce,
        }
    }
}

impl ThrottlePolicy {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks what the types alone cannot; the field that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !(1.0..=100.0).contains(&self.multiplier) {
            return Err(("multiplier", "it is 1 to 100"));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&self.window) {
            return Err(("window", "it is 1s to 10m"));
        }
        Ok(())
    }
}
