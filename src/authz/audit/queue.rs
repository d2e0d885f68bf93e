//! What waits to be written: bounded, and never waited for.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{policy::AuditLog, record::Record};
use crate::instrument::{Counter, Registry};

/// Between those who decide and the one who writes.
#[derive(Debug)]
pub(crate) struct AuditQueue {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
    denied: bool,
    required: bool,
    /// Whether what waits is being written, as far as is known.
    writes: AtomicBool,
    lost: Counter,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Record>,
    lost: Option<Lost>,
    closed: bool,
}

/// Records that found no room, since the last that did.
#[derive(Debug)]
struct Lost {
    records: u64,
    since_ms: u64,
}

/// What the one who writes is to do next.
#[derive(Debug)]
pub(crate) enum Taken {
    /// To write these.
    Records(Vec<Record>),
    /// Nothing more comes.
    Closed,
}

impl AuditQueue {
    pub(crate) fn new(log: &AuditLog, registry: &Registry) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity: log.capacity() as usize,
            denied: log.takes_denied(),
            required: log.is_required(),
            writes: AtomicBool::new(false),
            lost: registry.counter("sinew_audit_lost_total", &[]),
        }
    }

    /// Whether denials are written.
    pub(crate) fn takes_denied(&self) -> bool {
        self.denied
    }

    /// Takes a record, or counts it as lost. `passes`: what it is about passes, so it may depend on that. False if it has to be
    /// refused now.
    #[must_use]
    pub(crate) fn offer(&self, record: Record, now_ms: u64, passes: bool) -> bool {
        let mut state = self.lock();
        let full = state.waiting.len() >= self.capacity || state.closed;
        let needed = passes && self.required;
        let refused = needed && (full || !self.writes.load(Relaxed));
        // Nor does a record stay of what did not happen.
        if full || refused {
            state.lost.get_or_insert(Lost { records: 0, since_ms: now_ms }).records += 1;
            self.lost.inc();
        } else {
            // In its place: after all that came before what was lost.
            let gap = state.lost.take().map(|lost| gap(&lost, now_ms));
            state.waiting.extend(gap);
            state.waiting.push_back(record);
            self.changed.notify_one();
        }
        !refused
    }

    /// Whether the sink takes lines.
    pub(crate) fn set_writes(&self, writes: bool) {
        self.writes.store(writes, Relaxed);
    }

    /// Waits for records, and takes at most `most` of them.
    pub(crate) fn take(&self, most: usize, now_ms: impl Fn() -> u64) -> Taken {
        let mut state = self.lock();
        loop {
            if !state.waiting.is_empty() {
                let many = state.waiting.len().min(most);
                return Taken::Records(state.waiting.drain(..many).collect());
            }
            if state.closed {
                return Taken::Closed;
            }
            if let Some(lost) = state.lost.take() {
                return Taken::Records(vec![gap(&lost, now_ms())]);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Pauses, unless it is closed. True if it is.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let closed = |state: &mut State| !state.closed;
        self.changed.wait_timeout_while(state, time, closed).unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// What waits is still written; what comes is lost.
    pub(crate) fn close(&self, now_ms: u64) {
        let mut state = self.lock();
        let gap = state.lost.take().map(|lost| gap(&lost, now_ms));
        state.waiting.extend(gap);
        state.closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gap(lost: &Lost, now_ms: u64) -> Record {
    Record::new("gap", now_ms).number("lost", lost.records).number("since_ms", lost.since_ms)
}
