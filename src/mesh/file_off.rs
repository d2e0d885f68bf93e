//! Without the feature `file` only code configures.

use std::sync::Arc;

use super::{
    builder::{BuildError, Builder},
    control::{Inner, Origins},
    status::SourceStatus,
};

/// No file is followed.
#[derive(Default)]
pub(super) struct Followed;

impl Followed {
    pub(super) fn status(&self) -> Option<SourceStatus> {
        None
    }
}

/// Never made.
pub(super) enum Text {}

impl Builder {
    /// Takes what the environment names. A configuration file needs the feature `file`.
    pub fn from_env(mut self) -> Self {
        if std::env::var_os("SINEW_CONFIG").is_some() {
            self.mistakes
                .push("SINEW_CONFIG is set, but this build reads no files: enable sinew's feature `file`".into());
        }
        self
    }
}

impl Origins {
    pub(super) fn load(self, _inner: &Arc<Inner>) -> Result<(), BuildError> {
        match self.text {
            Some(text) => match text {},
            None => Ok(()),
        }
    }
}

impl Inner {
    pub(super) fn follow_file(self: &Arc<Self>) {}
}
