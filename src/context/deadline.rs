//! `grpc-timeout`: at most 8 digits and a unit (gRPC over HTTP/2, "Timeout").

use std::time::Duration;

use http::HeaderValue;

/// The value of a `grpc-timeout` header; `None` if malformed, which counts as absent.
pub(crate) fn decode_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0u64, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The most precise form that fits 8 digits, rounded down so that a hop never grants more than it has.
///
/// Marked never-indexed: its value differs on each call and would only churn the HPACK table.
pub(crate) fn encode_grpc_timeout(remaining: Duration) -> HeaderValue {
    const MAX: u128 = 99_999_999;
    let nanos = remaining.as_nanos();
    let (amount, unit) = if nanos <= MAX {
        (nanos, b'n')
    } else if nanos / 1_000 <= MAX {
        (nanos / 1_000, b'u')
    } else if nanos / 1_000_000 <= MAX {
        (nanos / 1_000_000, b'm')
    } else if nanos / 1_000_000_000 <= MAX {
        (nanos / 1_000_000_000, b'S')
    } else {
        ((nanos / 3_600_000_000_000).min(MAX), b'H')
    };
    let mut text = [0u8; 9];
    let mut at = text.len() - 1;
    text[at] = unit;
    let mut rest = amount as u32;
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let mut value = HeaderValue::from_bytes(&text[at..]).unwrap_or_else(|_| HeaderValue::from_static("0n"));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(decode_grpc_timeout(b"250m"), Some(Duration::from_millis(250)));
        assert_eq!(decode_grpc_timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in [&b""[..], b"m", b"1", b"-1m", b"123456789m", b"1x", b"1 m"] {
            assert_eq!(decode_grpc_timeout(bad), None);
        }
        assert_eq!(encode_grpc_timeout(Duration::ZERO), "0n");
        assert_eq!(encode_grpc_timeout(Duration::from_millis(250)), "250000u");
        assert_eq!(encode_grpc_timeout(Duration::from_secs(15)), "15000000u");
    }

    proptest! {
        #[test]
        fn a_round_trip_never_grows_and_loses_at_most_one_part_in_99_999(nanos in 0u64..99_999_999_000_000_000) {
            let sent = Duration::from_nanos(nanos);
            let got = decode_grpc_timeout(encode_grpc_timeout(sent).as_bytes()).unwrap();
            prop_assert!(got <= sent);
            prop_assert!(sent - got <= Duration::from_nanos(nanos / 99_999 + 1));
        }
    }
}
