//! The only room that spawns, reads a clock or rolls dice.
//!
//! Engines take time and randomness as arguments; everything else takes them from here, so that paused time and a
//! seed make a whole mesh deterministic.

mod epoch;
mod hyper;
mod lag;
mod moment;
mod rng;
pub(crate) mod sync;
mod tasks;
mod thread;
#[cfg(feature = "file")]
mod watch;

#[cfg(feature = "file")]
pub(crate) use self::watch::FileWatch;
pub(crate) use self::{
    epoch::Epoch,
    hyper::{AbortHandle, HyperTimer, StreamExecutor, spawn_stream},
    lag::{Lag, Watching},
    moment::{hand, handed, leave, moment},
    rng::Rng,
    tasks::TaskSet,
    thread::{Ended, thread},
};
pub(crate) use tokio::time::{Instant, Sleep};

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use pin_project_lite::pin_project;

/// The monotonic clock, paused with tokio's.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The clock of certificates.
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// Milliseconds of Unix time.
pub(crate) fn wall_ms() -> u64 {
    let since = wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// When the monotonic clock will be where the wall clock is at `time`; now, if that is past.
pub(crate) fn at(time: SystemTime) -> Instant {
    now() + time.duration_since(wall()).unwrap_or_default()
}

/// A timer. At most one per call is armed.
pub(crate) fn sleep_until(deadline: Instant) -> Sleep {
    tokio::time::sleep_until(deadline)
}

/// Waits on the monotonic clock.
pub(crate) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Ends `future` after `duration`.
pub(crate) fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { inner: tokio::time::timeout(duration, future) }
}

pin_project! {
    /// The future of [`timeout`]. Holds its own once: an `async` function would hold it twice.
    pub(crate) struct Timeout<F> {
        #[pin]
        inner: tokio::time::Timeout<F>,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map(Result::ok)
    }
}

/// Runs `work` on a stack of this size, and waits for it.
///
/// # Errors
/// If no thread can be had.
#[cfg(feature = "cel")]
pub(crate) fn on_stack<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let thread = std::thread::Builder::new().name("sinew-parse".into()).stack_size(size).spawn(work)?;
    thread.join().map_err(|_| std::io::Error::other("it panicked"))
}

/// Polls a future without spending the task's budget: its `Pending` always means that the waker is registered, so a
/// caller may rely on the wake-up and not poll again before.
pub(crate) fn poll_registered<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    pin!(tokio::task::unconstrained(future)).poll(cx)
}
