//! The exchanges of one connection, where its peer's pace is judged.
//!
//! Over HTTP/1.1 there is one, and ending it is ending the connection. Over HTTP/2 each is a task of its own, known here by
//! its handle: ending the task resets its stream and leaves the others alone. Nothing is allocated per exchange once a
//! connection has had its most streams at a time.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    limits::Limits,
    pace::{Pace, Slow},
};
use crate::{
    body::Meter,
    rt::{self, AbortHandle, StreamExecutor},
};

/// The exchanges of a connection whose peer is judged by its pace.
#[derive(Default)]
pub(super) struct Exchanges {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Begun, and not yet a task.
    begun: Option<Exchange>,
    open: Vec<(Exchange, AbortHandle)>,
    /// Ended, to be used again.
    spare: Vec<Exchange>,
    /// How many may be open before those that have ended are looked for.
    room: usize,
}

/// One exchange.
#[derive(Default)]
struct Exchange {
    meter: Arc<Meter>,
    pace: Pace,
}

impl Exchanges {
    /// An exchange begins; the task that is spawned next is its own.
    pub(super) fn begin(&self) -> Arc<Meter> {
        let mut state = self.lock();
        let exchange = state.spare.pop().unwrap_or_default();
        let meter = Arc::clone(&exchange.meter);
        state.begun = Some(exchange);
        meter
    }

    fn adopt(&self, task: AbortHandle) {
        let mut state = self.lock();
        let Some(exchange) = state.begun.take() else { return };
        if state.open.len() >= state.room {
            state.prune();
            state.room = (state.open.len() * 2).max(8);
        }
        state.open.push((exchange, task));
    }

    fn has_begun(&self) -> bool {
        self.lock().begun.is_some()
    }

    /// Judges all that are open, `elapsed` after the last time, and ends those that are too slow. False if there are none.
    pub(super) fn judge(&self, elapsed: Duration, limits: &Limits, mut broke: impl FnMut(Slow)) -> bool {
        let mut state = self.lock();
        state.prune();
        let mut ended = Vec::new();
        for (exchange, task) in &mut state.open {
            if let Some(slow) = exchange.pace.judge(exchange.meter.read(), elapsed, limits) {
                broke(slow);
                ended.push(task.clone());
            }
        }
        let any = !state.open.is_empty();
        drop(state);
        // Outside of the lock: what ends may drop whatever the application keeps in a request.
        ended.iter().for_each(AbortHandle::abort);
        any
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn prune(&mut self) {
        let mut at = 0;
        while let Some((_, task)) = self.open.get(at) {
            if !task.is_finished() {
                at += 1;
                continue;
            }
            let (mut ended, _) = self.open.swap_remove(at);
            // Whoever still holds the body of an ended exchange keeps its meter.
            if Arc::get_mut(&mut ended.meter).is_some() {
                ended.meter.reset();
                ended.pace = Pace::default();
                self.spare.push(ended);
            }
        }
    }
}

/// How the pace of a connection's peer is judged.
#[derive(Clone)]
pub(super) enum Judged {
    /// One exchange at a time: its meter is used again by the next.
    Http1(Arc<Meter>),
    Http2(Arc<Exchanges>),
}

impl Judged {
    /// An exchange begins.
    pub(super) fn begin(&self) -> Arc<Meter> {
        match self {
            Self::Http1(meter) => {
                meter.reset();
                Arc::clone(meter)
            }
            Self::Http2(exchanges) => exchanges.begin(),
        }
    }
}

/// Spawns the streams of a connection, and enters those that are judged.
#[derive(Clone)]
pub(super) struct Streams(pub(super) Option<Arc<Exchanges>>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        match &self.0 {
            Some(exchanges) if exchanges.has_begun() => exchanges.adopt(rt::spawn_stream(future)),
            _ => StreamExecutor.execute(future),
        }
    }
}
