//! Limits that are counted elsewhere: Envoy's rate limit service.
//!
//! One service counts for many processes, so that a limit holds for a fleet. It is asked before a request goes on, and it
//! may be slow or away, so asking has a short timeout, and what happens without an answer is decided here: the request
//! passes, it is held to a local allowance, or it is refused. After five failures in a row the service is left alone for a
//! second, then asked by one request alone, so that one that hangs does not cost every request its timeout.
//!
//! Sources: `envoy.service.ratelimit.v3` and the `ratelimit` filter (timeout of 20 ms, `failure_mode_deny`, headers).
//! Different from Envoy: the local fallback, and leaving alone a service that fails.

mod fleet;
mod health;
mod policy;
mod question;

pub(crate) use self::fleet::Fleet;
pub(super) use self::{
    fleet::Counter,
    question::{FailSeries, Global, Question},
};
pub use self::{
    fleet::{Answer, Asking, CountLimits, Query},
    policy::{GlobalDescriptor, GlobalEntry, GlobalPolicy, GlobalValue},
};
