//! Which endpoints are trusted with calls.
//!
//! What is known against an endpoint comes from several sides: calls that failed there, health checks, discovery. They
//! meet in one word per endpoint, `Availability`, so that a pick reads one atomic, whoever spoke last. A bit is set and
//! cleared by its one owner and never by another: a passed health check does not forgive an ejection that was earned by
//! wrong answers.
//!
//! An endpoint takes calls if no bit speaks against it. When too few do, the judgement is worth less than the capacity,
//! and `in_panic` admits what was ejected or failed its health checks.
//!
//! # Outlier detection
//! Every attempt leaves one `Sample` in the `Vitals` of its endpoint. A detector that finds an outlier there gives a
//! `Cause`; `judge` asks whether the others do better and whether enough of them are left; `Ejection` says for how
//! long, and how the endpoint comes back. All of it takes time and dice as arguments, and knows neither calls nor
//! connections.
//!
//! # Active checks
//! [`HealthCheck`] says what endpoints are asked and how often, `CheckState` what follows from their answers.

mod availability;
mod cause;
mod check;
mod ejection;
mod history;
mod median;
mod panic;
mod policy;
mod rates;
mod sample;
mod success_rate;
mod unanswered;
mod verdict;
mod vitals;

#[cfg(feature = "file")]
pub(crate) use self::check::SHORTEST;
pub(crate) use self::{
    availability::{Availability, Flag},
    cause::Cause,
    check::{CheckState, Expected, Finding, Messages, ServingStatus, Status, grpc_request},
    ejection::{Account, Change, Ejection},
    history::Recent,
    median::Median,
    panic::in_panic,
    rates::outliers,
    sample::Sample,
    success_rate::SuccessRate,
    unanswered::{Ages, Buckets, Line, Sent, Unanswered},
    verdict::{Peer, Verdict, judge, most_ejected},
    vitals::{Vitals, Window},
};
pub use self::{
    check::{CheckKind, GrpcCheck, HealthCheck, HttpCheck, Payload, StatusRange, TcpCheck},
    policy::{OutlierPolicy, Recovery},
};

#[cfg(test)]
mod tests;
