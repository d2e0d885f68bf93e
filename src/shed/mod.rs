//! Overload: refusing early what could only be done late.
//!
//! A process that takes in more than it can do does all of it late, and most of it for callers that have stopped waiting.
//! Admission refuses what is too much at once and cheaply, with a mark that tells callers that nothing was done.
//!
//! # What is looked at
//! How many requests are in work, against a fixed limit or one that finds itself ([`AdaptivePolicy`]); and for how long
//! tasks that are ready wait for a thread, because over HTTP/1.1, where calls queue in the kernel, few are in work even
//! under a multiple of what can be done. Requests that have expired are refused before they come here.
//!
//! # Who is refused
//! The least critical first, and within a criticality by user. Criticality and user count only from peers that are
//! allowed to set them.
//!
//! The caller's half is [`throttle`].
//!
//! # Sources
//! Site Reliability Engineering, chapter 21 (criticality, refusing by it); Zhou et al., "Overload Control for Scaling
//! WeChat Microservices" (levels by user, threshold from the spread of arrivals); Netflix's concurrency-limits (Gradient2,
//! Vegas, AIMD) with the baseline held as its module says.

mod adaptive;
mod layer;
mod levels;
mod policy;
mod series;
mod shedder;
#[cfg(test)]
mod tests;
pub mod throttle;

pub use self::{
    adaptive::{AdaptiveAlgorithm, AdaptivePolicy},
    layer::{Admission, LoadShed, LoadShedLayer, ResponseFuture, Weighed},
    policy::ShedPolicy,
};
pub(crate) use self::{layer::is_exempt, series::Series, shedder::Policies};
