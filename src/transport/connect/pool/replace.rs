//! Connections to an address that many stand behind, when one of them is not to be used any more.
//!
//! Whoever a connection of a virtual IP reaches may hang while the others work. There is nobody to eject; another
//! connection reaches another one, as likely as not. So a connection that is told to be silent takes no more calls, and
//! another is made in its place. Its calls are left to go on: they may only be slow.

use std::sync::Arc;

use super::{ConnectionId, Pool};
use crate::{model::SetKind, transport::connect::h2::H2Connection};

impl Pool {
    /// Whether a request could be sent on another connection than these.
    pub(crate) fn has_other(&self, tried: &[ConnectionId]) -> bool {
        let state = self.lock();
        let other = |connection: &Arc<H2Connection>| connection.usable() && !tried.contains(&connection.id);
        // HTTP/1.1 makes one.
        !state.closed && (state.h2.is_empty() || state.h2.iter().any(other))
    }

    /// Whether this connection carries requests, one beside the other.
    pub(crate) fn has(&self, id: ConnectionId) -> bool {
        self.lock().h2.iter().any(|connection| connection.id == id)
    }

    /// Replaces silent connections: all of them if others are left, else one, and that is offered until the other is there.
    pub(crate) fn replace(self: &Arc<Self>, silent: &[ConnectionId]) {
        let mut state = self.lock();
        let is_silent = |connection: &&Arc<H2Connection>| silent.contains(&connection.id);
        let replaced: Vec<_> = state.h2.iter().filter(is_silent).filter(|found| found.usable()).cloned().collect();
        if self.target.kind != SetKind::Vip || replaced.is_empty() || state.closed {
            return;
        }
        let others = state.h2.iter().any(|connection| connection.usable() && !is_silent(&connection));
        let known = |connection: &&Arc<H2Connection>| state.renewing.iter().any(|known| Arc::ptr_eq(known, connection));
        let first = replaced.iter().find(|connection| !known(connection)).cloned();
        if !others {
            state.renewing.extend(first);
        }
        drop(state);
        let endpoint = &*self.target.label;
        tracing::info!(endpoint, "{} connections do not answer: they are replaced", replaced.len());
        if others {
            for connection in &replaced {
                connection.drain();
            }
        }
        self.want_more();
    }
}
