//! How a process stops: told first, then asked, then made to.
//!
//! Closing a listener resets what waits in its backlog, and a load balancer goes on sending for a while to a process
//! that has said it is not ready. So a drain goes through phases, each of which every connection sees:
//!
//! | phase | readiness | new connections | open connections |
//! |---|---|---|---|
//! | `Serving` | ready | served | served |
//! | `LameDuck` | withdrawn | served normally | GOAWAY / `Connection: close` |
//! | `Stopping` | withdrawn | those already in the backlog, then none | as above, the newer ones too; idle ones end |
//! | `Forced` | withdrawn | none | closed |
//!
//! The deadline counts from the start of the drain, because that is how supervisors count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::rt;

/// How long a forced end may take: tasks end at their next poll.
const FORCE_LIMIT: Duration = Duration::from_secs(1);

/// How far a drain is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// Not draining.
    Serving,
    /// Not ready, but everything is still accepted and served.
    LameDuck,
    /// Listeners are closed, open connections finish.
    Stopping,
    /// Whatever is left is closed.
    Forced,
}

/// The drain of a group of listeners. Clones are the same drain.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    phase: watch::Sender<Phase>,
    /// Listeners and connections that are open.
    open: TaskTracker,
    started: AtomicBool,
    forced: AtomicUsize,
}

/// How a drain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DrainReport {
    /// Connections that were still open when the drain forced them.
    pub(crate) forced: usize,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                phase: watch::Sender::new(Phase::Serving),
                open: TaskTracker::new(),
                started: AtomicBool::new(false),
                forced: AtomicUsize::new(0),
            }),
        }
    }

    /// Drains: lame duck for `lame_duck`, then stops accepting, then waits, and at `deadline` (from now) forces.
    ///
    /// A second call forces at once; both calls then return. Not cancel safe: a drain whose future is dropped stays in
    /// its phase until `start` is called again, which forces.
    pub(crate) async fn start(&self, lame_duck: Duration, deadline: Duration) -> DrainReport {
        let began = rt::now();
        if self.shared.started.swap(true, Relaxed) {
            self.force();
        } else {
            self.advance(Phase::LameDuck);
            if !lame_duck.is_zero() {
                let _ = rt::timeout(lame_duck.min(deadline), self.watch().reached(Phase::Forced)).await;
            }
            self.advance(Phase::Stopping);
        }
        self.shared.open.close();
        let rest = deadline.saturating_sub(began.elapsed());
        let ended = async {
            tokio::select! {
                biased;
                () = self.shared.open.wait() => {}
                () = self.watch().reached(Phase::Forced) => {}
            }
        };
        let _ = rt::timeout(rest, ended).await;
        if !self.shared.open.is_empty() {
            self.advance(Phase::Forced);
            if rt::timeout(FORCE_LIMIT, self.shared.open.wait()).await.is_none() {
                tracing::warn!(open = self.shared.open.len(), "connections did not end when forced: their tasks block");
            }
        }
        DrainReport { forced: self.shared.forced.load(Relaxed), took: began.elapsed() }
    }

    /// Closes everything at once.
    pub(crate) fn force(&self) {
        self.advance(Phase::Forced);
    }

    /// The phase now.
    #[cfg(test)]
    pub(crate) fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }

    /// Sees the phases from now on.
    pub(crate) fn watch(&self) -> DrainWatch {
        DrainWatch { phase: self.shared.phase.subscribe() }
    }

    /// Keeps the drain waiting until it is dropped.
    pub(super) fn hold(&self) -> TaskTrackerToken {
        self.shared.open.token()
    }

    /// A connection was closed because the drain forced it.
    pub(super) fn count_forced(&self) {
        self.shared.forced.fetch_add(1, Relaxed);
    }

    fn advance(&self, to: Phase) {
        self.shared.phase.send_if_modified(|phase| {
            let later = *phase < to;
            if later {
                *phase = to;
            }
            later
        });
    }
}

/// Sees a drain.
#[derive(Clone, Debug)]
pub(crate) struct DrainWatch {
    phase: watch::Receiver<Phase>,
}

impl DrainWatch {
    /// The phase now.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// True if the phase has changed since this watch last waited. One atomic load.
    pub(super) fn has_changed(&self) -> bool {
        self.phase.has_changed().unwrap_or(false)
    }

    /// Marks the phase as seen.
    pub(super) fn seen(&mut self) -> Phase {
        *self.phase.borrow_and_update()
    }

    /// Resolves with the first phase after `seen`. Never, if the drain is gone.
    pub(super) async fn after(mut self, seen: Phase) -> Phase {
        loop {
            let phase = *self.phase.borrow_and_update();
            if phase > seen {
                return phase;
            }
            if self.phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when the phase is at least `phase`. Never, if the drain is gone before.
    pub(crate) async fn reached(self, phase: Phase) {
        let mut seen = self.phase();
        while seen < phase {
            seen = self.clone().after(seen).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_drain_without_connections_takes_the_lame_duck() {
        let drain = Drain::new();
        let watch = drain.watch();
        assert_eq!(watch.phase(), Phase::Serving);
        let report = drain.start(5 * SECOND, 25 * SECOND).await;
        assert_eq!(report, DrainReport { forced: 0, took: 5 * SECOND });
        assert_eq!(watch.phase(), Phase::Stopping);
    }

    #[tokio::test(start_paused = true)]
    async fn phases_come_in_order_and_the_deadline_counts_from_the_start() {
        let drain = Drain::new();
        let held = drain.hold();
        let watch = drain.watch();
        let observer = async {
            let began = rt::now();
            let mut phases = Vec::new();
            let mut seen = Phase::Serving;
            while seen < Phase::Forced {
                seen = watch.clone().after(seen).await;
                phases.push((seen, began.elapsed().as_secs()));
            }
            drop(held);
            phases
        };
        let (report, phases) = tokio::join!(drain.start(5 * SECOND, 25 * SECOND), observer);
        assert_eq!(phases, [(Phase::LameDuck, 0), (Phase::Stopping, 5), (Phase::Forced, 25)]);
        assert_eq!(report.took, 25 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_start_forces_in_lame_duck_and_after() {
        for wait in [1, 10] {
            let drain = Drain::new();
            let held = drain.hold();
            let second = async {
                rt::sleep(wait * SECOND).await;
                let ended = async {
                    drain.watch().reached(Phase::Forced).await;
                    drop(held);
                };
                tokio::join!(drain.start(5 * SECOND, 25 * SECOND), ended).0
            };
            let (first, second) = tokio::join!(drain.start(5 * SECOND, 25 * SECOND), second);
            assert_eq!(first.took, wait * SECOND);
            assert_eq!(second.took, Duration::ZERO);
        }
    }
}
