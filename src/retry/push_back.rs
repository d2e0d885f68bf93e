//! What a peer says about when to come back.

use std::time::Duration;

use http::HeaderMap;

use crate::rt;

/// A peer's word on the next attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PushBack {
    /// `grpc-retry-pushback-ms`: exactly then (gRFC A6).
    Exactly(Duration),
    /// `Retry-After` (seconds or a date, RFC 9110 §10.2.3), `X-RateLimit-Reset`: not at this peer before then.
    AtLeast(Duration),
    /// A negative or unreadable `grpc-retry-pushback-ms`.
    Never,
}

/// Reads what is there. Of several, gRPC's counts, then `Retry-After`.
pub(crate) fn read(headers: &HeaderMap) -> Option<PushBack> {
    if let Some(value) = headers.get("grpc-retry-pushback-ms") {
        let ms = value.to_str().ok().and_then(|text| text.parse::<u32>().ok());
        return Some(ms.map_or(PushBack::Never, |ms| PushBack::Exactly(Duration::from_millis(ms.into()))));
    }
    let number = |name| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if let Some(seconds) = number("retry-after") {
        return Some(PushBack::AtLeast(Duration::from_secs(seconds)));
    }
    if let Some(then) =
        headers.get("retry-after").and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
    {
        // A time that is past is now.
        return Some(PushBack::AtLeast(then.duration_since(rt::wall()).unwrap_or_default()));
    }
    let reset = number("x-ratelimit-reset")?;
    // Some send seconds to wait, some the time of day.
    let seconds = if reset < 1_000_000_000 { reset } else { reset.saturating_sub(unix_time()) };
    Some(PushBack::AtLeast(Duration::from_secs(seconds)))
}

/// The time of day, for the one header that may name it. A clock that is off is bounded by the longest push-back.
fn unix_time() -> u64 {
    rt::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &'static str, value: &str) -> Option<PushBack> {
        read(&[(http::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect())
    }

    #[test]
    fn each_header_is_read_in_its_own_unit() {
        let s = Duration::from_secs;
        assert_eq!(of("grpc-retry-pushback-ms", "250"), Some(PushBack::Exactly(Duration::from_millis(250))));
        for never in ["-1", "x", "1.5", ""] {
            assert_eq!(of("grpc-retry-pushback-ms", never), Some(PushBack::Never), "{never}");
        }
        assert_eq!(of("retry-after", "3"), Some(PushBack::AtLeast(s(3))));
        assert_eq!(of("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"), Some(PushBack::AtLeast(s(0))));
        assert_eq!(of("retry-after", "Fri, 31 Dec 1999"), None);
        let date = httpdate::fmt_http_date(rt::wall() + s(20));
        let Some(PushBack::AtLeast(wait)) = of("retry-after", &date) else { panic!("a date") };
        assert!((s(18)..=s(20)).contains(&wait), "{wait:?}");
        assert_eq!(of("x-ratelimit-reset", "7"), Some(PushBack::AtLeast(s(7))));
        let then = unix_time() + 20;
        let Some(PushBack::AtLeast(wait)) = of("x-ratelimit-reset", &then.to_string()) else { panic!("a time") };
        assert!((s(18)..=s(20)).contains(&wait), "{wait:?}");
        // A clock that is behind does not wait for years, and one that is ahead does not wait at all.
        assert_eq!(of("x-ratelimit-reset", "1000000000"), Some(PushBack::AtLeast(s(0))));
    }
}
