//! Why a certificate is not accepted.

use std::{fmt, sync::Arc};

use rustls::{CertificateError, OtherError};

use super::der::BadDer;
use crate::name::SpiffeId;

/// Whose certificate it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    Workload(SpiffeId),
    /// The name of a server outside of the mesh.
    Server(Box<str>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => id.fmt(f),
            Self::Server(name) => name.fmt(f),
        }
    }
}

/// Why, as a word for metrics and a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reject {
    /// Its bytes, or those of a certificate it came with.
    Malformed(&'static str),
    /// More certificates or bytes than are looked at.
    TooLarge,
    /// No URI, or more than one, where a SPIFFE identity has exactly one.
    SanCount(usize),
    /// The URI is no SPIFFE identity of a workload.
    SanSyntax(String),
    /// A usage that it lacks or must not have.
    KeyUsage(&'static str),
    /// Its trust domain has no bundle here.
    WrongTrustDomain(SpiffeId),
    /// No path to an authority that counts for it.
    UnknownCa(Subject),
    /// It, or a certificate on its path, has ended.
    Expired,
    /// It, or a certificate on its path, has not begun.
    NotYet,
    /// It, or a certificate on its path, was revoked.
    Revoked,
    /// It, or a certificate on its path, cannot be known not to be revoked.
    RevocationUnknown(&'static str),
    /// Name constraints of a signer exclude it, or are of a kind that cannot be judged.
    NameConstraints(Subject),
    /// A signature or key of a kind that is not accepted.
    Algorithm(Subject),
    /// The certificate of a server outside of the mesh does not carry this name.
    NameMismatch(Box<str>),
    /// Who it is, is not who may be here.
    IdentityMismatch {
        /// Who it is.
        found: SpiffeId,
        /// Who may be.
        expected: String,
    },
}

impl Reject {
    /// The reason as it stands in error texts, events and labels.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::TooLarge => "malformed",
            Self::SanCount(_) | Self::SanSyntax(_) => "san_count",
            Self::KeyUsage(_) => "key_usage",
            Self::WrongTrustDomain(_) => "wrong_trust_domain",
            Self::UnknownCa(_) => "unknown_ca",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::Revoked => "revoked",
            Self::RevocationUnknown(_) => "revocation_unknown",
            Self::NameConstraints(_) => "name_constraints",
            Self::Algorithm(_) => "algorithm",
            Self::NameMismatch(_) | Self::IdentityMismatch { .. } => "identity_mismatch",
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.reason())?;
        match self {
            Self::Malformed(why) => write!(f, "the certificate cannot be read: {why}"),
            Self::TooLarge => f.write_str("more than 8 certificates, or more than 16 KiB of them"),
            Self::SanCount(0) => f.write_str("the certificate names no URI, where a SPIFFE identity has exactly one"),
            Self::SanCount(n) => write!(f, "the certificate names {n} URIs, where a SPIFFE identity has exactly one"),
            Self::SanSyntax(why) => f.write_str(why),
            Self::KeyUsage(why) => f.write_str(why),
            Self::WrongTrustDomain(id) => write!(f, "`{id}` is of a trust domain without a bundle here"),
            Self::UnknownCa(Subject::Workload(id)) => {
                write!(f, "no authority of its trust domain vouches for `{id}`")
            }
            Self::UnknownCa(Subject::Server(name)) => {
                write!(f, "no authority that is trusted here vouches for `{name}`")
            }
            Self::Expired => f.write_str("the certificate, or one on its path, has ended"),
            Self::NotYet => f.write_str("the certificate, or one on its path, has not begun; look at both clocks"),
            Self::Revoked => f.write_str("the certificate, or one on its path, was revoked by its issuer"),
            Self::RevocationUnknown(why) => f.write_str(why),
            Self::NameConstraints(id) => {
                write!(f, "name constraints of an authority exclude `{id}`, or are of a kind that cannot be judged")
            }
            Self::Algorithm(id) => write!(f, "`{id}` is signed by an algorithm or a key that is not accepted"),
            Self::NameMismatch(name) => write!(f, "the certificate does not carry the name `{name}`"),
            Self::IdentityMismatch { found, expected } => write!(f, "it is `{found}`, expected {expected}"),
        }
    }
}

impl std::error::Error for Reject {}

impl From<BadDer> for Reject {
    fn from(bad: BadDer) -> Self {
        Self::Malformed(bad.0)
    }
}

impl From<Reject> for rustls::Error {
    fn from(reject: Reject) -> Self {
        // The alert follows from the kind; the sentence stays on this side.
        let error = match &reject {
            Reject::Expired => CertificateError::Expired,
            Reject::NotYet => CertificateError::NotValidYet,
            Reject::Revoked => CertificateError::Revoked,
            Reject::RevocationUnknown(_) => CertificateError::UnknownRevocationStatus,
            Reject::UnknownCa(_) => CertificateError::UnknownIssuer,
            _ => CertificateError::Other(OtherError(Arc::new(reject))),
        };
        rustls::Error::InvalidCertificate(error)
    }
}
