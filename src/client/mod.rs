//! The client stack: what happens to a call between the application and the endpoint.

mod attempt;
mod deadline;
mod dispatch;
mod enter;
mod handle;
mod mirror;
#[cfg(test)]
mod one_clock;
mod outbound;
mod request;
mod retry;
mod runtime;
mod stack;

pub(crate) use self::{
    deadline::MARGIN,
    handle::{HttpSeam, Join, OwnSeam, ServiceSeam, Services},
    runtime::{CallSeats, ServiceHandle, ServiceRuntime},
};
pub use self::{
    handle::{Client, ResponseFuture},
    request::{RequestBuilder, ResponseExt, StatusError},
};
