//! Matchers for strings, hosts and paths, shared by routing and authorization.

mod ip_block;

pub use self::ip_block::IpBlock;

use std::{fmt, sync::Arc};

use regex::Regex;

/// A pattern that is not acceptable, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    pattern: String,
    why: String,
}

impl PatternError {
    pub(crate) fn new(pattern: &str, why: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), why: why.into() }
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a usable pattern: {}", self.pattern.escape_debug(), self.why)
    }
}

impl std::error::Error for PatternError {}

/// A regular expression that must match the whole text, compiled once and bounded in size.
///
/// The engine is linear in the text (no back-references), so a hostile request cannot make it slow.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    regex: Regex,
}

/// Compiled size of one pattern, in bytes.
const REGEX_SIZE_LIMIT: usize = 256 * 1024;

impl Pattern {
    /// Compiles a pattern; it is anchored at both ends.
    ///
    /// # Errors
    /// If the syntax is wrong or the compiled pattern exceeds 256 KiB.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        // The pattern is checked alone first: `)(` would be valid once wrapped in the anchoring group.
        let build = |pattern: &str| {
            regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE_LIMIT).build().map_err(|error| {
                let text = error.to_string();
                text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            })
        };
        build(pattern)
            .and_then(|_| build(&format!("^(?:{pattern})$")))
            .map(|regex| Self { source: pattern.into(), regex })
            .map_err(|why| PatternError::new(pattern, why))
    }

    /// Whether the whole text matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

/// A condition on a header or query value.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StringMatch {
    /// Equal, byte for byte.
    Exact(Arc<str>),
    /// Begins with.
    Prefix(Arc<str>),
    /// The whole value matches.
    Regex(Pattern),
    /// Present (`true`) or absent (`false`), whatever the value.
    Present(bool),
}

impl StringMatch {
    /// Whether the value, or its absence, satisfies the condition.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Present(present), value) => *present == value.is_some(),
            (_, None) => false,
            (Self::Exact(text), Some(value)) => **text == *value,
            (Self::Prefix(text), Some(value)) => value.starts_with(&**text),
            (Self::Regex(pattern), Some(value)) => pattern.is_match(value),
        }
    }
}

/// A host: exact, `*.suffix`, or `*`. Case-insensitive; a port in the request is ignored unless the pattern names one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostPattern {
    text: Arc<str>,
    suffix: bool,
}

impl HostPattern {
    /// Parses `example.com`, `example.com:8080`, `*.example.com` or `*`.
    ///
    /// # Errors
    /// If `*` stands anywhere but at the front, or a character cannot be in a host.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let (suffix, rest) = match pattern.strip_prefix('*') {
            Some("") => return Ok(Self { text: "".into(), suffix: true }),
            Some(rest) if rest.starts_with('.') => (true, rest),
            Some(_) => return Err(PatternError::new(pattern, "`*` must be alone or followed by `.`")),
            None => (false, pattern),
        };
        if rest.trim_matches('.').is_empty() {
            return Err(PatternError::new(pattern, "it is empty"));
        }
        if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'[' | b']')) {
            return Err(PatternError::new(pattern, "only letters, digits, `-`, `_`, `.` and a port may appear"));
        }
        Ok(Self { text: rest.to_ascii_lowercase().into(), suffix })
    }

    /// Whether the pattern is an exact host.
    pub fn is_exact(&self) -> bool {
        !self.suffix
    }

    /// How specific the pattern is: exact above suffix, longer above shorter.
    pub fn specificity(&self) -> (bool, usize) {
        (!self.suffix, self.text.len())
    }

    /// The pattern without its `*`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this authority (`host` or `host:port`) matches.
    pub fn matches(&self, authority: &str) -> bool {
        let eq = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        if !self.suffix {
            return eq(&self.text, authority) || eq(&self.text, host_of(authority));
        }
        let ends = |host: &str| {
            host.len() > self.text.len()
                && host.is_char_boundary(host.len() - self.text.len())
                && eq(&host[host.len() - self.text.len()..], &self.text)
        };
        self.text.is_empty() || ends(authority) || ends(host_of(authority))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.suffix {
            f.write_str("*")?;
        }
        f.write_str(&self.text)
    }
}

/// The host of an authority, without userinfo and port.
pub(crate) fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if let Some(rest) = host.strip_prefix('[') {
        return rest.find(']').map_or(host, |end| &host[..end + 2]);
    }
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// A condition on the path, without its query.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PathPattern {
    /// Equal.
    Exact(Arc<str>),
    /// Equal, or continuing at a `/`: `/a` matches `/a` and `/a/b`, not `/ab` (Gateway API `PathPrefix`).
    Prefix(Arc<str>),
    /// The whole path matches.
    Regex(Pattern),
    /// Segments, of which `{name}` matches any one and a final `{*name}` any rest.
    Template(PathTemplate),
}

impl PathPattern {
    /// An exact path.
    ///
    /// # Errors
    /// Unless it begins with `/` and has no `?` or `#`.
    pub fn exact(path: &str) -> Result<Self, PatternError> {
        check_path(path).map(|()| Self::Exact(path.into()))
    }

    /// A prefix of whole segments; a trailing `/` is ignored.
    ///
    /// # Errors
    /// Unless it begins with `/` and has no `?` or `#`.
    pub fn prefix(path: &str) -> Result<Self, PatternError> {
        check_path(path).map(|()| Self::Prefix(path.trim_end_matches('/').into()))
    }

    /// A regular expression over the whole path.
    ///
    /// # Errors
    /// As [`Pattern::new`].
    pub fn regex(pattern: &str) -> Result<Self, PatternError> {
        Pattern::new(pattern).map(Self::Regex)
    }

    /// A template such as `/users/{id}/orders`.
    ///
    /// # Errors
    /// As [`PathTemplate::new`].
    pub fn template(template: &str) -> Result<Self, PatternError> {
        PathTemplate::new(template).map(Self::Template)
    }

    /// Whether the path, without query, matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => match path.strip_prefix(&**prefix) {
                Some(rest) => rest.is_empty() || rest.starts_with('/') || prefix.is_empty(),
                None => false,
            },
            Self::Regex(pattern) => pattern.is_match(path),
            Self::Template(template) => template.matches(path),
        }
    }
}

fn check_path(path: &str) -> Result<(), PatternError> {
    if !path.starts_with('/') {
        return Err(PatternError::new(path, "it must begin with `/`"));
    }
    if path.contains(['?', '#']) {
        return Err(PatternError::new(path, "`?` and `#` end a path and cannot be part of it"));
    }
    Ok(())
}

/// A path of literal segments and placeholders.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PathTemplate {
    text: Arc<str>,
    segments: Arc<[Segment]>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Segment {
    Literal(Box<str>),
    Any,
    Rest,
}

impl PathTemplate {
    /// Parses `/literal/{one}/{*rest}`.
    ///
    /// # Errors
    /// If it does not begin with `/`, a placeholder is not a whole segment or has no name, or `{*rest}` is not last.
    pub fn new(template: &str) -> Result<Self, PatternError> {
        check_path(template)?;
        let fail = |why: &str| Err(PatternError::new(template, why));
        let mut segments = Vec::new();
        for segment in template[1..].split('/') {
            if matches!(segments.last(), Some(Segment::Rest)) {
                return fail("`{*name}` must be the last segment");
            }
            let inner = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            segments.push(match inner.map(|name| (name, name.trim_start_matches('*'))) {
                Some((_, "")) => return fail("a placeholder needs a name"),
                Some((_, name)) if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                    return fail("a placeholder's name may have letters, digits and `_` only");
                }
                Some((name, _)) if name.starts_with('*') => Segment::Rest,
                Some(_) => Segment::Any,
                None if segment.contains(['{', '}']) => return fail("a placeholder must be a whole segment"),
                None => Segment::Literal(segment.into()),
            });
        }
        Ok(Self { text: template.into(), segments: segments.into() })
    }

    /// Whether the path, without query, matches.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut parts = path.split('/');
        for segment in self.segments.iter() {
            match (segment, parts.next()) {
                (_, None) => return false,
                (Segment::Rest, Some(_)) => return true,
                (Segment::Any, Some(part)) if !part.is_empty() => {}
                (Segment::Literal(literal), Some(part)) if **literal == *part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }

    /// How many segments are literal: more is more specific.
    pub fn literal_segments(&self) -> usize {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count()
    }

    /// The template as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let host = |pattern: &str, authority: &str| HostPattern::new(pattern).unwrap().matches(authority);
        assert!(host("Example.com", "example.COM"));
        assert!(host("example.com", "example.com:8080"));
        assert!(host("example.com:8080", "example.com:8080"));
        assert!(!host("example.com:8080", "example.com"));
        assert!(host("*.example.com", "a.b.example.com:1"));
        assert!(!host("*.example.com", "example.com"));
        assert!(!host("*.example.com", ".example.com"));
        assert!(host("*", "anything"));
        assert!(host("[::1]", "[::1]:80"));
        for bad in ["", "a*", "*a", "a b", "*."] {
            assert!(HostPattern::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let prefix = PathPattern::prefix("/a/").unwrap();
        assert!(prefix.matches("/a") && prefix.matches("/a/") && prefix.matches("/a/b"));
        assert!(!prefix.matches("/ab") && !prefix.matches("/"));
        assert!(PathPattern::prefix("/").unwrap().matches("/anything"));
        assert!(PathPattern::prefix("/").unwrap().matches("*"));
        assert!(PathPattern::exact("a").is_err());
        assert!(PathPattern::exact("/a?b").is_err());
    }

    #[test]
    fn templates() {
        let template = |text: &str, path: &str| PathTemplate::new(text).unwrap().matches(path);
        assert!(template("/users/{id}", "/users/7"));
        assert!(!template("/users/{id}", "/users/"));
        assert!(!template("/users/{id}", "/users/7/orders"));
        assert!(template("/files/{*rest}", "/files/a/b"));
        assert!(!template("/files/{*rest}", "/files"));
        for bad in ["users", "/{}", "/{*}", "/a{b}", "/{*a}/b", "/{a-b}"] {
            assert!(PathTemplate::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_regex_matches_the_whole_text_and_is_bounded() {
        let pattern = Pattern::new("a|b").unwrap();
        assert!(pattern.is_match("a") && pattern.is_match("b") && !pattern.is_match("ab"));
        assert!(Pattern::new(")(").is_err());
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new(r"(\w{100}){100}").is_err());
    }
}
