//! Every background task has an owner, and ends with it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{runtime::Handle, sync::OnceCell};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

use super::Lag;

/// A group of tasks that is cancelled as one.
///
/// Clones share the group; a [`child`](TaskSet::child) is a group of its own that also ends with its parent. A task is
/// dropped at its next await when the group is cancelled.
#[derive(Clone, Debug)]
pub(crate) struct TaskSet {
    tracker: TaskTracker,
    cancel: CancellationToken,
    cancelled: Arc<Cancelled>,
    runtime: Arc<OnceCell<Handle>>,
    lag: Arc<Lag>,
}

impl TaskSet {
    /// A group that spawns on the runtime of its first spawn.
    pub(crate) fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
            cancelled: Arc::default(),
            runtime: Arc::default(),
            lag: Lag::new(),
        }
    }

    /// A group that ends with this one, or earlier.
    pub(crate) fn child(&self) -> Self {
        let cancelled = Cancelled { own: AtomicBool::new(false), parent: Some(Arc::clone(&self.cancelled)) };
        Self { cancel: self.cancel.child_token(), cancelled: Arc::new(cancelled), ..self.clone() }
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
        let (wait, cancelled) = (self.cancel.clone().cancelled_owned(), Arc::clone(&self.cancelled));
        self.tracker.spawn_on(Task { wait, waker: None, cancelled, future }, &handle);
    }

    /// How late the runtime of the group is.
    pub(crate) fn lag(&self) -> &Arc<Lag> {
        &self.lag
    }

    /// Tells every task of the group to end.
    pub(crate) fn cancel(&self) {
        // First: whoever is woken finds it.
        self.cancelled.own.store(true, SeqCst);
        self.cancel.cancel();
    }

    /// Cancels and waits for the tasks, at most `limit`. True if all ended.
    pub(crate) async fn shutdown(&self, limit: Duration) -> bool {
        self.cancel();
        self.tracker.close();
        super::timeout(limit, self.tracker.wait()).await.is_some()
    }

    /// How many tasks of this group and its relatives run.
    pub(crate) fn len(&self) -> usize {
        self.tracker.len()
    }
}

/// Whether a group or one that it belongs to was cancelled. The token knows it too, behind a lock that every poll of every
/// task would take.
#[derive(Default, Debug)]
struct Cancelled {
    own: AtomicBool,
    parent: Option<Arc<Cancelled>>,
}

impl Cancelled {
    fn is_set(&self) -> bool {
        std::iter::successors(Some(self), |group| group.parent.as_deref()).any(|group| group.own.load(SeqCst))
    }
}

pin_project! {
    /// A task of a group. Holds its future once: an `async` block that selects would hold it twice.
    struct Task<F> {
        #[pin]
        wait: WaitForCancellationFutureOwned,
        // Whom `wait` wakes.
        waker: Option<Waker>,
        cancelled: Arc<Cancelled>,
        #[pin]
        future: F,
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.cancelled.is_set() {
            return Poll::Ready(());
        }
        if !this.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            if super::poll_registered(this.wait, cx).is_ready() {
                return Poll::Ready(());
            }
            *this.waker = Some(cx.waker().clone());
        }
        this.future.poll(cx)
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
