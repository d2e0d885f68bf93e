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
mod permit;
pub mod provide;
mod rt;
pub mod seat;
mod transport;

pub mod balance;
pub mod breaker;
mod rescue;
pub mod route;
mod telemetry;
pub mod timeout;

mod adapter;
mod client;
mod cluster;
pub mod discover;
mod mesh;
pub mod model;
mod ops;
mod server;
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
    context::{Call, Context, Criticality, Scoped, Task, TaskError, TraceContext, spawn},
    error::{BoxError, Code, Delivery, Error, Kind, Origin},
    peer::{Peer, PeerAddr},
};
pub use self::{
    client::{Client, RequestBuilder, ResponseExt, ResponseFuture, StatusError},
    cluster::{ClusterStatus, EndpointStatus},
    mesh::{BuildError, Builder, Listen, Listener, Mesh, MeshStatus, Network, Serve, ServiceStatus, SourceStatus},
    server::{ServerLayer, ServerService},
    source::builder::ServiceBuilder,
};
