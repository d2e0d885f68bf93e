//! The connections of an endpoint that stands for many, judged by their answers.

use std::sync::{Arc, Mutex, PoisonError};

use super::endpoint::Endpoint;
use crate::{
    health::{Line, Sent},
    transport::{ConnectionId, Slot},
};

/// What is known of each connection. Empty where an endpoint is one process.
#[derive(Default)]
pub(super) struct Lines {
    lines: Mutex<Vec<Arc<Followed>>>,
}

/// A connection, and the calls on it.
pub(super) struct Followed {
    id: ConnectionId,
    line: Line,
}

impl Lines {
    /// The line that a request will be sent on. HTTP/1.1 needs none: a connection carries one request, and ends when that
    /// is given up.
    pub(super) fn of(&self, slot: &Slot) -> Option<Arc<Followed>> {
        if !slot.is_shared() {
            return None;
        }
        let id = slot.connection();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lines.iter().find(|line| line.id == id) {
            return Some(Arc::clone(known));
        }
        let followed = Arc::new(Followed { id, line: Line::default() });
        lines.push(Arc::clone(&followed));
        Some(followed)
    }
}

impl Followed {
    /// A request is sent.
    pub(super) fn sent(&self, at: Sent) {
        self.line.sent(at);
    }

    /// It was answered.
    pub(super) fn answered(&self, at: Sent, now: Sent) {
        self.line.answered(at, now);
    }

    /// It failed, or was given up.
    pub(super) fn over(&self, at: Sent) {
        self.line.over(at);
    }
}

impl Endpoint {
    /// Replaces the connections that were silent while calls of these times grew old.
    pub(super) fn judge_lines(&self, old: &[Sent]) {
        let mut lines = self.lines.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let silent: Vec<_> = lines.iter().filter(|line| line.line.is_silent(old)).map(|line| line.id).collect();
        lines.retain(|line| self.pool.has(line.id));
        drop(lines);
        if !silent.is_empty() {
            self.pool.replace(&silent);
        }
    }

    /// A request was given up so late that its silence tells, unless others were answered since it was sent.
    pub(super) fn gave_up_on(&self, line: &Followed, sent: Sent) {
        if line.line.silent_since(sent) {
            self.pool.replace(&[line.id]);
        }
    }
}
