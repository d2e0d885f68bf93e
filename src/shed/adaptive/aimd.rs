//! Additive increase, multiplicative decrease.

use super::Window;

/// Grows by one for each window in which the limit was used, falls by a tenth for each in which work was given up: late
/// and simple, for services whose time to answer says nothing about their load.
#[derive(Debug)]
pub(super) struct Aimd;

impl Aimd {
    pub(super) fn next(&mut self, limit: f64, window: &Window) -> f64 {
        if window.dropped {
            limit * 0.9
        } else if window.used(limit) {
            limit + 1.0
        } else {
            limit
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn used_windows_add_one_and_drops_take_a_tenth() {
        let window = |most, dropped| Window {
            rtt: Duration::from_millis(10),
            in_flight: f64::from(most),
            most,
            throughput: 1000.0,
            dropped,
            probe: false,
        };
        let mut aimd = Aimd;
        assert_eq!(aimd.next(20.0, &window(10, false)), 21.0);
        assert_eq!(aimd.next(20.0, &window(9, false)), 20.0);
        assert_eq!(aimd.next(20.0, &window(20, true)), 18.0);
    }
}
