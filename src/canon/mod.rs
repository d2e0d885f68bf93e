//! The one view of a request that policy and application share.
//!
//! Nearly every bypass of an authorization rule is the same mistake: policy sees other bytes than the application. So a
//! request is looked at once, before any rule, and what can be read in two ways is refused (400, E055, with a reason)
//! whether or not a rule looks at it. What passes means the same to both: the application gets the URI as it arrived,
//! and patterns see it percent-decoded, once.
//!
//! [`PathNormalization`] other than `strict` accepts such paths and rewrites them as Istio does; then the application
//! gets the rewritten path too.
//!
//! # Sources
//! RFC 9110 §4.2.3 and §7.2, RFC 9112 §3.2, RFC 9113 §8.3.1, RFC 3986 §6; Istio's `pathNormalization`; the advisories
//! listed beside the vectors in the tests.

mod authority;
mod normalize;
mod path;
mod request;
mod view;

#[cfg(test)]
mod tests;

pub use self::normalize::PathNormalization;
pub(crate) use self::{
    authority::Authority,
    path::never_in_strict,
    request::{Canonical, canonicalize, host, host_of, method},
    view::{HttpView, Principal, View},
};

use crate::error::{Code, Error};

/// Why a request has no one meaning. `part` is what the caller is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ambiguous {
    pub(crate) part: &'static str,
    pub(crate) why: &'static str,
}

impl Ambiguous {
    const fn path(why: &'static str) -> Self {
        Self { part: "path", why }
    }

    const fn host(why: &'static str) -> Self {
        Self { part: "host", why }
    }

    const fn target(why: &'static str) -> Self {
        Self { part: "target", why }
    }
}

impl From<Ambiguous> for Error {
    fn from(ambiguous: Ambiguous) -> Self {
        Error::new(Code::BadRequest, format!("{}: {}", ambiguous.part, ambiguous.why)).with_reason(ambiguous.part)
    }
}
