//! Timeouts that follow the body.
//!
//! A timeout that ends at the response headers lets a stalled body hang for ever, and one that wraps retries the wrong
//! way stops them. Here a call has one [`Deadline`], worked out once from what was configured, passed with the call and
//! inherited from the caller; it covers the response body, and whoever set it is named when it passes.

mod deadline;
mod layer;
mod policy;

pub(crate) use self::deadline::{Cause, Idle, RequestSent};
pub use self::{
    deadline::Deadline,
    layer::{After, ResponseFuture, Timeout, TimeoutBody, TimeoutLayer},
    policy::TimeoutPolicy,
};
