//! What can be said of requests before they are made, and of exchanges after they began.
//!
//! Of a connection it is known who made it and from where, not what it will ask for. Of an exchange that is still open,
//! what it asked for is known, but only those headers that rules named when it began. So a condition holds, or does not, or
//! it cannot be told; and something is over only once it cannot be allowed whatever is not known.

use http::HeaderName;

use super::{
    condition::Condition,
    engine::{Authorizer, Baseline, Judge, RuleId, Why},
    expr::HeaderPart,
};
use crate::{canon::View, enforcement::Percent};

/// How much of a [`View`] is known; the rest is not absent but unknown.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known<'a> {
    /// Addresses and ports, as before a handshake.
    Addresses,
    /// All there is to a connection.
    Connection,
    /// A request, with these headers of all it had.
    Exchange(&'a [HeaderName]),
}

impl Known<'_> {
    fn header(self, name: &HeaderName) -> bool {
        matches!(self, Self::Exchange(names) if names.contains(name))
    }

    fn is_exchange(self) -> bool {
        matches!(self, Self::Exchange(_))
    }
}

impl Condition {
    /// Whether it holds; `None` if that depends on what is not known.
    fn certain(&self, view: &View<'_>, known: Known<'_>) -> Option<bool> {
        let is_known = match self {
            Self::All(all) => return each(all, view, known, false),
            Self::Any(any) => return each(any, view, known, true),
            Self::Not(not) => return not.certain(view, known).map(|holds| !holds),
            Self::Peer(_) | Self::Local(_) | Self::Port(_) | Self::Ports(..) => true,
            Self::Principal(_)
            | Self::Namespace(_)
            | Self::TrustDomain(_)
            | Self::ServiceAccount(_)
            | Self::ServerName(_)
            | Self::ServerNameOrEmpty(_) => !matches!(known, Known::Addresses),
            Self::Header(name, _) => known.header(name),
            Self::Test { test, .. } => match &test.name {
                HeaderPart::Name(name) => known.header(name),
                HeaderPart::Method | HeaderPart::Authority | HeaderPart::Path => known.is_exchange(),
            },
            Self::Cel { condition, .. } => match known {
                Known::Exchange(names) => {
                    !condition.reads_any_header() && condition.headers().iter().all(|name| names.contains(name))
                }
                _ => false,
            },
            Self::Client(_)
            | Self::PathFolded(_)
            | Self::Host(_)
            | Self::Method(_)
            | Self::Path(_)
            | Self::Grpc(_)
            | Self::RequestPrincipal(_)
            | Self::ApiKey(_)
            | Self::Claim(..)
            | Self::Audience(_)
            | Self::Presenter(_) => known.is_exchange(),
        };
        is_known.then(|| self.holds(view))
    }
}

impl Condition {
    /// Whether it looks at addresses or ports of the connection.
    pub(super) fn asks_for_addresses(&self) -> bool {
        match self {
            Self::All(all) | Self::Any(all) => all.iter().any(Self::asks_for_addresses),
            Self::Not(not) => not.asks_for_addresses(),
            Self::Peer(_) | Self::Local(_) | Self::Port(_) | Self::Ports(..) => true,
            _ => false,
        }
    }
}

/// `decides` of one decides all; else all have to be known.
fn each(conditions: &[Condition], view: &View<'_>, known: Known<'_>, decides: bool) -> Option<bool> {
    let mut all_known = true;
    for condition in conditions {
        match condition.certain(view, known) {
            Some(holds) if holds == decides => return Some(decides),
            Some(_) => {}
            None => all_known = false,
        }
    }
    all_known.then_some(!decides)
}

impl Authorizer {
    /// Whether something of which no more is known may still be allowed. Counts nothing.
    ///
    /// # Errors
    /// What denies it for certain.
    pub(crate) fn possible(&self, view: &View<'_>, known: Known<'_>, baseline: &Baseline) -> Result<(), Why<'_>> {
        // A share of requests: whether a request to come is in it is not known.
        let counts = |enforced: Percent| match known {
            Known::Exchange(_) => Some(view.draw < enforced.millionths()),
            _ if enforced == Percent::ALL => Some(true),
            _ if enforced == Percent::NONE => Some(false),
            _ => None,
        };
        for rule in self.policies.iter().flat_map(|policy| &policy.deny.rules) {
            if counts(rule.enforced) == Some(true) && rule.condition.certain(view, known) == Some(true) {
                return Err(Why::Rule(&rule.id));
            }
        }
        if self.is_tunnel(view) {
            return Err(Why::NoRule(&self.no_rule));
        }
        let mut listed = false;
        for policy in &*self.policies {
            let rules = &policy.allow.rules;
            if !policy.exclusive && !rules.iter().any(|rule| counts(rule.enforced) != Some(false)) {
                continue;
            }
            let may = |rule: &Judge| {
                counts(rule.enforced) != Some(false) && rule.condition.certain(view, known) != Some(false)
            };
            if rules.iter().any(may) {
                listed = true;
            } else if policy.exclusive || rules.iter().any(|rule| counts(rule.enforced) == Some(true)) {
                return Err(Why::NoRule(&self.no_rule));
            }
        }
        // Before a handshake it is not known who asks.
        if listed || matches!(known, Known::Addresses) || baseline.admits(view) {
            return Ok(());
        }
        Err(Why::Baseline(&self.not_admitted))
    }

    /// Whether any connection can be refused by its addresses alone.
    pub(crate) fn refuses_addresses(&self) -> bool {
        self.policies.iter().any(|policy| policy.deny.rules.iter().any(|rule| rule.gate))
    }

    /// A rule that denies whatever comes from there, by addresses and ports alone.
    pub(crate) fn refuses(&self, view: &View<'_>) -> Option<&RuleId> {
        let mut gates = self.policies.iter().flat_map(|policy| &policy.deny.rules).filter(|rule| rule.gate);
        gates.find(|rule| rule.condition.certain(view, Known::Addresses) == Some(true)).map(|rule| &rule.id)
    }
}
