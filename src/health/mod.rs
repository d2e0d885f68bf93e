//! Which endpoints are trusted with calls.
//!
//! What is known against an endpoint comes from several sides: calls that failed there, health checks, discovery. They
//! meet in one word per endpoint, [`Availability`], so that a pick reads one atomic, whoever spoke last. A bit is set and
//! cleared by its one owner and never by another: a passed health check does not forgive an ejection that was earned by
//! wrong answers.
//!
//! An endpoint takes calls if no bit speaks against it. When too few do, the judgement is worth less than the capacity,
//! and [`in_panic`] admits what was ejected or failed its health checks.

mod availability;
mod panic;

pub(crate) use self::{
    availability::{Availability, Flag},
    panic::in_panic,
};
