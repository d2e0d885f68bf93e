//! Exact limits.

mod policy;

pub use self::policy::BreakerPolicy;
