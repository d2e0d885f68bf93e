//! `sinew.yaml` while the process runs: what changes is read, checked and applied; what is bad is kept out.
//!
//! A bad file never stops a mesh that runs: the last good configuration stays, and the problem is in the log and in
//! the status until the file is good again. A file is often seen half-written, so a bad one is only believed when
//! nothing followed for a moment. A missing file is an error at the start, when somebody asked for it, and a bad file
//! later, when it is more likely a deployment in progress than a wish for no configuration.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    loader::{self, Environment},
    report::Report,
};
use crate::{
    model::{PolicyRegistry, Snapshot},
    rt::{self, FileWatch, Instant},
    source::{Store, Update},
};

/// A bad file is believed when it has not changed for this long.
const SETTLE: Duration = Duration::from_millis(250);

/// How a configuration file is doing.
#[derive(Clone, Debug)]
pub(crate) struct SourceStatus {
    /// The file.
    pub(crate) path: PathBuf,
    /// The generation in effect when the file was last good.
    pub(crate) last_good: u64,
    /// Why the file as it is now is not used; `None` if it is.
    pub(crate) last_error: Option<Arc<Report>>,
    /// Since when this is so.
    pub(crate) since: Instant,
}

/// A configuration file that is followed while the process runs.
pub(crate) struct FileSource {
    path: PathBuf,
    registry: PolicyRegistry,
    env: Box<Environment>,
    watch: FileWatch,
    status: watch::Sender<SourceStatus>,
}

impl FileSource {
    /// Reads the file for the first time and applies it.
    ///
    /// # Errors
    /// If it is missing or bad: at the start nothing older could be meant.
    pub(crate) fn open(
        path: impl Into<PathBuf>,
        registry: PolicyRegistry,
        env: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
        store: &Mutex<Store>,
    ) -> Result<Self, Report> {
        let path = path.into();
        let env: Box<Environment> = Box::new(env);
        // Before the first read, so that no change falls between the two.
        let watch = FileWatch::new(path.clone());
        load(&path, &registry, &*env, store)?;
        let last_good = lock(store).snapshot().generation;
        let status = SourceStatus { path: path.clone(), last_good, last_error: None, since: rt::now() };
        Ok(Self { path, registry, env, watch, status: watch::Sender::new(status) })
    }

    /// The status, as it changes.
    pub(crate) fn status(&self) -> watch::Receiver<SourceStatus> {
        self.status.subscribe()
    }

    /// Follows the file for ever; `publish` gets each new snapshot. To be spawned by the owner of the store.
    pub(crate) async fn run(mut self, store: Arc<Mutex<Store>>, publish: impl Fn(Arc<Snapshot>) + Send) {
        loop {
            self.watch.changed().await;
            let mut read = load(&self.path, &self.registry, &*self.env, &store);
            while read.is_err() && rt::timeout(SETTLE, self.watch.changed()).await.is_some() {
                read = load(&self.path, &self.registry, &*self.env, &store);
            }
            let last_good = match read {
                Ok(snapshot) => {
                    // First: who sees that a configuration is in use must not see the error before it.
                    let generation = lock(&store).snapshot().generation;
                    self.settle(generation, None);
                    if let Some(snapshot) = snapshot {
                        tracing::info!(path = %self.path.display(), generation = snapshot.generation, "configuration applied");
                        publish(snapshot);
                    }
                    continue;
                }
                Err(report) => {
                    let last_good = self.status.borrow().last_good;
                    self.settle(last_good, Some(Arc::new(report)));
                    last_good
                }
            };
            tracing::debug!(last_good, "the last good configuration stays");
        }
    }

    fn settle(&self, last_good: u64, error: Option<Arc<Report>>) {
        self.status.send_if_modified(|status| {
            let changed = status.last_error != error || status.last_good != last_good;
            if changed {
                if let Some(report) = &error {
                    tracing::error!(path = %self.path.display(), last_good, "configuration refused, the last good one stays\n{report}");
                } else if status.last_error.is_some() {
                    tracing::info!(path = %self.path.display(), "the configuration is good again");
                }
                *status = SourceStatus {
                    path: self.path.clone(),
                    last_good,
                    last_error: error,
                    since: rt::now(),
                };
            }
            changed
        });
    }
}

/// Reads and applies. The store is not locked while the file is read, and an update that is refused leaves it as it is.
fn load(
    path: &Path,
    registry: &PolicyRegistry,
    env: &Environment,
    store: &Mutex<Store>,
) -> Result<Option<Arc<Snapshot>>, Report> {
    let file = path.display().to_string();
    let bytes = loader::read_bounded(path).map_err(|error| loader::unreadable(&file, &error))?;
    let mut store = lock(store);
    let document = loader::read(&file, &bytes, registry, env, &store)?;
    let applied = store.apply(Update::File { document, lints: Vec::new() });
    if applied.rejected.is_empty() {
        Ok(applied.snapshot)
    } else {
        Err(loader::refused(&file, &bytes, applied.rejected))
    }
}

/// A store whose holder panicked is still whole: it is replaced as one or not at all.
fn lock(store: &Mutex<Store>) -> std::sync::MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ServiceName;

    fn store() -> Arc<Mutex<Store>> {
        Arc::new(Mutex::new(Store::new(Snapshot::new(ServiceName::new("app").unwrap()))))
    }

    fn open(path: &Path, store: &Mutex<Store>) -> Result<FileSource, Report> {
        FileSource::open(path, PolicyRegistry::default(), |_| None, store)
    }

    #[tokio::test]
    async fn a_missing_file_is_an_error_at_the_start() {
        let report = open(Path::new("/nowhere/sinew.yaml"), &store()).err().unwrap();
        assert!(report.to_string().contains("cannot be read"));
    }

    #[tokio::test]
    async fn a_bad_file_keeps_the_last_good_configuration_until_it_is_good_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sinew.yaml");
        let write = |text: &str| {
            let next = directory.path().join("next");
            std::fs::write(&next, text).unwrap();
            std::fs::rename(&next, &path).unwrap();
        };
        write("services: { a: { timeout: 1s } }");
        let store = store();
        let source = open(&path, &store).unwrap();
        let mut status = source.status();
        let (published, mut snapshots) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(source.run(store.clone(), move |snapshot| {
            let _ = published.send(snapshot);
        }));
        assert_eq!(lock(&store).snapshot().generation, 1);

        write("services: { a: { timeout: 1 } }");
        status.changed().await.unwrap();
        let error = status.borrow_and_update().last_error.clone().unwrap();
        assert!(error.to_string().contains("it has no unit"), "{error}");
        assert_eq!(lock(&store).snapshot().generation, 1);

        std::fs::write(&path, "").unwrap();
        status.changed().await.unwrap();
        assert!(status.borrow_and_update().last_error.as_ref().unwrap().to_string().contains("empty"));

        write("services: { a: { timeout: 2s } }");
        let snapshot = snapshots.recv().await.unwrap();
        assert_eq!(snapshot.generation, 2);
        assert_eq!(snapshot.services["a"].timeouts.request, Some(Duration::from_secs(2)));
        status.changed().await.unwrap();
        assert!(status.borrow_and_update().last_error.is_none());

        std::fs::remove_file(&path).unwrap();
        status.changed().await.unwrap();
        assert!(status.borrow().last_error.is_some());
        assert_eq!(lock(&store).snapshot().generation, 2);
        task.abort();
    }
}
