//! What becomes a line.

use std::collections::BTreeMap;

use serde_json::Value;

/// The longest text of a member, in bytes; what is longer is cut and ends in `…`.
const LONGEST: usize = 1024;

/// The members of one line, before it has a place in the chain. At most a few KiB, whatever a peer sent.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Record(BTreeMap<&'static str, Value>);

impl Record {
    pub(crate) fn new(kind: &'static str, time_ms: u64) -> Self {
        Self([("kind", kind.into()), ("time_ms", time_ms.into())].into())
    }

    /// When it was made, Unix time.
    pub(crate) fn time_ms(&self) -> u64 {
        self.0.get("time_ms").and_then(Value::as_u64).unwrap_or_default()
    }

    /// Adds a text, if there is one.
    #[must_use]
    pub(crate) fn text<'t>(mut self, name: &'static str, text: impl Into<Option<&'t str>>) -> Self {
        if let Some(text) = text.into() {
            self.0.insert(name, cut(text).into());
        }
        self
    }

    #[must_use]
    pub(crate) fn number(mut self, name: &'static str, number: u64) -> Self {
        self.0.insert(name, number.into());
        self
    }

    /// The members as they stand in a line.
    pub(super) fn members(&self) -> BTreeMap<String, Value> {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }
}

fn cut(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}…", &text[..end])
}
