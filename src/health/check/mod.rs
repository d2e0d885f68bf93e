//! Active health checks: asking endpoints how they are, whether or not there are calls.
//!
//! What is asked and how often is a [`HealthCheck`]; what follows from the answers is [`CheckState`]. Both are plain data:
//! who asks, over which connection, and what is done about it is the cluster's business.
//!
//! ```text
//!            the first passes
//!   unknown -------------------> healthy <-------------------------+
//!      |                            |                              | `healthy_threshold` in a row
//!      |  `unhealthy_threshold` in a row fail, or one answers      | pass
//!      +--------------------------------+------------------------> unhealthy
//!                                           what must not be answered
//! ```

mod grpc;
mod payload;
mod policy;
mod state;

#[cfg(feature = "file")]
pub(crate) use self::policy::SHORTEST;
pub(crate) use self::{
    grpc::{Messages, ServingStatus, request as grpc_request},
    payload::Expected,
    state::{CheckState, Finding, Status},
};
pub use self::{
    payload::Payload,
    policy::{CheckKind, GrpcCheck, HealthCheck, HttpCheck, StatusRange, TcpCheck},
};
