//! A counter with a ceiling that is never passed and never leaks.
//!
//! `fetch_sub` with an undo would let a burst see a limit that is not reached; a compare-and-swap admits exactly. The
//! count belongs to the backend: a policy edit moves the ceiling and keeps the count, so 37 stays 37 across reloads.
//!
//! What is held for long can be counted by another limit instead ([`Limit::move_old`]), wherever it is held.

mod ages;
mod queue;

pub(crate) use self::queue::Queue;
pub use self::queue::QueueOrder;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use self::ages::{Ages, Returned, Young};
use crate::rt::{
    self, Instant,
    sync::{
        Mutex, MutexGuard,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

/// An exact limit, shared by clones.
#[derive(Debug)]
pub struct Limit {
    /// Permits of the epoch that runs, as [`Young`].
    young: AtomicU64,
    /// Permits of earlier epochs. Written under the lock of `ages`.
    older: AtomicU32,
    ages: Mutex<Ages>,
    max: AtomicU32,
    /// Callers that wait.
    waiting: AtomicU32,
    queue: Mutex<Queue<Arc<Slot>>>,
}

impl Limit {
    /// A limit of `max` at the same time; 0 admits nothing.
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            young: AtomicU64::new(0),
            older: AtomicU32::new(0),
            ages: Mutex::default(),
            max: AtomicU32::new(max),
            waiting: AtomicU32::new(0),
            queue: Mutex::default(),
        })
    }

    /// Takes one, unless `max` are taken. Returned when the permit is dropped.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let epoch = self.take_exactly()?;
        Some(Permit { limit: Arc::clone(self), epoch })
    }

    /// As [`try_acquire`](Self::try_acquire), by whoever has no further use for the limit. The ceiling, if it is reached.
    pub(crate) fn admit(self: Arc<Self>) -> Result<Permit, u32> {
        match self.take_exactly() {
            Some(epoch) => Ok(Permit { limit: self, epoch }),
            None => Err(self.max()),
        }
    }

    fn take_exactly(&self) -> Option<u32> {
        self.take().or_else(|| {
            // While an epoch is closed its permits are counted twice for a moment: looking again after that is exact.
            let _closed = self.lock();
            self.take()
        })
    }

    /// Counts one more, and says in which epoch.
    fn take(&self) -> Option<u32> {
        // As `young` below: whoever raised `waiting` before sees a raised ceiling here, or who raised that sees `waiting`.
        let max = self.max.load(SeqCst);
        // After `waiting` was raised a returned permit is seen here, or whoever returned it sees `waiting`.
        let mut bits = self.young.load(SeqCst);
        loop {
            let young = Young::from_bits(bits);
            // Read after `young`: it grows only before the epoch changes, and then the exchange fails.
            let older = self.older.load(SeqCst);
            if u64::from(young.count) + u64::from(older) >= u64::from(max) {
                return None;
            }
            match self.young.compare_exchange_weak(bits, young.plus_one().bits(), SeqCst, SeqCst) {
                Ok(_) => return Some(young.epoch),
                Err(changed) => bits = changed,
            }
        }
    }

    /// Takes one as soon as one is free. Dropping the future gives up the place in the queue.
    pub async fn acquire(self: &Arc<Self>) -> Permit {
        loop {
            if let Some(permit) = self.wait(None).await {
                return permit;
            }
        }
    }

    /// Waits for one, in the queue's order, as long as it is of use. `None` if it comes too late: the time is over, or the
    /// queue sends away. The time is looked at only when somebody is served; a timer is the caller's.
    pub(crate) fn wait(self: &Arc<Self>, until: Option<Instant>) -> Place {
        // Before the place is taken: a permit that returns meanwhile is seen by `serve` below, or its holder sees this.
        self.waiting.fetch_add(1, SeqCst);
        let slot = Arc::<Slot>::default();
        let id = self.queue().enter(Arc::clone(&slot), until, rt::now());
        let place = Place { limit: Arc::clone(self), id, slot };
        self.serve();
        place
    }

    /// In which order those who wait are served.
    pub(crate) fn set_order(&self, order: QueueOrder) {
        self.queue().set_order(order);
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Arc<Slot>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what is free to those who wait.
    #[cold]
    fn serve(self: &Arc<Self>) {
        let now = rt::now();
        let mut queue = self.queue();
        let mut told: Vec<_> = queue.sent_away(now).into_iter().map(|slot| (slot, None)).collect();
        while !queue.is_empty() {
            let Some(permit) = self.try_acquire() else { break };
            match queue.serve(now) {
                Some(slot) => told.push((slot, Some(permit))),
                None => break,
            }
        }
        drop(queue);
        // A waker may run anything, and a place that is given up returns its permit.
        for (slot, permit) in told {
            slot.tell(permit);
        }
    }

    /// Moves the ceiling. What is taken stays taken: below a lowered ceiling nothing is admitted until enough returned.
    pub fn set_max(self: &Arc<Self>, max: u32) {
        self.max.store(max, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.serve();
        }
    }

    /// Whether somebody waits for one.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// How many are taken.
    pub fn used(&self) -> u32 {
        let _closed = self.lock();
        Young::from_bits(self.young.load(SeqCst)).count + self.older.load(SeqCst)
    }

    /// The ceiling.
    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    /// Permits that have been held for `age` are counted by `other` from now on, as far as it has room. Called every few
    /// seconds: a permit leaves at the first call that comes `age` after the first one since it was taken.
    pub(crate) fn move_old(self: &Arc<Self>, now: Instant, age: Duration, other: &Arc<Self>) {
        let mut ages = self.lock();
        self.close_epoch(&mut ages, now);
        let mut moved = 0;
        for _ in 0..ages.old(now, age) {
            let Some(permit) = other.try_acquire() else { break };
            ages.moved(permit);
            moved += 1;
        }
        self.older.fetch_sub(moved, SeqCst);
        drop(ages);
        if moved > 0 && self.waiting.load(SeqCst) > 0 {
            self.serve();
        }
    }

    fn close_epoch(&self, ages: &mut Ages, now: Instant) {
        loop {
            let bits = self.young.load(SeqCst);
            let young = Young::from_bits(bits);
            if young.count == 0 {
                return;
            }
            // Before they leave `young`: what is counted twice refuses, and is looked at again; what is not counted
            // would admit.
            self.older.fetch_add(young.count, SeqCst);
            if self.young.compare_exchange(bits, young.next().bits(), SeqCst, SeqCst).is_ok() {
                return ages.close(young, now);
            }
            self.older.fetch_sub(young.count, SeqCst);
        }
    }

    fn give_back(&self, epoch: u32) {
        let mut bits = self.young.load(SeqCst);
        loop {
            let young = Young::from_bits(bits);
            if young.epoch != epoch {
                return self.give_back_older(epoch);
            }
            match self.young.compare_exchange_weak(bits, young.minus_one().bits(), SeqCst, SeqCst) {
                Ok(_) => return,
                Err(changed) => bits = changed,
            }
        }
    }

    #[cold]
    fn give_back_older(&self, epoch: u32) {
        let mut ages = self.lock();
        match ages.give_back(epoch) {
            Returned::Here => _ = self.older.fetch_sub(1, SeqCst),
            Returned::Elsewhere(permit) => {
                // The other limit wakes whoever waits there: not under the lock of this one.
                drop(ages);
                drop(permit);
            }
            Returned::Nowhere => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ages> {
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One taken from a [`Limit`].
#[derive(Debug)]
pub struct Permit {
    limit: Arc<Limit>,
    epoch: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.give_back(self.epoch);
        if self.limit.waiting.load(SeqCst) > 0 {
            self.limit.serve();
        }
    }
}

/// What one who waits is told.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<Told>,
}

#[derive(Debug, Default)]
enum Told {
    #[default]
    Nothing,
    Waits(Waker),
    /// The permit, or that it comes too late.
    Over(Option<Permit>),
    Taken,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, permit: Option<Permit>) {
        let mut state = self.lock();
        // Whoever gave up its place left it to the next.
        if matches!(*state, Told::Taken) {
            drop(state);
            drop(permit);
            return;
        }
        let before = std::mem::replace(&mut *state, Told::Over(permit));
        drop(state);
        if let Told::Waits(waker) = before {
            waker.wake();
        }
    }
}

/// A place in the queue of a [`Limit`]. Dropped, it is given up, and what was handed to it meanwhile goes to the next.
#[must_use = "a place that is not awaited is given up"]
#[derive(Debug)]
pub(crate) struct Place {
    limit: Arc<Limit>,
    id: u64,
    slot: Arc<Slot>,
}

impl Future for Place {
    type Output = Option<Permit>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Permit>> {
        let mut state = self.slot.lock();
        match &mut *state {
            Told::Over(permit) => {
                let permit = permit.take();
                *state = Told::Taken;
                Poll::Ready(permit)
            }
            // Awaited twice: there is nothing more to wait for.
            Told::Taken => Poll::Ready(None),
            waits => {
                *waits = Told::Waits(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limit.queue().leave(self.id);
        let state = std::mem::replace(&mut *self.slot.lock(), Told::Taken);
        // Not before: a permit that is returned below is not for this place.
        self.limit.waiting.fetch_sub(1, SeqCst);
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::atomic::AtomicBool, thread};

    use super::*;
    use crate::rt;

    const AGE: Duration = Duration::from_secs(30);

    #[test]
    fn never_more_than_the_limit_across_threads_edits_and_sweeps() {
        let (limit, other) = (Limit::new(37), Limit::new(5));
        let most = AtomicU32::new(0);
        let now = rt::now();
        thread::scope(|scope| {
            let (limit, other, most) = (&limit, &other, &most);
            for _ in 0..8 {
                scope.spawn(move || {
                    let mut held = VecDeque::new();
                    for round in 0..5_000 {
                        if round % 250 == 0 {
                            limit.set_max(37);
                        }
                        if let Some(permit) = limit.try_acquire() {
                            most.fetch_max(limit.used(), Relaxed);
                            held.push_back(permit);
                        }
                        // Some are returned at once, some epochs later.
                        if round % 3 > 0 || held.len() > 4 {
                            held.pop_front();
                        }
                    }
                });
            }
            for round in 0..1_000 {
                limit.move_old(now + AGE * round / 3, AGE, other);
            }
        });
        assert!(most.load(Relaxed) <= 37);
        assert_eq!((limit.used(), other.used()), (0, 0));
    }

    #[test]
    fn a_sweep_refuses_nobody() {
        let (limit, other) = (Limit::new(2), Limit::new(0));
        let now = rt::now();
        let swept = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !swept.load(Relaxed) {
                    drop(limit.try_acquire().expect("one of two is taken"));
                }
            });
            for round in 0..50_000 {
                let _held = limit.try_acquire().expect("one of two is taken");
                limit.move_old(now + Duration::from_secs(round), AGE, &other);
            }
            swept.store(true, Relaxed);
        });
        assert_eq!(limit.used(), 0);
    }

    #[test]
    fn what_is_held_long_is_counted_elsewhere_as_far_as_there_is_room() {
        let (limit, other) = (Limit::new(4), Limit::new(2));
        let start = rt::now();
        let sweep = |at: u64| limit.move_old(start + Duration::from_secs(at), AGE, &other);
        let mut held: Vec<_> = (0..3).filter_map(|_| limit.try_acquire()).collect();
        sweep(5);
        held.extend(limit.try_acquire());
        sweep(10);
        sweep(34);
        assert_eq!((limit.used(), other.used()), (4, 0));
        sweep(35);
        assert_eq!((limit.used(), other.used()), (2, 2));
        // There is room for new ones, and none of the old is returned twice.
        held.extend((0..9).filter_map(|_| limit.try_acquire()));
        assert_eq!((held.len(), limit.used()), (6, 4));
        other.set_max(9);
        sweep(40);
        assert_eq!((limit.used(), other.used()), (2, 4));
        sweep(70);
        assert_eq!((limit.used(), other.used()), (0, 6));
        held.clear();
        assert_eq!((limit.used(), other.used()), (0, 0));
    }

    #[tokio::test]
    async fn whoever_waits_takes_the_room_that_an_old_one_leaves() {
        let (limit, other) = (Limit::new(1), Limit::new(1));
        let _held = limit.try_acquire();
        let mut waiting = tokio_test::task::spawn(limit.acquire());
        assert!(waiting.poll().is_pending());
        let now = rt::now();
        limit.move_old(now, AGE, &other);
        limit.move_old(now + AGE, AGE, &other);
        assert!(waiting.is_woken() && waiting.poll().is_ready());
    }

    #[tokio::test]
    async fn waiting_calls_are_admitted_as_permits_return_and_may_give_up() {
        let limit = Limit::new(1);
        let held = limit.try_acquire();
        let mut first = tokio_test::task::spawn(limit.acquire());
        let mut second = tokio_test::task::spawn(limit.acquire());
        assert!(first.poll().is_pending() && second.poll().is_pending());
        drop(first);
        drop(held);
        assert!(second.is_woken() && second.poll().is_ready());
        assert_eq!(limit.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_goes_to_the_newest_where_the_order_says_so_and_late_ones_are_sent_away() {
        let limit = Limit::new(1);
        limit.set_order(QueueOrder::Lifo);
        let held = limit.try_acquire();
        let late = tokio_test::task::spawn(limit.wait(Some(rt::now() + AGE)));
        let (mut old, mut new) = (tokio_test::task::spawn(limit.wait(None)), tokio_test::task::spawn(limit.wait(None)));
        let mut late = late;
        assert!(late.poll().is_pending() && old.poll().is_pending() && new.poll().is_pending());
        tokio::time::advance(AGE).await;
        drop(held);
        let Poll::Ready(None) = late.poll() else { panic!("its time is over") };
        let Poll::Ready(Some(permit)) = new.poll() else { panic!("the newest is served") };
        assert!(old.poll().is_pending());
        drop(permit);
        assert!(matches!(old.poll(), Poll::Ready(Some(_))));
        drop((late, old, new));
        assert_eq!((limit.used(), limit.waiting.load(SeqCst)), (0, 0));
    }

    proptest::proptest! {
        /// Whatever is dropped when, before it is polled, between hand-over and poll, or after: all permits return, and
        /// nobody who still waits is forgotten.
        #[test]
        fn places_dropped_at_any_moment_return_what_they_hold(
            order in 0usize..3,
            steps in proptest::collection::vec((0u8..5, 0usize..8), 1..200),
        ) {
            let limit = Limit::new(3);
            limit.set_order([QueueOrder::Fifo, QueueOrder::Lifo, QueueOrder::Codel][order]);
            let mut held = Vec::new();
            let mut places: Vec<tokio_test::task::Spawn<Place>> = Vec::new();
            for (step, index) in steps {
                match step {
                    0 => held.extend(limit.try_acquire()),
                    1 => places.push(tokio_test::task::spawn(limit.wait(None))),
                    2 if !held.is_empty() => drop(held.swap_remove(index % held.len())),
                    3 if !places.is_empty() => drop(places.swap_remove(index % places.len())),
                    4 if !places.is_empty() => {
                        let at = index % places.len();
                        if let Poll::Ready(permit) = places[at].poll() {
                            held.extend(permit);
                            drop(places.swap_remove(at));
                        }
                    }
                    _ => {}
                }
                proptest::prop_assert!(limit.used() <= 3);
                // Nobody waits while there is room.
                proptest::prop_assert!(limit.used() == 3 || limit.queue().is_empty());
            }
            drop((held, places));
            proptest::prop_assert_eq!((limit.used(), limit.waiting.load(SeqCst)), (0, 0));
        }
    }

    #[test]
    fn a_lowered_ceiling_admits_nothing_until_enough_returned() {
        let limit = Limit::new(3);
        let mut held: Vec<_> = (0..3).filter_map(|_| limit.try_acquire()).collect();
        limit.set_max(1);
        held.pop();
        held.pop();
        assert!(limit.try_acquire().is_none());
        held.pop();
        assert!(limit.try_acquire().is_some());
        assert!(Limit::new(0).try_acquire().is_none());
    }
}
