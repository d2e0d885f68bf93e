//! Work that nobody waits for any more is refused before it starts.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::{inbound::Served, refuse::ResponseFuture};
use crate::{
    error::{Code, Error, Origin},
    provide::Provide,
    timeout::{Cause, Deadline},
};

/// The caller's deadline, for the timeout around the application. No deadline arms no timer.
#[derive(Clone, Debug)]
pub(crate) struct CallersDeadline;

impl Provide<Deadline, Served> for CallersDeadline {
    fn provide(&self, served: &Served) -> Option<Deadline> {
        served.cx.deadline.map(|at| Deadline::new(at, Cause::Inbound))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ExpiredLayer;

impl<S> Layer<S> for ExpiredLayer {
    type Service = Expired<S>;

    fn layer(&self, inner: S) -> Expired<S> {
        Expired { inner }
    }
}

/// Refuses requests whose deadline has passed with E021.
#[derive(Clone, Debug)]
pub(crate) struct Expired<S> {
    inner: S,
}

impl<S> Service<Served> for Expired<S>
where
    S: Service<Served, Error = Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, served: Served) -> Self::Future {
        match served.cx.deadline {
            Some(deadline) if deadline <= served.cx.started => ResponseFuture::refused(refusal()),
            _ => ResponseFuture::Running { future: self.inner.call(served) },
        }
    }
}

#[cold]
fn refusal() -> Error {
    let message = "the request arrived after its caller's deadline; the time was spent before this hop";
    Error::new(Code::DeadlineExhausted, message).with_origin(Origin::Caller)
}
