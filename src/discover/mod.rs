//! Endpoint streams: where the endpoints of a service are, as they change.
//!
//! A source is subscribed once per service that uses it. Its stream ends only when the source will never speak again;
//! an error is reported and the last good set stays.

#[cfg(feature = "dns")]
mod dns;
#[cfg(not(feature = "dns"))]
#[path = "dns_off.rs"]
mod dns;
#[cfg(feature = "file")]
mod file;
#[cfg(not(feature = "file"))]
#[path = "file_off.rs"]
mod file;
mod fixed;
mod merge;
#[cfg_attr(not(feature = "dns"), allow(dead_code))]
mod settings;
#[cfg(any(feature = "dns", feature = "file"))]
mod stream;

pub(crate) use self::merge::{Sources, subscribe};
pub use self::{fixed::FixedEndpoints, settings::DnsSettings};

use std::{fmt, pin::Pin, sync::Arc};

use futures_core::Stream;

use crate::{error::BoxError, model::EndpointUpdate};

/// A source of endpoints. Register one of your own with the builder.
pub trait Discover: Send + Sync + 'static {
    /// Begins to watch. Called inside a tokio runtime, once per service that uses the source.
    fn subscribe(&self) -> Discovery;
}

/// A running subscription.
pub struct Discovery {
    /// What changes, beginning with what is known. Dropped when the service is removed.
    pub updates: Pin<Box<dyn Stream<Item = Result<EndpointUpdate, DiscoverError>> + Send>>,
    /// Asks the source to look again, where that makes sense.
    pub refresh: Option<Arc<dyn Refresh>>,
}

impl Discovery {
    /// A subscription that cannot be refreshed.
    pub fn new(updates: impl Stream<Item = Result<EndpointUpdate, DiscoverError>> + Send + 'static) -> Self {
        Self { updates: Box::pin(updates), refresh: None }
    }

    /// Adds a way to ask for a fresh look.
    #[must_use]
    pub fn with_refresh(mut self, refresh: Arc<dyn Refresh>) -> Self {
        self.refresh = Some(refresh);
        self
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Discovery")
    }
}

/// Asks a source to look again: called when connections to its endpoints fail. Must not block.
pub trait Refresh: Send + Sync + 'static {
    /// A fresh answer is wanted; the source bounds how often it really asks.
    fn refresh(&self);
}

/// Why a source could not say where the endpoints are. The last good set stays in use.
#[derive(Debug)]
pub struct DiscoverError {
    message: String,
    source: Option<BoxError>,
}

impl DiscoverError {
    /// An error that says what was asked, what came back, and what to do.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for DiscoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DiscoverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
