//! Reads values out of the tree, or says what values it would read.
//!
//! The grammar is written once, as functions over a [`Cursor`]. Over a node a cursor decodes: every problem is
//! recorded with its place, the field stays unset, and reading goes on, so one run finds them all. Without a node the
//! same functions describe: each leaves the JSON Schema of what it accepts. That is why the schema cannot differ from
//! the decoder. The price is that a grammar function must not branch on a value before it has named all its fields.

mod fields;

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, str::FromStr, sync::Arc, time::Duration};

use serde_json::{Value, json};

pub(super) use self::fields::Fields;
use super::{
    node::{Entry, Kind, Mark, Node, push_key},
    report::Diagnostic,
    suggest,
};
use crate::{
    model::{Origin, Place, PolicyRegistry},
    source::{document::Set, duration},
};

/// A scalar of text may hold variables, so the schema of every other scalar admits them.
const VARIABLE: &str = r"\$\{";

/// What is wrong with one value, and the cure if it is not in the message.
pub(super) struct Wrong {
    message: String,
    help: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: Some(help.into()) }
    }

    pub(super) fn plain(message: impl Display) -> Self {
        Self { message: message.to_string(), help: None }
    }
}

impl From<(String, String)> for Wrong {
    fn from((message, help): (String, String)) -> Self {
        Self::new(message, help)
    }
}

/// What one reading of a document shares.
pub(super) struct Reading<'r> {
    pub(super) file: Arc<str>,
    pub(super) registry: &'r PolicyRegistry,
    pub(super) diagnostics: Vec<Diagnostic>,
    path: String,
    /// What the last described value was.
    described: Value,
}

impl<'r> Reading<'r> {
    pub(super) fn new(file: Arc<str>, registry: &'r PolicyRegistry) -> Self {
        Self { file, registry, diagnostics: Vec::new(), path: String::new(), described: Value::Null }
    }

    pub(super) fn place(&self, mark: Mark) -> Place {
        Place { file: self.file.clone(), line: mark.line, column: mark.column }
    }

    pub(super) fn report(&mut self, mark: Mark, wrong: Wrong) {
        let place = Some(self.place(mark));
        let path = self.path.clone();
        self.diagnostics.push(Diagnostic { path, place, message: wrong.message, help: wrong.help, related: None });
    }

    /// Reads under a key.
    pub(super) fn under<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        push_key(&mut self.path, key);
        let value = read(self);
        self.path.truncate(length);
        value
    }

    pub(super) fn under_index<T>(&mut self, index: usize, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        let value = read(self);
        self.path.truncate(length);
        value
    }

    /// The schema a grammar function leaves.
    #[cfg_attr(not(feature = "schema"), expect(dead_code, reason = "only the schema describes"))]
    pub(super) fn describe<T>(&mut self, read: impl FnOnce(Cursor<'_, 'r, '_>) -> T) -> Value {
        read(Cursor { reading: self, node: None });
        self.described.take()
    }
}

/// A value to be read, or to be described.
pub(super) struct Cursor<'c, 'r, 'n> {
    pub(super) reading: &'c mut Reading<'r>,
    pub(super) node: Option<&'n Node>,
}

impl<'r, 'n> Cursor<'_, 'r, 'n> {
    fn expected<T>(self, what: &str) -> Option<T> {
        if let Some(node) = self.node
            && !matches!(node.kind, Kind::Broken)
        {
            let found = node.describe();
            self.reading.report(node.mark, Wrong::plain(format_args!("expected {what}, found {found}")));
        }
        None
    }

    /// A scalar that `parse` understands.
    pub(super) fn scalar<T>(
        self,
        what: &str,
        schema: Value,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let Some(node) = self.node else {
            self.reading.described = schema;
            return None;
        };
        match &node.kind {
            Kind::Scalar { text, .. } if !node.is_null() => match parse(text) {
                Ok(value) => Some(value),
                Err(wrong) => {
                    self.reading.report(node.mark, wrong);
                    None
                }
            },
            _ => self.expected(what),
        }
    }

    /// A text that parses as `T`.
    pub(super) fn parsed<T: FromStr<Err: Display>>(self, what: &str) -> Option<T> {
        self.scalar(what, json!({ "type": "string" }), |text| text.parse().map_err(Wrong::plain))
    }

    /// Any text, numbers and `true` included.
    pub(super) fn text(self, what: &str) -> Option<Arc<str>> {
        self.scalar(what, json!({ "type": ["string", "number", "boolean"] }), |text| Ok(text.into()))
    }

    /// A socket address of a listener.
    pub(super) fn socket_address(self) -> Option<SocketAddr> {
        self.scalar("an address", json!({ "type": "string" }), |text| {
            text.parse().map_err(|_| {
                Wrong::new(
                    format!("`{}` is not an address to listen on", text.escape_debug()),
                    "use `IP:PORT`, such as `0.0.0.0:9901`, `127.0.0.1:9901` or `[::]:9901`",
                )
            })
        })
    }

    /// A whole number.
    pub(super) fn integer(self, range: RangeInclusive<u32>) -> Option<u32> {
        let (min, max) = (*range.start(), *range.end());
        let schema = json!({ "anyOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "pattern": VARIABLE },
        ] });
        if let Some(Node { mark, kind: Kind::Scalar { text, plain: false } }) = self.node
            && text.parse::<u32>().is_ok()
        {
            let wrong = Wrong::new("expected a number, found a quoted text", format!("remove the quotes: `{text}`"));
            self.reading.report(*mark, wrong);
            return None;
        }
        self.scalar("a whole number", schema, |text| match text.parse::<i128>() {
            Ok(number) if (i128::from(min)..=i128::from(max)).contains(&number) => Ok(number as u32),
            Ok(number) => {
                let bound = if number < i128::from(min) { min } else { max };
                Err(Wrong::new(
                    format!("{number} is out of bounds"),
                    if min == max {
                        format!("the only value is `{min}`")
                    } else {
                        format!("the value must be {min} to {max}; the nearest is `{bound}`")
                    },
                ))
            }
            Err(_) => Err(Wrong::new(
                format!("`{}` is not a whole number", text.escape_debug()),
                format!("write digits only, {min} to {max}"),
            )),
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(self) -> Option<bool> {
        self.scalar("`true` or `false`", json!({ "type": "boolean" }), |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Wrong::new(
                format!("`{}` is not `true` or `false`", text.escape_debug()),
                "write `true` or `false`",
            )),
        })
    }

    /// A duration of at least `min`.
    pub(super) fn duration(self, min: Duration) -> Option<Duration> {
        let schema = json!({ "type": "string", "pattern": format!(r"^([0-9]+(h|m|s|ms))+$|{VARIABLE}") });
        self.scalar("a duration such as `3s`", schema, |text| bounded(text, min, "0s"))
    }

    /// A duration of at least `min`, or `off`.
    pub(super) fn duration_or_off(self, min: Duration) -> Option<Option<Duration>> {
        let schema = json!({ "type": "string", "pattern": format!(r"^([0-9]+(h|m|s|ms))+$|^off$|{VARIABLE}") });
        self.scalar("a duration such as `3s`, or `off`", schema, |text| match text {
            "off" => Ok(None),
            text => bounded(text, min, "off").map(Some),
        })
    }

    /// A share of requests such as `12.5%`, in millionths.
    pub(super) fn percent(self) -> Option<u32> {
        let schema = json!({ "type": "string", "pattern": format!(r"^[0-9]+(\.[0-9]{{1,4}})?%$|{VARIABLE}") });
        self.scalar("a percentage such as `10%`", schema, |text| {
            let fail = |why: &str, help: String| {
                Err(Wrong::new(format!("`{}` is not a percentage: {why}", text.escape_debug()), help))
            };
            let example = || "write a number from 0 to 100 with `%`, such as `10%` or `0.5%`".to_owned();
            let Some(number) = text.strip_suffix('%') else {
                return match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => fail("it has no `%`", format!("write `{text}%`")),
                    _ => fail("it is no number with `%`", example()),
                };
            };
            let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            if !digits(whole) || !digits(part) {
                return fail("it is no number with `%`", example());
            }
            if part.len() > 4 {
                return fail("it is finer than a millionth", "use at most four digits after the point".into());
            }
            let whole = whole.parse::<u32>().unwrap_or(u32::MAX);
            let part = format!("{part:0<4}").parse::<u32>().unwrap_or(0);
            match whole.checked_mul(10_000).and_then(|millionths| millionths.checked_add(part)) {
                Some(millionths) if millionths <= 1_000_000 => Ok(millionths),
                _ => fail("it is more than 100%", example()),
            }
        })
    }

    /// One of these words. Words of `later` are known, and refused.
    pub(super) fn choice<T: Copy>(self, what: &str, words: &[(&'static str, T)], later: &[&str]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        // A word such as `strict` says little without its key.
        let key = self.reading.path.rsplit('.').next().unwrap_or_default().to_owned();
        self.scalar(what, json!({ "enum": names }), |text| match words.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Ok(*value),
            None if later.contains(&text) => Err(not_yet(&format!("{key}: {text}"))),
            None => Err(Wrong::new(
                format!("`{}` is not {what}", text.escape_debug()),
                suggest::or_list(text, &names, "use one of", ""),
            )),
        })
    }

    /// A map with known keys. Nothing counts as an empty map.
    pub(super) fn map<T>(self, what: &str, read: impl FnOnce(&mut Fields<'_, 'r, 'n>) -> T) -> Option<T> {
        let entries: &'n [Entry] = match self.node.map(|node| (node, &node.kind)) {
            None => &[],
            Some((_, Kind::Map(entries))) => entries,
            Some((node, _)) if node.is_null() => &[],
            Some(_) => return self.expected(what),
        };
        let mut fields = Fields::new(self.reading, self.node.map(|node| node.mark), entries);
        let value = read(&mut fields);
        fields.finish();
        Some(value).filter(|_| self.node.is_some())
    }

    /// A map whose keys are names.
    pub(super) fn keyed<K, T>(
        self,
        what: &str,
        key: impl Fn(&str) -> Result<K, Wrong>,
        read: impl Fn(Cursor<'_, 'r, 'n>) -> Option<T>,
    ) -> Option<Vec<(K, Set<T>)>> {
        let entries: &'n [Entry] = match self.node.map(|node| (node, &node.kind)) {
            None => {
                read(Cursor { reading: self.reading, node: None });
                let item = self.reading.described.take();
                self.reading.described = json!({ "type": ["object", "null"], "additionalProperties": item });
                return None;
            }
            Some((_, Kind::Map(entries))) => entries,
            Some((node, _)) if node.is_null() => &[],
            Some(_) => return self.expected(what),
        };
        let mut values = Vec::new();
        for entry in entries {
            let reading = &mut *self.reading;
            reading.under(&entry.key, |reading| {
                let key = key(&entry.key).map_err(|wrong| reading.report(entry.mark, wrong)).ok();
                let value = read(Cursor { reading, node: Some(&entry.value) });
                if let (Some(key), Some(value)) = (key, value) {
                    values.push((key, Set::new(value, Origin::File(reading.place(entry.mark)))));
                }
            });
        }
        Some(values)
    }

    /// A list. Items that cannot be read are left out.
    pub(super) fn list<T>(self, what: &str, read: impl Fn(Cursor<'_, 'r, 'n>) -> Option<T>) -> Option<Vec<Set<T>>> {
        let items = match self.node.map(|node| &node.kind) {
            None => {
                read(Cursor { reading: self.reading, node: None });
                let item = self.reading.described.take();
                self.reading.described = json!({ "type": "array", "items": item });
                return None;
            }
            Some(Kind::List(items)) => items,
            Some(_) => return self.expected(what),
        };
        let mut values = Vec::new();
        for (index, node) in items.iter().enumerate() {
            self.reading.under_index(index, |reading| {
                if let Some(value) = read(Cursor { reading, node: Some(node) }) {
                    values.push(Set::new(value, Origin::File(reading.place(node.mark))));
                }
            });
        }
        Some(values)
    }

    /// A list, or one item alone.
    pub(super) fn one_or_list<T>(
        self,
        what: &str,
        read: impl Fn(Cursor<'_, 'r, 'n>) -> Option<T>,
    ) -> Option<Vec<Set<T>>> {
        match self.node {
            Some(Node { kind: Kind::List(_), .. }) => self.list(what, read),
            Some(node) => {
                let place = self.reading.place(node.mark);
                read(self).map(|value| vec![Set::new(value, Origin::File(place))])
            }
            None => {
                read(Cursor { reading: self.reading, node: None });
                let item = self.reading.described.take();
                self.reading.described = json!({ "anyOf": [item, { "type": "array", "items": item }] });
                None
            }
        }
    }

    /// Read one way if it is a scalar, another way otherwise.
    pub(super) fn scalar_or<T>(
        self,
        scalar: impl FnOnce(Cursor<'_, 'r, 'n>) -> Option<T>,
        other: impl FnOnce(Cursor<'_, 'r, 'n>) -> Option<T>,
    ) -> Option<T> {
        match self.node {
            Some(node) if matches!(node.kind, Kind::Scalar { .. } | Kind::Broken) && !node.is_null() => scalar(self),
            Some(_) => other(self),
            None => self.describe_either(scalar, other),
        }
    }

    /// Read one way if it is a map, another way otherwise.
    pub(super) fn map_or<T>(
        self,
        other: impl FnOnce(Cursor<'_, 'r, 'n>) -> Option<T>,
        map: impl FnOnce(Cursor<'_, 'r, 'n>) -> Option<T>,
    ) -> Option<T> {
        match self.node {
            Some(Node { kind: Kind::Map(_), .. }) => map(self),
            Some(_) => other(self),
            None => self.describe_either(other, map),
        }
    }

    fn describe_either<T>(
        self,
        one: impl FnOnce(Cursor<'_, 'r, 'n>) -> Option<T>,
        two: impl FnOnce(Cursor<'_, 'r, 'n>) -> Option<T>,
    ) -> Option<T> {
        one(Cursor { reading: self.reading, node: None });
        let one = self.reading.described.take();
        two(Cursor { reading: self.reading, node: None });
        let two = self.reading.described.take();
        self.reading.described = json!({ "anyOf": [one, two] });
        None
    }
}

fn bounded(text: &str, min: Duration, zero: &str) -> Result<Duration, Wrong> {
    let value = duration::parse(text)?;
    if value < min {
        let least = duration::format(min);
        let help = match zero {
            "off" => format!("write at least `{least}`, or `off` for none"),
            _ => format!("write at least `{least}`"),
        };
        return Err(Wrong::new(format!("`{text}` is too short"), help));
    }
    Ok(value)
}

/// The refusal of what a later version brings.
fn not_yet(what: &str) -> Wrong {
    Wrong::new(
        format!("this build does not have `{what}` yet"),
        "remove it: nothing runs without what was asked for, so it is refused rather than ignored",
    )
}
