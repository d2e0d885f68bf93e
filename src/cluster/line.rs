//! The line of calls that cannot be sent yet, for want of an endpoint, a connection or a stream.
//!
//! What they wait for is not alike: a call may want another subset, another version of HTTP, or an endpoint that it has not
//! tried. So nobody stands in front of anybody: when something has changed, the first of them that notices offers a turn
//! to each, in the order of the queue, and hands on what they get. A call that comes in the moment in which something is free
//! may take it before.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use tokio::sync::Notify;

use super::{
    Cluster, SubsetId, Went,
    wait::{Ask, Chosen, Ready, Reason},
};
use crate::{
    context::Tag,
    error::Error,
    permit::{Queue, QueueOrder},
    rt::{self, Instant},
    transport::Want,
};

/// Those who wait.
#[derive(Default)]
pub(super) struct Line {
    state: Mutex<State>,
    /// How often something has changed that they may wait for.
    changes: AtomicU64,
}

struct State {
    queue: Queue<Arc<Turn>>,
    /// After how many changes turns were offered last.
    offered: u64,
    /// When they were, nobody stood there for a stream. Until there is a connection nothing is overloaded, however long it
    /// takes.
    unconnected: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { queue: Queue::default(), offered: 0, unconnected: true }
    }
}

/// One that waits.
struct Turn {
    ask: Ask<'static>,
    tried: Vec<Went>,
    word: Mutex<Option<Word>>,
    told: Notify,
}

/// What it is told.
pub(super) enum Word {
    Go(Chosen),
    Fail(Error),
    /// The queue sends it away.
    Late,
}

impl Turn {
    fn ask(&self) -> Ask<'_> {
        Ask { tried: &self.tried, ..self.ask }
    }

    /// What the call asks for, if others may ask for exactly the same.
    fn common(&self) -> Option<(Option<SubsetId>, Want, bool, bool)> {
        let Ask { subset, want, prefer, avoid, repeatable, limited, .. } = self.ask;
        (self.tried.is_empty() && prefer == Tag::NONE && avoid == Tag::NONE)
            .then_some((subset, want, repeatable, limited))
    }

    fn word(&self) -> MutexGuard<'_, Option<Word>> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_order(&self, order: QueueOrder) {
        self.lock().queue.set_order(order);
    }

    /// Something changed that they may wait for; who is woken after this offers turns.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, SeqCst);
    }

    /// Joins the line. A turn is offered by whoever looks next.
    pub(super) fn enter(&self, ask: Ask<'_>, until: Option<Instant>, now: Instant) -> Place<'_> {
        let (tried, ask) = (ask.tried.to_vec(), Ask { tried: &[], ..ask });
        let turn = Arc::new(Turn { ask, tried, word: Mutex::default(), told: Notify::new() });
        let id = self.lock().queue.enter(Arc::clone(&turn), until, now);
        self.changed();
        Place { line: self, id, turn }
    }
}

/// A place in the line. Dropped, it is given up, and what was handed to it goes back.
pub(super) struct Place<'l> {
    line: &'l Line,
    id: u64,
    turn: Arc<Turn>,
}

impl Place<'_> {
    pub(super) fn word(&self) -> Option<Word> {
        self.turn.word().take()
    }

    /// Until there may be a word.
    pub(super) async fn told(&self) {
        self.turn.told.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.line.lock().queue.leave(self.id);
        // Not under the lock: a stream that goes back is news.
        drop(self.word());
    }
}

impl Cluster {
    /// Offers a turn to each that waits, if something has changed since that was done.
    pub(super) fn offer_turns(self: &Arc<Self>) {
        let mut state = self.line.lock();
        let changes = self.line.changes.load(SeqCst);
        if state.offered == changes {
            return;
        }
        state.offered = changes;
        let now = rt::now();
        let mut words = Vec::new();
        match state.unconnected {
            true => state.queue.restart(now),
            false => words.extend(state.queue.sent_away(now).into_iter().map(|turn| (turn, Word::Late))),
        }
        let (mut stands, mut in_vain) = (false, None);
        state.queue.offer(now, |turn| {
            let common = turn.common();
            // Of a thousand that want the same the first one finds out for all.
            if common.is_some() && common == in_vain {
                return false;
            }
            let word = match self.try_ready(turn.ask()) {
                Ready::Go(chosen) => Word::Go(chosen),
                Ready::Fail(error) => Word::Fail(error),
                Ready::Wait(reason) => {
                    stands |= matches!(reason, Reason::Full(_));
                    in_vain = common.or(in_vain);
                    return false;
                }
            };
            words.push((Arc::clone(turn), word));
            true
        });
        state.unconnected = !stands;
        drop(state);
        for (turn, word) in words {
            *turn.word() = Some(word);
            turn.told.notify_one();
        }
    }
}
