//! Whether this process should be sent requests, and if not, why.

use std::{borrow::Cow, collections::BTreeMap};

use tokio::sync::watch;

use crate::transport::accept::{Drain, DrainWatch, Phase};

/// The conditions under which a process is ready. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    conditions: watch::Sender<Conditions>,
    drain: DrainWatch,
}

/// By name: `None` is met, text says why not.
type Conditions = BTreeMap<&'static str, Option<Cow<'static, str>>>;

impl Readiness {
    /// Ready without conditions, until the drain begins.
    pub(crate) fn new(drain: &Drain) -> Self {
        Self { conditions: watch::Sender::new(Conditions::new()), drain: drain.watch() }
    }

    /// A condition that is not met yet: `configuration`, `listeners`, `identity`. Never a dependency.
    pub(crate) fn condition(&self, name: &'static str, reason: impl Into<Cow<'static, str>>) -> Condition {
        let condition = Condition { name, conditions: self.conditions.clone() };
        condition.not_met(reason);
        condition
    }

    /// True if every condition is met and no drain has begun.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_draining() && self.conditions.borrow().values().all(Option::is_none)
    }

    /// Each condition with the reason why it is not met.
    pub(crate) fn report(&self) -> Vec<(&'static str, Option<Cow<'static, str>>)> {
        let mut report: Vec<_> = self.conditions.borrow().iter().map(|(name, why)| (*name, why.clone())).collect();
        let draining = self.is_draining().then_some(Cow::Borrowed("this process is stopping"));
        report.push(("serving", draining));
        report
    }

    /// Sees every change from now on.
    pub(crate) fn changes(&self) -> Changes {
        Changes { conditions: self.conditions.subscribe(), readiness: self.clone() }
    }

    fn is_draining(&self) -> bool {
        self.drain.phase() > Phase::Serving
    }
}

/// Sees a [`Readiness`] change.
#[derive(Debug)]
pub(crate) struct Changes {
    readiness: Readiness,
    conditions: watch::Receiver<Conditions>,
}

impl Changes {
    /// The readiness after the next change of a condition or the start of the drain. Cancel safe.
    pub(crate) async fn next(&mut self) -> bool {
        if self.readiness.is_draining() {
            // For good: conditions do not matter any more.
            std::future::pending::<()>().await;
        }
        tokio::select! {
            biased;
            () = self.readiness.drain.clone().reached(Phase::LameDuck) => {}
            // The sender lives in `readiness`.
            _ = self.conditions.changed() => {}
        }
        self.readiness.is_ready()
    }
}

/// One condition of a [`Readiness`]. Dropping it leaves it as it is.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    name: &'static str,
    conditions: watch::Sender<Conditions>,
}

impl Condition {
    /// The condition holds.
    pub(crate) fn met(&self) {
        self.set(None);
    }

    /// The condition does not hold; the reason is shown as it is.
    pub(crate) fn not_met(&self, reason: impl Into<Cow<'static, str>>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<Cow<'static, str>>) {
        self.conditions.send_if_modified(|conditions| {
            let changed = conditions.get(self.name) != Some(&reason);
            conditions.insert(self.name, reason);
            changed
        });
    }
}
