//! What calls read: endpoints by priority and subset, published whole.

use super::{SubsetId, endpoint::Endpoint};
use crate::{
    balance::{EndpointSet, Picked},
    transport::Readiness,
};

/// The endpoints of one moment.
pub(crate) struct Table {
    /// Whether discovery has spoken yet: unknown is not empty.
    pub(super) known: bool,
    /// The cluster is over.
    pub(super) closed: bool,
    /// By priority, first choice first.
    pub(super) levels: Vec<Level>,
}

/// The endpoints of one priority.
pub(crate) struct Level {
    pub(super) all: EndpointSet<Endpoint>,
    /// By [`SubsetId`].
    pub(super) subsets: Vec<EndpointSet<Endpoint>>,
}

/// How the endpoints of a set are, when none could be picked.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Census {
    pub(super) ready: usize,
    pub(super) connecting: usize,
    pub(super) failed: usize,
}

impl Census {
    pub(super) fn total(self) -> usize {
        self.ready + self.connecting + self.failed
    }
}

impl Table {
    pub(super) fn unknown() -> Self {
        Self { known: false, closed: false, levels: Vec::new() }
    }

    pub(super) fn closed() -> Self {
        Self { closed: true, ..Self::unknown() }
    }

    /// The sets to pick from, first choice first.
    fn sets(&self, subset: Option<SubsetId>) -> impl Iterator<Item = &EndpointSet<Endpoint>> {
        self.levels.iter().filter_map(move |level| match subset {
            None => Some(&level.all),
            Some(SubsetId(id)) => level.subsets.get(id as usize),
        })
    }

    /// An available endpoint of the first priority that has one.
    pub(super) fn pick(&self, subset: Option<SubsetId>, skip: impl Fn(&Endpoint) -> bool) -> Option<Picked<Endpoint>> {
        self.sets(subset).find_map(|set| set.pick(&skip))
    }

    /// Counts states, and finds the most recent failure.
    pub(super) fn census(&self, subset: Option<SubsetId>) -> (Census, Option<String>) {
        let mut census = Census::default();
        let mut last = None;
        for member in self.sets(subset).flat_map(|set| set.members()) {
            match member.pool.readiness() {
                Readiness::Ready => census.ready += 1,
                Readiness::Idle => {
                    member.wake();
                    census.connecting += 1;
                }
                Readiness::Connecting => census.connecting += 1,
                Readiness::TransientFailure => {
                    census.failed += 1;
                    if let Some((text, since)) = member.pool.last_error()
                        && last.as_ref().is_none_or(|(_, latest)| since > *latest)
                    {
                        last = Some((text, since));
                    }
                }
            }
        }
        (census, last.map(|(text, _)| text.to_string()))
    }
}
