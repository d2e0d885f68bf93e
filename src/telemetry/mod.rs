//! What is recorded about calls: a span, counters, a histogram, a line when something failed.
//!
//! One [`Record`] per call or request is opened above everything that can fail and closed when the response body ends,
//! so refusals, waiting and cancellations are inside it. All handles are resolved when the configuration is applied;
//! the happy path is three atomics and one clock read.

mod layer;
mod record;
mod series;

pub(crate) use self::{
    layer::TelemetryLayer,
    record::Record,
    series::{CallSeries, Direction},
};
