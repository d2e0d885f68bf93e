//! Moments as numbers.

use std::{cell::Cell, sync::OnceLock};

use super::Instant;

/// A moment that others are counted from, in nanoseconds.
///
/// To take one moment from another costs more than most of what is done with the result, and several ask for the same
/// one within a call: what was asked last is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(u64);

static BASE: OnceLock<Instant> = OnceLock::new();

thread_local! {
    static LAST: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

impl Epoch {
    pub(crate) fn new(at: Instant) -> Self {
        Self(nanos(at))
    }

    /// Nanoseconds since then, up to 292 years; 0 for what was before.
    #[inline]
    pub(crate) fn nanos(self, now: Instant) -> u64 {
        nanos(now).wrapping_sub(self.0).cast_signed().max(0).cast_unsigned()
    }
}

#[inline]
fn nanos(at: Instant) -> u64 {
    match LAST.get() {
        Some((last, nanos)) if last == at => nanos,
        _ => count(at),
    }
}

/// From a moment that is the same for all, in either direction.
fn count(at: Instant) -> u64 {
    let base = *BASE.get_or_init(|| at);
    let nanos = match at.checked_duration_since(base) {
        Some(since) => since.as_nanos() as u64,
        None => (base.saturating_duration_since(at).as_nanos() as u64).wrapping_neg(),
    };
    LAST.set(Some((at, nanos)));
    nanos
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_counted_from_an_epoch_whichever_was_seen_first() {
        let now = crate::rt::now();
        let hour = Duration::from_secs(3600);
        for (epoch, at, nanos) in [
            (now, now, 0),
            (now, now + hour, 3_600_000_000_000),
            (now + hour, now, 0),
            (now + hour, now + hour * 2, 3_600_000_000_000),
            (now, now + Duration::from_nanos(1), 1),
        ] {
            assert_eq!(Epoch::new(epoch).nanos(at), nanos);
            assert_eq!(Epoch::new(epoch).nanos(at), nanos, "asked again");
        }
    }
}
