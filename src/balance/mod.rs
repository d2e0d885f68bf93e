//! Choosing an endpoint.

mod policy;

pub use self::policy::BalancePolicy;
