//! Bytes that are said and expected on a connection.

use std::{fmt, str::FromStr, sync::Arc};

/// Some bytes: a text, or `hex:` and digits.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Payload(Arc<[u8]>);

impl Payload {
    /// These bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(digits) = text.strip_prefix("hex:") else { return Ok(Self(text.as_bytes().into())) };
        let digits: Vec<char> = digits.chars().filter(|digit| !digit.is_ascii_whitespace()).collect();
        let byte = |pair: &[char]| match pair {
            [high, low] => Some((high.to_digit(16)? * 16 + low.to_digit(16)?) as u8),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        bytes.map(|bytes| Self(bytes.into())).ok_or_else(|| {
            format!("`{}` is not bytes in hex: use two digits for each, such as `hex:0d0a`", text.escape_debug())
        })
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.starts_with("hex:") => f.write_str(text),
            _ => {
                f.write_str("hex:")?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// What has yet to come, one after the other.
pub(crate) struct Expected<'p> {
    left: &'p [Payload],
    /// What came and was not part of any of them.
    seen: Vec<u8>,
}

/// What a peer may say before it has said what is expected.
const MOST: usize = 64 * 1024;

impl<'p> Expected<'p> {
    pub(crate) fn new(payloads: &'p [Payload]) -> Self {
        Self { left: payloads, seen: Vec::new() }
    }

    /// Takes what came. True once all has.
    ///
    /// # Errors
    /// If the peer says too much besides.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<bool, &'static str> {
        self.seen.extend_from_slice(bytes);
        while let [next, rest @ ..] = self.left {
            let next = next.as_bytes();
            let at = match next {
                [] => Some(0),
                next => self.seen.windows(next.len()).position(|window| window == next),
            };
            let Some(at) = at else { break };
            self.seen.drain(..at + next.len());
            self.left = rest;
        }
        match self.left.is_empty() {
            true => Ok(true),
            false if self.seen.len() > MOST => Err("it said 64 KiB and not what is expected"),
            false => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_hex_are_read_and_written() {
        for text in ["PING\r\n", "hex:00ff", ""] {
            assert_eq!(text.parse::<Payload>().unwrap().to_string(), text);
        }
        assert_eq!("hex: 0D 0a".parse::<Payload>().unwrap().as_bytes(), b"\r\n");
        assert_eq!(Payload::new(b"hex:").to_string(), "hex:6865783a");
        for wrong in ["hex:0", "hex:0g"] {
            assert!(wrong.parse::<Payload>().unwrap_err().contains("two digits"), "{wrong}");
        }
    }

    #[test]
    fn what_is_expected_comes_in_order_with_anything_in_between() {
        let payloads = ["+OK", "done"].map(|text| text.parse().unwrap());
        let mut expected = Expected::new(&payloads);
        assert_eq!(expected.take(b"done hello +"), Ok(false));
        assert_eq!(expected.take(b"OK do"), Ok(false));
        assert_eq!(expected.take(b"ne"), Ok(true));
        assert_eq!(Expected::new(&[]).take(b""), Ok(true));
        assert!(Expected::new(&payloads).take(&[b'x'; MOST + 1]).is_err());
    }
}
