//! The server stack: what happens to a request between the listener and the application.

mod access;
mod app;
mod audit;
mod authenticate;
mod authorize;
mod body_limit;
mod callers;
mod canonical;
mod deadline;
mod external;
mod inbound;
mod layer;
mod open;
mod policy;
mod refuse;
mod stack;
mod tree;

#[cfg(any(feature = "axum", feature = "tonic"))]
pub(crate) use self::layer::RequestBody;
pub use self::layer::{ServerLayer, ServerService};
pub(crate) use self::{
    access::{Access, Audience},
    callers::Callers,
    external::{Ask, Asked},
    open::OpenConnection,
    policy::ServerShared,
    stack::connection,
};
