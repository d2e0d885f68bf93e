//! A limit that finds itself: how much work a process may have at once before it only queues.
//!
//! A window of finished requests says how long they took, how many were in flight and how many finished. From window to
//! window an [`Algorithm`] moves the limit. Requests that were never at the limit say nothing about it: a limit grows only
//! if at least half of it was used.

mod aimd;
mod controller;
mod gradient2;
mod histogram;
mod policy;
#[cfg(test)]
mod sim;
mod vegas;

pub(super) use self::controller::{Controller, Ended, Sample};
pub use self::policy::{AdaptiveAlgorithm, AdaptivePolicy};

use std::time::Duration;

use self::{aimd::Aimd, gradient2::Gradient2, vegas::Vegas};

/// What one window of finished requests says.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Window {
    /// The percentile of how long they took.
    rtt: Duration,
    /// The mean number in flight.
    in_flight: f64,
    /// The most that were in flight.
    most: u32,
    /// Finished in a second.
    throughput: f64,
    /// Whether some were given up or failed for want of time.
    dropped: bool,
    /// Whether it was a look at half of the limit.
    probe: bool,
}

impl Window {
    /// Whether the limit was used enough to say anything: reached by a burst, or half of it all the time.
    fn used(&self, limit: f64) -> bool {
        f64::from(self.most) + 1.0 > limit || self.in_flight * 2.0 >= limit
    }
}

/// How a limit follows what windows say.
#[derive(Debug)]
enum Algorithm {
    Gradient2(Gradient2),
    Vegas(Vegas),
    Aimd(Aimd),
}

impl Algorithm {
    fn new(policy: &AdaptivePolicy) -> Self {
        match policy.algorithm {
            AdaptiveAlgorithm::Gradient2 => Self::Gradient2(Gradient2::new(policy.tolerance, policy.smoothing)),
            AdaptiveAlgorithm::Vegas => Self::Vegas(Vegas::new()),
            AdaptiveAlgorithm::Aimd => Self::Aimd(Aimd),
        }
    }

    /// The limit after this window; bounds are the caller's.
    fn next(&mut self, limit: f64, window: &Window) -> f64 {
        match self {
            Self::Gradient2(gradient) => gradient.next(limit, window),
            Self::Vegas(vegas) => vegas.next(limit, window),
            Self::Aimd(aimd) => aimd.next(limit, window),
        }
    }

    /// Whether a window at half of the limit would tell more than one at the limit.
    fn wants_probe(&self, limit: f64) -> bool {
        match self {
            Self::Gradient2(gradient) => gradient.wants_probe(limit),
            Self::Vegas(_) => true,
            Self::Aimd(_) => false,
        }
    }

    /// Whether the limit fell so far since that what is known without load may be out of date.
    fn fell(&self, limit: f64) -> bool {
        match self {
            Self::Gradient2(gradient) => gradient.fell(limit),
            Self::Vegas(_) | Self::Aimd(_) => false,
        }
    }
}
