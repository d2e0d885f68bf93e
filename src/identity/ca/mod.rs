//! Identity from an authority that signs requests: the key is made here, and never leaves this process.
//!
//! A certificate is asked for at once, and again at half of what is left of its life, ±10 %. While that fails the last good
//! one stays, and it is asked again after 0.5 s, 1 s, 2 s and so on up to a minute; up to 5 s when there is none or a tenth
//! of its life is left; never later than a tenth of its life. Between certificates the authority is asked whom to trust,
//! once a minute. An authority that is no longer named is trusted for the life of one more certificate: peers may hold one
//! that it issued a moment ago. A certificate that would not be accepted by what is trusted is not used.
//!
//! Implementations: [`istio`](self::istio) for `istio.v1.auth`, [`step`](self::step) for step-ca, and
//! [`CertificateAuthority`] for one's own.

mod authority;
#[cfg(feature = "tonic")]
mod istio;
mod key;
mod renewal;
mod request;
mod roots;
mod source;
mod step;
mod tls;

#[cfg(test)]
mod tests;

#[cfg(feature = "tonic")]
pub(crate) use self::istio::{IstioAuthority, IstioSettings};
pub use self::{
    authority::{CertificateAuthority, IssuedCertificate, Signing, Trusting},
    request::CertificateRequest,
};
pub(crate) use self::{
    source::CaSource,
    step::{StepAuthority, StepSettings, StepTrust},
};
