//! SPIFFE identities, byte for byte as the specification writes them.
//!
//! SPIFFE-ID §2.4 calls scheme and trust domain case-insensitive where §2.1 demands lower case. The safe reading is taken:
//! what is not written in lower case is refused, and identities are equal if their bytes are.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use super::NameError;

const SCHEME: &str = "spiffe://";
/// Longest identity, scheme included (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;
/// Longest trust domain (SPIFFE-ID §2.1).
const MAX_DOMAIN: usize = 255;

/// A trust domain: lower-case letters, digits, `.`, `-` and `_`, at most 255 bytes (SPIFFE-ID §2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Checks a name; any identity of the trust domain names it too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.contains(":/") {
            return SpiffeId::new(name).map(|id| Self(id.trust_domain().into()));
        }
        match check_domain(name) {
            Ok(()) => Ok(Self(name.into())),
            Err(why) => Err(NameError { what: "trust domain", name: shown(name), why }),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity that sources which mint identities give to a service, and that is expected of it.
    ///
    /// # Errors
    /// If a name does not fit into an identity.
    pub(crate) fn workload(&self, namespace: &str, service: &str) -> Result<SpiffeId, NameError> {
        self.id(&format!("/ns/{namespace}/sa/{service}"))
    }

    /// The identity with this path, which begins with `/`, or is empty for the domain's own.
    ///
    /// # Errors
    /// What is wrong with the path.
    pub fn id(&self, path: &str) -> Result<SpiffeId, NameError> {
        SpiffeId::new(&format!("{SCHEME}{}{path}", self.0))
    }
}

/// A SPIFFE ID: `spiffe://<trust domain>[/segment]*`, at most 2048 bytes. Compared literally.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins.
    path: u16,
}

impl SpiffeId {
    /// Checks an identity.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, NameError> {
        match check_id(text) {
            Ok(path) => Ok(Self { text: text.into(), path }),
            Err(why) => Err(NameError { what: "SPIFFE ID", name: shown(text), why }),
        }
    }

    /// The whole identity.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.path)]
    }

    /// Its path: empty, or `/` and segments.
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.path)..]
    }

    /// Whether it belongs to this trust domain.
    pub fn is_member_of(&self, domain: &TrustDomain) -> bool {
        self.trust_domain() == domain.as_str()
    }
}

/// As much of a stranger's text as an error repeats.
fn shown(text: &str) -> String {
    let end = (0..=text.len().min(256)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text[..end].into()
}

fn check_domain(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the trust domain is empty");
    }
    if name.len() > MAX_DOMAIN {
        return Err("the trust domain is longer than 255 bytes");
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if !name.bytes().all(allowed) {
        return Err("only lower-case letters, digits, `.`, `-` and `_` may appear in a trust domain");
    }
    Ok(())
}

/// Where the path begins.
fn check_id(text: &str) -> Result<u16, &'static str> {
    if text.len() > MAX_ID {
        return Err("it is longer than 2048 bytes");
    }
    let rest = text.strip_prefix(SCHEME).ok_or("it does not begin with `spiffe://`")?;
    let length = rest.find('/').unwrap_or(rest.len());
    let (domain, path) = rest.split_at(length);
    check_domain(domain)?;
    for segment in path.split('/').skip(1) {
        match segment {
            "" => return Err("a segment of its path is empty"),
            "." | ".." => return Err("`.` and `..` cannot be segments of its path"),
            _ => {}
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if !segment.bytes().all(allowed) {
            return Err("only letters, digits, `.`, `-` and `_` may appear in its path");
        }
    }
    u16::try_from(SCHEME.len() + length).map_err(|_| "it is longer than 2048 bytes")
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SpiffeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tables;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_a_domain_and_a_path() {
        let id = SpiffeId::new("spiffe://a.example/ns/default/sa/web").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("a.example", "/ns/default/sa/web"));
        assert!(id.is_member_of(&TrustDomain::new("a.example").unwrap()));
        assert_eq!(TrustDomain::new("a.example").unwrap().id("").unwrap().path(), "");
    }

    #[test]
    fn what_is_not_written_as_the_specification_says_is_refused() {
        for text in [
            "",
            "spiffe:/a",
            "Spiffe://a",
            "spiffe://",
            "spiffe:///x",
            "spiffe://A",
            "spiffe://a:1/b",
            "spiffe://u@a",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/..",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%62",
            "spiffe://a/b c",
            "spiffe://ä/b",
            "http://a/b",
        ] {
            assert!(SpiffeId::new(text).is_err(), "{text}");
        }
        let longest = format!("spiffe://a/{}", "x".repeat(2048 - 11));
        assert!(SpiffeId::new(&longest).is_ok() && SpiffeId::new(&(longest + "x")).is_err());
        assert!(TrustDomain::new(&"x".repeat(255)).is_ok() && TrustDomain::new(&"x".repeat(256)).is_err());
    }

    /// For every byte, alone and between others, in both places.
    #[test]
    fn each_character_is_allowed_exactly_where_the_specification_allows_it() {
        for c in 0..=255u8 {
            let c = char::from(c);
            let domain = c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
            let path = c.is_ascii_alphanumeric() || ".-_".contains(c);
            assert_eq!(SpiffeId::new(&format!("spiffe://a{c}b/x")).is_ok(), domain || c == '/', "domain {c:?}");
            assert_eq!(SpiffeId::new(&format!("spiffe://a/x{c}y")).is_ok(), path || c == '/', "path {c:?}");
            assert_eq!(TrustDomain::new(&c.to_string()).is_ok(), domain, "domain of {c:?}");
        }
    }
}
