//! An attempt that is dropped: given up by the caller, or beaten by another attempt of its call.

use std::cell::Cell;

use super::Outcome;

thread_local! {
    static LOSING: Cell<bool> = const { Cell::new(false) };
}

/// Drops the attempts that lost. What ends inside `drop` ends for that reason.
pub(crate) fn losing(drop: impl FnOnce()) {
    struct Until(bool);
    impl Drop for Until {
        fn drop(&mut self) {
            LOSING.set(self.0);
        }
    }
    let _until = Until(LOSING.replace(true));
    drop();
}

/// The outcome of an attempt that is being dropped.
pub(crate) fn dropped() -> Outcome {
    if LOSING.get() { Outcome::HedgeLoser } else { Outcome::Cancelled }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_dropped_inside_lost() {
        let inside = Cell::new(Outcome::Success);
        losing(|| inside.set(dropped()));
        assert_eq!((inside.get(), dropped()), (Outcome::HedgeLoser, Outcome::Cancelled));
        let panicked = std::panic::catch_unwind(|| losing(|| panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(dropped(), Outcome::Cancelled);
    }
}
