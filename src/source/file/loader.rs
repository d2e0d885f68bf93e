//! From bytes to a partial document, and for those who only want to check one, to a snapshot.

use std::{fmt, path::Path, sync::Arc};

use super::{
    cursor::{Cursor, Reading, Wrong},
    grammar, interpolate,
    node::{self, Kind, Malformed, Mark, Node},
    report::{Diagnostic, Report},
};
use crate::{
    model::{Place, Policy, PolicyRegistry, Snapshot},
    name::ServiceName,
    source::{Rejection, Store, Update, check_policy_name, document::Document},
};

/// Reads an environment variable; `None` if it is not set.
pub(crate) type Environment = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Reads a document. Cross checks of a partly unreadable one run against `store`, so that one report has everything.
///
/// # Errors
/// Everything that is wrong.
pub(crate) fn read(
    file: &str,
    bytes: &[u8],
    registry: &PolicyRegistry,
    env: &Environment,
    store: &Store,
) -> Result<Document, Report> {
    let file: Arc<str> = file.into();
    let malformed = |error: Malformed, text: &str| {
        let place = |mark: Mark| Place { file: file.clone(), line: mark.line, column: mark.column };
        let diagnostic = Diagnostic {
            path: error.path,
            place: Some(place(error.mark)),
            message: error.message,
            help: Some(error.help),
            related: error.related.map(|(mark, why)| (place(mark), why)),
        };
        Report::new(file.clone(), text, vec![diagnostic])
    };
    let text = node::decode(bytes).map_err(|error| {
        let shown = &bytes[..bytes.len().min(node::MAX_BYTES)];
        malformed(error, &String::from_utf8_lossy(shown))
    })?;
    let mut root = node::parse(text).map_err(|error| malformed(error, text))?;
    let mut reading = Reading::new(file.clone(), registry);
    variables(&mut root, &mut reading, env);
    let document = grammar::document(Cursor { reading: &mut reading, node: Some(&root) }).unwrap_or_default();
    if reading.diagnostics.is_empty() {
        return Ok(document);
    }
    let mut diagnostics = reading.diagnostics;
    diagnostics.extend(store.probe(document).into_iter().map(diagnostic));
    Err(Report::new(file, text, diagnostics))
}

/// The report on a document that could be read and was refused.
pub(crate) fn refused(file: &str, bytes: &[u8], rejected: Vec<Rejection>) -> Report {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Report::new(file.into(), text, rejected.into_iter().map(diagnostic).collect())
}

fn diagnostic(rejection: Rejection) -> Diagnostic {
    Diagnostic {
        path: rejection.path,
        place: rejection.place,
        message: rejection.reason,
        help: rejection.help,
        related: rejection.related,
    }
}

/// Puts variables into the scalars. One that cannot be is reported and left as it is.
fn variables(root: &mut Node, reading: &mut Reading<'_>, env: &Environment) {
    match &mut root.kind {
        Kind::Scalar { text, .. } if text.contains("${") => match interpolate::interpolate(text, &|name| env(name)) {
            Ok(value) => *text = value,
            Err(wrong) => {
                reading.report(root.mark, Wrong::from(wrong));
                root.kind = Kind::Broken;
            }
        },
        Kind::Scalar { .. } | Kind::Broken => {}
        Kind::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                reading.under_index(index, |reading| variables(item, reading, env));
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                let value = &mut entry.value;
                reading.under(&entry.key, |reading| variables(value, reading, env));
            }
        }
    }
}

/// Checks configurations without running a mesh: in a test of your own, in CI, in a tool.
///
/// ```
/// use sinew::config::Loader;
///
/// let loader = Loader::new();
/// let snapshot = loader.load_str("sinew.yaml", "services: { reviews: { endpoints: { dns: \"reviews:9080\" } } }")?;
/// assert!(snapshot.services.contains_key("reviews"));
///
/// let report = loader.load_str("sinew.yaml", "services: { reviews: { endpoint: [] } }").unwrap_err();
/// assert!(report.to_string().contains("did you mean `endpoints`?"));
/// # Ok::<(), sinew::config::Report>(())
/// ```
pub struct Loader {
    registry: PolicyRegistry,
    env: Box<Environment>,
    service: ServiceName,
    kubernetes: bool,
}

impl Loader {
    /// A loader without policies of your own that reads variables from the process's environment.
    pub fn new() -> Self {
        let service = match ServiceName::new("app") {
            Ok(name) => name,
            Err(_) => unreachable!("three letters are a name"),
        };
        Self {
            registry: PolicyRegistry::default(),
            env: Box::new(|name| std::env::var(name).ok()),
            service,
            kubernetes: false,
        }
    }

    /// Registers a policy of your own, as [`Policy::NAME`].
    ///
    /// # Errors
    /// If the name is a key of the configuration already, or not snake_case.
    pub fn policy<P: Policy>(mut self) -> Result<Self, String> {
        check_policy_name(P::NAME)?;
        self.registry.register::<P>();
        Ok(self)
    }

    /// Reads variables from `env` instead of the process's environment.
    #[must_use]
    pub fn env(mut self, env: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.env = Box::new(env);
        self
    }

    /// The service of a document that does not say `mesh.service`. Default `app`.
    #[must_use]
    pub fn service(mut self, service: ServiceName) -> Self {
        self.service = service;
        self
    }

    /// Checks for a process that runs under Kubernetes, wherever this one runs.
    #[must_use]
    pub fn kubernetes(mut self) -> Self {
        self.kubernetes = true;
        self
    }

    /// Checks a text; `file` is its name in messages. Warnings are in the snapshot's `lints`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load_str(&self, file: &str, text: &str) -> Result<Snapshot, Report> {
        self.load_bytes(file, text.as_bytes())
    }

    /// As [`load_str`](Self::load_str), for bytes that may not be UTF-8.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load_bytes(&self, file: &str, bytes: &[u8]) -> Result<Snapshot, Report> {
        let base = Snapshot::new(self.service.clone());
        let mut store = Store::new(if self.kubernetes { base.under_kubernetes() } else { base });
        let document = read(file, bytes, &self.registry, &*self.env, &store)?;
        let applied = store.apply(Update::File { document, lints: Vec::new() });
        if !applied.rejected.is_empty() {
            return Err(refused(file, bytes, applied.rejected));
        }
        Ok((**store.snapshot()).clone())
    }

    /// Checks a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, or that it cannot be read.
    pub fn load_file(&self, path: impl AsRef<Path>) -> Result<Snapshot, Report> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let bytes = read_bounded(path).map_err(|error| unreadable(&name, &error))?;
        self.load_bytes(&name, &bytes)
    }

    /// The policies that are registered.
    #[cfg_attr(not(feature = "schema"), expect(dead_code, reason = "only the schema asks"))]
    pub(super) fn registry(&self) -> &PolicyRegistry {
        &self.registry
    }
}

impl Default for Loader {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("policies", &self.registry).field("service", &self.service).finish()
    }
}

/// Reads a file, one byte more than is allowed at most.
pub(crate) fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;

    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(node::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The report on a file that cannot be read.
pub(crate) fn unreadable(file: &str, error: &std::io::Error) -> Report {
    let diagnostic = Diagnostic {
        path: String::new(),
        place: None,
        message: format!("the file cannot be read: {error}"),
        help: Some("check the path and its permissions".into()),
        related: None,
    };
    Report::new(file.into(), "", vec![diagnostic])
}
