//! A document that is taken apart field by field, so that what nobody asked for is found.

use std::fmt::Display;

use serde_json::{Map, Value};

use super::ImportError;

type Result<T> = std::result::Result<T, ImportError>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) path: String,
    pub(super) value: Value,
}

impl At {
    pub(super) fn new(path: impl Into<String>, value: Value) -> Self {
        Self { path: path.into(), value }
    }

    pub(super) fn fail<T>(&self, message: impl Display) -> Result<T> {
        Err(ImportError::new(&self.path, message))
    }

    /// A map, whose fields are taken one by one. Nothing counts as empty.
    pub(super) fn fields(self) -> Result<Fields> {
        match self.value {
            Value::Object(map) => Ok(Fields { path: self.path, map }),
            Value::Null => Ok(Fields { path: self.path, map: Map::new() }),
            _ => self.fail("expected a map"),
        }
    }

    /// The items of a list. Nothing counts as empty.
    pub(super) fn items(self) -> Result<Vec<At>> {
        match self.value {
            Value::Array(items) => {
                let item = |(index, value)| At::new(format!("{}[{index}]", self.path), value);
                Ok(items.into_iter().enumerate().map(item).collect())
            }
            Value::Null => Ok(Vec::new()),
            _ => self.fail("expected a list"),
        }
    }

    pub(super) fn text(self) -> Result<String> {
        match self.value {
            Value::String(text) => Ok(text),
            _ => self.fail("expected a text"),
        }
    }

    pub(super) fn boolean(self) -> Result<bool> {
        match self.value {
            Value::Bool(value) => Ok(value),
            // YAML's scalars are texts until somebody asks.
            Value::String(ref text) if text == "true" => Ok(true),
            Value::String(ref text) if text == "false" => Ok(false),
            _ => self.fail("expected `true` or `false`"),
        }
    }

    pub(super) fn number<T: TryFrom<i64>>(self) -> Result<T> {
        let number = match &self.value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(number),
            None => self.fail("expected a number in its bounds"),
        }
    }

    pub(super) fn texts(self) -> Result<Vec<String>> {
        self.items()?.into_iter().map(At::text).collect()
    }

    /// Every item, read by `read`.
    pub(super) fn each<T, E: Display>(self, read: impl Fn(&str) -> std::result::Result<T, E>) -> Result<Vec<T>> {
        let one = |at: At| {
            let path = at.path.clone();
            let text = at.text()?;
            read(&text).map_err(|error| ImportError::new(path, error))
        };
        self.items()?.into_iter().map(one).collect()
    }
}

/// The fields of a map that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) path: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(super) fn fail<T>(&self, message: impl Display) -> Result<T> {
        Err(ImportError::new(&self.path, message))
    }

    /// Takes a field under any of its names; what is absent is null.
    pub(super) fn take(&mut self, names: &[&str]) -> At {
        let found = names.iter().find_map(|name| self.map.remove(*name).map(|value| (*name, value)));
        let (name, value) = found.unwrap_or((names[0], Value::Null));
        At::new(format!("{}.{name}", self.path), value)
    }

    pub(super) fn take_some(&mut self, names: &[&str]) -> Option<At> {
        Some(self.take(names)).filter(|at| !at.value.is_null())
    }

    /// Takes whatever is left, name by name.
    pub(super) fn rest(self) -> Vec<(String, At)> {
        let Self { path, map } = self;
        let field = |(name, value): (String, Value)| (name.clone(), At::new(format!("{path}.{name}"), value));
        map.into_iter().map(field).collect()
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<()> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => Err(ImportError::new(
                format!("{}.{name}", self.path),
                "this field is not known, or its meaning cannot be kept; nothing was imported",
            )),
        }
    }
}
