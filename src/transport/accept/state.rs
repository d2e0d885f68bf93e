//! What a connection's parts know of each other.
//!
//! The io, the service and the task of one connection live in different places (inside hyper, in stream tasks, around
//! hyper), so what they share is a handful of atomics. Each is a hint for timers or a one-way flag; none guards memory.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Waker},
};

use tokio::sync::Notify;

/// Shared by the io, the service and the task of one connection.
#[derive(Default)]
pub(super) struct ConnState {
    in_flight: AtomicU32,
    requests: AtomicU32,
    /// Bytes were read while no request was in flight: the head of the next one.
    head: AtomicBool,
    /// The last request had a body, which may outlive its response; bytes between requests may then be body.
    had_body: AtomicBool,
    /// Counts reads between requests after one with a body.
    progress: AtomicU32,
    write_blocked: AtomicBool,
    /// Counts how often the peer stopped to take our bytes, or began again.
    write_turns: AtomicU32,
    close_next: AtomicBool,
    quiet: AtomicBool,
    flooded: AtomicBool,
    upgraded: AtomicBool,
    killed: AtomicBool,
    gone: AtomicBool,
    wakers: Mutex<Wakers>,
    changed: Notify,
    leave: Leave,
}

/// Who waits for an upgraded connection.
#[derive(Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

/// Which half waits.
#[derive(Clone, Copy)]
pub(super) enum Half {
    Read,
    Write,
}

/// What a connection is doing, as far as timers care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Activity {
    /// A request is in flight, or bytes wait to be taken by the peer.
    Busy,
    /// Nothing is.
    Idle,
    /// The head of a request has begun to arrive.
    Head,
    /// Bytes arrive that are the next head, or the rest of a body that outlives its response.
    Tail,
}

/// Changes whenever a timer has to start again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) activity: Activity,
    requests: u32,
    progress: u32,
}

impl Mark {
    /// How many requests there have been.
    pub(super) fn requests(&self) -> u32 {
        self.requests
    }
}

impl ConnState {
    /// How it may be asked to leave.
    pub(super) fn leave(&self) -> &Leave {
        &self.leave
    }

    /// A request was read; the guard ends with its response.
    pub(super) fn begin(self: &Arc<Self>, has_body: bool) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        self.head.store(false, Relaxed);
        self.had_body.store(has_body, Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Bytes were read. Only HTTP/1 asks whose they are.
    pub(super) fn read_http1(&self) {
        if self.in_flight.load(Relaxed) == 0 {
            self.head.store(true, Relaxed);
            if self.had_body.load(Relaxed) {
                self.progress.fetch_add(1, Relaxed);
            }
        }
    }

    pub(super) fn set_write_blocked(&self, blocked: bool) {
        self.write_blocked.store(blocked, Relaxed);
        self.write_turns.fetch_add(1, Relaxed);
    }

    /// Whether the peer takes our bytes, and how often that has changed.
    pub(super) fn write_blocked(&self) -> (bool, u32) {
        (self.write_blocked.load(Relaxed), self.write_turns.load(Relaxed))
    }

    pub(super) fn requests(&self) -> u32 {
        self.requests.load(Relaxed)
    }

    pub(super) fn mark(&self) -> Mark {
        let activity = if self.in_flight.load(Relaxed) > 0 || self.write_blocked.load(Relaxed) {
            Activity::Busy
        } else {
            match (self.head.load(Relaxed), self.had_body.load(Relaxed)) {
                (false, _) => Activity::Idle,
                (true, false) => Activity::Head,
                (true, true) => Activity::Tail,
            }
        };
        Mark { activity, requests: self.requests.load(Relaxed), progress: self.progress.load(Relaxed) }
    }

    /// The next HTTP/1 response is the last.
    pub(super) fn close_next(&self) {
        self.close_next.store(true, Relaxed);
    }

    pub(super) fn closes_next(&self) -> bool {
        self.close_next.load(Relaxed)
    }

    /// End the connection at the first moment when it is idle and nothing is there to read.
    pub(super) fn close_when_quiet(&self) {
        self.close_next();
        self.quiet.store(true, Relaxed);
    }

    pub(super) fn closes_when_quiet(&self) -> bool {
        self.quiet.load(Relaxed)
    }

    /// Asked when nothing is there to read: may the reader be told that the peer is done?
    pub(super) fn ends_here(&self) -> bool {
        self.quiet.load(Relaxed)
            && self.in_flight.load(Relaxed) == 0
            && !self.head.load(Relaxed)
            && !self.write_blocked.load(Relaxed)
            && !self.is_upgraded()
    }

    pub(super) fn flooded(&self) {
        self.flooded.store(true, Relaxed);
    }

    pub(super) fn was_flooded(&self) -> bool {
        self.flooded.load(Relaxed)
    }

    /// hyper is about to hand the io to the application.
    pub(super) fn upgrade(&self) {
        self.upgraded.store(true, Relaxed);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Relaxed)
    }

    /// Remembers who to wake when the connection is killed. False if it already is.
    pub(super) fn wait(&self, half: Half, cx: &Context<'_>) -> bool {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match half {
            Half::Read => &mut wakers.read,
            Half::Write => &mut wakers.write,
        };
        match slot {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *slot = Some(cx.waker().clone()),
        }
        !self.is_killed()
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Relaxed)
    }

    /// Fails the io from now on, wherever it is.
    fn kill(&self) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that a half that registers afterwards sees it.
        self.killed.store(true, Relaxed);
        let (read, write) = (wakers.read.take(), wakers.write.take());
        drop(wakers);
        read.into_iter().chain(write).for_each(Waker::wake);
    }

    /// The io was dropped.
    pub(super) fn io_gone(&self) {
        self.gone.store(true, Relaxed);
        self.changed.notify_one();
    }

    /// Resolves when the io was dropped.
    pub(super) async fn until_gone(&self) {
        while !self.gone.load(Relaxed) {
            self.changed.notified().await;
        }
    }
}

/// Asks a connection to leave, from outside of its task.
#[derive(Default)]
pub(super) struct Leave {
    asked: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Leave {
    pub(super) fn ask(&self) {
        self.asked.store(true, SeqCst);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        waker.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Whose task to wake. Whether it was asked is to be read afterwards.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }
}

/// A request that is being served, until the last byte of its response was handed over.
pub(super) struct InFlight(Arc<ConnState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The io does not outlive the task that watches over it.
pub(super) struct KillOnDrop(pub(super) Arc<ConnState>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}
