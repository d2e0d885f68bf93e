//! From an error to an answer: an HTTP status, or a gRPC trailers-only response.
//!
//! A gRPC library that gets a foreign error guesses a status for it, mostly UNKNOWN; an answer made here carries the
//! right one. The layer stands below the metrics, which find the cause in the answer's extensions.

mod answer;
mod layer;

pub(crate) use self::{
    answer::{Reader, answer},
    layer::{Rescue, RescueLayer},
};
