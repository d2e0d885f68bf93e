//! The keys of a map, known, coming and unknown.

use serde_json::{Map, Value, json};

use super::{Cursor, Reading, Wrong, not_yet};
use crate::{
    model::{Origin, Place, PolicyDraft},
    seat::Position,
    source::{
        document::{Drafts, Field, Set},
        file::{
            node::{Entry, Mark},
            suggest,
        },
    },
};

/// The keys of a map.
pub(in crate::source::file) struct Fields<'c, 'r, 'n> {
    pub(in crate::source::file) reading: &'c mut Reading<'r>,
    mark: Option<Mark>,
    entries: &'n [Entry],
    known: Vec<&'static str>,
    later: Vec<&'static str>,
    properties: Map<String, Value>,
}

impl<'c, 'r, 'n> Fields<'c, 'r, 'n> {
    pub(super) fn new(reading: &'c mut Reading<'r>, mark: Option<Mark>, entries: &'n [Entry]) -> Self {
        Self { reading, mark, entries, known: Vec::new(), later: Vec::new(), properties: Map::new() }
    }

    /// The value of a key, unset where it is absent or wrong. `doc` gives default, unit and bounds.
    pub(in crate::source::file) fn field<T>(
        &mut self,
        key: &'static str,
        doc: &str,
        read: impl FnOnce(Cursor<'_, 'r, 'n>) -> Option<T>,
    ) -> Field<T> {
        self.known.push(key);
        if self.mark.is_none() {
            read(Cursor { reading: self.reading, node: None });
            let mut schema = self.reading.described.take();
            if let Value::Object(schema) = &mut schema {
                schema.insert("description".into(), doc.into());
            }
            self.properties.insert(key.into(), schema);
            return None;
        }
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        self.reading.under(key, |reading| {
            let origin = Origin::File(reading.place(entry.value.mark));
            read(Cursor { reading, node: Some(&entry.value) }).map(|value| Set::new(value, origin))
        })
    }

    /// A group of fields; absent ones are all unset.
    pub(in crate::source::file) fn group<T: Default>(
        &mut self,
        key: &'static str,
        doc: &str,
        read: impl FnOnce(Cursor<'_, 'r, 'n>) -> Option<T>,
    ) -> T {
        self.field(key, doc, read).map(|set| set.value).unwrap_or_default()
    }

    /// Keys that later versions have.
    pub(in crate::source::file) fn later(&mut self, keys: &[&'static str]) {
        self.later.extend(keys);
    }

    /// Whether a key stands here, readable or not.
    pub(in crate::source::file) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// The place of the map; the start of the document while describing.
    pub(in crate::source::file) fn place(&self) -> Place {
        self.reading.place(self.mark.unwrap_or(Mark::START))
    }

    /// Reports a problem with a key, or with the map as a whole if the key is empty or absent.
    pub(in crate::source::file) fn report(&mut self, key: &str, wrong: Wrong) {
        let Some(mark) = self.mark else { return };
        match self.entries.iter().find(|entry| entry.key == key) {
            Some(entry) => self.reading.under(key, |reading| reading.report(entry.mark, wrong)),
            None => self.reading.report(mark, wrong),
        }
    }

    /// At most one of these keys may stand here. True if that holds.
    pub(in crate::source::file) fn at_most_one(&mut self, keys: &[&'static str]) -> bool {
        let present: Vec<&str> =
            self.entries.iter().map(|entry| entry.key.as_str()).filter(|key| keys.contains(key)).collect();
        if present.len() > 1 {
            let wrong = Wrong::new(
                format!("{} exclude each other", suggest::list(&present)),
                format!("keep one of them; `{}` is already there", present[0]),
            );
            self.report(present[1], wrong);
        }
        present.len() <= 1
    }

    /// Exactly one of these keys must stand here. True if that holds.
    pub(in crate::source::file) fn exactly_one(&mut self, keys: &[&'static str]) -> bool {
        if keys.iter().any(|key| self.has(key)) {
            return self.at_most_one(keys);
        }
        // A misspelt key is reported as unknown; that something is missing would be the same mistake again.
        if !self.has_unknown() {
            let (message, help) = match keys {
                [key] => (format!("`{key}` is missing"), "add it"),
                keys => (format!("one of {} is missing", suggest::list(keys)), "add exactly one of them"),
            };
            self.report("", Wrong::new(message, help));
        }
        false
    }

    /// Whether a key stands here that is neither known nor of a later version.
    pub(in crate::source::file) fn has_unknown(&self) -> bool {
        self.entries.iter().any(|entry| !self.is_known(&entry.key))
    }

    fn is_known(&self, key: &str) -> bool {
        self.known.contains(&key) || self.later.contains(&key)
    }

    /// Policies of the user's own that may stand here. `place` names the place for messages.
    pub(in crate::source::file) fn policies(&mut self, positions: &[Position], place: &str) -> Drafts {
        let registry = self.reading.registry;
        let mut drafts = Drafts::new();
        for name in registry.names() {
            let Some(position) = registry.position(name) else { continue };
            if !positions.contains(&position) {
                let wrong = Wrong::new(
                    format!("the policy `{name}` does not act at {place}"),
                    match position {
                        Position::Server => "it acts on what is served: put it under `inbound`",
                        _ => "it acts on calls: put it under `defaults`, a service or a route",
                    },
                );
                if self.has(name) {
                    self.report(name, wrong);
                    // Refused here, so not unknown as well.
                    self.known.push(name);
                }
                continue;
            }
            let read = |cursor: Cursor<'_, 'r, 'n>| policy(cursor, name);
            if let Some(set) = self.field(name, &format!("The policy `{name}`, registered by the application."), read) {
                drafts.insert(name.into(), set);
            }
        }
        drafts
    }

    /// What is neither known nor coming is refused.
    pub(super) fn finish(self) {
        if self.mark.is_none() {
            self.reading.described = json!({
                "type": ["object", "null"],
                "properties": self.properties,
                "additionalProperties": false,
            });
            return;
        }
        for entry in self.entries {
            let key = entry.key.as_str();
            if self.known.contains(&key) {
                continue;
            }
            let wrong = if self.later.contains(&key) {
                not_yet(key)
            } else {
                Wrong::new(
                    format!("unknown field `{}`", key.escape_debug()),
                    suggest::or_list(key, &self.known, "the fields here are", "remove it"),
                )
            };
            self.reading.under(key, |reading| reading.report(entry.mark, wrong));
        }
    }
}

/// A policy of the user's own, whose errors point inside it.
fn policy(cursor: Cursor<'_, '_, '_>, name: &str) -> Option<PolicyDraft> {
    let registry = cursor.reading.registry;
    let Some(node) = cursor.node else {
        let schema = registry.schema(name).and_then(|text| serde_json::from_str(&text).ok());
        // `true` and `false` are schemas too, but cannot carry a description.
        cursor.reading.described = match schema {
            Some(Value::Object(schema)) => Value::Object(schema),
            Some(Value::Bool(false)) => json!({ "not": {} }),
            _ => json!({}),
        };
        return None;
    };
    match registry.draft(name, node.to_json()) {
        Ok(draft) => Some(draft),
        Err(fault) => {
            let mark = node.descend(&fault.path).mark;
            let wrong = Wrong::new(fault.message, format!("the policy `{name}` decides what is valid here"));
            match fault.path.as_str() {
                "" => cursor.reading.report(mark, wrong),
                path => cursor.reading.under(path, |reading| reading.report(mark, wrong)),
            }
            None
        }
    }
}
