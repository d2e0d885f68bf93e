//! What no source of configuration lowers.

use std::{collections::BTreeMap, time::Duration};

use super::Mtls;
use crate::name::SpiffeId;

/// The least that holds, whatever any source says: set by code, by `Builder::floor`.
///
/// What nobody sets is raised to it. A document that sets less is refused, with the place and the cure, and what was in
/// effect stays. It binds sources, not code in this process: a call may still say what it wants, and what the application
/// opens by itself is outside of it. Sources may ask for more.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Floor {
    /// The least that listeners ask of peers.
    pub mtls: Option<Mtls>,
    /// By service, who may answer for it, by mutual TLS: sources may name fewer.
    pub identities: BTreeMap<String, Vec<SpiffeId>>,
    /// Nothing is sent twice that a peer may have processed: no condition besides `connect-failure`, `refused-stream` and
    /// `reset-before-request`, and no hedging.
    pub unprocessed_only: bool,
    /// The longest timeout of a whole call. Calls without one get it.
    pub max_timeout: Option<Duration>,
}

impl Floor {
    /// Nothing is held fast.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listeners ask for at least this.
    #[must_use]
    pub fn mtls(mut self, mode: Mtls) -> Self {
        self.mtls = Some(mode);
        self
    }

    /// These may answer for a service, by mutual TLS, and nobody else.
    #[must_use]
    pub fn identities(mut self, service: &str, ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        self.identities.insert(service.to_owned(), ids.into_iter().collect());
        self
    }

    /// Only what no peer can have processed is sent again.
    #[must_use]
    pub fn unprocessed_only(mut self) -> Self {
        self.unprocessed_only = true;
        self
    }

    /// No call of any service lasts longer, unless code says so for the one call.
    #[must_use]
    pub fn max_timeout(mut self, timeout: Duration) -> Self {
        self.max_timeout = Some(timeout);
        self
    }
}
