//! What is counted for one endpoint.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{
    Cause, OutlierPolicy, Sample,
    history::{History, Recent},
};

/// The counts of one endpoint. A success costs one atomic addition and a few loads; what a lost update between two
/// threads could change is one sample of a rate, so nothing else is locked.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// In this interval: answers, and those of them that were failures.
    answers: AtomicU32,
    failures: AtomicU32,
    /// In this interval: calls without an answer.
    unanswered: AtomicU32,
    /// In the interval before: calls, and those of them that were failures.
    before: [AtomicU32; 2],
    in_a_row: InARow,
    history: History,
}

#[derive(Debug, Default)]
struct InARow {
    any_5xx: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
    /// Of those without a connection. A success leaves it alone, so it may be more than `local`, and is never more if one
    /// of those had one.
    connects: AtomicU32,
}

/// The counts of one interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Window {
    pub(crate) answers: u32,
    pub(crate) failures: u32,
    pub(crate) unanswered: u32,
}

impl Vitals {
    /// Takes in a success. The whole of the common case.
    #[inline]
    pub(crate) fn succeeded(&self) {
        self.answers.fetch_add(1, Relaxed);
        self.history.push(false);
        let InARow { any_5xx, gateway, local, .. } = &self.in_a_row;
        for count in [any_5xx, gateway, local] {
            reset(count);
        }
    }

    /// Takes in anything else. Says so if it is one too many in a row; then again after as many more.
    pub(crate) fn failed(&self, sample: Sample, policy: &OutlierPolicy) -> Option<Cause> {
        if sample.is_failure() {
            self.history.push(true);
        }
        let InARow { any_5xx, gateway, local, connects } = &self.in_a_row;
        let answered = || {
            self.answers.fetch_add(1, Relaxed);
            self.failures.fetch_add(1, Relaxed);
            reset(local);
        };
        match sample {
            Sample::Success => {
                self.succeeded();
                None
            }
            Sample::Neutral => None,
            Sample::Shed => {
                answered();
                None
            }
            Sample::Server => {
                answered();
                reset(gateway);
                one_more(any_5xx, policy.consecutive_5xx).then_some(Cause::Consecutive5xx)
            }
            Sample::Gateway => {
                answered();
                self.gateway_failure(policy)
            }
            Sample::Local | Sample::Connect => {
                self.unanswered.fetch_add(1, Relaxed);
                match sample {
                    Sample::Connect => drop(connects.fetch_add(1, Relaxed)),
                    _ => reset(connects),
                }
                if policy.split_external_local_origin_errors {
                    one_more(local, policy.consecutive_local_origin_failure)
                        .then_some(Cause::ConsecutiveLocalOriginFailure)
                } else {
                    self.gateway_failure(policy)
                }
            }
        }
    }

    fn gateway_failure(&self, policy: &OutlierPolicy) -> Option<Cause> {
        let gateway = one_more(&self.in_a_row.gateway, policy.consecutive_gateway_failure);
        let any_5xx = one_more(&self.in_a_row.any_5xx, policy.consecutive_5xx);
        let cause = gateway.then_some(Cause::ConsecutiveGatewayFailure);
        cause.or(any_5xx.then_some(Cause::Consecutive5xx))
    }

    /// The counts since the last time, begun anew.
    pub(crate) fn take_window(&self) -> Window {
        let take = |count: &AtomicU32| match count.load(Relaxed) {
            0 => 0,
            _ => count.swap(0, Relaxed),
        };
        let window =
            Window { answers: take(&self.answers), failures: take(&self.failures), unanswered: take(&self.unanswered) };
        let [calls, failures] = &self.before;
        calls.store(window.answers + window.unanswered, Relaxed);
        failures.store(window.failures + window.unanswered, Relaxed);
        window
    }

    /// Its calls in this interval and in the one before.
    pub(crate) fn lately(&self) -> Recent {
        let ([calls, failures], unanswered) = (&self.before, self.unanswered.load(Relaxed));
        let sum = |a: u32, b: &AtomicU32| a.saturating_add(b.load(Relaxed));
        Recent {
            calls: sum(sum(unanswered, &self.answers), calls),
            failures: sum(sum(unanswered, &self.failures), failures),
        }
    }

    /// Its most recent calls, as many as the cause is judged by.
    pub(crate) fn recent(&self, cause: Cause, policy: &OutlierPolicy) -> Recent {
        self.history.read(cause.looks_back(policy))
    }

    /// What was held against it is forgotten: it is judged anew.
    pub(crate) fn forget(&self) {
        self.take_window();
        self.take_window();
        self.history.clear();
        let InARow { any_5xx, gateway, local, connects } = &self.in_a_row;
        for count in [any_5xx, gateway, local, connects] {
            reset(count);
        }
    }

    /// Whether its last calls failed because there was no connection, all of those that got no answer in a row.
    pub(crate) fn failed_to_connect(&self) -> bool {
        let InARow { local, connects, .. } = &self.in_a_row;
        let local = local.load(Relaxed);
        local > 0 && connects.load(Relaxed) >= local
    }
}

fn reset(count: &AtomicU32) {
    // A load first: in the common case nothing is written.
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

/// Counts one more, and says whether that makes `limit`, or a multiple of it, in a row.
fn one_more(count: &AtomicU32, limit: Option<u32>) -> bool {
    let now = count.fetch_add(1, Relaxed).wrapping_add(1);
    limit.is_some_and(|limit| limit > 0 && now.is_multiple_of(limit))
}
