//! Whether an outlier may be ejected.

use super::{Cause, OutlierPolicy, Recent};
use crate::rt::Rng;

/// One endpoint beside the one that is judged: of the same priority.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) ejected: bool,
    /// Whether it could take calls: not ejected, health checks pass, connections are made, not draining.
    pub(crate) usable: bool,
    pub(crate) recent: Recent,
    /// For so long that a burst of failures does not count for much.
    pub(crate) lately: Recent,
}

/// What follows from a detector that found an outlier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Eject,
    /// `enforcing_..` said no.
    NotEnforced,
    /// It is let be.
    Held(Held),
}

/// Why an outlier is let be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    /// Nobody else is usable.
    NoOther,
    /// As many are ejected as may be.
    MaxEjected,
    /// The others fail as well, if less.
    OthersFailToo,
}

impl Verdict {
    /// The label value in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Verdict::Eject => "ejected",
            Verdict::NotEnforced => "not_enforced",
            Verdict::Held(Held::NoOther) => "held_no_other",
            Verdict::Held(Held::MaxEjected) => "held_max_ejected",
            Verdict::Held(Held::OthersFailToo) => "held_others_fail_too",
        }
    }

    pub(crate) const ALL: [Verdict; 5] = [
        Verdict::Eject,
        Verdict::NotEnforced,
        Verdict::Held(Held::NoOther),
        Verdict::Held(Held::MaxEjected),
        Verdict::Held(Held::OthersFailToo),
    ];
}

/// One in so many is ejected without looking at the others.
const ONE_IN: usize = 10;

/// By how much more an endpoint must fail than the others for a further one to be ejected.
const GAP: f64 = 0.5;

/// From this share of failures on there is nothing to lose.
const HOPELESS: f64 = 0.9;

/// From this share of failures on the others are in trouble as well.
const OTHERS: f64 = 0.05;

/// How many of so many endpoints may be ejected at once: on a detector's word, and altogether.
pub(crate) fn most_ejected(total: usize, policy: &OutlierPolicy) -> (usize, usize) {
    let most = match policy.max_ejection_percent {
        // Somebody has to be left.
        _ if total < 2 => 0,
        0 => 0,
        percent => (total * percent as usize / 100).max(1),
    };
    (most.min((total / ONE_IN).max(1)), most)
}

/// Judges an endpoint that a detector found, by its recent calls. `peers` are the others of its priority.
///
/// A detector by itself knows only its endpoint. When the whole service is short of capacity every endpoint fails some
/// calls, some of them five in a row; with each that is ejected the others get more, and fail more. Ten endpoints at 105 %
/// load were simulated to lose half of what they could have done in that way. So one endpoint, or a tenth, is ejected on
/// the detector's word, unless the others fail too and it does not fail nearly all of its calls; and a further one only if it
/// fails clearly more of its recent calls than those that are left.
///
/// Refusing is quicker than working: a host that is full for a moment fails all of its last calls in that moment, while
/// the calls that fill it are still to be answered. So calls that wait for their answer (`waiting`, and in `recent`) count as
/// calls that did not fail, and while there are more of them than there were failures, no detector is taken at its word: a
/// host that really fails has answered them soon.
pub(crate) fn judge(
    cause: Cause,
    recent: Recent,
    waiting: u32,
    lately: Recent,
    peers: impl IntoIterator<Item = Peer>,
    policy: &OutlierPolicy,
    rng: &mut Rng,
) -> Verdict {
    let (mut total, mut ejected, mut usable) = (1, 0, 0);
    let (mut others, mut others_lately) = (Recent::default(), Recent::default());
    for peer in peers {
        total += 1;
        ejected += usize::from(peer.ejected);
        usable += usize::from(peer.usable);
        if !peer.ejected {
            others = others.and(peer.recent);
            others_lately = others_lately.and(peer.lately);
        }
    }
    if usable == 0 {
        return Verdict::Held(Held::NoOther);
    }
    let (on_a_word, most) = most_ejected(total, policy);
    if ejected >= most {
        return Verdict::Held(Held::MaxEjected);
    }
    let (its, theirs) = (recent.share(), others.share());
    let clearly = match (its, theirs) {
        (Some(its), Some(theirs)) => its - theirs >= GAP,
        // Nothing to compare with is no reason to take away more.
        _ => false,
    };
    let alone =
        others_lately.share().is_none_or(|theirs| theirs < OTHERS) || lately.share().is_some_and(|its| its >= HOPELESS);
    let on_its_word = !cause.compares() && ejected < on_a_word && alone && recent.failures >= waiting;
    if !clearly && !on_its_word {
        return Verdict::Held(Held::OthersFailToo);
    }
    if rng.below(100) >= cause.enforcing(policy) {
        return Verdict::NotEnforced;
    }
    Verdict::Eject
}
