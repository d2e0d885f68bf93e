//! Faults on purpose: what callers do when a service is slow, refuses or trickles is best learnt before it happens.
//!
//! A fault is injected where a call begins, above retries and below the overall deadline, so the service never sees an
//! aborted call and no statistic of it is touched: an injected outcome ejects nobody, draws on no budget and opens no
//! breaker. Delay, abort and slow response are rolled independently. Own timeouts start after an injected delay; a
//! deadline that was inherited does not wait.
//!
//! Faults end by themselves (`expires_after`), may be bounded in number (`max_active_faults`) and can be asked for by the
//! request's own header within the configured share.

mod engine;
mod handle;
mod header;
mod layer;
mod pace;
mod policy;

pub(crate) use self::{
    handle::{FaultHandle, Injection, Series},
    layer::{InjectLayer, Injected},
};
pub use self::{
    layer::{Fault, FaultLayer, ResponseFuture},
    policy::{Abort, Delay, FaultAbort, FaultDelay, FaultPolicy, FaultRate, Rate},
};
