//! `load_shed`.

use std::time::Duration;

use crate::enforcement::{Mode, Percent};

/// `load_shed`: when a request is refused because too much is asked of the process.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct ShedPolicy {
    /// How many requests may be in work. Default: no fixed limit, `adaptive_concurrency` finds one if it is set.
    pub max_in_flight: Option<u32>,
    /// How long tasks that are ready may wait for a thread, beyond the 10 ms in which that is measured. Default 10 ms;
    /// `None` does not look.
    pub max_lag: Option<Duration>,
    /// The share of requests that is really refused. Default all.
    pub percentage: Percent,
    /// Whether it acts. Default [`Mode::Enforce`].
    pub mode: Mode,
}

impl Default for ShedPolicy {
    fn default() -> Self {
        Self {
            max_in_flight: None,
            max_lag: Some(Duration::from_millis(10)),
            percentage: Percent::ALL,
            mode: Mode::Enforce,
        }
    }
}

impl ShedPolicy {
    /// Sheds by lag alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many requests may be in work.
    #[must_use]
    pub fn max_in_flight(mut self, max: u32) -> Self {
        self.max_in_flight = Some(max);
        self
    }

    /// How long tasks that are ready may wait for a thread.
    #[must_use]
    pub fn max_lag(mut self, lag: Option<Duration>) -> Self {
        self.max_lag = lag;
        self
    }

    /// Whether it acts.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Checks what the types alone cannot; the field that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match self.max_lag {
            Some(lag) if lag < Duration::from_millis(1) => Err(("max_lag", "it is at least 1ms, or off")),
            None if self.max_in_flight.is_none() && self.mode != Mode::Off => Err(("", "it sheds nothing")),
            _ => Ok(()),
        }
    }
}
