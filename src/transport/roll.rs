//! Who is connected, so that a connection can be ended when what its peer proved holds no longer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::identity::Proven;

/// Connections with a proven peer, accepted or dialled.
#[derive(Default)]
pub(crate) struct Roll {
    entries: Mutex<Entries>,
}

type Cut = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Entries {
    next: u64,
    open: HashMap<u64, (Proven, Cut)>,
}

/// On the roll until dropped.
pub(super) struct Enrolled {
    roll: Arc<Roll>,
    key: u64,
}

impl Roll {
    /// `cut` ends the connection wherever its bytes are by then.
    pub(super) fn enrol(self: &Arc<Self>, peer: Proven, cut: impl FnOnce() + Send + 'static) -> Enrolled {
        let mut entries = self.lock();
        let key = entries.next;
        entries.next += 1;
        entries.open.insert(key, (peer, Box::new(cut)));
        Enrolled { roll: Arc::clone(self), key }
    }

    /// Ends every connection whose peer is not accepted any more, and says how many those were.
    pub(crate) fn recheck(&self, holds: impl Fn(&Proven) -> bool) -> usize {
        let gone: Vec<Cut> =
            self.lock().open.extract_if(|_, (peer, _)| !holds(peer)).map(|(_, (_, cut))| cut).collect();
        let ended = gone.len();
        // Outside of the lock: what ends may take itself off the roll.
        gone.into_iter().for_each(|cut| cut());
        ended
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.roll.lock().open.remove(&self.key);
    }
}
