//! Conditions as other systems have them: trees, where rules of our own have lists.

use http::HeaderName;

use super::{
    policy::{Operation, Source, When, WhenKey},
    text::Text,
};

/// A condition that holds in addition to the lists of its rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    Source(Source),
    Operation(Operation),
    When(When),
    /// The peer proved who it is, and that is a text of these.
    Identity(Vec<Text>),
    Header(HeaderTest),
    /// The path, whatever its case; the text is in lower case.
    PathFolded(Text),
    /// The name asked for in the TLS handshake; empty if none was.
    ServerName(Text),
    /// A port that the connection arrived at: from, and up to but not including.
    Ports(u16, u32),
}

impl Expr {
    pub(super) fn as_when(&self) -> Option<&When> {
        if let Self::When(when) = self { Some(when) } else { None }
    }

    /// The headers that it tests, however deep.
    pub(super) fn tested(&self) -> Vec<HeaderName> {
        match self {
            Self::All(exprs) | Self::Any(exprs) => exprs.iter().flat_map(Self::tested).collect(),
            Self::Not(expr) => expr.tested(),
            Self::Header(HeaderTest { name: HeaderPart::Name(name), .. }) => vec![name.clone()],
            Self::When(When { key: WhenKey::Header(name), .. }) => vec![name.clone()],
            _ => Vec::new(),
        }
    }
}

/// A condition on all values of a header, joined by commas as Envoy and gRPC do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HeaderTest {
    pub(crate) name: HeaderPart,
    pub(crate) test: ValueTest,
    /// The test may not hold. Where the header is absent, neither holds.
    pub(crate) invert: bool,
    /// An absent header counts as an empty one.
    pub(crate) missing_is_empty: bool,
    /// Where it leads to a denial, one value by itself is enough, besides all of them joined.
    pub(crate) each: bool,
}

/// What is tested.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum HeaderPart {
    Name(HeaderName),
    Method,
    Authority,
    /// Path and query, as they arrived.
    Path,
}

/// How.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ValueTest {
    /// It is there, or not.
    Present(bool),
    Text {
        text: Text,
        /// Compared in lower case; so is the text.
        folded: bool,
    },
    /// A whole number from the first and below the second.
    Range(i64, i64),
}

impl ValueTest {
    pub(super) fn holds(&self, value: &str) -> bool {
        match self {
            Self::Present(present) => *present,
            Self::Text { text, folded: false } => text.matches(value),
            Self::Text { text, folded: true } => text.matches(&value.to_ascii_lowercase()),
            Self::Range(from, to) => value.parse::<i64>().is_ok_and(|number| (*from..*to).contains(&number)),
        }
    }
}
