//! Which certificates were taken back.

use std::time::SystemTime;

use super::verify::Link;

/// Revocation lists by issuer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Revocations {}

impl Revocations {
    /// Why a certificate is not accepted, if it is not.
    pub(super) fn refuses(&self, _link: &Link, _now: SystemTime) -> Option<&'static str> {
        None
    }
}
