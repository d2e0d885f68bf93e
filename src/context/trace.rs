//! W3C Trace Context, levels 1 and 2: strict parsing, own writing.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use crate::rt::Rng;

/// The `traceparent` and `tracestate` a request arrived with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
    state: Option<Arc<[HeaderValue]>>,
}

pub(crate) const TRACEPARENT: http::HeaderName = http::HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: http::HeaderName = http::HeaderName::from_static("tracestate");

/// Flags that this process may pass on: sampled and, from level 2, random.
const KNOWN_FLAGS: u8 = 0b11;

impl TraceContext {
    /// Reads both headers; `None` if `traceparent` is absent, repeated or malformed.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let parent = values.next()?;
        if values.next().is_some() {
            return None;
        }
        let mut context = Self::parse(parent.as_bytes())?;
        let state: Vec<_> = headers.get_all(&TRACESTATE).iter().cloned().collect();
        if !state.is_empty() {
            context.state = Some(state.into());
        }
        Some(context)
    }

    fn parse(value: &[u8]) -> Option<Self> {
        // version "-" trace-id "-" parent-id "-" flags; later versions may append "-...".
        if value.len() < 55 || value[2] != b'-' || value[35] != b'-' || value[52] != b'-' {
            return None;
        }
        let mut version = [0];
        hex(&value[0..2], &mut version)?;
        match (version[0], value.len()) {
            (0xff, _) => return None,
            (0, 55) => {}
            (0, _) => return None,
            (_, 55) => {}
            (_, _) if value[55] == b'-' => {}
            _ => return None,
        }
        let (mut trace_id, mut span_id, mut flags) = ([0; 16], [0; 8], [0]);
        hex(&value[3..35], &mut trace_id)?;
        hex(&value[36..52], &mut span_id)?;
        hex(&value[53..55], &mut flags)?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        Some(Self { trace_id, span_id, flags: flags[0] & KNOWN_FLAGS, state: None })
    }

    /// The 16-byte trace id.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The span id of the caller.
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Whether the caller recorded the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 != 0
    }

    /// The same trace with a span id of our own.
    pub(crate) fn child(&self) -> Self {
        let span_id = loop {
            let id = Rng::local_u64();
            if id != 0 {
                break id.to_be_bytes();
            }
        };
        Self { span_id, ..self.clone() }
    }

    /// Writes both headers in place of what is there. `traceparent` is never-indexed: see `context/deadline.rs`.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        unhex(&self.trace_id, &mut text[3..35]);
        unhex(&self.span_id, &mut text[36..52]);
        unhex(&[self.flags], &mut text[53..55]);
        if let Ok(mut value) = HeaderValue::from_bytes(&text) {
            value.set_sensitive(true);
            headers.insert(TRACEPARENT, value);
        }
        if let Some(state) = &self.state {
            headers.remove(&TRACESTATE);
            for value in state.iter() {
                headers.append(TRACESTATE, value.clone());
            }
        }
    }
}

fn hex(text: &[u8], out: &mut [u8]) -> Option<()> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    for (pair, byte) in text.chunks_exact(2).zip(out) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

fn unhex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (TRACEPARENT, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_child_keeps_the_trace_and_changes_the_span() {
        let parent = TraceContext::from_headers(&headers(&[GOOD])).unwrap();
        let child = parent.child();
        assert_eq!(child.trace_id(), parent.trace_id());
        assert_ne!(child.span_id(), parent.span_id());
        let mut out = HeaderMap::new();
        parent.write(&mut out);
        assert_eq!(out[TRACEPARENT], GOOD);
    }

    #[test]
    fn malformed_or_repeated_parents_are_absent() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.x",
        ] {
            assert_eq!(TraceContext::from_headers(&headers(&[bad])), None, "{bad}");
        }
        assert_eq!(TraceContext::from_headers(&headers(&[GOOD, GOOD])), None);
        assert!(
            TraceContext::from_headers(&headers(&["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x"]))
                .is_some()
        );
    }
}
