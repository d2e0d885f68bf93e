//! What calls read: endpoints by priority and subset, published whole.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{SubsetId, endpoint::Endpoint, home::Home, level::Level};
use crate::{
    balance::{FailoverPolicy, Picked, loads},
    enforcement::Mode,
    error::Code,
    health::in_panic,
    rt::{Instant, Rng},
    transport::Readiness,
};

/// A chosen endpoint, and whether it was chosen among all because too few are usable.
pub(super) struct Choice {
    pub(super) picked: Picked<Endpoint>,
    pub(super) panic: bool,
}

/// The endpoints of one moment.
pub(crate) struct Table {
    /// Whether discovery has spoken yet: unknown is not empty.
    pub(super) known: bool,
    /// The cluster is over.
    pub(super) closed: bool,
    /// Endpoints by priority.
    pub(super) all: View,
    /// By [`SubsetId`].
    pub(super) subsets: Vec<View>,
    pub(super) failover: FailoverPolicy,
    /// Whether anything is known about any endpoint's health.
    pub(super) doubts: AtomicBool,
}

/// The endpoints of all or of one subset.
#[derive(Default)]
pub(super) struct View {
    /// By priority, first choice first; none is empty.
    pub(super) levels: Vec<Level>,
    /// The first priority as if there were no other, where not every call may leave it.
    pub(super) kept: Option<Box<View>>,
}

impl View {
    /// Where this call is to go first.
    fn first(&self) -> usize {
        match self.levels.as_slice() {
            [] => 0,
            [first, ..] if first.upto.load(Relaxed) == 100 => 0,
            levels => {
                let roll = Rng::local().below(100);
                levels.iter().position(|level| roll < level.upto.load(Relaxed)).unwrap_or(0)
            }
        }
    }

    /// An endpoint of the priority whose turn it is; of another one, first choice first, if it has none that can be used
    /// now: a call does not wait for connections of one priority while there are those of another.
    #[inline]
    fn pick(&self, repeatable: bool, skip: impl Fn(&Endpoint) -> bool) -> Option<Choice> {
        let first = self.first();
        let choice = self.levels.get(first)?.pick(repeatable, &skip);
        choice.or_else(|| self.pick_other(first, repeatable, &skip))
    }

    #[cold]
    fn pick_other(&self, first: usize, repeatable: bool, skip: impl Fn(&Endpoint) -> bool) -> Option<Choice> {
        let others = self.levels.iter().enumerate().filter(|(index, _)| *index != first);
        others.map(|(_, level)| level).find_map(|level| level.pick(repeatable, &skip))
    }

    /// Counts endpoints, and says what follows. True if anything is known about the health of any.
    fn assess(&self, policy: &FailoverPolicy, home: &Home) -> bool {
        let tallies: Vec<_> = self.levels.iter().map(Level::tally).collect();
        let counts: Vec<_> = tallies.iter().map(|tally| tally.count).collect();
        let threshold = policy.healthy_panic_threshold;
        let loads = loads(policy, &counts, |count| in_panic(count.usable, count.total, threshold));
        // With nobody left but those on probation, one call at a time would be an outage.
        let trusted = tallies.iter().any(|tally| tally.trusted);
        let mut upto = 0;
        for ((level, tally), load) in self.levels.iter().zip(&tallies).zip(loads) {
            let panic = tally.doubts && (load.panic || !trusted);
            level.settle(load, panic, policy.fail_traffic_on_panic, home);
            upto += load.percent;
            level.upto.store(upto, Relaxed);
        }
        if let Some(kept) = &self.kept {
            kept.assess(policy, home);
        }
        tallies.iter().any(|tally| tally.doubts)
    }
}

/// Which endpoints a call may go to.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) subset: Option<SubsetId>,
    /// Only those of the first priority.
    pub(super) stays: bool,
}

/// How the endpoints of a set are, when none could be picked.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Census {
    pub(super) ready: usize,
    pub(super) connecting: usize,
    pub(super) failed: usize,
    /// Neither picked nor waited for, since something is known against them.
    pub(super) excluded: usize,
}

impl Census {
    pub(super) fn total(self) -> usize {
        self.ready + self.connecting + self.failed + self.excluded
    }
}

impl Table {
    pub(super) fn unknown() -> Self {
        Self {
            known: false,
            closed: false,
            all: View::default(),
            subsets: Vec::new(),
            failover: FailoverPolicy::default(),
            doubts: AtomicBool::new(false),
        }
    }

    pub(super) fn closed() -> Self {
        Self { closed: true, ..Self::unknown() }
    }

    fn view(&self, of: Seen) -> Option<&View> {
        let view = match of.subset {
            None => Some(&self.all),
            Some(SubsetId(id)) => self.subsets.get(id as usize),
        };
        match view {
            Some(View { kept: Some(kept), .. }) if of.stays => Some(kept),
            view => view,
        }
    }

    fn levels(&self, of: Seen) -> impl Iterator<Item = &Level> {
        self.view(of).into_iter().flat_map(|view| &view.levels)
    }

    /// What some call may go to: where only a share of them may leave the first priority, it may be one of those.
    pub(super) fn seen(&self, subset: Option<SubsetId>) -> Seen {
        Seen { subset, stays: self.failover.enforcement != Mode::Enforce }
    }

    /// Whether there are calls that may not leave the first priority.
    pub(super) fn keeps_calls(&self) -> bool {
        !self.failover.is_whole()
    }

    /// Whether a call that stayed would have gone elsewhere: by the shares of the priorities or, if it `failed`, since
    /// another one could serve it.
    pub(super) fn would_leave(&self, subset: Option<SubsetId>, repeatable: bool, failed: bool) -> bool {
        let Some(view) = self.view(Seen { subset, stays: false }) else { return false };
        view.kept.is_some() && (view.first() != 0 || failed && view.pick(repeatable, |_| false).is_some())
    }

    /// An available endpoint.
    #[inline]
    pub(super) fn pick(&self, of: Seen, repeatable: bool, skip: impl Fn(&Endpoint) -> bool) -> Option<Choice> {
        self.view(of)?.pick(repeatable, skip)
    }

    /// How many endpoints there are to look at for [`assess`](Self::assess).
    pub(super) fn len(&self) -> usize {
        self.all.levels.iter().map(|level| level.set.members().len()).sum()
    }

    /// Whether it matters that an endpoint cannot be connected to, besides that it is not picked: it may put a priority
    /// into panic, or move its share to another.
    pub(super) fn heeds_connections(&self) -> bool {
        self.doubts.load(Relaxed)
            || self.all.levels.len() > 1
            || self.failover.fail_traffic_on_panic
            || self.all.levels.iter().any(Level::has_zones)
    }

    /// What speaks against endpoints that are passed over, as the rest of a sentence; empty if nothing does.
    pub(super) fn against(&self, of: Seen, now: Instant) -> String {
        const SHOWN: usize = 3;
        let members = self.levels(of).flat_map(|level| level.set.members());
        let doubted: Vec<_> = members.filter(|member| !member.availability.is_clear()).collect();
        let mut accounts: Vec<_> = doubted.iter().take(SHOWN).filter_map(|member| member.account(now)).collect();
        if doubted.len() > SHOWN {
            accounts.push(format!("and {} more", doubted.len() - SHOWN));
        }
        if accounts.is_empty() { String::new() } else { format!("; {}", accounts.join("; ")) }
    }

    /// Brings up to date what follows from the state of the endpoints. Looks at all of them, so it is done when a state
    /// changes, never by a pick.
    pub(super) fn assess(&self, home: &Home) {
        let doubts = self.all.assess(&self.failover, home);
        for view in &self.subsets {
            view.assess(&self.failover, home);
        }
        self.doubts.store(doubts, Relaxed);
    }

    /// Counts states, and finds the most recent failure.
    pub(super) fn census(&self, of: Seen) -> (Census, Option<(Code, String)>) {
        let mut census = Census::default();
        let mut last = None;
        let members = self.levels(of).flat_map(|level| level.set.members().map(move |member| (member, level)));
        for (member, level) in members {
            match member.pool.readiness() {
                Readiness::TransientFailure => {
                    census.failed += 1;
                    if let Some((text, since)) = member.pool.last_error()
                        && last.as_ref().is_none_or(|(_, latest, _)| since > *latest)
                    {
                        last = Some((text, since, member.pool.last_code()));
                    }
                }
                _ if level.is_refusing() || !member.availability.admits(level.in_panic()) => census.excluded += 1,
                Readiness::Ready => census.ready += 1,
                Readiness::Idle => {
                    member.wake();
                    census.connecting += 1;
                }
                Readiness::Connecting => census.connecting += 1,
            }
        }
        (census, last.map(|(text, _, code)| (code.unwrap_or(Code::ConnectFailed), text.to_string())))
    }
}
