//! Patterns for text: what a rule writes, and sets of them that are asked at once.
//!
//! Identities are only ever compared literally. `*` stands at one end of a pattern or alone; nothing else in it is
//! special, so a name with `.` or `[` means itself.

use std::{collections::HashSet, fmt, sync::Arc};

use super::prefix::PrefixMap;
use crate::matching::{Pattern, PatternError};

/// A pattern for a text.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Text {
    /// Equal, byte for byte.
    Exact(Arc<str>),
    /// `abc*`: begins with.
    Prefix(Arc<str>),
    /// `*abc`: ends with.
    Suffix(Arc<str>),
    /// `*`: there, and not empty.
    Present,
    /// Holds the text anywhere. Only from Envoy's form.
    Contains(Arc<str>),
    /// The whole text matches. Never for identities.
    Regex(Pattern),
}

impl Text {
    /// Parses `abc`, `abc*`, `*abc` or `*`.
    ///
    /// # Errors
    /// If the pattern is empty or has a `*` anywhere else.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let (text, inner) = match pattern.as_bytes() {
            [] => return Err(PatternError::new(pattern, "it is empty")),
            b"*" => return Ok(Self::Present),
            [.., b'*'] => (Self::Prefix(pattern[..pattern.len() - 1].into()), &pattern[..pattern.len() - 1]),
            [b'*', ..] => (Self::Suffix(pattern[1..].into()), &pattern[1..]),
            _ => (Self::Exact(pattern.into()), pattern),
        };
        if inner.contains('*') {
            return Err(PatternError::new(pattern, "`*` may stand at one end only"));
        }
        Ok(text)
    }

    /// A text that is compared as it is.
    pub fn exact(text: impl Into<Arc<str>>) -> Self {
        Self::Exact(text.into())
    }

    /// Whether the text matches.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Present => !text.is_empty(),
            Self::Contains(part) => text.contains(&**part),
            Self::Regex(pattern) => pattern.is_match(text),
        }
    }

    /// The same pattern for texts in lower case.
    pub(crate) fn lower(&self) -> Self {
        match self {
            Self::Exact(text) => Self::Exact(text.to_ascii_lowercase().into()),
            Self::Prefix(text) => Self::Prefix(text.to_ascii_lowercase().into()),
            Self::Suffix(text) => Self::Suffix(text.to_ascii_lowercase().into()),
            Self::Contains(text) => Self::Contains(text.to_ascii_lowercase().into()),
            other => other.clone(),
        }
    }
}

/// As it is written in a rule.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
            Self::Contains(text) => write!(f, "*{text}*"),
            Self::Regex(pattern) => f.write_str(pattern.as_str()),
        }
    }
}

/// Many patterns of which one has to match.
#[derive(Debug, Default)]
pub(super) struct TextSet {
    exact: Exact,
    prefixes: PrefixMap<()>,
    rest: Box<[Text]>,
}

/// Below this many, comparing one by one is faster than hashing.
const FEW: usize = 6;

#[derive(Debug)]
enum Exact {
    Few(Box<[Arc<str>]>),
    Many(HashSet<Arc<str>>),
}

impl Default for Exact {
    fn default() -> Self {
        Self::Few(Box::default())
    }
}

impl TextSet {
    pub(super) fn new<'t>(texts: impl IntoIterator<Item = &'t Text>) -> Self {
        let (mut exact, mut prefixes, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for text in texts {
            match text {
                Text::Exact(text) => exact.push(Arc::clone(text)),
                Text::Prefix(text) => prefixes.push((text.as_bytes().into(), ())),
                other => rest.push(other.clone()),
            }
        }
        Self {
            exact: if exact.len() <= FEW { Exact::Few(exact.into()) } else { Exact::Many(exact.into_iter().collect()) },
            prefixes: PrefixMap::new(prefixes),
            rest: rest.into(),
        }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let exact = match &self.exact {
            Exact::Few(texts) => texts.iter().any(|exact| **exact == *text),
            Exact::Many(texts) => texts.contains(text),
        };
        exact || self.prefixes.walk(text.as_bytes()).next().is_some() || self.rest.iter().any(|rest| rest.matches(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_and_written() {
        for text in ["abc", "abc*", "*abc", "*", "a.b[c]d", "spiffe://td/ns/a/sa/b"] {
            assert_eq!(Text::new(text).unwrap().to_string(), text);
        }
        for bad in ["", "a*b", "*a*", "**", "a**"] {
            assert!(Text::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_matches_as_its_patterns_do() {
        let texts: Vec<Text> = ["a", "b", "c", "d", "e", "f", "g", "ab*", "abc*", "*yz", "x*"]
            .into_iter()
            .map(|text| Text::new(text).unwrap())
            .collect();
        let set = TextSet::new(&texts);
        for text in ["", "a", "g", "h", "ab", "abx", "abcd", "ac", "yz", "ayz", "yza", "x", "xyz", "w"] {
            assert_eq!(set.matches(text), texts.iter().any(|pattern| pattern.matches(text)), "{text}");
        }
        assert!(!TextSet::new([]).matches("a"));
        assert!(!TextSet::new([&Text::Present]).matches(""));
    }
}
