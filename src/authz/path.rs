//! Patterns for paths.

use std::{fmt, sync::Arc};

use super::text::{Text, TextSet};
use crate::matching::{Pattern, PatternError};

/// A pattern for a canonical path: a text (`/a`, `/a/*`, `*.png`, `*`), or a template of segments.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PathText {
    /// As any text.
    Text(Text),
    /// `/users/{*}/orders`, `/files/{**}`.
    Template(Template),
}

impl PathText {
    /// Parses a text or, if it has braces, a template: `{*}` or `{name}` is one segment that is not empty, `{**}` or
    /// `{*name}` any number of them.
    ///
    /// # Errors
    /// If it begins neither with `/` nor with `*`, has a `*` in the middle, a query or a fragment, or braces that are no
    /// whole segment.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        if pattern.contains(['?', '#']) {
            return Err(PatternError::new(pattern, "`?` and `#` end a path and cannot be part of it"));
        }
        if pattern.contains(['{', '}']) {
            return Template::new(pattern).map(Self::Template);
        }
        if !pattern.starts_with(['/', '*']) {
            return Err(PatternError::new(pattern, "it must begin with `/`"));
        }
        Text::new(pattern).map(Self::Text)
    }

    /// A regular expression over the whole path.
    ///
    /// # Errors
    /// As [`Pattern::new`].
    pub fn regex(pattern: &str) -> Result<Self, PatternError> {
        Pattern::new(pattern).map(|pattern| Self::Text(Text::Regex(pattern)))
    }

    /// Whether the path matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(path),
            Self::Template(template) => template.matches(path),
        }
    }
}

impl fmt::Display for PathText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text.fmt(f),
            Self::Template(template) => f.write_str(&template.text),
        }
    }
}

/// A path of literal segments and placeholders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    text: Arc<str>,
    head: Box<[Segment]>,
    /// What follows a `{**}`, if there is one.
    tail: Option<Box<[Segment]>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Segment {
    Literal(Box<str>),
    Any,
}

impl Segment {
    fn matches(&self, part: &str) -> bool {
        match self {
            Self::Literal(literal) => **literal == *part,
            Self::Any => !part.is_empty(),
        }
    }
}

impl Template {
    fn new(template: &str) -> Result<Self, PatternError> {
        let fail = |why: &str| Err(PatternError::new(template, why));
        let Some(rest) = template.strip_prefix('/') else { return fail("it must begin with `/`") };
        let (mut head, mut tail) = (Vec::new(), None);
        for part in rest.split('/') {
            let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            let word = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let segment = match name {
                Some("**") if tail.is_some() => return fail("`{**}` may stand once"),
                Some("**") => {
                    tail = Some(Vec::new());
                    continue;
                }
                Some(name) if name.strip_prefix('*').is_some_and(word) => {
                    if tail.is_some() {
                        return fail("`{**}` may stand once");
                    }
                    tail = Some(Vec::new());
                    continue;
                }
                Some("*") => Segment::Any,
                Some(name) if word(name) => Segment::Any,
                Some(_) => return fail("in braces stands `*`, `**` or a name"),
                None if part.contains(['{', '}', '*']) => return fail("a placeholder must be a whole segment"),
                None => Segment::Literal(part.into()),
            };
            tail.as_mut().unwrap_or(&mut head).push(segment);
        }
        Ok(Self { text: template.into(), head: head.into(), tail: tail.map(Vec::into_boxed_slice) })
    }

    /// Whether the path matches.
    pub fn matches(&self, path: &str) -> bool {
        let Some(mut rest) = path.strip_prefix('/').map(Some) else { return false };
        for segment in &*self.head {
            let Some(text) = rest else { return false };
            let (part, after) = match text.split_once('/') {
                Some((part, after)) => (part, Some(after)),
                None => (text, None),
            };
            if !segment.matches(part) {
                return false;
            }
            rest = after;
        }
        let Some(tail) = &self.tail else { return rest.is_none() };
        let Some(mut rest) = rest else { return false };
        for segment in tail.iter().rev() {
            // Something has to be left for `{**}`, if only an empty segment.
            let Some((before, part)) = rest.rsplit_once('/') else { return false };
            if !segment.matches(part) {
                return false;
            }
            rest = before;
        }
        true
    }

    /// What every path that matches begins with.
    pub(super) fn prefix(&self) -> String {
        let mut prefix = String::from("/");
        for segment in &*self.head {
            let Segment::Literal(literal) = segment else { return prefix };
            prefix.push_str(literal);
            prefix.push('/');
        }
        prefix
    }
}

/// Many patterns of which one has to match.
#[derive(Debug)]
pub(super) struct PathSet {
    texts: TextSet,
    templates: Box<[Template]>,
}

impl PathSet {
    pub(super) fn new(paths: &[PathText]) -> Self {
        let text = |path: &PathText| match path {
            PathText::Text(text) => Some(text.clone()),
            PathText::Template(_) => None,
        };
        let template = |path: &PathText| match path {
            PathText::Template(template) => Some(template.clone()),
            PathText::Text(_) => None,
        };
        let texts: Vec<Text> = paths.iter().filter_map(text).collect();
        Self { texts: TextSet::new(&texts), templates: paths.iter().filter_map(template).collect() }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        self.texts.matches(path) || self.templates.iter().any(|template| template.matches(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_placeholders_mean_the_same() {
        let path = PathText::new("/users/{id}/files/{*rest}").unwrap();
        assert!(
            path.matches("/users/7/files/a/b") && !path.matches("/users//files/a") && !path.matches("/users/7/files")
        );
        for bad in ["a", "", "/a?b", "/a#b", "/a*b", "/{", "/a{b}", "/{}", "/{a-b}", "/{**}/{**}", "/{***}", "/{*}/*"] {
            assert!(PathText::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_templates_prefix_begins_every_match() {
        let prefix = |path: &str| match PathText::new(path).unwrap() {
            PathText::Template(template) => template.prefix(),
            PathText::Text(_) => unreachable!(),
        };
        assert_eq!(prefix("/a/{*}/b"), "/a/");
        assert_eq!(prefix("/a/{**}"), "/a/");
        assert_eq!(prefix("/{*}"), "/");
    }
}
