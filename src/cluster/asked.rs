//! Which endpoints a call was sent to.

use std::sync::{Arc, Mutex, PoisonError};

/// The endpoints that the attempts of one call were sent to. The call cannot learn it from their answers: an answer names
/// no endpoint, and an attempt that is late has none.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    ids: Mutex<Vec<Arc<str>>>,
}

impl Asked {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn push(&self, id: &Arc<str>) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(id));
    }

    /// Adds them to a list that may have some of them.
    pub(crate) fn add_to(&self, tried: &mut Vec<Arc<str>>) {
        for id in self.ids.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if !tried.contains(id) {
                tried.push(Arc::clone(id));
            }
        }
    }
}
