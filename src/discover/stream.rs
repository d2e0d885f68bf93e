//! A stream from an async function over its state: nothing is spawned, dropping the stream ends the work.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;

type Step<S, T> = Pin<Box<dyn Future<Output = Option<(T, S)>> + Send>>;

/// Yields what `next` makes of the state, until it makes nothing.
pub(super) fn unfold<S: 'static, T, F>(state: S, next: fn(S) -> F) -> Unfold<S, T>
where
    F: Future<Output = Option<(T, S)>> + Send + 'static,
{
    let start = Box::pin(next(state));
    Unfold { step: Some(start), next: Box::new(move |state| Box::pin(next(state))) }
}

pub(super) struct Unfold<S, T> {
    step: Option<Step<S, T>>,
    next: Box<dyn Fn(S) -> Step<S, T> + Send>,
}

impl<S, T> Stream for Unfold<S, T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(step) = &mut self.step else { return Poll::Ready(None) };
        let Poll::Ready(done) = step.as_mut().poll(cx) else { return Poll::Pending };
        let Some((item, state)) = done else {
            self.step = None;
            return Poll::Ready(None);
        };
        self.step = Some((self.next)(state));
        Poll::Ready(Some(item))
    }
}
