//! Switches of the environment, for the hour in which a policy does more harm than good.
//!
//! `SINEW_DISABLE=retry,hedge,outlier` turns features off wherever they are configured, without a change of configuration; it
//! takes a restart. What protects is not among them: identity, authorization and exact limits stay, and what code pinned. Read
//! once by each process. `SINEW_DEBUGGER=1` suspends timeouts and deadlines, so that a process may be stopped in a debugger
//! for as long as it takes; the peers that wait for it need it as well.

use std::{fmt, sync::OnceLock};

/// A feature that can be turned off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Feature {
    Retry,
    Hedge,
    Outlier,
    HealthChecks,
    Fault,
    Mirror,
    RateLimit,
    Throttle,
    Shed,
}

impl Feature {
    pub(crate) const ALL: [Feature; 9] = [
        Feature::Retry,
        Feature::Hedge,
        Feature::Outlier,
        Feature::HealthChecks,
        Feature::Fault,
        Feature::Mirror,
        Feature::RateLimit,
        Feature::Throttle,
        Feature::Shed,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Feature::Retry => "retry",
            Feature::Hedge => "hedge",
            Feature::Outlier => "outlier",
            Feature::HealthChecks => "health_checks",
            Feature::Fault => "fault",
            Feature::Mirror => "mirror",
            Feature::RateLimit => "rate_limit",
            Feature::Throttle => "throttle",
            Feature::Shed => "shed",
        }
    }

    /// By its name here or by its key in the configuration.
    fn named(name: &str) -> Option<Feature> {
        match name {
            "outlier_detection" => Some(Feature::Outlier),
            name => Feature::ALL.into_iter().find(|feature| feature.as_str() == name),
        }
    }
}

pub(crate) const DISABLE: &str = "SINEW_DISABLE";
pub(crate) const DEBUGGER: &str = "SINEW_DEBUGGER";

/// What the environment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Switches {
    off: u16,
    debugger: bool,
}

impl Switches {
    /// Those of this process.
    pub(crate) fn of_process() -> Switches {
        static SWITCHES: OnceLock<Switches> = OnceLock::new();
        *SWITCHES.get_or_init(|| {
            let variable = |name| std::env::var(name).unwrap_or_default();
            let (switches, unknown) = Switches::parse(&variable(DISABLE), &variable(DEBUGGER));
            if !unknown.is_empty() {
                let known = Feature::ALL.map(Feature::as_str).join(", ");
                tracing::warn!("{DISABLE} names what cannot be turned off: {}; it knows {known}", unknown.join(", "));
            }
            if switches != Switches::default() {
                tracing::warn!("the environment overrides the configuration: {switches}");
            }
            switches
        })
    }

    /// Reads both variables; the names that are none are returned.
    pub(crate) fn parse(disable: &str, debugger: &str) -> (Self, Vec<String>) {
        let (mut switches, mut unknown) = (Self::default(), Vec::new());
        for name in disable.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match Feature::named(name) {
                Some(feature) => switches.off |= 1 << feature as u16,
                None => unknown.push(name.escape_debug().to_string()),
            }
        }
        switches.debugger = matches!(debugger, "1" | "true" | "yes" | "on");
        (switches, unknown)
    }

    /// Whether a feature is turned off.
    pub(crate) const fn is_off(self, feature: Feature) -> bool {
        self.off & (1 << feature as u16) != 0
    }

    /// Whether timeouts and deadlines are suspended.
    pub(crate) const fn debugger(self) -> bool {
        self.debugger
    }

    /// What is turned off.
    pub(crate) fn off(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.is_off(*feature))
    }
}

impl fmt::Display for Switches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let off: Vec<_> = self.off().map(Feature::as_str).collect();
        if !off.is_empty() {
            write!(f, "{DISABLE}={}", off.join(","))?;
        }
        if self.debugger {
            write!(f, "{}{DEBUGGER}=1", if off.is_empty() { "" } else { " " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_turn_features_off_and_others_are_told() {
        let (switches, unknown) = Switches::parse("retry, outlier_detection,,authz", "1");
        assert_eq!(switches.off().collect::<Vec<_>>(), [Feature::Retry, Feature::Outlier]);
        assert!(switches.debugger());
        assert_eq!(unknown, ["authz"]);
        assert_eq!(switches.to_string(), "SINEW_DISABLE=retry,outlier SINEW_DEBUGGER=1");
        assert_eq!(Switches::parse("", "0"), (Switches::default(), Vec::new()));
        for feature in Feature::ALL {
            assert!(Switches::parse(feature.as_str(), "").0.is_off(feature));
        }
    }
}
