//! How far a policy acts: not at all, only in the metrics, or in earnest, and for which share of requests.

use std::fmt;

use crate::rt::Rng;

/// A share of requests, exact to a millionth.
///
/// ```
/// use sinew::enforcement::Percent;
///
/// assert_eq!(Percent::new(0.5).unwrap().to_string(), "0.5%");
/// assert!(Percent::new(101.0).is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Percent(u32);

impl Percent {
    /// No request.
    pub const NONE: Self = Self(0);
    /// Every request.
    pub const ALL: Self = Self(1_000_000);

    /// So many percent, rounded to four digits after the point.
    ///
    /// # Errors
    /// If it is not between 0 and 100.
    pub fn new(percent: f64) -> Result<Self, PercentError> {
        if (0.0..=100.0).contains(&percent) { Ok(Self((percent * 10_000.0).round() as u32)) } else { Err(PercentError) }
    }

    /// So many of a million; more than a million is all.
    pub const fn of_millionths(millionths: u32) -> Self {
        if millionths > 1_000_000 { Self::ALL } else { Self(millionths) }
    }

    /// The share in millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// Whether this roll of the dice is inside the share.
    pub(crate) fn hit(self, rng: &mut Rng) -> bool {
        match self {
            Self::ALL => true,
            Self::NONE => false,
            Self(millionths) => rng.below(1_000_000) < millionths,
        }
    }
}

/// As configuration has it: `10%`, `0.5%`.
impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000);
        write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A share below 0 or above 100 %.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PercentError;

impl fmt::Display for PercentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a percentage is a number from 0 to 100")
    }
}

impl std::error::Error for PercentError {}

/// Whether a policy acts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Mode {
    /// It does nothing.
    Off,
    /// It decides and counts what it would have done, and does nothing.
    Shadow,
    /// It acts.
    #[default]
    Enforce,
}

impl Mode {
    /// As configuration and metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Enforce => "enforce",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_hit_as_often_as_it_says() {
        let mut rng = Rng::seeded(3);
        let hits = (0..1_000_000).filter(|_| Percent::of_millionths(125_000).hit(&mut rng)).count();
        assert!((124_000..126_000).contains(&hits), "{hits}");
        assert!((0..1_000).all(|_| Percent::ALL.hit(&mut rng) && !Percent::NONE.hit(&mut rng)));
    }
}
