//! What a circuit remembers of calls.

use std::{collections::VecDeque, time::Duration};

use super::policy::CircuitWindow;
use crate::rt::Instant;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sums {
    pub(super) calls: u32,
    pub(super) failed: u32,
    pub(super) slow: u32,
}

const SLOTS: u64 = 10;

/// How calls did lately.
#[derive(Debug)]
pub(super) enum Recent {
    /// In slots of a tenth of the window each.
    Time { epoch: Instant, slot: Duration, slots: Box<[(u64, Sums); SLOTS as usize]> },
    /// The last so many, each as whether it failed and whether it was slow.
    Calls { most: usize, calls: VecDeque<(bool, bool)>, sums: Sums },
}

impl Recent {
    pub(super) fn new(window: CircuitWindow, now: Instant) -> Self {
        match window {
            CircuitWindow::Time(window) => Self::Time {
                epoch: now,
                slot: (window / SLOTS as u32).max(Duration::from_nanos(1)),
                slots: Box::new([(0, Sums::default()); SLOTS as usize]),
            },
            CircuitWindow::Calls(most) => {
                Self::Calls { most: most as usize, calls: VecDeque::new(), sums: Sums::default() }
            }
        }
    }

    pub(super) fn add(&mut self, failed: bool, slow: bool, now: Instant) {
        let count = |sums: &mut Sums| {
            sums.calls += 1;
            sums.failed += u32::from(failed);
            sums.slow += u32::from(slow);
        };
        match self {
            Self::Time { epoch, slot, slots } => {
                let number = number(*epoch, *slot, now);
                let (of, sums) = &mut slots[(number % SLOTS) as usize];
                if *of != number {
                    (*of, *sums) = (number, Sums::default());
                }
                count(sums);
            }
            Self::Calls { most, calls, sums } => {
                if calls.len() == *most
                    && let Some((failed, slow)) = calls.pop_front()
                {
                    sums.calls -= 1;
                    sums.failed -= u32::from(failed);
                    sums.slow -= u32::from(slow);
                }
                calls.push_back((failed, slow));
                count(sums);
            }
        }
    }

    /// The slot that a moment belongs to, and when that one is over; none if calls are not remembered by time.
    pub(super) fn slot(&self, now: Instant) -> Option<(u64, Instant)> {
        let Self::Time { epoch, slot, .. } = self else { return None };
        let number = number(*epoch, *slot, now);
        Some((number, *epoch + u32::try_from(number).map_or(Duration::MAX, |number| slot.saturating_mul(number))))
    }

    /// Adds so many successes to a slot, if it is remembered.
    pub(super) fn succeeded(&mut self, number: u64, calls: u32) {
        let Self::Time { slots, .. } = self else { return };
        let (of, sums) = &mut slots[(number % SLOTS) as usize];
        if *of < number {
            (*of, *sums) = (number, Sums::default());
        }
        if *of == number {
            sums.calls += calls;
        }
    }

    pub(super) fn sums(&self, now: Instant) -> Sums {
        match self {
            Self::Time { epoch, slot, slots } => {
                let number = number(*epoch, *slot, now);
                let recent = slots.iter().filter(|(of, _)| *of + SLOTS > number);
                recent.fold(Sums::default(), |all, (_, sums)| Sums {
                    calls: all.calls + sums.calls,
                    failed: all.failed + sums.failed,
                    slow: all.slow + sums.slow,
                })
            }
            Self::Calls { sums, .. } => *sums,
        }
    }
}

/// Slots are counted from 1, so that a slot of number 0 was never filled.
fn number(epoch: Instant, slot: Duration, now: Instant) -> u64 {
    let slots = now.saturating_duration_since(epoch).as_nanos() / slot.as_nanos();
    u64::try_from(slots).unwrap_or(u64::MAX - SLOTS).saturating_add(1)
}
