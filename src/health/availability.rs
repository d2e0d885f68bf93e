//! One word per endpoint, read by every pick.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// Something that is known about an endpoint. Each has one owner that sets and clears it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flag(u32);

impl Flag {
    /// Outlier detection took it out.
    pub(crate) const EJECTED: Flag = Flag(1);
    /// Active health checks failed.
    pub(crate) const HC_FAILED: Flag = Flag(1 << 1);
    /// It is going away by its own word or by that of discovery: finishes what it has, is given nothing new, not even in
    /// panic.
    pub(crate) const DRAINING: Flag = Flag(1 << 2);
    /// Its ejection is over and one call shall show whether it is well. Counts as usable, but is only picked as that one
    /// call.
    pub(crate) const PROBATION: Flag = Flag(1 << 3);

    /// Every name, of what holds or not.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMED.into_iter().map(|(_, name)| name)
    }

    const NAMED: [(Flag, &'static str); 4] = [
        (Flag::EJECTED, "ejected"),
        (Flag::HC_FAILED, "health_check_failed"),
        (Flag::DRAINING, "draining"),
        (Flag::PROBATION, "probation"),
    ];
}

/// What panic overrules.
const DOUBTED: u32 = Flag::EJECTED.0 | Flag::HC_FAILED.0 | Flag::PROBATION.0;
/// What makes an endpoint not usable when they are counted.
const AGAINST: u32 = Flag::EJECTED.0 | Flag::HC_FAILED.0 | Flag::DRAINING.0;

/// What is known about an endpoint, besides its connections. Nothing in the common case.
#[derive(Default)]
pub(crate) struct Availability {
    word: AtomicU32,
}

#[allow(dead_code, reason = "the watchers of health arrive one by one")]
impl Availability {
    /// Says that it holds. True if that is news.
    pub(crate) fn set(&self, flag: Flag) -> bool {
        self.word.fetch_or(flag.0, Relaxed) & flag.0 == 0
    }

    /// Says that it no longer holds. True if that is news.
    pub(crate) fn clear(&self, flag: Flag) -> bool {
        self.word.fetch_and(!flag.0, Relaxed) & flag.0 != 0
    }

    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.word.load(Relaxed) & flag.0 != 0
    }

    /// Whether a call may go there. One relaxed load.
    #[inline]
    pub(crate) fn admits(&self, panic: bool) -> bool {
        let word = self.word.load(Relaxed);
        word == 0 || (panic && word & !DOUBTED == 0)
    }

    /// Whether it counts as usable where usable endpoints are counted: for panic and for the share of a priority. The
    /// connection is not asked here; an endpoint whose connections fail is not usable either.
    pub(crate) fn is_usable(&self) -> bool {
        self.word.load(Relaxed) & AGAINST == 0
    }

    /// Whether this holds, and nothing else.
    pub(crate) fn is_only(&self, flag: Flag) -> bool {
        self.word.load(Relaxed) == flag.0
    }

    /// Takes over what is known about the same endpoint.
    pub(crate) fn copy(&self, other: &Self) {
        self.word.store(other.word.load(Relaxed), Relaxed);
    }

    /// Whether anything is known.
    pub(crate) fn is_clear(&self) -> bool {
        self.word.load(Relaxed) == 0
    }

    /// The names of what holds.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        let word = self.word.load(Relaxed);
        Flag::NAMED.into_iter().filter(move |(flag, _)| word & flag.0 != 0).map(|(_, name)| name)
    }
}

impl fmt::Debug for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_admits_what_was_doubted_and_never_what_is_going_away() {
        for (flags, usable, calm, panic) in [
            (&[][..], true, true, true),
            (&[Flag::EJECTED], false, false, true),
            (&[Flag::HC_FAILED], false, false, true),
            (&[Flag::EJECTED, Flag::HC_FAILED], false, false, true),
            (&[Flag::PROBATION], true, false, true),
            (&[Flag::DRAINING], false, false, false),
            (&[Flag::DRAINING, Flag::EJECTED], false, false, false),
        ] {
            let of = Availability::default();
            for flag in flags {
                assert!(of.set(*flag) && !of.set(*flag));
            }
            assert_eq!((of.is_usable(), of.admits(false), of.admits(true)), (usable, calm, panic), "{of:?}");
            for flag in flags {
                assert!(of.clear(*flag) && !of.clear(*flag));
            }
            assert!(of.is_clear());
        }
    }

    #[test]
    fn flags_of_different_owners_do_not_clear_each_other() {
        let of = Availability::default();
        of.set(Flag::EJECTED);
        of.set(Flag::HC_FAILED);
        of.clear(Flag::HC_FAILED);
        assert_eq!(of.names().collect::<Vec<_>>(), ["ejected"]);
    }
}
