//! Who this process is, whom it believes, and how it tells.
//!
//! A source publishes [`Material`]: our certificate, the bundles of trust, the revocations. Each publication is a
//! generation with its own TLS configurations, so that a handshake is judged by one snapshot; what a peer proved is kept
//! with what it was judged by, and judged again when something changes. Closed by default: no certificate, an ended one or
//! an empty bundle refuse handshakes, and nothing falls back to plaintext.
//!
//! One strict verifier serves both sides ([`verify`]).

mod bundle;
mod ca;
mod cache;
mod certificate;
mod der;
#[cfg(all(feature = "dev-ca", any(feature = "aws-lc", feature = "ring")))]
pub(crate) mod dev;
mod dial;
mod document;
mod encode;
mod files;
mod foreign;
#[cfg(feature = "tonic")]
mod grpc;
mod material;
mod path;
mod provider;
mod reject;
mod revocation;
mod side;
#[cfg(test)]
mod tests;
mod verify;
#[cfg(feature = "tonic")]
pub(crate) mod workload_api;

pub use self::ca::{CertificateAuthority, CertificateRequest, IssuedCertificate, Signing, Trusting};
#[cfg(feature = "tonic")]
pub(crate) use self::ca::{IstioAuthority, IstioSettings};
pub(crate) use self::{
    bundle::{Bundle, BundleMap},
    ca::{CaSource, StepAuthority, StepSettings, StepTrust},
    dial::tcp,
    files::{FileLayout, Files},
    foreign::{EdgeTls, PrivateTls, PublicTls},
    material::{Change, Expected, Identity, Material, Svid, Trouble},
    provider::{Cryptography, default_provider},
    reject::Reject,
    revocation::{Asked, Revocations},
    side::{ClientSide, Proven, ServerSide},
};
#[cfg(fuzzing)]
pub(crate) use self::{
    document::BundleDocument,
    verify::{Trust, verify},
};
