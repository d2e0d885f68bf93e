//! An endpoint's reference counts, which are its load.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// What can be chosen.
pub trait Candidate {
    /// Whether a call can be sent now. Asked only of candidates that a pick considers, so it may also do something about
    /// the answer, such as waking an idle connection; it must not block.
    fn available(&self) -> bool {
        true
    }

    /// What one more call costs here with `in_flight` calls running; least request takes the lowest cost per weight.
    /// Only ratios count, so any unit will do.
    fn cost(&self, in_flight: u32) -> u64 {
        u64::from(in_flight) + 1
    }

    /// What is added to that cost because something is held against this candidate, in 256ths of it. Where there is such
    /// a surcharge, costs within a tenth of each other are equal: one stray failure is no reason to go elsewhere.
    fn surcharge(&self) -> u32 {
        0
    }
}

// In this order, so that the counts share a cache line with the beginning of the value.
#[repr(C)]
struct Core<C> {
    members: AtomicU32,
    value: C,
}

/// An endpoint as its owner and the sets hold it: a reference that is not load.
pub struct Member<C> {
    core: Arc<Core<C>>,
}

impl<C> Member<C> {
    /// A new endpoint without load.
    pub fn new(value: C) -> Self {
        Self { core: Arc::new(Core { members: AtomicU32::new(1), value }) }
    }

    /// Calls in flight: the [`Picked`]s that have not been dropped. May be one too high while a member is cloned or
    /// dropped elsewhere.
    pub fn in_flight(&self) -> u32 {
        let references = u32::try_from(Arc::strong_count(&self.core)).unwrap_or(u32::MAX);
        references.saturating_sub(self.core.members.load(Relaxed))
    }

    /// Counts a call without a choice, for one that must go to this endpoint.
    pub fn acquire(&self) -> Picked<C> {
        Picked { core: self.core.clone() }
    }

    /// Whether both are the same endpoint.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core, &other.core)
    }
}

impl<C> Clone for Member<C> {
    fn clone(&self) -> Self {
        let core = self.core.clone();
        core.members.fetch_add(1, Relaxed);
        Self { core }
    }
}

impl<C> Drop for Member<C> {
    fn drop(&mut self) {
        self.core.members.fetch_sub(1, Relaxed);
    }
}

impl<C> Deref for Member<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.core.value
    }
}

impl<C: fmt::Debug> fmt::Debug for Member<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("value", &self.core.value).field("in_flight", &self.in_flight()).finish()
    }
}

/// A chosen endpoint and one call in flight on it; the call ends when this is dropped.
#[must_use = "the call in flight ends when this is dropped"]
pub struct Picked<C> {
    core: Arc<Core<C>>,
}

impl<C> Picked<C> {
    /// The endpoint without this call's load.
    pub fn member(&self) -> Member<C> {
        let core = self.core.clone();
        core.members.fetch_add(1, Relaxed);
        Member { core }
    }

    /// Whether this is a call on that endpoint.
    pub fn is(&self, member: &Member<C>) -> bool {
        Arc::ptr_eq(&self.core, &member.core)
    }
}

impl<C> Deref for Picked<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.core.value
    }
}

impl<C: fmt::Debug> fmt::Debug for Picked<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Picked").field(&self.core.value).finish()
    }
}
