//! Where effective values come from.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// Who set a value.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Origin {
    /// The crate's defaults of this edition.
    Default,
    /// The builder.
    Builder,
    /// The builder, by `.pin(..)`: no source overrides it.
    Pinned,
    /// A configuration file.
    File(Place),
    /// A control plane, by its name.
    ControlPlane(Arc<str>),
    /// An environment variable, by its name.
    Environment(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Builder => f.write_str("builder"),
            Self::Pinned => f.write_str("pinned"),
            Self::File(place) => place.fmt(f),
            Self::ControlPlane(name) => write!(f, "control plane {name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
        }
    }
}

/// A place in a document.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Place {
    /// The file's name as given.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The origin of each effective field, by dotted path: `services.reviews.timeouts.request`. Routes are counted in their
/// order of evaluation: `services.reviews.routes[0]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Provenance {
    fields: BTreeMap<String, Origin>,
}

impl Provenance {
    /// Records the origin of a field.
    pub fn record(&mut self, path: impl Into<String>, origin: Origin) {
        self.fields.insert(path.into(), origin);
    }

    /// The origin of a field: its own, else that of the nearest enclosing field, else the defaults.
    pub fn of(&self, path: &str) -> &Origin {
        let mut path = path;
        loop {
            if let Some(origin) = self.fields.get(path) {
                return origin;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return &Origin::Default,
            }
        }
    }

    /// Every recorded field in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.fields.iter().map(|(path, origin)| (path.as_str(), origin))
    }
}
