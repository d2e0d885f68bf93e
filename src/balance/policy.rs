//! How an endpoint is chosen.

/// Fewer than this are compared all at once.
pub(super) const FULL_SCAN_BELOW: usize = 4;

/// [`BalancePolicy::least_request`] allows no more.
pub(super) const MAX_CHOICES: usize = 10;

/// The balancing policy of a service: `load_balancer`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum BalancePolicy {
    /// Endpoints in turn, each as often as its weight says (earliest deadline first).
    RoundRobin,
    /// A random endpoint, by weight.
    Random,
    /// The less loaded of `choice_count` distinct random endpoints; all of them are compared below four endpoints.
    LeastRequest {
        /// How many endpoints are compared. Default 2, 2 to 10; more costs linearly and herds more.
        choice_count: u8,
    },
}

impl Default for BalancePolicy {
    fn default() -> Self {
        Self::LeastRequest { choice_count: 2 }
    }
}

impl BalancePolicy {
    /// Least request over `choice_count` endpoints.
    ///
    /// # Errors
    /// Unless `choice_count` is 2 to 10.
    pub fn least_request(choice_count: u8) -> Result<Self, &'static str> {
        if (2..=10).contains(&choice_count) {
            Ok(Self::LeastRequest { choice_count })
        } else {
            Err("choice_count must be 2 to 10")
        }
    }

    /// Of how many of so many endpoints the load is compared; 0 where it does not matter.
    pub(crate) fn compared(&self, endpoints: usize) -> usize {
        match *self {
            Self::RoundRobin | Self::Random => 0,
            Self::LeastRequest { .. } if endpoints < FULL_SCAN_BELOW => endpoints,
            Self::LeastRequest { choice_count } => usize::from(choice_count).clamp(2, MAX_CHOICES).min(endpoints),
        }
    }

    /// The name in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastRequest { .. } => "least_request",
        }
    }
}
