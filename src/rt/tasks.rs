//! Every background task has an owner, and ends with it.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::OnceCell};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Lag;

/// A group of tasks that is cancelled as one.
///
/// Clones share the group; a [`child`](TaskSet::child) is a group of its own that also ends with its parent. A task is
/// dropped at its next await when the group is cancelled.
#[derive(Clone, Debug)]
pub(crate) struct TaskSet {
    tracker: TaskTracker,
    cancel: CancellationToken,
    runtime: Arc<OnceCell<Handle>>,
    lag: Arc<Lag>,
}

impl TaskSet {
    /// A group that spawns on the runtime of its first spawn.
    pub(crate) fn new() -> Self {
        Self { tracker: TaskTracker::new(), cancel: CancellationToken::new(), runtime: Arc::default(), lag: Lag::new() }
    }

    /// A group that ends with this one, or earlier.
    pub(crate) fn child(&self) -> Self {
        Self { cancel: self.cancel.child_token(), ..self.clone() }
    }

    /// Binds the group to a runtime, so that tasks can be spawned from threads outside of it.
    pub(crate) fn bind(&self, handle: Handle) {
        let _ = self.runtime.set(handle);
    }

    /// Starts a task. Outside a runtime and before [`bind`](TaskSet::bind) the task is dropped with a warning.
    pub(crate) fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handle = match self.runtime.get() {
            Some(handle) => handle.clone(),
            None => match Handle::try_current() {
                Ok(handle) => handle,
                Err(_) => {
                    tracing::warn!("a background task was dropped: no tokio runtime is running on this thread");
                    return;
                }
            },
        };
        // A token of its own: the group's is behind a lock that every poll of every task would take.
        let cancel = self.cancel.child_token();
        self.tracker.spawn_on(
            async move {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {}
                    () = future => {}
                }
            },
            &handle,
        );
    }

    /// How late the runtime of the group is.
    pub(crate) fn lag(&self) -> &Arc<Lag> {
        &self.lag
    }

    /// Tells every task of the group to end.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Cancels and waits for the tasks, at most `limit`. True if all ended.
    pub(crate) async fn shutdown(&self, limit: Duration) -> bool {
        self.cancel.cancel();
        self.tracker.close();
        super::timeout(limit, self.tracker.wait()).await.is_some()
    }

    /// How many tasks of this group and its relatives run.
    pub(crate) fn len(&self) -> usize {
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_child_ends_alone_and_all_end_with_the_parent() {
        let parent = TaskSet::new();
        let child = parent.child();
        parent.spawn(std::future::pending());
        child.spawn(std::future::pending());
        assert_eq!(parent.len(), 2);
        child.cancel();
        while parent.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert!(parent.shutdown(Duration::from_secs(1)).await);
        assert_eq!(parent.len(), 0);
    }
}
