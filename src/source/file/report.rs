//! What is wrong with a document, all of it at once, each with its place and its cure.
//!
//! One error per run makes ten mistakes ten runs. The price of collecting is that one mistake must not be reported
//! twice under other names, so whatever could not be read is left out of the checks that depend on it.

use std::{fmt, sync::Arc};

use crate::model::Place;

/// So many problems are printed; the rest is counted.
const MAX_DIAGNOSTICS: usize = 50;

/// So many characters of a source line are shown around the caret.
const WINDOW: usize = 100;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The dotted path of the field; empty for the document as a whole.
    pub path: String,
    /// Where it stands, if in the document.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Another place that matters, and why.
    pub related: Option<(Place, String)>,
}

/// Everything that is wrong with one document, in its order. Prints as text for people.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    file: Arc<str>,
    lines: Vec<Arc<str>>,
    diagnostics: Vec<Diagnostic>,
    total: usize,
}

impl Report {
    /// Sorts the problems into document order and keeps the lines they point at.
    pub(crate) fn new(file: Arc<str>, text: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|diagnostic| diagnostic.place.as_ref().map(|place| (place.line, place.column)));
        let total = diagnostics.len();
        diagnostics.truncate(MAX_DIAGNOSTICS);
        Self { file, lines: text.lines().map(Arc::from).collect(), diagnostics, total }
    }

    /// The problems, in document order; at most 50.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// How many problems there are, those that are not kept included.
    pub fn total(&self) -> usize {
        self.total
    }

    fn line(&self, place: &Place) -> Option<&str> {
        if place.file != self.file {
            return None;
        }
        let index = usize::try_from(place.line).ok()?.checked_sub(1)?;
        // The place of a missing thing may be the end of the document, one past the last line.
        Some(self.lines.get(index).map_or("", |line| &**line))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "error: {}", diagnostic.message)?;
            match &diagnostic.place {
                Some(place) => excerpt(f, place, self.line(place), '^')?,
                None => writeln!(f, " --> {}", self.file)?,
            }
            if let Some((place, why)) = &diagnostic.related {
                writeln!(f, "note: {why}")?;
                excerpt(f, place, self.line(place), '-')?;
            }
            if !diagnostic.path.is_empty() {
                writeln!(f, "  at: {}", diagnostic.path)?;
            }
            if let Some(help) = &diagnostic.help {
                writeln!(f, "help: {help}")?;
            }
        }
        let hidden = self.total - self.diagnostics.len();
        if hidden > 0 {
            writeln!(f, "\nand {hidden} more; fix these first")?;
        }
        let noun = if self.total == 1 { "error" } else { "errors" };
        writeln!(f, "\n{}: {} {noun}", self.file, self.total)
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Report {}

fn excerpt(f: &mut fmt::Formatter<'_>, place: &Place, line: Option<&str>, mark: char) -> fmt::Result {
    writeln!(f, " --> {place}")?;
    let Some(line) = line else { return Ok(()) };
    let number = place.line.to_string();
    let pad = " ".repeat(number.len());
    let chars: Vec<char> = line.chars().take(1 << 20).collect();
    let at = (place.column.max(1) as usize - 1).min(chars.len());
    let width = token_width(&chars[at..]);
    let start = if chars.len() <= WINDOW { 0 } else { at.saturating_sub(WINDOW / 3) };
    let end = chars.len().min(start + WINDOW);
    let shown: String = chars[start..end].iter().copied().map(printable).collect();
    let width = width.min(end.saturating_sub(at)).max(1);
    let head = if start > 0 { "..." } else { "" };
    let tail = if end < chars.len() { "..." } else { "" };
    let indent = " ".repeat(head.len() + at - start);
    writeln!(f, " {pad} |\n {number} | {head}{shown}{tail}")?;
    writeln!(f, " {pad} | {indent}{}", mark.to_string().repeat(width))
}

/// Tabs must be seen to be corrected, and escape sequences of a hostile file must not reach the terminal.
fn printable(c: char) -> char {
    match c {
        '\t' => '→',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// How many characters the token at the start of this text has: a quoted text, a bracket, or a plain word up to what
/// ends one in YAML.
fn token_width(text: &[char]) -> usize {
    match text.first() {
        Some(quote @ ('"' | '\'')) => text.iter().skip(1).position(|c| c == quote).map_or(text.len(), |end| end + 2),
        Some('{' | '[' | '&' | '*' | '|' | '>' | '\t') | None => 1,
        Some(_) => {
            let at = |index: usize| text.get(index).copied().unwrap_or(' ');
            let ends = |index: usize| match text[index] {
                ',' | ']' => true,
                '}' => !text[..index].contains(&'{'),
                ':' => at(index + 1) == ' ',
                '#' => index > 0 && text[index - 1] == ' ',
                _ => false,
            };
            let end = (0..text.len()).find(|index| ends(*index)).unwrap_or(text.len());
            let trailing = text[..end].iter().rev().take_while(|c| c.is_whitespace()).count();
            end - trailing
        }
    }
}
