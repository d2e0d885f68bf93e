//! The path from a leaf to an authority: found by rustls-webpki, judged by us in what that does not look at.
//!
//! Signers that may not sign are left out before. Of the path that is found, the authority's own validity and path length
//! and every revocation are judged; where that fails, other paths are tried.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, VerifiedPath};

use super::{
    bundle::Bundle,
    certificate::Facts,
    reject::{Reject, Subject},
    revocation::Revocations,
    verify::LEEWAY,
};
use crate::name::{SpiffeId, TrustDomain};

/// What revocation and a changed bundle are judged by later, without the certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Path {
    pub(super) domain: TrustDomain,
    /// Each certificate below the authority, leaf first: its issuer's name and key, and its serial number.
    pub(super) links: Vec<Link>,
    /// The authority's name and key.
    pub(super) anchor: (Vec<u8>, Vec<u8>),
}

/// One certificate on a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) issuer: Issuer,
    pub(super) serial: Vec<u8>,
}

/// Who signed a certificate. A name alone is not enough: while one authority replaces another, two may have the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Issuer {
    /// Without tag and length.
    pub(super) name: Vec<u8>,
    /// The whole `SubjectPublicKeyInfo`.
    pub(super) spki: Vec<u8>,
}

/// What lies at the end of a path, and what its signers must be.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// A workload: signers have the right to sign in so many words, belong to no other trust domain, and are for both roles.
    Workload(&'a SpiffeId, &'a TrustDomain),
    /// A server outside of the mesh. Signers without a key usage are common there.
    Server(&'a ServerName<'a>),
}

impl Wanted<'_> {
    /// How much earlier than its beginning a certificate is taken. Clocks of the mesh are close to each other; who is outside
    /// has certificates of days and months.
    fn leeway(&self) -> Duration {
        match self {
            Self::Workload(..) => LEEWAY,
            Self::Server(_) => Duration::ZERO,
        }
    }

    fn subject(&self) -> Subject {
        match self {
            Self::Workload(id, _) => Subject::Workload((*id).clone()),
            Self::Server(name) => Subject::Server(name.to_str().into()),
        }
    }

    /// Why a signer may have no place on the path.
    fn leaves_out(&self, signer: &Facts<'_>) -> Option<Reject> {
        const NOT_A_SIGNER: Reject = Reject::KeyUsage("a certificate on its path may not sign certificates");
        let may_sign = signer.is_ca()
            && match self {
                Self::Workload(..) => signer.key_cert_sign() == Some(true),
                Self::Server(_) => signer.key_cert_sign() != Some(false),
            };
        let foreign = match self {
            Self::Workload(_, domain) => signer.issuer_id().filter(|id| !id.is_member_of(domain)),
            Self::Server(_) => None,
        };
        if let Some(id) = foreign {
            Some(Reject::WrongTrustDomain(id))
        } else if !may_sign {
            Some(NOT_A_SIGNER)
        } else if !signer.is_named() || !signer.is_numbered() {
            Some(Reject::Malformed("a signer on its path has no name or no number"))
        } else if !signer.has_strong_key() {
            Some(Reject::Algorithm(self.subject()))
        } else {
            None
        }
    }
}

/// A search for a path.
pub(super) struct Search<'a> {
    pub(super) anchors: &'a Bundle,
    pub(super) revocations: &'a Revocations,
    pub(super) algorithms: &'a WebPkiSupportedAlgorithms,
    pub(super) wanted: Wanted<'a>,
}

/// A path that was found.
pub(super) struct Found {
    /// Every certificate of it, the authority's too, is valid between these.
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// Until when nothing on it is known to be revoked, where that is asked.
    pub(super) unrevoked_until: Option<SystemTime>,
    pub(super) links: Vec<Link>,
    /// The authority's name and key.
    pub(super) anchor: (Vec<u8>, Vec<u8>),
}

impl Search<'_> {
    /// A path from this leaf, of which `facts` are known, that holds now.
    pub(super) fn find(
        &self,
        leaf: &CertificateDer<'_>,
        facts: &Facts<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Found, Reject> {
        let mut newest = facts.not_before;
        let mut signers = Vec::with_capacity(intermediates.len());
        // Why a signer was left out explains a path that is then missing.
        let mut left_out = None;
        for der in intermediates {
            let signer = match (Facts::of(der), self.wanted) {
                (Ok(signer), _) => signer,
                (Err(bad), Wanted::Workload(..)) => return Err(bad.into()),
                // What servers send along by mistake is not theirs to answer for.
                (Err(bad), Wanted::Server(_)) => {
                    left_out = Some(bad.into());
                    continue;
                }
            };
            if let Some(why) = self.wanted.leaves_out(&signer) {
                left_out = Some(why);
            } else {
                newest = newest.max(signer.not_before);
                signers.push(CertificateDer::from(&**der));
            }
        }
        let at = if newest > now && newest <= now + self.wanted.leeway() { newest } else { now };
        let entity = EndEntityCert::try_from(leaf).map_err(|error| by_webpki(&error, self.wanted.subject()))?;
        let since = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        // The last path that was judged: the one that was found, or why the last candidate was none.
        let judged = RefCell::new(None);
        let judge = |path: &VerifiedPath<'_>| {
            let result = self.judge(path, facts, now);
            let outcome = if result.is_ok() { Ok(()) } else { Err(webpki::Error::UnknownIssuer) };
            judged.replace(Some(result));
            outcome
        };
        let (algorithms, roots) = (self.algorithms.all, self.anchors.roots());
        let found = match self.wanted {
            Wanted::Workload(..) => {
                entity.verify_for_usage(algorithms, roots, &signers, since, BothRoles, None, Some(&judge)).map(|_| ())
            }
            Wanted::Server(_) => entity
                .verify_for_usage(algorithms, roots, &signers, since, KeyUsage::server_auth(), None, Some(&judge))
                .map(|_| ()),
        };
        match (found, judged.into_inner()) {
            (Ok(()), Some(Ok(path))) => Ok(path),
            // Signatures were right up to an authority, so nothing that the library says of other paths tells more.
            (Err(_), Some(Err(reject))) => Err(reject),
            (Err(error), _) => Err(match by_webpki(&error, self.wanted.subject()) {
                Reject::UnknownCa(subject) => left_out.unwrap_or(Reject::UnknownCa(subject)),
                reject => reject,
            }),
            (Ok(()), _) => Err(Reject::UnknownCa(self.wanted.subject())),
        }
    }

    /// What the library does not ask of a path.
    fn judge(&self, path: &VerifiedPath<'_>, leaf: &Facts<'_>, now: SystemTime) -> Result<Found, Reject> {
        let Some(anchor) = self.anchors.anchor(path.anchor()) else {
            return Err(Reject::UnknownCa(self.wanted.subject()));
        };
        if now > anchor.not_after {
            return Err(Reject::Expired);
        }
        if now + self.wanted.leeway() < anchor.not_before {
            return Err(Reject::NotYet);
        }
        // A signer that signed itself anew, as in a change of keys, does not count. (RFC 5280 §6.1.4 l)
        let below = path.intermediate_certificates().filter(|signer| signer.issuer() != signer.subject()).count();
        if anchor.path_length.is_some_and(|most| below > most as usize) {
            return Err(Reject::KeyUsage("more signers than the authority allows below it"));
        }
        let (mut not_before, mut not_after) = (anchor.not_before, anchor.not_after);
        let mut unrevoked_until: Option<SystemTime> = None;
        let links: Vec<_> = links(path).collect();
        let ders: Vec<_> = path.intermediate_certificates().map(|signer| signer.der()).collect();
        let signers = ders.iter().map(|der| Facts::of(der)).collect::<Result<Vec<_>, _>>()?;
        let issuers = signers.iter().map(Facts::crl_sign).chain(std::iter::once(anchor.crl_sign));
        for ((link, facts), may_revoke) in links.iter().zip(std::iter::once(leaf).chain(&signers)).zip(issuers) {
            (not_before, not_after) = (not_before.max(facts.not_before), not_after.min(facts.not_after));
            if let Some(until) = self.revocations.check(link, now)? {
                // RFC 5280 §6.3.3 f
                if may_revoke == Some(false) {
                    return Err(Reject::RevocationUnknown(
                        "its issuer has a revocation list and may sign none (keyUsage)",
                    ));
                }
                unrevoked_until = Some(unrevoked_until.map_or(until, |known| known.min(until)));
            }
        }
        let anchor = (path.anchor().subject.to_vec(), path.anchor().subject_public_key_info.to_vec());
        Ok(Found { not_before, not_after, unrevoked_until, links, anchor })
    }
}

/// The certificates of a path, leaf first, each with its issuer.
fn links<'p>(path: &'p VerifiedPath<'p>) -> impl Iterator<Item = Link> + 'p {
    let keys = path
        .intermediate_certificates()
        .map(|signer| signer.subject_public_key_info().to_vec())
        .chain(std::iter::once(webpki::spki_for_anchor(path.anchor()).to_vec()));
    let leaf = path.end_entity();
    let certificates = std::iter::once((leaf.issuer().to_vec(), leaf.serial().to_vec()))
        .chain(path.intermediate_certificates().map(|signer| (signer.issuer().to_vec(), signer.serial().to_vec())));
    certificates.zip(keys).map(|((name, serial), spki)| Link { issuer: Issuer { name, spki }, serial })
}

/// Extended key usage of every certificate of a path: where given, it names both roles, as the leaf's must.
struct BothRoles;

impl ExtendedKeyUsageValidator for BothRoles {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut server, mut client, mut given) = (false, false, false);
        for purpose in purposes {
            let purpose = purpose?.to_decoded_oid();
            given = true;
            let any = purpose == [2, 5, 29, 37, 0];
            server |= any || purpose == [1, 3, 6, 1, 5, 5, 7, 3, 1];
            client |= any || purpose == [1, 3, 6, 1, 5, 5, 7, 3, 2];
        }
        // What the library calls what its own validator finds is not for others to make.
        if given && !(server && client) { Err(webpki::Error::EndEntityUsedAsCa) } else { Ok(()) }
    }
}

pub(super) fn by_webpki(error: &webpki::Error, subject: Subject) -> Reject {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => Reject::Expired,
        Error::CertNotValidYet { .. } => Reject::NotYet,
        Error::PathLenConstraintViolated => {
            Reject::KeyUsage("more signers on its path than one of them allows below it")
        }
        Error::CaUsedAsEndEntity
        | Error::EndEntityUsedAsCa
        | Error::EmptyEkuExtension
        | Error::RequiredEkuNotFoundContext(_) => Reject::KeyUsage("a certificate on its path is not for this use"),
        Error::NameConstraintViolation
        | Error::MalformedNameConstraint
        | Error::InvalidNetworkMaskConstraint
        | Error::UnsupportedNameType
        | Error::MaximumNameConstraintComparisonsExceeded => Reject::NameConstraints(subject),
        Error::SignatureAlgorithmMismatch
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Reject::Algorithm(subject),
        // A signature that does not fit is another authority of the same name, or forged: either way nobody vouches.
        Error::UnknownIssuer
        | Error::InvalidSignatureForPublicKey
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumPathDepthExceeded
        | Error::MaximumSignatureChecksExceeded => Reject::UnknownCa(subject),
        Error::UnsupportedCriticalExtension => {
            Reject::Malformed("a certificate on its path has a critical extension that is not understood")
        }
        _ => Reject::Malformed("a certificate on its path is not as RFC 5280 wants it"),
    }
}
