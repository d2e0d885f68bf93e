//! What a request's own header wishes: `sinew-fault: delay=250ms; abort=503; rate=16; percentage=50`.
//!
//! Like every `sinew-*` header it comes from code of this process only: a server strips it from what it receives, so
//! nobody outside can ask for a fault by letting an application copy headers.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use super::engine::Aborted;
use crate::enforcement::Percent;

pub(crate) const SINEW_FAULT: HeaderName = HeaderName::from_static("sinew-fault");

/// The wishes of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) delay: Option<Duration>,
    pub(crate) abort: Option<Aborted>,
    /// KiB per second.
    pub(crate) rate: Option<u32>,
    pub(crate) percentage: Option<Percent>,
}

impl Asked {
    /// Unknown keys are ignored; a malformed header counts as absent, since half a wish is not what was asked for.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(SINEW_FAULT)?.to_str().ok()?;
        let mut asked = Self::default();
        for field in text.split(';') {
            let (key, value) = field.split_once('=')?;
            let value = value.trim();
            match key.trim() {
                "delay" => asked.delay = Some(duration(value)?),
                "abort" => asked.abort = Some(abort(value)?),
                "rate" => asked.rate = Some(value.parse().ok()?),
                "percentage" => {
                    asked.percentage = Some(Percent::new(value.trim_end_matches('%').parse().ok()?).ok()?);
                }
                _ => {}
            }
        }
        Some(asked)
    }
}

/// `250ms` or `3s`.
fn duration(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(number) => number.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    }
}

fn abort(text: &str) -> Option<Aborted> {
    if text == "reset" {
        return Some(Aborted::Reset);
    }
    if let Some(status) = text.strip_prefix("grpc-") {
        return status.parse().ok().filter(|status| (1..=16).contains(status)).map(Aborted::Grpc);
    }
    let status = text.parse::<u16>().ok().filter(|status| (200..=599).contains(status))?;
    StatusCode::from_u16(status).ok().map(Aborted::Http)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &'static str) -> Option<Asked> {
        let mut headers = HeaderMap::new();
        headers.insert(SINEW_FAULT, http::HeaderValue::from_static(text));
        Asked::of(&headers)
    }

    #[test]
    fn wishes_are_read_and_malformed_ones_are_none() {
        let expected = Asked {
            delay: Some(Duration::from_millis(250)),
            abort: Some(Aborted::Http(StatusCode::SERVICE_UNAVAILABLE)),
            rate: Some(16),
            percentage: Percent::new(50.0).ok(),
        };
        assert_eq!(asked("delay=250ms; abort=503; rate=16; percentage=50; more=x"), Some(expected));
        assert_eq!(asked("abort=grpc-14").unwrap().abort, Some(Aborted::Grpc(14)));
        assert_eq!(asked("abort=reset;delay=7s").unwrap().delay, Some(Duration::from_secs(7)));
        for bad in ["", "delay", "delay=5", "delay=-5ms", "abort=99", "abort=grpc-17", "percentage=101", "rate=x"] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }
}
