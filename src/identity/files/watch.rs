//! A file, by events and by polling.

use std::path::Path;

use crate::rt::FileWatch;

pub(super) struct Watch(FileWatch);

impl Watch {
    pub(super) fn new(path: &Path) -> Self {
        Self(FileWatch::new(path))
    }

    /// Cancel-safe: a change seen by a dropped call is reported by the next.
    pub(super) async fn changed(&mut self) {
        self.0.changed().await;
    }
}
