//! As TCP Vegas (Brakmo, Peterson 1995), with the thresholds of Netflix's concurrency-limits.

use std::time::Duration;

use super::Window;

/// Estimates the queue as what is in flight beyond the shortest time to answer, and keeps it between 3 and 6 times the
/// logarithm of the limit. The shortest time is measured anew at half of the limit.
#[derive(Debug)]
pub(super) struct Vegas {
    shortest: Option<Duration>,
}

impl Vegas {
    pub(super) fn new() -> Self {
        Self { shortest: None }
    }

    pub(super) fn next(&mut self, limit: f64, window: &Window) -> f64 {
        let shortest = match self.shortest {
            Some(shortest) if !window.probe && shortest <= window.rtt => shortest,
            _ => window.rtt,
        };
        self.shortest = Some(shortest);
        if window.probe {
            return limit;
        }
        let unit = limit.log10().max(1.0);
        if window.dropped {
            return limit - unit;
        }
        if !window.used(limit) {
            return limit;
        }
        let queue = limit * (1.0 - shortest.as_secs_f64() / window.rtt.as_secs_f64().max(1e-9));
        if queue <= unit {
            limit + 6.0 * unit
        } else if queue < 3.0 * unit {
            limit + unit
        } else if queue > 6.0 * unit {
            limit - unit
        } else {
            limit
        }
    }
}
