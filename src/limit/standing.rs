//! Where a caller stands, and the headers that tell it.

use std::{fmt::Write, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

/// What is left of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// Until everything is there again.
    pub(crate) reset: Duration,
    /// The time that `limit` is for.
    pub(crate) window: Duration,
}

impl Standing {
    /// The one that leaves less.
    pub(crate) fn nearer(self, other: Self) -> Self {
        if other.remaining < self.remaining { other } else { self }
    }
}

/// Which headers tell callers where they stand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum RateLimitHeaders {
    /// None.
    #[default]
    Off,
    /// `x-ratelimit-limit`, `x-ratelimit-remaining`, `x-ratelimit-reset` as Envoy writes them, after
    /// draft-polli-ratelimit-headers-03.
    Draft03,
    /// `ratelimit` and `ratelimit-policy`, structured fields of draft-ietf-httpapi-ratelimit-headers-09.
    Structured,
}

impl RateLimitHeaders {
    /// As configuration has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Draft03 => "draft03",
            Self::Structured => "structured",
        }
    }

    pub(crate) fn write(self, headers: &mut HeaderMap, standing: &Standing) {
        let Standing { limit, remaining, .. } = standing;
        let (window, reset) = (seconds(standing.window), seconds(standing.reset));
        let mut text = String::new();
        let mut set = |name: &'static str, value: std::fmt::Arguments<'_>| {
            text.clear();
            if text.write_fmt(value).is_ok()
                && let Ok(value) = HeaderValue::from_str(&text)
            {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        match self {
            Self::Off => {}
            Self::Draft03 => {
                set("x-ratelimit-limit", format_args!("{limit}, {limit};w={window}"));
                set("x-ratelimit-remaining", format_args!("{remaining}"));
                set("x-ratelimit-reset", format_args!("{reset}"));
            }
            Self::Structured => {
                set("ratelimit-policy", format_args!("\"default\";q={limit};w={window}"));
                set("ratelimit", format_args!("\"default\";r={remaining};t={reset}"));
            }
        }
    }
}

/// Rounded up: a caller that comes back early is refused again.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDING: Standing =
        Standing { limit: 100, remaining: 50, reset: Duration::from_millis(29_001), window: Duration::from_secs(60) };

    fn written(style: RateLimitHeaders) -> Vec<String> {
        let mut headers = HeaderMap::new();
        style.write(&mut headers, &STANDING);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn draft_03_as_envoy_writes_it() {
        let expected = ["x-ratelimit-limit: 100, 100;w=60", "x-ratelimit-remaining: 50", "x-ratelimit-reset: 30"];
        assert_eq!(written(RateLimitHeaders::Draft03), expected);
    }

    #[test]
    fn structured_fields_of_the_ietf_draft() {
        let expected = ["ratelimit-policy: \"default\";q=100;w=60", "ratelimit: \"default\";r=50;t=30"];
        assert_eq!(written(RateLimitHeaders::Structured), expected);
        assert!(written(RateLimitHeaders::Off).is_empty());
    }
}
