//! Retries and hedges: what is sent again, to whom, how often, and when not.
//!
//! A retry turns a failure that would have been seen into a delay, and a failing backend into a flooded one. What tips it
//! is how many there are and of what. Here, first, what the peer provably did not process is told from what it may have
//! processed: the former is sent again whatever the method, the latter only where a policy says so and doing it twice
//! does no harm. Second, the backend's budget bounds all retries and hedges together, and the tree's allowance
//! bounds what a chain of services makes of one request. Each "no" has a reason that is counted by name.
//!
//! # States of a call
//! One attempt runs, inline. It fails: the decision (`decision`) is final, or another attempt is sent at once or after
//! its back-off. It is late: a hedge runs beside it and whoever answers first ends the other. It answers: the call is
//! committed, and nothing of its request is kept any longer. A gRPC response whose status may stand in its trailers is
//! looked into for at most 20 ms before that.
//!
//! # As a layer
//! ```
//! # fn main() -> Result<(), String> {
//! use sinew::retry::{RetryLayer, RetryPolicy};
//! use tower::{Layer, service_fn};
//!
//! let http = service_fn(|request: http::Request<sinew::Body>| async move {
//!     Ok::<_, sinew::Error>(http::Response::new(request.into_body()))
//! });
//! let http = RetryLayer::new(RetryPolicy::idempotent())?.layer(http);
//! # let _ = http;
//! # Ok(()) }
//! ```
//! Sources: Envoy's router filter (`retry_on`, back-off), gRFC A6 (commit point, push-back, transparent retries), Google's
//! SRE book, chapter 21 (budgets), "The Tail at Scale" (hedging).

mod allowance;
mod arrivals;
mod backoff;
mod body;
mod budget;
mod decision;
mod future;
mod handle;
mod head;
mod hedge;
mod layer;
mod plan;
mod policy;
mod push_back;
mod repeat;
mod source;
#[cfg(test)]
mod tests;

// Bounds that only a document's reader names.
#[cfg(feature = "file")]
pub(crate) use self::{hedge::MOST_HEDGES, policy::LARGEST_BUFFER};

pub(crate) use self::{
    arrivals::Arrivals,
    budget::Budget,
    future::PEEK,
    handle::Series,
    head::Head,
    policy::MOST_RETRIES,
    repeat::{AttemptKind, Beginning, Kept, Next, Repeat, Repeating},
};
pub use self::{
    backoff::{Backoff, Jitter},
    body::RetryBody,
    handle::{Handle, RetrySpec},
    hedge::{HedgeMode, HedgePolicy},
    layer::{ResponseFuture, Retry, RetryLayer},
    policy::{Condition, RetryOn, RetryPolicy},
};
