//! `adaptive_concurrency`.

use std::time::Duration;

use crate::enforcement::{Mode, Percent};

/// How the limit is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum AdaptiveAlgorithm {
    /// By how much longer answers take than without load. The default.
    #[default]
    Gradient2,
    /// By an estimate of the queue.
    Vegas,
    /// By work that was given up, or took more than 5 s.
    Aimd,
}

impl AdaptiveAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::Gradient2, Self::Vegas, Self::Aimd];

    /// As configuration has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gradient2 => "gradient2",
            Self::Vegas => "vegas",
            Self::Aimd => "aimd",
        }
    }
}

/// `adaptive_concurrency`: a limit on what is in flight that follows how the service does.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct AdaptivePolicy {
    /// How the limit is found. Default [`AdaptiveAlgorithm::Gradient2`].
    pub algorithm: AdaptiveAlgorithm,
    /// Where it begins. Default 20.
    pub initial_limit: u32,
    /// What it never falls below. Default 4, at least 1.
    pub min_limit: u32,
    /// What it never passes. Default 1000.
    pub max_limit: u32,
    /// The shortest window; one has at least 50 requests. Default 100 ms, at least 10 ms.
    pub sample_interval: Duration,
    /// Which percentile of the time to answer counts. Default 90, 1 to 99.
    pub percentile: u32,
    /// How often one window at half of the limit measures the time to answer without load, ±15 %. Default 60 s, at least
    /// 1 s.
    pub min_rtt_interval: Duration,
    /// How many times longer than without load answers may take before the limit falls. Gradient2 only. Default 1.5, 1 to
    /// 10.
    pub tolerance: f64,
    /// How far the limit goes at once to where it should be. Gradient2 only. Default 0.2, above 0 and at most 1.
    pub smoothing: f64,
    /// The share of requests that is really refused. Default all.
    pub percentage: Percent,
    /// Whether it acts. Default [`Mode::Enforce`].
    pub mode: Mode,
}

impl Default for AdaptivePolicy {
    fn default() -> Self {
        Self {
            algorithm: AdaptiveAlgorithm::Gradient2,
            initial_limit: 20,
            min_limit: 4,
            max_limit: 1000,
            sample_interval: Duration::from_millis(100),
            percentile: 90,
            min_rtt_interval: Duration::from_secs(60),
            tolerance: 1.5,
            smoothing: 0.2,
            percentage: Percent::ALL,
            mode: Mode::Enforce,
        }
    }
}

impl AdaptivePolicy {
    /// Checks what the types alone cannot; the field that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.min_limit == 0 {
            return Err(("min_limit", "at least one request has to be let in"));
        }
        if self.max_limit < self.min_limit {
            return Err(("max_limit", "it is below `min_limit`"));
        }
        if !(self.min_limit..=self.max_limit).contains(&self.initial_limit) {
            return Err(("initial_limit", "it is not between `min_limit` and `max_limit`"));
        }
        if self.sample_interval < Duration::from_millis(10) {
            return Err(("sample_interval", "it is at least 10ms"));
        }
        if self.min_rtt_interval < Duration::from_secs(1) {
            return Err(("min_rtt_interval", "it is at least 1s"));
        }
        if !(1..=99).contains(&self.percentile) {
            return Err(("percentile", "it is 1 to 99"));
        }
        if !(1.0..=10.0).contains(&self.tolerance) {
            return Err(("tolerance", "it is 1 to 10"));
        }
        if !(self.smoothing > 0.0 && self.smoothing <= 1.0) {
            return Err(("smoothing", "it is above 0 and at most 1"));
        }
        Ok(())
    }
}
