//! Durations as people write them: `250ms`, `3s`, `1m30s`, `1h` (Gateway API GEP-2257).
//!
//! A bare number is refused, because one in ten readers takes it for milliseconds and the others for seconds.

use std::time::Duration;

/// Longest acceptable duration: 365 days, so that adding one to a clock never overflows.
const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// What is wrong, and the cure.
type Wrong = (String, String);

/// Parses a duration with units, largest first.
pub(crate) fn parse(text: &str) -> Result<Duration, Wrong> {
    let example = || "write a number and a unit: `250ms`, `3s`, `1m30s`, `1h`".to_owned();
    let fail = |why: &str, cure: String| Err((format!("`{}` is not a duration: {why}", text.escape_debug()), cure));
    if text.is_empty() {
        return fail("it is empty", example());
    }
    if text.starts_with('-') {
        return fail("it is negative", example());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return fail("it has no unit", format!("write `{text}s` for seconds or `{text}ms` for milliseconds"));
    }
    let (mut rest, mut total, mut next_unit) = (text, 0u64, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if rest[digits..].starts_with('.') {
            return fail("fractions are not allowed", "use the next smaller unit, such as `1500ms` for 1.5 s".into());
        }
        let Ok(number) = rest[..digits].parse::<u64>() else {
            return fail("a unit needs a number before it", example());
        };
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(|b| !b.is_ascii_digit()).count();
        let (unit, tail) = rest.split_at(letters);
        rest = tail;
        let Some(index) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return match unit {
                "" => fail("its last number has no unit", example()),
                _ => fail(
                    &format!("`{}` is not a unit", unit.escape_debug()),
                    "the units are `h`, `m`, `s` and `ms`".into(),
                ),
            };
        };
        if index < next_unit {
            return fail("its units must go from large to small, each once", example());
        }
        next_unit = index + 1;
        total = total.saturating_add(number.saturating_mul(UNITS[index].1));
    }
    let duration = Duration::from_millis(total);
    if duration > MAX {
        return fail("it is longer than 8760h (a year)", "write at most `8760h`".into());
    }
    Ok(duration)
}

/// Prints a duration so that [`parse`] reads it back; below a millisecond it is rounded down.
pub(crate) fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, size) in UNITS {
        if rest >= size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up_from_large_to_small() {
        for (text, millis) in [("250ms", 250), ("3s", 3_000), ("1m30s", 90_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for bad in ["", "3", "1.5s", "s", "1s2", "1s1m", "1s1s", "3 s", "-1s", "3sec", "99999h", "1µs"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_reads_back(millis in 0u64..31_536_000_000) {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(&format(duration)).unwrap(), duration);
        }
    }
}
