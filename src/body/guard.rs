//! Values that end with a body.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::error::Error;

/// What a guard learns when its body is over.
#[derive(Debug)]
pub(crate) enum End<'a> {
    /// Every frame was read. Trailers, if any, were seen by [`Guard::trailers`] before.
    Complete,
    /// The body failed.
    Failed(&'a Error),
    /// The reader went away.
    Dropped,
}

/// Ends with a body. Neither method may block, await or panic.
pub(crate) trait Guard: Send + 'static {
    /// A data frame passed.
    fn data(&mut self, _bytes: usize) {}
    /// The trailers passed.
    fn trailers(&mut self, _trailers: &HeaderMap) {}
    /// The body is over. Called exactly once, then the guard is dropped.
    fn end(&mut self, end: End<'_>);
}

impl<G: Guard> Guard for Option<G> {
    fn data(&mut self, bytes: usize) {
        if let Some(guard) = self {
            guard.data(bytes);
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(guard) = self {
            guard.trailers(trailers);
        }
    }

    fn end(&mut self, end: End<'_>) {
        if let Some(guard) = self {
            guard.end(end);
        }
    }
}

/// A value that only has to be dropped when the body is over.
pub(crate) struct Held<T>(pub(crate) T);

impl<T: Send + 'static> Guard for Held<T> {
    fn end(&mut self, _end: End<'_>) {}
}

pin_project! {
    /// Carries a guard that ends with the body.
    ///
    /// hyper and tonic often stop polling before `None`, so the end is noticed at trailers, `None`, an error, drop,
    /// and at `is_end_stream()`, after a frame and at construction.
    pub(crate) struct GuardedBody<B, G: Guard> {
        #[pin]
        body: B,
        guard: Ending<G>,
    }
}

struct Ending<G: Guard>(Option<G>);

impl<G: Guard> Ending<G> {
    fn end(&mut self, end: End<'_>) {
        if let Some(mut guard) = self.0.take() {
            guard.end(end);
        }
    }
}

impl<G: Guard> Drop for Ending<G> {
    fn drop(&mut self) {
        self.end(End::Dropped);
    }
}

impl<B: HttpBody, G: Guard> GuardedBody<B, G> {
    #[inline(always)]
    pub(crate) fn new(body: B, guard: G) -> Self {
        let mut guard = Ending(Some(guard));
        if body.is_end_stream() {
            guard.end(End::Complete);
        }
        Self { body, guard }
    }
}

impl<B, G> HttpBody for GuardedBody<B, G>
where
    B: HttpBody<Data = Bytes, Error = Error>,
    G: Guard,
{
    type Data = Bytes;
    type Error = Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match &frame {
            None => this.guard.end(End::Complete),
            Some(Err(error)) => this.guard.end(End::Failed(error)),
            Some(Ok(frame)) => {
                if let Some(guard) = &mut this.guard.0 {
                    if let Some(data) = frame.data_ref() {
                        guard.data(data.len());
                        if this.body.is_end_stream() {
                            this.guard.end(End::Complete);
                        }
                    } else if let Some(trailers) = frame.trailers_ref() {
                        guard.trailers(trailers);
                        this.guard.end(End::Complete);
                    }
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
