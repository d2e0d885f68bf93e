//! Tasks that keep the context of whoever started them.

use std::{
    any::Any,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context as Poller, Poll},
};

use super::{Context, Scoped};

/// `tokio::spawn` that carries the [`Context`] of the caller, so that calls made by the new task keep the deadline,
/// the request id and the trace.
///
/// # Panics
/// Outside a tokio runtime, like `tokio::spawn`.
pub fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Task { handle: tokio::spawn(Scoped::new(future, Context::current())) }
}

/// A task started by [`spawn`]: resolves to what the task returns. Dropped, the task runs on.
pub struct Task<T> {
    handle: tokio::task::JoinHandle<T>,
}

impl<T> Task<T> {
    /// Ends the task at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("finished", &self.is_finished()).finish()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Poller<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.handle).poll(task).map_err(|error| TaskError { error })
    }
}

/// Why a task returned nothing: it panicked, was aborted, or its runtime ended.
pub struct TaskError {
    error: tokio::task::JoinError,
}

impl TaskError {
    /// Whether the task panicked.
    pub fn is_panic(&self) -> bool {
        self.error.is_panic()
    }

    /// Whether the task was aborted, or ended with its runtime.
    pub fn is_cancelled(&self) -> bool {
        self.error.is_cancelled()
    }

    /// What the task panicked with, for `std::panic::resume_unwind`; the error itself if it did not.
    ///
    /// # Errors
    /// The error, unchanged.
    pub fn try_into_panic(self) -> Result<Box<dyn Any + Send + 'static>, Self> {
        self.error.try_into_panic().map_err(|error| Self { error })
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for TaskError {}

#[cfg(test)]
mod tests {
    use super::super::Inner;
    use super::*;

    fn current() -> Option<String> {
        Context::current().and_then(|context| context.request_id().map(str::to_owned))
    }

    #[tokio::test]
    async fn spawn_carries_the_context_and_tokio_spawn_does_not() {
        let context = Context::new(Inner { request_id: Some("a".into()), ..Inner::default() });
        let (with, without) = context
            .scope(async {
                let with = spawn(async { current() }).await.unwrap();
                let without = tokio::spawn(async { current() }).await.unwrap();
                (with, without)
            })
            .await;
        assert_eq!(with, Some("a".into()));
        assert_eq!(without, None);
    }

    #[tokio::test]
    async fn a_task_tells_a_panic_from_an_abort() {
        let error = spawn(async { panic!("on purpose") }).await.unwrap_err();
        assert!(error.is_panic() && !error.is_cancelled());
        assert_eq!(error.try_into_panic().unwrap().downcast_ref::<&str>(), Some(&"on purpose"));
        let task = spawn(std::future::pending::<()>());
        task.abort();
        let error = task.await.unwrap_err();
        assert!(error.is_cancelled());
        assert!(error.try_into_panic().is_err());
    }
}
