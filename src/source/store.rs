//! The one way a configuration changes.
//!
//! Sources hand in whole documents; the store lays them over each other in order of precedence — crate defaults,
//! builder, file, pins — checks the result as a whole, and yields a snapshot or says what was refused. It is pure: no
//! clock, no task, no file, so that every combination of sources is a table in a test. An update is taken or refused as
//! a whole: half a file would be a configuration that nobody wrote.

use std::{fmt, sync::Arc};

use super::{
    check::{Findings, check},
    document::Document,
    resolve::{Resolution, resolve},
};
use crate::model::{Lint, Place, Snapshot};

/// What a source says now, in place of what it said before.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, during a reload")]
pub(crate) enum Update {
    /// The builder's defaults, and its pins.
    Builder { document: Document, pins: Document },
    /// The configuration file.
    File { document: Document, lints: Vec<Lint> },
}

/// What became of an update.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    /// The new configuration; `None` if nothing effective changed, or the update was refused.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// Why it was refused. Empty if it was taken.
    pub(crate) rejected: Vec<Rejection>,
}

/// One reason why an update was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rejection {
    /// What is refused, such as `service reviews`.
    pub(crate) resource: String,
    /// The dotted path of the field.
    pub(crate) path: String,
    /// Where it stands, if in a file.
    pub(crate) place: Option<Place>,
    /// What is wrong.
    pub(crate) reason: String,
    /// What to do.
    pub(crate) help: Option<String>,
    /// Another place that matters, and why.
    pub(crate) related: Option<(Place, String)>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.path, self.reason)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Every source's last good word, and what follows from them.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    base: Snapshot,
    builder: Document,
    pins: Document,
    file: Option<(Document, Vec<Lint>)>,
    current: Arc<Snapshot>,
}

impl Store {
    /// A store over the crate's defaults, which `base` carries: who the process is and how it drains.
    pub(crate) fn new(base: Snapshot) -> Self {
        let current = Arc::new(base.clone());
        Self { base, builder: Document::default(), pins: Document::default(), file: None, current }
    }

    /// The configuration in effect.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// Takes an update, or refuses it and keeps everything as it was.
    pub(crate) fn apply(&mut self, update: Update) -> Applied {
        let mut next = self.clone();
        match update {
            Update::Builder { document, pins } => (next.builder, next.pins) = (document, pins),
            Update::File { document, lints } => next.file = Some((document, lints)),
        }
        let (resolution, findings) = next.resolve();
        if !findings.rejected.is_empty() {
            return Applied { snapshot: None, rejected: findings.rejected };
        }
        let mut snapshot = resolution.snapshot;
        let lints = next.file.iter().flat_map(|(_, lints)| lints.iter().cloned());
        let mut lints: Vec<Lint> = lints.chain(findings.lints).collect();
        lints.sort_by_key(|lint| lint.place.as_ref().map(|place| (place.line, place.column)));
        snapshot.lints = Arc::new(lints);
        let changed = !same_effect(&snapshot, &self.current);
        snapshot.generation = self.current.generation + u64::from(changed);
        // A moved line changes where values come from and nothing else: known to the store, no news to the mesh.
        next.current = Arc::new(snapshot);
        *self = next;
        Applied { snapshot: changed.then(|| self.current.clone()), rejected: Vec::new() }
    }

    /// What the checks say of a document that could only be read in part, as if it were applied.
    pub(crate) fn probe(&self, document: Document) -> Vec<Rejection> {
        let mut next = self.clone();
        next.file = Some((document, Vec::new()));
        next.resolve().1.rejected
    }

    fn resolve(&self) -> (Resolution, Findings) {
        let file = self.file.as_ref().map(|(document, _)| document.clone()).unwrap_or_default();
        let merged = file.over(self.builder.clone());
        let resolution = resolve(&self.base, merged, &self.pins, &self.current);
        let findings = check(&resolution);
        (resolution, findings)
    }
}

/// Whether two snapshots make the mesh do the same.
fn same_effect(a: &Snapshot, b: &Snapshot) -> bool {
    a.mesh == b.mesh
        && a.identity == b.identity
        && a.mtls == b.mtls
        && a.listeners == b.listeners
        && a.drain == b.drain
        && a.services == b.services
        && a.inbound == b.inbound
}
