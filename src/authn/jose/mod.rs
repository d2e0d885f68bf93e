//! Signed tokens, read strictly.
//!
//! Libraries for JOSE have been led past their checks in every way that the standards leave open: by the algorithm in
//! the token, by keys in the token, by spellings of the same bytes, by names that occur twice. So the reader here accepts
//! one form of each: compact serialization, canonical base64url, objects without repeated names, algorithms that the
//! *key* is for. The cryptography itself is the provider's.
//!
//! # Sources
//! RFC 7515, RFC 7517, RFC 7518, RFC 7519, RFC 8037, RFC 8725 (best current practice).

mod compact;
mod encoding;
mod json;
mod key;
mod roca;
mod set;
mod signature;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::{
    compact::{Compact, HeaderRules},
    encoding::encode,
    json::object,
    key::Algorithm,
    set::{KeyOrigin, KeySet, MAX_SET},
};

use std::fmt;

/// Why a token or a key is refused. One word for metrics, a sentence for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    pub(crate) reason: &'static str,
    pub(crate) why: &'static str,
}

impl Refused {
    pub(crate) const fn new(reason: &'static str, why: &'static str) -> Self {
        Self { reason, why }
    }

    pub(super) const fn malformed(why: &'static str) -> Self {
        Self::new("malformed", why)
    }

    pub(super) const fn key(why: &'static str) -> Self {
        Self::new("key", why)
    }

    pub(super) const fn algorithm(why: &'static str) -> Self {
        Self::new("algorithm", why)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.why)
    }
}
