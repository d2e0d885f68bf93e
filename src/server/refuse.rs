//! The future of a layer that either refuses at once or goes on.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::error::Error;

pin_project! {
    #[project = ResponseProjection]
    pub(crate) enum ResponseFuture<F> {
        Running { #[pin] future: F },
        Refused { error: Option<Error> },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn refused(error: Error) -> Self {
        Self::Refused { error: Some(error) }
    }
}

impl<F, T> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, Error>>,
{
    type Output = Result<T, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ResponseProjection::Running { future } => future.poll(cx),
            // Taken once: the future is over with it.
            ResponseProjection::Refused { error } => {
                error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
            }
        }
    }
}
