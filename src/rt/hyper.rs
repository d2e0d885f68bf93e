//! hyper's runtime traits.

use std::future::Future;

pub(crate) use tokio::task::AbortHandle;

/// hyper's clock, paused with tokio's.
pub(crate) use hyper_util::rt::TokioTimer as HyperTimer;

/// Spawns the streams of an HTTP/2 connection.
///
/// They are not tracked: a stream ends with its connection, because h2 fails every stream when the connection is
/// dropped, and a shared set costs three times as much per spawn as the spawn itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StreamExecutor;

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

/// Spawns one stream; who holds the handle can end it, which resets the stream.
pub(crate) fn spawn_stream<F>(future: F) -> AbortHandle
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future).abort_handle()
}
