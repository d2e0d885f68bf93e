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
mod ops;
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
pub mod model;
mod server;

pub use self::{
    client::{Client, RequestBuilder, ResponseExt, ResponseFuture, StatusError},
    cluster::{ClusterStatus, EndpointStatus},
    server::{ServerLayer, ServerService},
};
pub use self::{
    body::Body,
    classify::Outcome,
    context::{Call, Context, Criticality, Scoped, TraceContext, spawn},
    error::{BoxError, Code, Delivery, Error, Kind, Origin},
    peer::{Peer, PeerAddr},
};
