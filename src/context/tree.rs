//! The retry allowance of the tree of calls that a request belongs to, as this hop sees it.
//!
//! A hop is told how many further attempts it and those below it may make, and says with its response how many were made.
//! Calls that it makes at the same time or one after the other each may spend what it was told, and the most that one of
//! them spent counts: each of them is needed once in a run without failures, so a sum would take from one what another
//! spent. When the response's headers have left, the caller counts on what they said: nothing more is spent, also by tasks
//! that go on.

use std::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};

use http::{HeaderMap, HeaderValue};

use super::{SINEW_NO_RETRY, SINEW_SPENT};

/// What a peer that may tell passes on where it says nothing: most trees have the default allowance of 2, of which a first
/// attempt passes 1, and a header that says so with each call would cost more than it tells.
pub(crate) const UNSAID: u8 = 1;

#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// What the caller passed on; `None` if the tree begins here.
    granted: Option<u8>,
    spent: AtomicU8,
    /// What the headers of the response said.
    told: AtomicU8,
    over: AtomicBool,
    no_retry: AtomicBool,
}

impl Tree {
    /// A tree of which the caller granted this much, or one that begins here.
    pub(crate) fn new(granted: Option<u8>) -> Self {
        Self { granted, ..Self::default() }
    }

    /// Whether somebody above counts.
    pub(crate) fn has_parent(&self) -> bool {
        self.granted.is_some()
    }

    /// What a call may spend that would have `own` if the tree began with it.
    pub(crate) fn allowance(&self, own: u8) -> u8 {
        match self.granted {
            None => own,
            Some(_) if self.over.load(Acquire) => 0,
            Some(granted) => granted.min(own),
        }
    }

    /// A call has spent this much.
    pub(crate) fn spend(&self, spent: u8) {
        self.spent.fetch_max(spent, Relaxed);
    }

    /// A call failed at a server that asks that nobody retries.
    pub(crate) fn ask_not_to_retry(&self) {
        self.no_retry.store(true, Relaxed);
    }

    /// The headers of the response leave. `failed` if they say that the request failed.
    pub(crate) fn leave(&self, headers: &mut HeaderMap, failed: bool) {
        if self.has_parent() {
            self.over.store(true, Release);
            let spent = self.spent.load(Relaxed);
            self.told.store(spent, Relaxed);
            if spent > 0 {
                headers.insert(SINEW_SPENT, u16::from(spent).into());
            }
        }
        // Only its own failure: a hop that coped has nothing to pass on.
        if failed && self.no_retry.load(Relaxed) {
            headers.insert(SINEW_NO_RETRY, HeaderValue::from_static("1"));
        }
    }

    /// The trailers of the response leave: what they add to its headers.
    pub(crate) fn end(&self, trailers: &mut HeaderMap) {
        let spent = self.spent.load(Relaxed);
        if self.has_parent() && spent > self.told.load(Relaxed) {
            trailers.insert(SINEW_SPENT, u16::from(spent).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tree: &Tree, failed: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        tree.leave(&mut headers, failed);
        headers
    }

    #[test]
    fn the_most_that_one_call_spent_is_told_and_nothing_is_left_after_it() {
        let tree = Tree::new(Some(3));
        assert_eq!((tree.allowance(5), tree.allowance(2)), (3, 2));
        tree.spend(2);
        tree.spend(1);
        assert_eq!(told(&tree, false)["sinew-spent"], "2");
        assert_eq!(tree.allowance(5), 0);
        let mut trailers = HeaderMap::new();
        tree.end(&mut trailers);
        assert!(trailers.is_empty());
        tree.spend(3);
        tree.end(&mut trailers);
        assert_eq!(trailers["sinew-spent"], "3");
    }

    #[test]
    fn a_root_tells_nobody_and_keeps_its_own_allowance() {
        let root = Tree::new(None);
        root.spend(2);
        assert!(told(&root, true).is_empty());
        assert_eq!(root.allowance(2), 2);
    }

    #[test]
    fn only_a_failure_repeats_that_nobody_should_retry() {
        let tree = Tree::new(Some(1));
        tree.ask_not_to_retry();
        assert!(told(&tree, false).is_empty());
        assert_eq!(told(&tree, true)["sinew-no-retry"], "1");
    }
}
