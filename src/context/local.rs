//! The context of the running task: a thread-local that is swapped in around each poll.
//!
//! Swapping a pointer in and out costs two thread-local writes per poll; tokio's own task-local would clone the value
//! into a closure each time.

use std::{
    cell::RefCell,
    mem,
    pin::Pin,
    task::{Context as Task, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Context;

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// Reads the current context without cloning it.
pub(crate) fn with_current<R>(read: impl FnOnce(Option<&Context>) -> R) -> R {
    CURRENT.with(|current| match current.try_borrow() {
        Ok(current) => read(current.as_ref()),
        Err(_) => read(None),
    })
}

/// Puts a context in place until dropped, then puts the previous one back, also when a poll panics.
struct Entered<'a>(&'a mut Option<Context>);

impl<'a> Entered<'a> {
    fn new(context: &'a mut Option<Context>) -> Self {
        CURRENT.with(|current| mem::swap(&mut *current.borrow_mut(), context));
        Self(context)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.with(|current| mem::swap(&mut *current.borrow_mut(), self.0));
    }
}

pin_project! {
    /// A future or body that runs inside a [`Context`].
    #[derive(Debug)]
    pub struct Scoped<F> {
        #[pin]
        inner: F,
        context: Option<Context>,
    }
}

impl<F> Scoped<F> {
    pub(crate) fn new(inner: F, context: Option<Context>) -> Self {
        Self { inner, context }
    }

    pub(crate) fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = Entered::new(this.context);
        this.inner.poll(task)
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Scoped<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let _entered = Entered::new(this.context);
        this.inner.poll_frame(task)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Inner;
    use super::*;

    fn context(id: &str) -> Context {
        Context::new(Inner { request_id: Some(id.into()), ..Inner::default() })
    }

    fn current() -> Option<String> {
        Context::current().and_then(|context| context.request_id().map(str::to_owned))
    }

    #[tokio::test]
    async fn a_scope_holds_across_awaits_and_ends_with_the_future() {
        let inside = context("a").scope(async {
            tokio::task::yield_now().await;
            let nested = context("b").scope(async { current() }).await;
            (nested, current())
        });
        assert_eq!(inside.await, (Some("b".into()), Some("a".into())));
        assert_eq!(current(), None);
    }

    #[tokio::test]
    async fn a_panicking_poll_leaves_no_context_behind() {
        let scoped = context("a").scope(async { panic!("on purpose") });
        let result = tokio::spawn(async move {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut scoped = Box::pin(scoped);
                let waker = std::task::Waker::noop();
                let _ = scoped.as_mut().poll(&mut Task::from_waker(waker));
            }));
            (caught.is_err(), current())
        });
        assert_eq!(result.await.unwrap(), (true, None));
    }
}
