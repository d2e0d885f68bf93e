//! What an authority has to do.

use std::{future::Future, pin::Pin};

use super::CertificateRequest;
use crate::error::BoxError;

/// What [`CertificateAuthority::sign`] returns.
pub type Signing = Pin<Box<dyn Future<Output = Result<IssuedCertificate, BoxError>> + Send>>;

/// What [`CertificateAuthority::trusted`] returns.
pub type Trusting = Pin<Box<dyn Future<Output = Result<Option<Vec<Vec<u8>>>, BoxError>> + Send>>;

/// A certificate authority that signs requests: of one's own, registered by `Builder::certificate_authority`.
///
/// It is called in the background and never by a call that is served or made. When to ask, how often after a failure, and
/// whether what comes is used is decided by the caller: an implementation tries once and tells what happened. A future is
/// dropped after 15 seconds, and when the mesh ends.
pub trait CertificateAuthority: Send + Sync + 'static {
    /// Has a request signed.
    ///
    /// # Errors
    /// Why there is no certificate; it is asked again later.
    fn sign(&self, request: CertificateRequest) -> Signing;

    /// Whom to trust now: certificates in DER. `None` if only [`sign`](Self::sign) says so, which is the default.
    ///
    /// # Errors
    /// Why it is not known now; what was known stays.
    fn trusted(&self) -> Trusting {
        Box::pin(async { Ok(None) })
    }
}

/// What an authority answers to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuedCertificate {
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) trusted: Vec<Vec<u8>>,
    /// It has the key of the certificate before.
    pub(super) same_key: bool,
}

impl IssuedCertificate {
    /// The chain, leaf first, without the root; and whom to trust, the root of the chain among them. Both in DER.
    pub fn new(chain: Vec<Vec<u8>>, trusted: Vec<Vec<u8>>) -> Self {
        Self { chain, trusted, same_key: false }
    }
}
