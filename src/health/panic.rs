//! When judgement gives way to capacity.

/// As many endpoints or more are judged by share, fewer only when none is left.
const BY_SHARE: usize = 4;

/// Whether a set of `total` endpoints, of which `usable` are, is in panic: calls then go to ejected endpoints and to those
/// that failed their health checks as well.
///
/// From four endpoints on: fewer than `threshold` per cent are usable, strictly, as Envoy's `healthy_panic_threshold`
/// compares. Below four a share says too little, and only an empty choice is panic. A threshold of 0 never panics.
///
/// To be asked for each priority, with the endpoints of that priority (and subset) only.
pub(crate) fn in_panic(usable: usize, total: usize, threshold: u32) -> bool {
    match total {
        0 => false,
        _ if threshold == 0 => false,
        _ if total < BY_SHARE => usable == 0,
        _ => (usable as u64) * 100 < (total as u64) * u64::from(threshold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strictly_below_half_or_nothing_left_of_a_few() {
        for (usable, total, panic) in [
            (0, 0, false),
            (1, 1, false),
            (0, 1, true),
            (1, 3, false),
            (0, 3, true),
            (2, 4, false),
            (1, 4, true),
            (5, 10, false),
            (4, 10, true),
        ] {
            assert_eq!(in_panic(usable, total, 50), panic, "{usable} of {total}");
        }
        assert!(!in_panic(0, 10, 0) && !in_panic(0, 2, 0));
        assert!(in_panic(9, 10, 100) && !in_panic(10, 10, 100));
    }
}
