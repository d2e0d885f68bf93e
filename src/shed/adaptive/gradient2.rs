//! Gradient2 with a baseline that overload cannot move.
//!
//! The plain form (Netflix's concurrency-limits) compares a short and a long average of the time to answer. Under overload
//! the long one rises too, so the limit drifts to its maximum within minutes. Here the baseline rises only from windows
//! in which less than half of the limit was used, and from probes: now and then one window at half of the limit. A probe
//! that finishes as much as before shows that the limit is far too high, and a baseline measured in it would be a queue's.
//!
//! Growth has to pay: once answers take longer than the baseline, the limit grows only while throughput grows with what
//! is in flight.

use std::collections::VecDeque;

use super::Window;

/// How many windows the relation of throughput to concurrency is read from.
const REMEMBERED: usize = 20;

/// Up to this much above the baseline answers are as fast as ever: growth needs no other reason.
const UNLOADED: f64 = 1.1;

#[derive(Debug)]
pub(super) struct Gradient2 {
    tolerance: f64,
    smoothing: f64,
    /// Seconds; 0 before the first window.
    baseline: f64,
    /// The smoothed time to answer, for the decision to grow.
    recent: f64,
    /// The throughput before a probe.
    throughput: f64,
    /// The limit when the baseline was last measured.
    measured_at: f64,
    history: VecDeque<(f64, f64)>,
}

impl Gradient2 {
    pub(super) fn new(tolerance: f64, smoothing: f64) -> Self {
        Self {
            tolerance,
            smoothing,
            baseline: 0.0,
            recent: 0.0,
            throughput: 0.0,
            measured_at: 0.0,
            history: VecDeque::with_capacity(REMEMBERED),
        }
    }

    pub(super) fn next(&mut self, limit: f64, window: &Window) -> f64 {
        let rtt = window.rtt.as_secs_f64().max(1e-9);
        if self.baseline == 0.0 {
            (self.baseline, self.recent, self.measured_at) = (rtt, rtt, limit);
        }
        self.remember(window);
        if window.probe {
            return self.probed(limit, rtt, window);
        }
        self.recent += 0.3 * (rtt - self.recent);
        self.throughput = window.throughput;
        let idle = window.in_flight < limit / 2.0;
        if rtt < 0.9 * self.baseline {
            self.baseline += 0.05 * (rtt - self.baseline);
        } else if idle {
            self.baseline += 0.01 * (rtt - self.baseline);
        }
        let gradient = (self.tolerance * self.baseline / rtt).clamp(0.5, 1.0);
        if gradient < 1.0 {
            return limit + self.smoothing * (limit * gradient - limit);
        }
        if !window.used(limit) {
            return limit;
        }
        if self.recent < UNLOADED * self.baseline {
            limit + limit.sqrt()
        } else if self.growth_pays() {
            limit + self.smoothing * limit.sqrt()
        } else {
            limit
        }
    }

    #[cfg(test)]
    pub(super) fn baseline(&self) -> f64 {
        self.baseline
    }

    fn probed(&mut self, limit: f64, rtt: f64, window: &Window) -> f64 {
        if window.throughput > 0.9 * self.throughput {
            // Half of it does all the work there is.
            return limit * 0.7;
        }
        // One window of few requests is not quite sure.
        self.baseline += 0.5 * (rtt.min(2.0 * self.baseline) - self.baseline);
        self.measured_at = limit;
        limit
    }

    /// While less than half is in flight, every window measures the baseline.
    pub(super) fn wants_probe(&self, limit: f64) -> bool {
        let in_flight = self.history.back().map_or(0.0, |(in_flight, _)| *in_flight);
        self.baseline > 0.0 && in_flight >= limit / 2.0
    }

    /// Whether the limit fell so far since that the baseline may be out of date.
    pub(super) fn fell(&self, limit: f64) -> bool {
        limit < 0.5 * self.measured_at
    }

    fn remember(&mut self, window: &Window) {
        if self.history.len() == REMEMBERED {
            self.history.pop_front();
        }
        self.history.push_back((window.in_flight, window.throughput));
    }

    /// Whether a percent more in flight has brought at least a third of a percent more throughput: the slope of a line
    /// through what is remembered, where what was in flight varied at all.
    fn growth_pays(&self) -> bool {
        let n = self.history.len() as f64;
        let (x, y) = self.history.iter().fold((0.0, 0.0), |(x, y), (a, b)| (x + a / n, y + b / n));
        if x == 0.0 || y == 0.0 {
            return false;
        }
        let (xx, xy) = self.history.iter().fold((0.0, 0.0), |(xx, xy), (a, b)| {
            let (dx, dy) = (a / x - 1.0, b / y - 1.0);
            (xx + dx * dx, xy + dx * dy)
        });
        (xx / n).sqrt() > 0.02 && xy / xx > 0.33
    }
}
