//! Exact limits on what may be in flight.
//!
//! A limit is taken in `call`, never in `poll_ready` (a permit reserved by a clone that is never called would be lost),
//! and returned when the response *body* ends, because a call that streams is still a call.

mod layer;
mod policy;

pub use crate::permit::{Limit, Permit};

pub use self::{
    layer::{LimitBody, LimitLayer, LimitService, ResponseFuture},
    policy::BreakerPolicy,
};
