//! Who may ask for what.
//!
//! A [`Policy`] is a list of rules. A rule that denies wins over one that allows; where any rule allows, what none allows
//! is denied; where none does, the listener's own rule holds (in a mesh with identities: peers of the same trust domain).
//! Rules to audit and rules in shadow never change the answer. What all that allows may still be asked about: a rule under
//! `custom` leaves the word to an authorization service.
//!
//! A rule is a tree of conditions over the canonical view of a request, compiled once. What a rule needs to hold anyway,
//! an exact principal or path, a prefix, a network, is an index, so a thousand rules cost as much as the few that could
//! match. Deciding allocates nothing. What is denied or under `audit` can be kept in a [log](audit) that shows if it is changed.
//!
//! # What is absent
//! A condition on something that is not there does not hold, and its negation does: a peer without an identity is in no
//! namespace, so it satisfies `not_namespaces`. On a connection without HTTP a rule that denies ignores what it says about
//! HTTP, and a rule that allows never holds: less is known, so less is allowed.
//!
//! # Sources
//! Istio's `AuthorizationPolicy`, Envoy's RBAC filter, gRFC A41 and A43; where they differ, security comes first.

pub mod audit;
#[cfg(feature = "cel")]
mod cel;
#[cfg(not(feature = "cel"))]
#[path = "cel_off.rs"]
mod cel;
mod condition;
mod engine;
mod expr;
mod external;
mod index;
mod path;
mod policy;
mod possible;
mod prefix;
mod text;

#[cfg(all(test, feature = "cel"))]
mod cel_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use self::{
    cel::Cel,
    external::{ExtAuthz, ExtAuthzProtocol},
    path::{PathText, Template},
    policy::{Action, GrpcMethod, HostText, Operation, Policy, RequestPrincipal, Rule, Source, When, WhenKey},
    text::Text,
};
pub(crate) use self::{
    engine::{Authorizer, Baseline, Decision, Why},
    expr::{Expr, HeaderPart, HeaderTest, ValueTest},
    external::MAX_BODY,
    policy::principal,
    possible::Known,
};
