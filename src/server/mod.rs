//! The server stack: what happens to a request between the listener and the application.

mod app;
mod canonical;
mod deadline;
mod inbound;
mod layer;
mod refuse;
mod stack;

#[cfg(any(feature = "axum", feature = "tonic"))]
pub(crate) use self::layer::RequestBody;
pub use self::layer::{ServerLayer, ServerService};
pub(crate) use self::stack::{ServerShared, connection};
