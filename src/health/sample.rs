//! What an outcome says about the endpoint it came from.

use crate::classify::Outcome;

/// One attempt, as an endpoint's health sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sample {
    /// It works.
    Success,
    /// Says nothing: somebody else's doing.
    Neutral,
    /// It works, but has too much to do: counts in rates, never as a failure in a row.
    Shed,
    /// It answered with a failure that may be the request's: counts only where endpoints are compared.
    Server,
    /// It, or what stands before it, does not work.
    Gateway,
    /// There was no answer, or not all of it.
    Local,
    /// No connection. The pool sees to that; balancing needs no sample of it.
    Connect,
}

impl Sample {
    pub(crate) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success | Outcome::Rejected | Outcome::Upgraded => Self::Success,
            Outcome::Shed => Self::Shed,
            Outcome::GatewayFailure => Self::Gateway,
            Outcome::ServerFailure | Outcome::MissingStatus => Self::Server,
            Outcome::Reset | Outcome::ProtocolFailure | Outcome::BodyFailure | Outcome::Timeout => Self::Local,
            Outcome::ConnectFailure => Self::Connect,
            // Of the caller, of this process, or of the network before anything was processed.
            Outcome::RateLimited
            | Outcome::Unprocessed
            | Outcome::DeadlineExpired
            | Outcome::Cancelled
            | Outcome::CallerBodyFailure
            | Outcome::LocalRefusal
            | Outcome::OwnCredential
            | Outcome::Injected
            | Outcome::HedgeLoser
            | Outcome::Mirror
            | Outcome::DirectResponse => Self::Neutral,
        }
    }

    /// Whether it adds to the cost of a call. Where no connection is made, no call is sent in the first place.
    pub(crate) fn is_weighed(self) -> bool {
        self.is_failure() && self != Self::Connect
    }

    /// Whether it lowers the success rate.
    pub(crate) fn is_failure(self) -> bool {
        matches!(self, Self::Shed | Self::Server | Self::Gateway | Self::Local | Self::Connect)
    }
}
