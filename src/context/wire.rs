//! The one header that carries our context: `sinew-ctx: d=<ms>;c=<0-3>;a=<grant>;n=<attempt>;m=1;r=<id>;k=<key>`.
//!
//! At most 256 bytes; unknown keys are ignored; a malformed header counts as absent, because a hop that guesses a
//! deadline is worse than one that has none.

use std::{fmt::Write, time::Duration};

use http::{HeaderName, HeaderValue};

use super::Criticality;

pub(crate) const SINEW_CTX: HeaderName = HeaderName::from_static("sinew-ctx");

/// Retries and hedges before this attempt, as gRPC counts them (gRFC A6).
pub(crate) const GRPC_PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// How much of its tree's allowance a hop and those below it spent: `sinew-spent: <n>`.
pub(crate) const SINEW_SPENT: HeaderName = HeaderName::from_static("sinew-spent");
/// The peer shed this request before processing it.
pub(crate) const SINEW_SHED: HeaderName = HeaderName::from_static("sinew-shed");
/// The peer sheds, and a good part of what it sheds are retries: nobody should retry.
pub(crate) const SINEW_NO_RETRY: HeaderName = HeaderName::from_static("sinew-no-retry");

const MAX_LEN: usize = 256;

/// The decoded header, still untrusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wire<'a> {
    pub(crate) remaining: Option<Duration>,
    pub(crate) criticality: Option<Criticality>,
    pub(crate) grant: Option<u8>,
    pub(crate) attempt: u32,
    /// The request is a copy, or serves one.
    pub(crate) mirror: bool,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) fairness_key: Option<&'a str>,
}

impl<'a> Wire<'a> {
    pub(crate) fn decode(value: &'a HeaderValue) -> Option<Self> {
        let text = value.to_str().ok().filter(|text| text.len() <= MAX_LEN)?;
        let mut wire = Self::default();
        for field in text.split(';') {
            let (key, value) = field.split_once('=')?;
            match key {
                "d" => wire.remaining = Some(Duration::from_millis(number(value, u32::MAX)?.into())),
                "c" => wire.criticality = Some(Criticality::from_level(number(value, 3)? as u8)?),
                "a" => wire.grant = Some(number(value, u8::MAX.into())? as u8),
                "n" => wire.attempt = number(value, u32::MAX)?,
                "m" => wire.mirror = number(value, 1)? == 1,
                "r" => wire.request_id = Some(value).filter(|id| !id.is_empty()),
                "k" => wire.fairness_key = Some(value).filter(|key| !key.is_empty()),
                _ => {}
            }
        }
        Some(wire)
    }

    /// `None` if there is nothing to say. Values that cannot be carried (a `;`, too long) are left out.
    pub(crate) fn encode(&self) -> Option<HeaderValue> {
        let mut text = Text { bytes: [0; MAX_LEN], len: 0 };
        if let Some(remaining) = self.remaining {
            text.field("d", format_args!("{}", remaining.as_millis().min(u32::MAX.into())));
        }
        if let Some(criticality) = self.criticality {
            text.field("c", format_args!("{}", criticality.level()));
        }
        if let Some(grant) = self.grant {
            text.field("a", format_args!("{grant}"));
        }
        if self.attempt > 0 {
            text.field("n", format_args!("{}", self.attempt));
        }
        if self.mirror {
            text.field("m", format_args!("1"));
        }
        for (key, value) in [("r", self.request_id), ("k", self.fairness_key)] {
            if let Some(value) = value.filter(|value| !value.contains(';')) {
                text.field(key, format_args!("{value}"));
            }
        }
        let mut value = HeaderValue::from_bytes(&text.bytes[..text.len]).ok().filter(|value| !value.is_empty())?;
        value.set_sensitive(true);
        Some(value)
    }
}

fn number(text: &str, max: u32) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&n| n <= max)
}

struct Text {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl Text {
    fn field(&mut self, key: &str, value: std::fmt::Arguments<'_>) {
        let start = self.len;
        let separator = if start == 0 { "" } else { ";" };
        if write!(self, "{separator}{key}={value}").is_err() {
            self.len = start;
        }
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        let slot = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        slot.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_header_comes_back() {
        let wire = Wire {
            remaining: Some(Duration::from_millis(1500)),
            criticality: Some(Criticality::SheddablePlus),
            grant: Some(2),
            attempt: 1,
            mirror: true,
            request_id: Some("abc"),
            fairness_key: Some("tenant-7"),
        };
        let value = wire.encode().unwrap();
        assert_eq!(value, "d=1500;c=2;a=2;n=1;m=1;r=abc;k=tenant-7");
        assert!(value.is_sensitive());
        assert_eq!(Wire::decode(&value), Some(wire));
        assert_eq!(Wire::default().encode(), None);
    }

    #[test]
    fn malformed_is_absent_and_unknown_keys_are_ignored() {
        let decode = |text: &str| Wire::decode(&HeaderValue::from_str(text).unwrap()).is_some();
        assert!(decode("d=1;z=9"));
        for bad in ["", "d", "d=", "d=-1", "d=1.5", "c=4", "a=256", "m=2", "n=x", "d=99999999999"] {
            assert!(!decode(bad), "{bad}");
        }
        assert!(!decode(&format!("r={}", "x".repeat(256))));
    }

    #[test]
    fn a_value_that_does_not_fit_is_left_out_whole() {
        let long = "x".repeat(300);
        let wire = Wire { attempt: 3, request_id: Some(&long), fairness_key: Some("a;b"), ..Wire::default() };
        assert_eq!(wire.encode().unwrap(), "n=3");
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(0x20u8..0x7f, 0..300)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = Wire::decode(&value);
            }
        }
    }
}
