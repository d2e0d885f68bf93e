//! YAML events into a bounded tree with places.
//!
//! A configuration file is input like any other: a 300-byte document of nested aliases must not become gigabytes, nor
//! 10,000 brackets a deep recursion. Limits apply while the tree grows, never after. What YAML allows and readers
//! misread is refused: duplicate keys, tags, merge keys, keys that are not text, a second document. Scalars stay text;
//! the field that takes one says what it must be, so `no` is a string wherever a string is wanted.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Largest document in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting.
pub(super) const MAX_DEPTH: usize = 64;
/// Most nodes, each alias counted as what it stands for.
pub(super) const MAX_NODES: usize = 10_000;

/// A place in the text, both from 1; the column in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Mark {
    pub(super) const START: Mark = Mark { line: 1, column: 1 };

    fn new(line: usize, column: usize) -> Self {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: clamp(line).max(1), column: clamp(column).max(1) }
    }

    fn of(span: &Span) -> Self {
        Self::new(span.start.line(), span.start.col() + 1)
    }
}

/// A value of the document.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Text; `plain` if it was not quoted.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// A scalar whose problem is already reported.
    Broken,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) value: Node,
}

impl Node {
    /// What the node is, for messages.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            _ if self.is_null() => "nothing".into(),
            Kind::Scalar { text, .. } if text.len() > 60 => "a long text".into(),
            Kind::Scalar { text, .. } => format!("`{}`", text.escape_debug()),
            Kind::List(_) => "a list".into(),
            Kind::Broken => "a broken value".into(),
            Kind::Map(_) => "a map".into(),
        }
    }

    /// An absent value: `key:` with nothing behind it, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// The value as JSON by YAML's core schema, for policies of the user's own.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            _ if self.is_null() => Value::Null,
            Kind::Scalar { text, plain: true } => match text.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                text => {
                    text.parse::<serde_json::Number>().map_or_else(|_| Value::String(text.to_owned()), Value::Number)
                }
            },
            Kind::Scalar { text, .. } => Value::String(text.clone()),
            Kind::Broken => Value::Null,
            Kind::List(items) => items.iter().map(Node::to_json).collect(),
            Kind::Map(entries) => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect())
            }
        }
    }

    /// The node at a path such as `limits[0].rate`, or the deepest one on the way there.
    pub(super) fn descend(&self, path: &str) -> &Node {
        let mut node = self;
        for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
            let part = part.trim_end_matches(']');
            let next = match &node.kind {
                Kind::Map(entries) => entries.iter().find(|entry| entry.key == part).map(|entry| &entry.value),
                Kind::List(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                Kind::Scalar { .. } | Kind::Broken => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    fn size(&self) -> (usize, usize) {
        let children: Vec<(usize, usize)> = match &self.kind {
            Kind::Scalar { .. } | Kind::Broken => return (1, 1),
            Kind::List(items) => items.iter().map(Node::size).collect(),
            Kind::Map(entries) => entries.iter().map(|entry| entry.value.size()).collect(),
        };
        (1 + children.iter().map(|c| c.0).sum::<usize>(), 1 + children.iter().map(|c| c.1).max().unwrap_or(0))
    }
}

/// Why a text is no document. Only the first such problem of a text is known, since what follows it is guesswork.
#[derive(Clone, Debug)]
pub(super) struct Malformed {
    pub(super) mark: Mark,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) help: String,
    pub(super) related: Option<(Mark, String)>,
}

impl Malformed {
    pub(super) fn new(mark: Mark, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { mark, path: String::new(), message: message.into(), help: help.into(), related: None }
    }
}

/// The bytes as text, without a byte order mark.
pub(super) fn decode(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > MAX_BYTES {
        let message = format!("the document is larger than {MAX_BYTES} bytes (1 MiB)");
        let help = "split the mesh, or take endpoints from `dns` or an endpoint `file` instead of `static` lists";
        return Err(Malformed::new(Mark::START, message, help));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = &bytes[..error.valid_up_to()];
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        let start = valid.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&valid[start..]).chars().count() + 1;
        let message = format!("the document is not UTF-8: byte 0x{:02x} cannot stand here", bytes[valid.len()]);
        Malformed::new(Mark::new(line, column), message, "save the file as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// A container that is still open.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value, in a map.
    key: Option<(String, Mark)>,
}

/// Parses one document.
pub(super) fn parse(text: &str) -> Result<Node, Malformed> {
    let mut tree = Tree { open: Vec::new(), root: None, anchors: HashMap::new(), nodes: 0 };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| syntax(text, &error))?;
        let mark = Mark::of(&span);
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    let help = "a file holds one document: remove `---`, or put the second into a file of its own";
                    return Err(Malformed::new(mark, "a second document begins here", help));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                tree.refuse_tag(mark, tag.is_some())?;
                let plain = style == ScalarStyle::Plain;
                tree.add(Node { mark, kind: Kind::Scalar { text: text.into_owned(), plain } }, anchor)?;
            }
            Event::SequenceStart(anchor, tag) => {
                tree.refuse_tag(mark, tag.is_some())?;
                tree.begin(Node { mark, kind: Kind::List(Vec::new()) }, anchor)?;
            }
            Event::MappingStart(anchor, tag) => {
                tree.refuse_tag(mark, tag.is_some())?;
                tree.begin(Node { mark, kind: Kind::Map(Vec::new()) }, anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => tree.end()?,
            Event::Alias(anchor) => tree.alias(mark, anchor)?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    match tree.root {
        Some(root) if !root.is_null() => Ok(root),
        _ => Err(Malformed::new(
            Mark::START,
            "the document is empty",
            "write at least `version: 1`; an empty file is refused because it is what a half-written one looks like",
        )),
    }
}

struct Tree {
    open: Vec<Open>,
    root: Option<Node>,
    /// Finished anchored nodes with their count of nodes and their depth.
    anchors: HashMap<usize, (Node, usize, usize)>,
    nodes: usize,
}

impl Tree {
    fn fail<T>(&self, mark: Mark, message: impl Into<String>, help: impl Into<String>) -> Result<T, Malformed> {
        Err(Malformed { path: self.path(), ..Malformed::new(mark, message, help) })
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match (&open.node.kind, &open.key) {
                (Kind::List(items), _) => path.push_str(&format!("[{}]", items.len())),
                (_, Some((key, _))) => push_key(&mut path, key),
                _ => {}
            }
        }
        // A document of nothing but brackets has a path as long as itself.
        if path.len() > 200 { format!("{}...", path.chars().take(60).collect::<String>()) } else { path }
    }

    fn count(&mut self, mark: Mark, nodes: usize) -> Result<(), Malformed> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return self.fail(
                mark,
                format!(
                    "the document has more than {MAX_NODES} values, with every alias counted as what it stands for"
                ),
                "write less here: use `defaults` for what services share, and an endpoint `file` for long lists",
            );
        }
        Ok(())
    }

    fn depth(&self, mark: Mark, below: usize) -> Result<(), Malformed> {
        if self.open.len() + below > MAX_DEPTH {
            return self.fail(mark, too_deep(), TOO_DEEP_HELP);
        }
        Ok(())
    }

    fn refuse_tag(&self, mark: Mark, tagged: bool) -> Result<(), Malformed> {
        if tagged {
            return self.fail(
                mark,
                "tags (`!name`) are not part of this configuration",
                "remove the tag; each field knows what type it takes",
            );
        }
        Ok(())
    }

    fn begin(&mut self, node: Node, anchor: usize) -> Result<(), Malformed> {
        self.key_must_be_text(&node)?;
        self.count(node.mark, 1)?;
        self.depth(node.mark, 1)?;
        self.open.push(Open { node, anchor, key: None });
        Ok(())
    }

    fn key_must_be_text(&self, node: &Node) -> Result<(), Malformed> {
        let expects_key =
            self.open.last().is_some_and(|open| matches!(open.node.kind, Kind::Map(_)) && open.key.is_none());
        if expects_key && (!matches!(node.kind, Kind::Scalar { .. }) || node.is_null()) {
            let what = node.describe();
            return self.fail(
                node.mark,
                format!("{what} stands where a key is expected"),
                "keys are plain text; a value that begins with `{`, `[`, `*` or `&` needs quotes",
            );
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Malformed> {
        match self.open.pop() {
            Some(open) => self.place(open.node, open.anchor),
            None => Ok(()),
        }
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Malformed> {
        self.key_must_be_text(&node)?;
        self.count(node.mark, 1)?;
        self.place(node, anchor)
    }

    fn alias(&mut self, mark: Mark, anchor: usize) -> Result<(), Malformed> {
        let Some((node, nodes, depth)) = self.anchors.get(&anchor) else {
            return self.fail(mark, "this alias stands for something that contains it", "write the value out");
        };
        let (nodes, depth) = (*nodes, *depth);
        let is_key = self.open.last().is_some_and(|open| matches!(open.node.kind, Kind::Map(_)) && open.key.is_none());
        if is_key {
            return self.fail(mark, "an alias stands where a key is expected", "write the key out");
        }
        let node = node.clone();
        self.depth(mark, depth)?;
        self.count(mark, nodes)?;
        self.place(node, 0)
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Malformed> {
        if anchor != 0 {
            let (nodes, depth) = node.size();
            self.anchors.insert(anchor, (node.clone(), nodes, depth));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node.kind, open.key.take()) {
            (Kind::List(items), _) => items.push(node),
            (Kind::Map(entries), Some((key, mark))) => entries.push(Entry { key, mark, value: node }),
            (Kind::Map(entries), None) => {
                let Kind::Scalar { text: key, .. } = node.kind else { return Ok(()) };
                let earlier = entries.iter().find(|entry| entry.key == key).map(|entry| entry.mark);
                if key == "<<" {
                    return self.fail(
                        node.mark,
                        "merge keys (`<<`) are not supported: YAML 1.2 has none, and an override would be invisible",
                        "write the keys out, put what services share under `defaults`, or use an alias for a whole value",
                    );
                }
                if let Some(earlier) = earlier {
                    let mut path = self.path();
                    push_key(&mut path, &key);
                    return Err(Malformed {
                        path,
                        related: Some((earlier, format!("`{}` first stands here", key.escape_debug()))),
                        ..Malformed::new(
                            node.mark,
                            format!("the key `{}` stands here twice", key.escape_debug()),
                            "remove one of the two, or merge them",
                        )
                    });
                }
                open.key = Some((key, node.mark));
            }
            (Kind::Scalar { .. } | Kind::Broken, _) => {}
        }
        Ok(())
    }
}

/// Adds a key to a dotted path.
pub(super) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.extend(key.chars().take(80).flat_map(char::escape_debug));
}

/// A scanner's error in our words where its own do not say what to do.
fn syntax(text: &str, error: &saphyr_parser::ScanError) -> Malformed {
    let marker = error.marker();
    let lines: Vec<&str> = text.lines().collect();
    let tab = |line: usize| {
        let line = lines.get(line.checked_sub(1)?)?;
        let indent = line.len() - line.trim_start().len();
        line[..indent].find('\t').map(|at| at + 1)
    };
    // The scanner notices a tab up to one line late.
    for line in [marker.line(), marker.line().saturating_sub(1), marker.line() + 1] {
        if let Some(column) = tab(line) {
            return Malformed::new(
                Mark::new(line, column),
                "this line is indented with a tab",
                "indent with spaces: YAML does not allow tabs there",
            );
        }
    }
    let mut mark = Mark::new(marker.line(), marker.col() + 1);
    // An error at the end of the text is shown at its last line.
    if marker.line() > lines.len() && !lines.is_empty() {
        mark = Mark::new(lines.len(), lines[lines.len() - 1].chars().count() + 1);
    }
    let info = error.info();
    if info.contains("recursion limit") {
        // The scanner looks ahead, so that its own limit may come before ours.
        return Malformed::new(mark, too_deep(), TOO_DEEP_HELP);
    }
    let help = match info {
        info if info.contains("unknown anchor") => {
            "define it first: `&name value`, then `*name`; quote a text that begins with `*`"
        }
        info if info.contains("simple key") || info.contains("mapping values") => {
            "look for a missing `:` or a wrong indentation on this line or the one above; quote a value that contains `: `"
        }
        info if info.contains("flow") || info.contains("','") => "look for an unclosed `{` or `[`, or a missing comma",
        info if info.contains("quoted") || info.contains("escape") => {
            "look for a missing closing quote or a stray `\\`"
        }
        _ => "look for a wrong indentation, a missing `:` or quote, or an unclosed bracket at or just above this line",
    };
    Malformed::new(mark, format!("this is not valid YAML: {info}"), help)
}

const TOO_DEEP_HELP: &str =
    "no field of a configuration is that deep: look for an unclosed bracket or an alias inside an alias";

fn too_deep() -> String {
    format!("the document is nested deeper than {MAX_DEPTH} levels")
}
