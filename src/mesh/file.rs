//! The configuration file: read at the start, watched from then on.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use super::{
    builder::{BuildError, Builder},
    control::{Inner, Origins},
    status::SourceStatus,
};
use crate::{
    rt::FileWatch,
    source::{Update, file},
};

const CONFIG: &str = "SINEW_CONFIG";
const DEFAULT: &str = "sinew.yaml";

/// Where a document comes from.
pub(super) enum Text {
    File(PathBuf),
    Inline { name: String, text: String },
}

impl Builder {
    /// Reads a configuration file and follows its changes. A change that is wrong is reported, and the last good one
    /// stays in use.
    pub fn config_file(mut self, path: impl AsRef<Path>) -> Self {
        self.origins.text = Some(Text::File(path.as_ref().to_owned()));
        self
    }

    /// Takes the configuration from a text, for tests and examples.
    pub fn config_str(mut self, text: &str) -> Self {
        self.origins.text = Some(Text::Inline { name: "inline".into(), text: text.to_owned() });
        self
    }

    /// Takes the file that `SINEW_CONFIG` names, else `./sinew.yaml` if there is one.
    pub fn from_env(mut self) -> Self {
        self.origins.text = match std::env::var_os(CONFIG) {
            Some(path) => Some(Text::File(path.into())),
            None if Path::new(DEFAULT).exists() => Some(Text::File(DEFAULT.into())),
            None => {
                tracing::info!("neither {CONFIG} nor ./{DEFAULT}: the builder's defaults are the configuration");
                None
            }
        };
        self
    }
}

impl Origins {
    /// Brings the document into use.
    pub(super) fn load(self, inner: &Arc<Inner>) -> Result<(), BuildError> {
        let Some(text) = self.text else { return Ok(()) };
        match text {
            Text::Inline { name, text } => inner.take_document(&name, text.as_bytes()).map(drop),
            Text::File(path) => {
                let name = path.display().to_string();
                let bytes = read(&path)?;
                let result = inner.take_document(&name, &bytes).map(drop);
                // Watched from before the mesh starts to run, so that no change is lost in between.
                inner.lock_watched().replace(path);
                result
            }
        }
        .map_err(|report| BuildError { report })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    file::read_bounded(path).map_err(|error| BuildError {
        report: format!(
            "{}: the configuration cannot be read: {error}; check the path and its permissions",
            path.display()
        ),
    })
}

impl Inner {
    /// Applies a document, or says everything that is wrong with it. True if it changed anything.
    fn take_document(self: &Arc<Self>, name: &str, bytes: &[u8]) -> Result<bool, String> {
        let env = |name: &str| std::env::var(name).ok();
        let mut store = self.lock_store();
        let document = file::read(name, bytes, &self.policies, &env, &store).map_err(|report| report.to_string())?;
        let applied = store.apply(Update::File { document, lints: Vec::new() });
        let generation = store.snapshot().generation;
        if !applied.rejected.is_empty() {
            return Err(file::refused(name, bytes, applied.rejected).to_string());
        }
        drop(store);
        self.note_source(SourceStatus { name: format!("file {name}"), generation, error: None });
        Ok(match applied.snapshot {
            Some(snapshot) if self.is_assembled() => {
                for lint in snapshot.lints.iter() {
                    tracing::warn!("{lint}");
                }
                self.reconcile(snapshot);
                true
            }
            Some(_) => true,
            None => false,
        })
    }

    /// Follows the file.
    pub(super) fn watch_file(self: &Arc<Self>) {
        let Some(path) = self.lock_watched().clone() else { return };
        let this = Arc::downgrade(self);
        let watch = FileWatch::new(path.clone());
        self.tasks.spawn(follow(this, watch, path));
    }
}

async fn follow(inner: Weak<Inner>, mut watch: FileWatch, path: PathBuf) {
    let name = path.display().to_string();
    let mut seen: Option<Vec<u8>> = None;
    loop {
        watch.changed().await;
        let Some(inner) = inner.upgrade() else { return };
        let result = match file::read_bounded(&path) {
            Ok(bytes) if seen.as_ref() == Some(&bytes) => continue,
            Ok(bytes) => {
                let result = inner.take_document(&name, &bytes);
                seen = Some(bytes);
                result
            }
            Err(error) => Err(format!("{name}: the configuration cannot be read: {error}")),
        };
        match result {
            Ok(true) => {
                tracing::info!(file = %name, generation = inner.snapshot().generation, "configuration changed");
                inner.registry.counter("sinew_config_updates_total", &[("source", "file"), ("result", "ack")]).inc();
            }
            Ok(false) => {}
            Err(report) => {
                tracing::error!(file = %name, "the changed configuration is not used, the last good one stays:\n{report}");
                inner.registry.counter("sinew_config_updates_total", &[("source", "file"), ("result", "nack")]).inc();
                inner.refuse_source(&format!("file {name}"), report);
            }
        }
    }
}
