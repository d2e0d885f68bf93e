//! Calls that have no answer yet, and how old they are.
//!
//! A host that accepts and never answers gives no outcome to judge, least of all where callers have no timeout or give up
//! early. So calls without response headers are counted by the time at which they were sent, in a few buckets per
//! endpoint. A bucket whose calls are all older than they should be is judged at once: each of them is a failure now, and
//! what becomes of it later is not counted again.

use std::{collections::VecDeque, time::Duration};

use crate::rt::{
    Instant,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

/// Buckets of an endpoint: what is not judged yet spans at most as many.
const BUCKETS: usize = 8;

/// A bucket takes in calls for this part of the age at which they are judged.
const PARTS: u32 = 5;

/// When a call was sent, as the name of a bucket; 0 for one that is not followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sent(u32);

/// The calls to one endpoint without an answer.
#[derive(Debug, Default)]
pub(crate) struct Unanswered {
    /// The name of a bucket, above the number of calls in it.
    buckets: [AtomicU64; BUCKETS],
}

fn pack(name: u32, count: u32) -> u64 {
    u64::from(name) << 32 | u64::from(count)
}

fn unpack(bucket: u64) -> (u32, u32) {
    ((bucket >> 32) as u32, bucket as u32)
}

impl Unanswered {
    /// A call was sent.
    #[inline]
    pub(crate) fn sent(&self, at: Sent) {
        if at.0 != 0 {
            // A bucket whose turn has come again takes the new name with its first call.
            self.change(at, |ours, count| Some(if ours { count.saturating_add(1) } else { 1 }));
        }
    }

    /// It was answered, failed or was given up. False if it was judged before.
    #[inline]
    pub(crate) fn over(&self, at: Sent) -> bool {
        let mut followed = at.0 == 0;
        if !followed {
            self.change(at, |ours, count| {
                followed = ours && count > 0;
                followed.then(|| count - 1)
            });
        }
        followed
    }

    /// How many calls have no answer yet, and are not judged.
    pub(crate) fn waiting(&self) -> u32 {
        self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(unpack(bucket.load(Relaxed)).1))
    }

    /// Judges what was sent then: how many calls they are.
    fn judge(&self, at: Sent) -> u32 {
        let mut judged = 0;
        self.change(at, |ours, count| {
            judged = if ours { count } else { 0 };
            (judged > 0).then_some(0)
        });
        judged
    }

    /// Sets the count, by whether the bucket has this name and how much is in it.
    fn change(&self, at: Sent, mut to: impl FnMut(bool, u32) -> Option<u32>) {
        let bucket = &self.buckets[at.0 as usize % BUCKETS];
        let mut bits = bucket.load(Relaxed);
        loop {
            let (name, count) = unpack(bits);
            let Some(next) = to(name == at.0, count) else { return };
            match bucket.compare_exchange_weak(bits, pack(at.0, next), SeqCst, Relaxed) {
                Ok(_) => return,
                Err(changed) => bits = changed,
            }
        }
    }
}

/// The buckets of a cluster: which one is open, and when each was.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    /// The open bucket, read by every call. 0 while calls are not followed.
    open: AtomicU32,
}

/// What the one who watches the clock knows of the buckets. Oldest first, the open one last.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    opened: VecDeque<(u32, Instant)>,
    last: u32,
}

impl Buckets {
    /// When a bucket was opened, if it is not judged yet.
    pub(crate) fn opened(&self, sent: Sent) -> Option<Instant> {
        self.opened.iter().find(|(name, _)| *name == sent.0).map(|(_, opened)| *opened)
    }
}

impl Ages {
    /// For a call that is sent now.
    #[inline]
    pub(crate) fn now(&self) -> Sent {
        Sent(self.open.load(Relaxed))
    }

    /// Calls are not followed from now on.
    pub(crate) fn stop(&self, buckets: &mut Buckets) {
        self.open.store(0, Relaxed);
        buckets.opened.clear();
    }

    /// Opens the next bucket if it is time, and tells what is to be judged: buckets that were closed before `age` ago.
    pub(crate) fn pass(&self, buckets: &mut Buckets, now: Instant, age: Duration) -> Vec<Sent> {
        let open = buckets.opened.back().copied();
        let due = open.is_none_or(|(_, since)| now.saturating_duration_since(since) >= age / PARTS);
        // One fewer than there are: the bucket that is opened must not be one that is still to be judged.
        if due && buckets.opened.len() < BUCKETS - 1 {
            buckets.last = buckets.last.wrapping_add(1).max(1);
            buckets.opened.push_back((buckets.last, now));
            self.open.store(buckets.last, SeqCst);
        }
        let mut old = Vec::new();
        while let Some((_, closed)) = buckets.opened.get(1)
            && now.saturating_duration_since(*closed) >= age
        {
            old.extend(buckets.opened.pop_front().map(|(name, _)| Sent(name)));
        }
        old
    }
}

impl Unanswered {
    /// Judges all that was sent at these times.
    pub(crate) fn judge_all(&self, old: &[Sent]) -> u32 {
        old.iter().map(|at| self.judge(*at)).sum()
    }
}

/// The calls on one of the connections to an address that many stand behind: each connection reaches one of them, so it
/// is the connection that is judged.
#[derive(Debug, Default)]
pub(crate) struct Line {
    unanswered: Unanswered,
    /// The bucket that was open when the last answer came.
    heard: AtomicU32,
}

impl Line {
    /// A call was sent.
    pub(crate) fn sent(&self, at: Sent) {
        self.unanswered.sent(at);
    }

    /// One was answered, `now`.
    pub(crate) fn answered(&self, at: Sent, now: Sent) {
        self.unanswered.over(at);
        self.heard.store(now.0, Relaxed);
    }

    /// One failed or was given up.
    pub(crate) fn over(&self, at: Sent) {
        self.unanswered.over(at);
    }

    /// Judges what was sent at these times, oldest first: whether calls are without an answer, and no other was answered
    /// since.
    pub(crate) fn is_silent(&self, old: &[Sent]) -> bool {
        let unanswered = self.unanswered.judge_all(old) > 0;
        unanswered && old.last().is_some_and(|last| self.silent_since(*last))
    }

    /// Whether no call was answered since then.
    pub(crate) fn silent_since(&self, sent: Sent) -> bool {
        let heard = self.heard.load(Relaxed);
        heard == 0 || heard.wrapping_sub(sent.0).cast_signed() <= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt;

    #[tokio::test(start_paused = true)]
    async fn a_call_is_judged_once_when_it_is_old_enough_and_never_if_it_was_answered_before() {
        let (ages, mut buckets, calls) = (Ages::default(), Buckets::default(), Unanswered::default());
        let age = Duration::from_secs(1);
        assert_eq!(ages.now(), Sent(0), "not followed");
        calls.sent(ages.now());
        assert!(calls.over(ages.now()));
        let mut now = rt::now();
        ages.pass(&mut buckets, now, age);
        let begun = now;
        let (hung, answered) = (ages.now(), ages.now());
        calls.sent(hung);
        calls.sent(answered);
        assert!(calls.over(answered));
        let mut judged = Vec::new();
        for _ in 0..40 {
            now += Duration::from_millis(100);
            let old = ages.pass(&mut buckets, now, age);
            if calls.judge_all(&old) > 0 {
                judged.push(now - begun);
            }
        }
        assert_eq!(judged.len(), 1);
        assert!((Duration::from_secs(1)..=Duration::from_millis(1_300)).contains(&judged[0]), "{judged:?}");
        assert!(!calls.over(hung), "it was judged");
    }

    #[tokio::test(start_paused = true)]
    async fn however_the_age_changes_no_call_is_lost_or_judged_young() {
        let (ages, mut buckets, calls) = (Ages::default(), Buckets::default(), Unanswered::default());
        let mut now = rt::now();
        let mut sent = VecDeque::new();
        for turn in 0..20_000u32 {
            let age = [1_000, 1_000, 30_000, 2_000][(turn / 700) as usize % 4];
            let old = ages.pass(&mut buckets, now, Duration::from_millis(age));
            let judged = calls.judge_all(&old) as usize;
            for _ in 0..judged {
                let at: Instant = sent.pop_front().unwrap();
                assert!(now - at >= Duration::from_millis(age));
            }
            calls.sent(ages.now());
            sent.push_back(now);
            now += Duration::from_millis(100);
        }
        assert!(sent.len() <= 500, "{}", sent.len());
    }

    #[test]
    fn a_line_is_silent_if_calls_grew_old_on_it_and_none_was_answered_meanwhile() {
        let line = Line::default();
        assert!(!line.is_silent(&[Sent(1), Sent(2)]), "nobody waits");
        line.sent(Sent(3));
        line.answered(Sent(3), Sent(4));
        assert!(!line.is_silent(&[Sent(3)]), "it was answered");
        line.sent(Sent(5));
        line.sent(Sent(6));
        line.answered(Sent(6), Sent(7));
        assert!(!line.is_silent(&[Sent(5)]), "another was answered since");
        line.sent(Sent(8));
        assert!(line.is_silent(&[Sent(7), Sent(8)]));
        assert!(!line.is_silent(&[Sent(8)]), "judged once");
        line.sent(Sent(9));
        line.over(Sent(9));
        assert!(!line.is_silent(&[Sent(9)]), "given up before");
        // The names of buckets go around.
        let line = Line::default();
        line.answered(Sent(0), Sent(2));
        line.sent(Sent(u32::MAX));
        assert!(!line.is_silent(&[Sent(u32::MAX)]));
    }

    #[test]
    fn threads_lose_no_call() {
        let (ages, mut buckets, calls) = (Ages::default(), Buckets::default(), Unanswered::default());
        let begun = rt::now();
        ages.pass(&mut buckets, begun, Duration::from_secs(1));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (ages, calls) = (&ages, &calls);
                scope.spawn(move || {
                    for turn in 0..10_000 {
                        let at = ages.now();
                        calls.sent(at);
                        if turn % 2 == thread % 2 {
                            assert!(calls.over(at));
                        }
                    }
                });
            }
        });
        let mut judged = 0;
        for n in 1..40 {
            let old = ages.pass(&mut buckets, begun + Duration::from_millis(100) * n, Duration::from_secs(1));
            judged += calls.judge_all(&old);
        }
        assert_eq!(judged, 20_000);
    }
}
