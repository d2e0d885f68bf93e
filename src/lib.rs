//! The service mesh you link, not run.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod body;
mod classify;
mod context;
mod error;
mod instrument;
pub mod matching;
pub mod name;
mod peer;
pub mod provide;
mod rt;
pub mod seat;
mod transport;

pub mod balance;
pub mod breaker;
pub mod route;
pub mod timeout;

pub mod discover;
pub mod model;
mod source;

/// Checking configurations: the loader of `sinew.yaml` and its reports.
#[cfg(feature = "file")]
pub mod config {
    #[cfg(feature = "schema")]
    pub use crate::source::file::schema;
    pub use crate::source::file::{Diagnostic, Loader, Report, show};
}

pub use self::{
    body::Body,
    classify::Outcome,
    context::{Call, Context, Criticality, Scoped, TraceContext, spawn},
    error::{BoxError, Code, Delivery, Error, Kind, Origin},
    peer::{Peer, PeerAddr},
};
