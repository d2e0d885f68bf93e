//! The times of one connection: when it is idle, old, or over.

use std::{mem, time::Duration};

use super::{
    limits::Limits,
    pace::{Pace, Slow},
    state::{Activity, ConnState, Mark},
};
use crate::{
    body::Meter,
    rt::{self, Instant},
};

/// What a timer does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Take no new requests.
    Close,
    /// End as soon as nothing is going on.
    CloseWhenQuiet,
    /// The head of a request takes too long.
    Abort,
    /// What the peer proved holds no longer.
    Expire,
    /// The pace of the exchanges is judged.
    Judge,
    /// A connection that takes no more requests and has none does not end: the peer does not take what was answered.
    Stuck,
}

/// What came of judging the exchanges.
pub(super) enum Judgement {
    /// Some are open: they are judged again even if no other begins.
    Again,
    /// The connection ends.
    End,
}

/// Between two judgements of the exchanges.
const JUDGED_EVERY: Duration = Duration::from_secs(5);

/// How long before the peer's certificate ends its connection takes no new requests: this, or a quarter of what is left
/// of it when the connection opens.
const EXPIRY_GRACE: Duration = Duration::from_secs(30);

/// The deadlines of one connection.
pub(super) struct Timers<'a> {
    limits: &'a Limits,
    http1: bool,
    /// `None` once closing.
    pub(super) age: Option<Instant>,
    expires: Option<Instant>,
    pub(super) quiet_at: Option<Instant>,
    pub(super) mark: Option<Mark>,
    pub(super) since: Instant,
    /// When the exchanges were judged; `None` if they never are.
    pub(super) judged: Option<Instant>,
    /// How many requests there had been by then.
    pub(super) judged_requests: u32,
    /// Some were open then.
    pub(super) judged_open: bool,
}

impl<'a> Timers<'a> {
    pub(super) fn new(limits: &'a Limits, http1: bool, expires: Option<Instant>, paced: bool) -> Self {
        let now = rt::now();
        let mut age = now + rt::Rng::local().jitter(limits.max_age, 10);
        if let Some(expires) = expires {
            let left = expires.saturating_duration_since(now);
            age = age.min(expires - EXPIRY_GRACE.min(left / 4));
        }
        Self {
            limits,
            http1,
            age: Some(age),
            expires,
            quiet_at: None,
            mark: None,
            since: now,
            judged: paced.then_some(now),
            judged_requests: 0,
            judged_open: false,
        }
    }

    /// Once closing, an idle HTTP/1.1 connection ends after a moment in which a request may still arrive.
    pub(super) fn quiet_soon(&mut self) {
        if self.http1 {
            self.quiet_at = Some(rt::now() + self.limits.closing_grace);
        }
    }

    /// From now on it is closing. False if it was before.
    pub(super) fn stop(&mut self) -> bool {
        let first = self.age.take().is_some();
        if first {
            self.since = rt::now();
        }
        first
    }

    /// The next deadline. Reads the clock only when the connection has begun something new.
    pub(super) fn next(&mut self, mark: Mark) -> Option<(Instant, Action)> {
        if self.mark != Some(mark) {
            self.mark = Some(mark);
            self.since = rt::now();
        }
        let activity = match (mark.activity, self.http1) {
            (Activity::Busy, _) => None,
            (Activity::Head, true) => Some((self.since + self.limits.h1_header_read, Action::Abort)),
            // Starts again with each read, so a body may take its time and a dribbled head costs what an idle one does.
            (Activity::Tail, true) => Some((self.since + self.limits.h1_idle, Action::Abort)),
            (Activity::Idle, true) => Some((self.since + self.limits.h1_idle, Action::CloseWhenQuiet)),
            // A connection that is closing ends by itself when it is idle.
            (_, false) if self.age.is_none() => {
                self.judged.map(|_| (self.since + self.limits.send_stall, Action::Stuck))
            }
            (_, false) => Some((self.since + self.limits.h2_idle, Action::Close)),
        };
        let judge = self.judged.filter(|_| {
            let busy = mark.activity == Activity::Busy;
            busy || (!self.http1 && (self.judged_open || self.judged_requests != mark.requests()))
        });
        let judge = judge.map(|at| (at + JUDGED_EVERY, Action::Judge));
        let age = self.age.map(|at| (at, Action::Close));
        let quiet = self.quiet_at.map(|at| (at, Action::CloseWhenQuiet));
        let expiry = self.expires.map(|at| (at, Action::Expire));
        [activity, age, quiet, expiry, judge].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

/// The one exchange of an HTTP/1.1 connection.
#[derive(Default)]
pub(super) struct Single {
    pace: Pace,
    requests: u32,
}

impl Single {
    pub(super) fn judge(
        &mut self,
        meter: &Meter,
        state: &ConnState,
        elapsed: Duration,
        limits: &Limits,
    ) -> Option<Slow> {
        if mem::replace(&mut self.requests, state.requests()) != self.requests {
            self.pace = Pace::default();
        }
        let (blocked, turns) = state.write_blocked();
        let mut reading = meter.read();
        reading.offered = blocked;
        reading.given = reading.given.wrapping_add(turns);
        self.pace.judge(reading, elapsed, limits)
    }
}
