//! Connections to an address that many stand behind, judged by their answers.
//!
//! Whoever a connection of a virtual IP reaches may hang while the others work. There is nobody to eject; another
//! connection reaches another one, as likely as not. So a connection whose calls grow old while none is answered takes no
//! more of them, and another is made in its place. Its calls are left to go on: they may only be slow.

use std::sync::Arc;

use super::{ConnectionId, Pool};
use crate::{health::Sent, model::SetKind, transport::connect::h2::H2Connection};

impl Pool {
    /// Whether a request could be sent on another connection than these.
    pub(crate) fn has_other(&self, tried: &[ConnectionId]) -> bool {
        let state = self.lock();
        let other = |connection: &Arc<H2Connection>| connection.usable() && !tried.contains(&connection.id);
        // HTTP/1.1 makes one.
        !state.closed && (state.h2.is_empty() || state.h2.iter().any(other))
    }

    /// Replaces the connections that were silent while calls of these times grew old.
    pub(crate) fn judge_lines(self: &Arc<Self>, old: &[Sent]) {
        let mut silent: Vec<_> = self.lock().h2.clone();
        // Every one of them is judged, also those that are not offered any more.
        silent.retain(|connection| connection.line.is_silent(old));
        self.replace(silent);
    }

    /// Replaces silent connections: all of them if others are left, else one, and that is offered until the other is there.
    pub(in crate::transport::connect) fn replace(self: &Arc<Self>, silent: Vec<Arc<H2Connection>>) {
        if self.target.kind != SetKind::Vip || silent.is_empty() {
            return;
        }
        let is_silent = |connection: &Arc<H2Connection>| silent.iter().any(|silent| Arc::ptr_eq(silent, connection));
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let others = state.h2.iter().any(|connection| connection.usable() && !is_silent(connection));
        let known = |connection: &Arc<H2Connection>| state.renewing.iter().any(|known| Arc::ptr_eq(known, connection));
        let first = silent.iter().find(|connection| connection.usable() && !known(connection)).cloned();
        if !others {
            state.renewing.extend(first);
        }
        drop(state);
        let endpoint = &*self.target.label;
        tracing::info!(endpoint, "{} connections do not answer: they are replaced", silent.len());
        if others {
            for connection in &silent {
                connection.drain();
            }
        }
        self.want_more();
    }
}
