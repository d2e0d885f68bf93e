//! In which order those who wait are served, and who is sent away.
//!
//! No clock and no wakers: an entry is whatever is handed in.

use std::{collections::VecDeque, time::Duration};

use crate::rt::Instant;

/// In which order calls that wait at a limit, or for a connection, are served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum QueueOrder {
    /// First come, first served. The default.
    #[default]
    Fifo,
    /// The newest first: whoever has waited longest has the least time left. The oldest may wait in vain.
    Lifo,
    /// First come, first served, until somebody has waited without a break for 100 ms; from then on the newest first, and
    /// whoever has waited for 5 ms is sent away, until nobody waits any more.
    ///
    /// Source: "Fail at Scale" (Facebook, 2015), controlled delay with adaptive LIFO.
    Codel,
}

/// How long may be waited while more comes than is served.
const TARGET: Duration = Duration::from_millis(5);
/// How long somebody waits without a break until that is so.
const INTERVAL: Duration = Duration::from_millis(100);

impl QueueOrder {
    /// The target and the interval of [`Codel`](Self::Codel).
    pub(crate) const CODEL: (Duration, Duration) = (TARGET, INTERVAL);

    /// As configuration has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Lifo => "lifo",
            Self::Codel => "codel",
        }
    }
}

/// Those who wait.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    order: QueueOrder,
    /// The oldest first.
    waiting: VecDeque<Waiter<T>>,
    next: u64,
    /// Since when somebody has waited without a break.
    busy_since: Option<Instant>,
}

#[derive(Debug)]
struct Waiter<T> {
    id: u64,
    since: Instant,
    /// When it has no more use for a permit.
    until: Option<Instant>,
    entry: T,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { order: QueueOrder::Fifo, waiting: VecDeque::new(), next: 0, busy_since: None }
    }
}

impl<T> Queue<T> {
    pub(crate) fn set_order(&mut self, order: QueueOrder) {
        self.order = order;
    }

    /// Enters; the number to leave by.
    pub(crate) fn enter(&mut self, entry: T, until: Option<Instant>, now: Instant) -> u64 {
        let id = self.next;
        self.next += 1;
        self.waiting.push_back(Waiter { id, since: now, until, entry });
        self.busy_since.get_or_insert(now);
        id
    }

    /// Leaves, if it is still there.
    pub(crate) fn leave(&mut self, id: u64) {
        if let Some(at) = self.waiting.iter().position(|waiter| waiter.id == id) {
            self.waiting.remove(at);
            self.rest();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// More comes than is served.
    fn is_overloaded(&self, now: Instant) -> bool {
        self.order == QueueOrder::Codel
            && self.busy_since.is_some_and(|since| now.saturating_duration_since(since) >= INTERVAL)
    }

    /// Takes out those for whom a permit comes too late.
    pub(crate) fn sent_away(&mut self, now: Instant) -> Vec<T> {
        let overloaded = self.is_overloaded(now);
        let late = |waiter: &Waiter<T>| {
            waiter.until.is_some_and(|until| until <= now)
                || (overloaded && now.saturating_duration_since(waiter.since) >= TARGET)
        };
        if !self.waiting.iter().any(late) {
            return Vec::new();
        }
        let (gone, kept) = std::mem::take(&mut self.waiting).into_iter().partition::<Vec<_>, _>(late);
        self.waiting = kept.into();
        self.rest();
        gone.into_iter().map(|waiter| waiter.entry).collect()
    }

    /// Takes out whoever is served next.
    pub(crate) fn serve(&mut self, now: Instant) -> Option<T> {
        let newest = self.order == QueueOrder::Lifo || self.is_overloaded(now);
        let next = if newest { self.waiting.pop_back() } else { self.waiting.pop_front() };
        self.rest();
        next.map(|waiter| waiter.entry)
    }

    /// Offers a turn to each, whoever is served next first; takes out those that took it.
    pub(crate) fn offer(&mut self, now: Instant, mut takes: impl FnMut(&T) -> bool) {
        if self.order == QueueOrder::Lifo || self.is_overloaded(now) {
            let mut kept = VecDeque::with_capacity(self.waiting.len());
            while let Some(waiter) = self.waiting.pop_back() {
                if !takes(&waiter.entry) {
                    kept.push_front(waiter);
                }
            }
            self.waiting = kept;
        } else {
            self.waiting.retain(|waiter| !takes(&waiter.entry));
        }
        self.rest();
    }

    /// What they waited for until now was no queue.
    pub(crate) fn restart(&mut self, now: Instant) {
        for waiter in &mut self.waiting {
            waiter.since = now;
        }
        self.busy_since = (!self.waiting.is_empty()).then_some(now);
    }

    fn rest(&mut self) {
        if self.waiting.is_empty() {
            self.busy_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rt;

    const MS: Duration = Duration::from_millis(1);

    fn queue(order: QueueOrder) -> (Queue<u32>, Instant) {
        let mut queue = Queue::default();
        queue.set_order(order);
        (queue, rt::now())
    }

    #[test]
    fn the_oldest_or_the_newest_is_served_first() {
        for (order, expected) in [(QueueOrder::Fifo, [0, 1, 2]), (QueueOrder::Lifo, [2, 1, 0])] {
            let (mut queue, now) = queue(order);
            for n in 0..3 {
                queue.enter(n, None, now + MS * n);
            }
            assert!(queue.sent_away(now + MS * 1000).is_empty());
            assert_eq!([0; 3].map(|_: i32| queue.serve(now + MS * 1000).unwrap()), expected, "{order:?}");
            assert!(queue.is_empty());
        }
    }

    #[test]
    fn those_whose_time_is_over_are_sent_away_in_any_order() {
        for order in [QueueOrder::Fifo, QueueOrder::Lifo, QueueOrder::Codel] {
            let (mut queue, now) = queue(order);
            queue.enter(0, Some(now + MS * 10), now);
            queue.enter(1, Some(now + MS * 20), now);
            queue.enter(2, None, now);
            assert!(queue.sent_away(now + MS * 9).is_empty());
            assert_eq!(queue.sent_away(now + MS * 10), [0]);
            assert_eq!(queue.sent_away(now + MS * 30), [1]);
            assert_eq!(queue.serve(now + MS * 30), Some(2));
        }
    }

    #[test]
    fn codel_is_patient_with_a_burst_and_not_with_a_queue_that_stands() {
        let (mut queue, now) = queue(QueueOrder::Codel);
        for n in 0..10 {
            queue.enter(n, None, now + MS * n);
        }
        // A burst is served in order.
        assert_eq!(queue.serve(now + MS * 50), Some(0));
        assert_eq!(queue.serve(now + MS * 99), Some(1));
        for n in 10..13 {
            queue.enter(n, None, now + MS * (88 + n));
        }
        // For 100 ms there was always somebody: the newest first, and whoever has waited for 5 ms goes.
        assert_eq!(queue.sent_away(now + MS * 103), [2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(queue.serve(now + MS * 103), Some(12));
        assert_eq!(queue.serve(now + MS * 103), Some(11));
        // Nobody waits any more, so it is patient again.
        queue.enter(20, None, now + MS * 104);
        queue.enter(21, None, now + MS * 105);
        assert!(queue.sent_away(now + MS * 150).is_empty());
        assert_eq!(queue.serve(now + MS * 150), Some(20));
    }

    #[test]
    fn turns_are_offered_in_the_order_of_service_and_who_takes_none_stays() {
        for (order, expected) in [(QueueOrder::Fifo, [0, 1, 2, 3]), (QueueOrder::Lifo, [3, 2, 1, 0])] {
            let (mut queue, now) = queue(order);
            for n in 0..4 {
                queue.enter(n, None, now + MS * n);
            }
            let mut offered = Vec::new();
            queue.offer(now + MS * 10, |n| {
                offered.push(*n);
                n % 2 == 1
            });
            assert_eq!(offered, expected, "{order:?}");
            offered.clear();
            queue.offer(now + MS * 10, |n| {
                offered.push(*n);
                true
            });
            assert_eq!(offered, expected.into_iter().filter(|n| n % 2 == 0).collect::<Vec<_>>(), "{order:?}");
            assert!(queue.is_empty() && queue.busy_since.is_none());
        }
    }

    #[test]
    fn what_was_no_queue_does_not_count_as_one() {
        let (mut queue, now) = queue(QueueOrder::Codel);
        for n in 0..3 {
            queue.enter(n, Some(now + MS * 3_000), now);
        }
        queue.restart(now + MS * 2_000);
        assert!(queue.sent_away(now + MS * 2_099).is_empty());
        assert_eq!(queue.serve(now + MS * 2_099), Some(0));
        assert_eq!(queue.sent_away(now + MS * 2_100), [1, 2]);
    }

    #[test]
    fn whoever_leaves_is_not_served() {
        let (mut queue, now) = queue(QueueOrder::Fifo);
        let first = queue.enter(0, None, now);
        queue.enter(1, None, now);
        queue.leave(first);
        queue.leave(first);
        assert_eq!((queue.serve(now), queue.serve(now)), (Some(1), None));
    }

    proptest! {
        /// Everybody who entered is served, sent away or gone by itself, once.
        #[test]
        fn nobody_is_lost_or_served_twice(
            order in 0usize..3,
            steps in proptest::collection::vec((0u8..5, 0u32..30), 1..300),
        ) {
            let order = [QueueOrder::Fifo, QueueOrder::Lifo, QueueOrder::Codel][order];
            let (mut queue, mut now) = queue(order);
            let (mut seen, mut entered, mut left) = (Vec::new(), 0u32, Vec::new());
            for (step, millis) in steps {
                now += MS * millis;
                match step {
                    0 | 1 => {
                        queue.enter(entered, (step == 1).then(|| now + MS * 40), now);
                        entered += 1;
                    }
                    2 => seen.extend(queue.sent_away(now).into_iter().chain(queue.serve(now))),
                    3 => queue.offer(now, |n| {
                        let takes = n % 3 == 0;
                        seen.extend(takes.then_some(*n));
                        takes
                    }),
                    _ => {
                        let id = u64::from(millis) % u64::from(entered.max(1));
                        let before = queue.waiting.len();
                        queue.leave(id);
                        left.extend((queue.waiting.len() < before).then_some(id as u32));
                    }
                }
                prop_assert_eq!(queue.busy_since.is_some(), !queue.is_empty());
            }
            seen.extend(std::iter::from_fn(|| queue.serve(now)));
            seen.extend(left);
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..entered).collect::<Vec<_>>());
        }
    }
}
