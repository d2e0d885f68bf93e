//! The configuration file: read at the start, watched from then on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::watch;

use super::{
    builder::{BuildError, Builder},
    control::{Inner, Origins},
    status::SourceStatus,
};
use crate::source::{
    Update,
    file::{self, FileSource},
};

const CONFIG: &str = "SINEW_CONFIG";
const DEFAULT: &str = "sinew.yaml";

/// Where a document comes from.
pub(super) enum Text {
    File(PathBuf),
    Inline(String),
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
        self.origins.text = Some(Text::Inline(text.to_owned()));
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
        let env = |name: &str| std::env::var(name).ok();
        match text {
            Text::Inline(text) => {
                let mut store = inner.lock_store();
                let document = file::read("inline", text.as_bytes(), &inner.policies, &env, &store);
                let document = document.map_err(|report| BuildError { report: report.to_string() })?;
                let applied = store.apply(Update::File { document, lints: Vec::new() });
                match applied.rejected.is_empty() {
                    true => Ok(()),
                    false => {
                        let report = file::refused("inline", text.as_bytes(), applied.rejected).to_string();
                        Err(BuildError { report })
                    }
                }
            }
            Text::File(path) => {
                let source = FileSource::open(path, inner.policies.clone(), env, &inner.store)
                    .map_err(|report| BuildError { report: report.to_string() })?;
                *inner.lock_followed() = Followed { status: Some(source.status()), source: Some(source) };
                Ok(())
            }
        }
    }
}

/// The file that is followed.
#[derive(Default)]
pub(super) struct Followed {
    /// Until the mesh starts.
    source: Option<FileSource>,
    status: Option<watch::Receiver<file::SourceStatus>>,
}

impl Followed {
    pub(super) fn status(&self) -> Option<SourceStatus> {
        let status = self.status.as_ref()?.borrow();
        Some(SourceStatus {
            name: format!("file {}", status.path.display()),
            generation: status.last_good,
            error: status.last_error.as_ref().map(ToString::to_string),
            since: status.since.elapsed(),
        })
    }
}

impl Inner {
    /// Follows the file from now on.
    pub(super) fn follow_file(self: &Arc<Self>) {
        let mut followed = self.lock_followed();
        let Some(source) = followed.source.take() else { return };
        let this = Arc::downgrade(self);
        self.tasks.spawn(source.run(Arc::clone(&self.store), move |snapshot| {
            if let Some(inner) = this.upgrade() {
                inner.take(snapshot);
            }
        }));
        if let Some(mut status) = followed.status.clone() {
            let update =
                |result| self.registry.counter("sinew_config_updates_total", &[("source", "file"), ("result", result)]);
            let (ack, nack) = (update("ack"), update("nack"));
            self.tasks.spawn(async move {
                while status.changed().await.is_ok() {
                    let refused = status.borrow_and_update().last_error.is_some();
                    if refused { &nack } else { &ack }.inc();
                }
            });
        }
    }
}
