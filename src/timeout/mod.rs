//! Timeouts that follow the body.

mod policy;

pub use self::policy::TimeoutPolicy;
