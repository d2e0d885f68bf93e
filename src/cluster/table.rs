//! What calls read: endpoints by priority and subset, published whole.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{SubsetId, endpoint::Endpoint};
use crate::{
    balance::{EndpointSet, Picked},
    health::in_panic,
    rt::Instant,
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
    /// By priority, first choice first.
    pub(super) levels: Vec<Level>,
    /// Whether anything is known about any endpoint's health.
    pub(super) doubts: AtomicBool,
}

/// The endpoints of one priority.
pub(crate) struct Level {
    pub(super) all: Group,
    /// By [`SubsetId`].
    pub(super) subsets: Vec<Group>,
}

/// The endpoints of one priority and subset, and whether so few of them are usable that all are admitted.
pub(crate) struct Group {
    pub(super) set: EndpointSet<Endpoint>,
    panic: AtomicBool,
}

/// `healthy_panic_threshold`: per cent.
const PANIC_THRESHOLD: u32 = 50;

impl Group {
    pub(super) fn new(set: EndpointSet<Endpoint>) -> Self {
        Self { set, panic: AtomicBool::new(false) }
    }

    pub(super) fn in_panic(&self) -> bool {
        self.panic.load(Relaxed)
    }

    fn pick(&self, repeatable: bool, skip: impl Fn(&Endpoint) -> bool) -> Option<Choice> {
        let panic = self.in_panic();
        let picked = self.set.pick(|endpoint| !endpoint.admits(panic, repeatable) || skip(endpoint))?;
        Some(Choice { picked, panic })
    }

    /// Counts usable endpoints. True if anything is known about any of them.
    fn assess(&self) -> bool {
        let (mut usable, mut trusted, mut doubts) = (0, false, false);
        for member in self.set.members() {
            let (clear, counts) = (member.availability.is_clear(), member.is_usable());
            doubts |= !clear;
            usable += usize::from(counts);
            trusted |= clear && counts;
        }
        // With nobody left but those on probation, one call at a time would be an outage.
        let panic = in_panic(usable, self.set.members().len(), PANIC_THRESHOLD) || !trusted;
        self.panic.store(doubts && panic, Relaxed);
        doubts
    }
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
        Self { known: false, closed: false, levels: Vec::new(), doubts: AtomicBool::new(false) }
    }

    pub(super) fn closed() -> Self {
        Self { closed: true, ..Self::unknown() }
    }

    /// The groups to pick from, first choice first.
    fn groups(&self, subset: Option<SubsetId>) -> impl Iterator<Item = &Group> {
        self.levels.iter().filter_map(move |level| match subset {
            None => Some(&level.all),
            Some(SubsetId(id)) => level.subsets.get(id as usize),
        })
    }

    /// An available endpoint of the first priority that has one.
    pub(super) fn pick(
        &self,
        subset: Option<SubsetId>,
        repeatable: bool,
        skip: impl Fn(&Endpoint) -> bool,
    ) -> Option<Choice> {
        self.groups(subset).find_map(|group| group.pick(repeatable, &skip))
    }

    /// What speaks against endpoints that are passed over, as the rest of a sentence; empty if nothing does.
    pub(super) fn against(&self, subset: Option<SubsetId>, now: Instant) -> String {
        const SHOWN: usize = 3;
        let members = self.groups(subset).flat_map(|group| group.set.members());
        let doubted: Vec<_> = members.filter(|member| !member.availability.is_clear()).collect();
        let mut accounts: Vec<_> = doubted.iter().take(SHOWN).filter_map(|member| member.account(now)).collect();
        if doubted.len() > SHOWN {
            accounts.push(format!("and {} more", doubted.len() - SHOWN));
        }
        if accounts.is_empty() { String::new() } else { format!("; {}", accounts.join("; ")) }
    }

    /// Brings up to date what follows from the state of the endpoints. Looks at all of them, so it is done when a state
    /// changes, never by a pick.
    pub(super) fn assess(&self) {
        let mut doubts = false;
        for level in &self.levels {
            doubts |= level.all.assess();
            for group in &level.subsets {
                group.assess();
            }
        }
        self.doubts.store(doubts, Relaxed);
    }

    /// Counts states, and finds the most recent failure.
    pub(super) fn census(&self, subset: Option<SubsetId>) -> (Census, Option<String>) {
        let mut census = Census::default();
        let mut last = None;
        let members = self.groups(subset).flat_map(|group| {
            let panic = group.in_panic();
            group.set.members().map(move |member| (member, panic))
        });
        for (member, panic) in members {
            match member.pool.readiness() {
                Readiness::TransientFailure => {
                    census.failed += 1;
                    if let Some((text, since)) = member.pool.last_error()
                        && last.as_ref().is_none_or(|(_, latest)| since > *latest)
                    {
                        last = Some((text, since));
                    }
                }
                _ if !member.availability.admits(panic) => census.excluded += 1,
                Readiness::Ready => census.ready += 1,
                Readiness::Idle => {
                    member.wake();
                    census.connecting += 1;
                }
                Readiness::Connecting => census.connecting += 1,
            }
        }
        (census, last.map(|(text, _)| text.to_string()))
    }
}
