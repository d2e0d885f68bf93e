//! One check of one endpoint, for whoever wants to know.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::Notify;

use super::probe::Probing;
use crate::{
    health::{CheckState, Finding, HealthCheck, Status},
    model::{Address, Protocol},
    rt::{self, Instant, Rng, TaskSet},
    transport::Dial,
};

/// What is asked, and of whom. Equal targets share a checker.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) addresses: Arc<[Address]>,
    pub(super) check: HealthCheck,
    pub(super) protocol: Protocol,
    /// Of HTTP requests, unless the check says another.
    pub(super) host: Arc<str>,
    /// The same one only makes connections that are as good as each other's.
    pub(super) dial: Arc<dyn Dial>,
}

impl Target {
    fn same(&self, other: &Self) -> bool {
        self.addresses == other.addresses
            && self.check == other.check
            && self.protocol == other.protocol
            && self.host == other.host
            && Arc::ptr_eq(&self.dial, &other.dial)
    }
}

/// What one check found, and what follows.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) finding: Finding,
    /// What is wrong; empty if nothing is.
    pub(super) why: Arc<str>,
    pub(super) status: Status,
}

/// Who is told.
pub(super) trait Listen: Send + Sync {
    fn told(&self, report: &Report);

    /// Whether calls were made within the last `within`.
    fn has_traffic(&self, now: Instant, within: Duration) -> bool;
}

/// The checkers of a mesh.
#[derive(Default)]
pub(crate) struct Checks {
    by_address: Mutex<BTreeMap<Arc<[Address]>, Vec<Weak<Checker>>>>,
}

impl Checks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<[Address]>, Vec<Weak<Checker>>>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a target checked, and says what is known already. It is asked until the subscription is dropped; on these tasks
    /// if nobody does so yet.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        target: Target,
        known: Status,
        tasks: &TaskSet,
        listener: Arc<dyn Listen>,
    ) -> (Subscription, Status) {
        let mut checkers = self.lock();
        let of_address = checkers.entry(Arc::clone(&target.addresses)).or_default();
        of_address.retain(|checker| checker.strong_count() > 0);
        let found = of_address.iter().filter_map(Weak::upgrade).find(|checker| checker.target.same(&target));
        let checker = found.filter(|checker| !checker.lock().listeners.is_empty()).unwrap_or_else(|| {
            let checker = Arc::new(Checker {
                target,
                // Not of the cluster that came first: it may be the first to go.
                tasks: tasks.child(),
                looked_at: Notify::new(),
                inner: Mutex::new(Inner { state: CheckState::with(known), listeners: Vec::new(), next: 0 }),
            });
            of_address.push(Arc::downgrade(&checker));
            let running = Arc::clone(&checker);
            checker.tasks.spawn(async move { running.run().await });
            checker
        });
        let mut inner = checker.lock();
        let (number, status) = (inner.next, inner.state.status());
        inner.next += 1;
        inner.listeners.push((number, listener));
        drop(inner);
        (Subscription { checks: Arc::clone(self), checker, number }, status)
    }

    /// How many checkers there are.
    #[cfg(test)]
    pub(in crate::cluster) fn len(&self) -> usize {
        self.lock().values().flatten().filter(|checker| checker.strong_count() > 0).count()
    }
}

/// Somebody wants to know. Dropped, nobody is told any more, and with the last one nobody is asked.
pub(super) struct Subscription {
    checks: Arc<Checks>,
    checker: Arc<Checker>,
    number: u64,
}

impl Subscription {
    pub(super) fn target(&self) -> &Target {
        &self.checker.target
    }

    pub(super) fn checker(&self) -> Arc<Checker> {
        Arc::clone(&self.checker)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Nobody may join a checker between its last listener's leave and its end.
        let mut checkers = self.checks.lock();
        let mut inner = self.checker.lock();
        inner.listeners.retain(|(number, _)| *number != self.number);
        if inner.listeners.is_empty() {
            self.checker.tasks.cancel();
            let addresses = &self.checker.target.addresses;
            if let Some(of_address) = checkers.get_mut(addresses) {
                of_address.retain(|checker| !std::ptr::eq(checker.as_ptr(), &*self.checker));
                if of_address.is_empty() {
                    checkers.remove(addresses);
                }
            }
        }
    }
}

pub(super) struct Checker {
    target: Target,
    tasks: TaskSet,
    /// What was found by others changed when the next check is due.
    looked_at: Notify,
    inner: Mutex<Inner>,
}

struct Inner {
    state: CheckState,
    listeners: Vec<(u64, Arc<dyn Listen>)>,
    next: u64,
}

impl Checker {
    /// The endpoint itself said, in answer to a call, that it is not well.
    pub(super) fn failed(&self, why: &str) {
        self.take(Finding::Wrong, why.into());
        self.looked_at.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self) {
        let check = &self.target.check;
        let mut probing = Probing::new(&self.target, &self.tasks);
        let mut due = rt::now() + CheckState::first(check, &mut Rng::local());
        let mut asked = None;
        loop {
            tokio::select! {
                biased;
                () = self.looked_at.notified() => due = self.due(),
                said = probing.watch() => match said {
                    Some((finding, why)) => {
                        self.take(finding, why);
                        due = self.due();
                    }
                    // That a stream ended is no finding; it is asked at once what is the matter, though not again and again.
                    None if asked.is_none_or(|asked| rt::now() - asked >= check.interval) => due = rt::now(),
                    None => {}
                },
                () = rt::sleep_until(due) => {
                    asked = Some(rt::now());
                    let (finding, why) = probing.ask().await;
                    self.take(finding, why);
                    due = self.due();
                }
            }
        }
    }

    fn due(&self) -> Instant {
        let (now, check) = (rt::now(), &self.target.check);
        let mut inner = self.lock();
        let traffic = inner.listeners.iter().any(|(_, listener)| listener.has_traffic(now, check.no_traffic_interval));
        now + inner.state.next(check, traffic, &mut Rng::local())
    }

    fn take(&self, finding: Finding, why: Arc<str>) {
        let mut inner = self.lock();
        inner.state.take(finding, &self.target.check);
        let report = Report { finding, why, status: inner.state.status() };
        let listeners: Vec<_> = inner.listeners.iter().map(|(_, listener)| Arc::clone(listener)).collect();
        // They ask others, and take locks of their own.
        drop(inner);
        for listener in listeners {
            listener.told(&report);
        }
    }
}
