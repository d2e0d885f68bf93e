//! Asking endpoints how they are, and what a cluster makes of the answers.
//!
//! A [`Checker`] asks one endpoint one thing, over connections of its own: those of calls may all be busy, or may work
//! where a new one would not. Clusters subscribe to checkers; those that would ask the same of the same address share one,
//! so that a service that is configured under three names is not asked three times. What an answer means for calls is each
//! cluster's own business ([`board`]).

mod board;
mod checker;
mod probe;
mod watch;

pub use self::board::CheckStatus;
pub(super) use self::{
    board::{Boards, CheckSeries},
    checker::Checks,
};
