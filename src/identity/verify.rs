//! The one strict verifier, for both sides.
//!
//! In this order, so that the cheapest and surest refusals come first: sizes, every certificate's own bytes, the leaf as
//! X509-SVID wants it, the bundle of its trust domain, then a path by rustls-webpki, on which what webpki does not look at
//! is judged by us: the authority's validity and path length, and revocation.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};

use super::{
    bundle::{Bundle, BundleMap},
    certificate::Facts,
    reject::Reject,
    revocation::Revocations,
};
use crate::name::{SpiffeId, TrustDomain};

/// Most certificates of a chain, and most bytes of all of them.
const MAX_CHAIN: usize = 8;
const MAX_BYTES: usize = 16 * 1024;
/// How much earlier than its beginning a certificate is taken, for the sake of clocks that differ. None at the end.
pub(super) const LEEWAY: Duration = Duration::from_secs(60);

/// A leaf that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Verified {
    pub(crate) id: SpiffeId,
    /// Every certificate of the path, the authority's too, is valid between these.
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Until when it is known not to be revoked, where that is asked.
    pub(crate) unrevoked_until: Option<SystemTime>,
    pub(crate) path: Arc<Path>,
}

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

/// What certificates are judged by at one moment.
pub(crate) struct Trust<'a> {
    pub(crate) bundles: &'a BundleMap,
    pub(crate) revocations: &'a Revocations,
    pub(crate) algorithms: &'a WebPkiSupportedAlgorithms,
}

/// Whether a chain, leaf first, is a workload of a trust domain that is known.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    trust: &Trust<'_>,
    now: SystemTime,
) -> Result<Verified, Reject> {
    let bytes: usize = leaf.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
    if intermediates.len() >= MAX_CHAIN || bytes > MAX_BYTES {
        return Err(Reject::TooLarge);
    }
    let facts = Facts::of(leaf)?;
    let id = facts.workload()?;
    let domain = TrustDomain::new(id.trust_domain()).map_err(|error| Reject::SanSyntax(error.to_string()))?;
    let bundle = trust.bundles.get(&domain).filter(|bundle| bundle.len() > 0);
    let Some(bundle) = bundle else { return Err(Reject::WrongTrustDomain(id)) };

    if !facts.has_strong_key() {
        return Err(Reject::Algorithm(id));
    }

    let mut newest = facts.not_before;
    let mut signers = Vec::with_capacity(intermediates.len());
    // Why a signer was left out explains a path that is then missing.
    let mut left_out = None;
    for der in intermediates {
        let facts = Facts::of(der)?;
        let foreign = facts.issuer_id().filter(|signer| !signer.is_member_of(&domain));
        if let Some(signer) = foreign {
            left_out = Some(Reject::WrongTrustDomain(signer));
        } else if !facts.is_ca() || facts.key_cert_sign() != Some(true) {
            left_out = Some(Reject::KeyUsage("a certificate on its path may not sign certificates"));
        } else if !facts.has_strong_key() {
            left_out = Some(Reject::Algorithm(id.clone()));
        } else {
            newest = newest.max(facts.not_before);
            signers.push(CertificateDer::from(&**der));
        }
    }

    let at = if newest > now && newest <= now + LEEWAY { newest } else { now };
    let entity = EndEntityCert::try_from(leaf).map_err(|error| by_webpki(&error, &id))?;
    let since = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    // The last path that was judged: the one that was found, or why the last candidate was none.
    let judged = RefCell::new(None);
    let judge = |path: &VerifiedPath<'_>| {
        let result = judge(path, bundle, trust.revocations, &domain, now);
        let outcome = if result.is_ok() { Ok(()) } else { Err(webpki::Error::UnknownIssuer) };
        judged.replace(Some(result));
        outcome
    };
    let algorithms = trust.algorithms.all;
    let found =
        entity.verify_for_usage(algorithms, bundle.roots(), &signers, since, BothRoles, None, Some(&judge)).map(|_| ());
    match (found, judged.into_inner()) {
        (Ok(()), Some(Ok(path))) => Ok(path),
        // Signatures were right up to an authority, so nothing that the library says of other paths tells more.
        (Err(_), Some(Err(reject))) => Err(reject),
        (Err(error), _) => Err(match by_webpki(&error, &id) {
            Reject::UnknownCa(id) => left_out.unwrap_or(Reject::UnknownCa(id)),
            reject => reject,
        }),
        (Ok(()), _) => Err(Reject::UnknownCa(id)),
    }
}

/// What the library does not ask of a path.
fn judge(
    path: &VerifiedPath<'_>,
    bundle: &Bundle,
    revocations: &Revocations,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<Verified, Reject> {
    let leaf = path.end_entity().der();
    let facts = Facts::of(&leaf)?;
    let id = facts.workload()?;
    let Some(anchor) = bundle.anchor(path.anchor()) else { return Err(Reject::UnknownCa(id)) };
    if now > anchor.not_after {
        return Err(Reject::Expired);
    }
    if now + LEEWAY < anchor.not_before {
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
    let ders = std::iter::once(leaf.clone()).chain(path.intermediate_certificates().map(|signer| signer.der()));
    for (link, der) in links.iter().zip(ders) {
        let facts = Facts::of(&der)?;
        (not_before, not_after) = (not_before.max(facts.not_before), not_after.min(facts.not_after));
        if let Some(until) = revocations.check(link, now)? {
            unrevoked_until = Some(unrevoked_until.map_or(until, |known| known.min(until)));
        }
    }
    let (name, key) = (path.anchor().subject.to_vec(), path.anchor().subject_public_key_info.to_vec());
    let path = Path { domain: domain.clone(), links, anchor: (name, key) };
    Ok(Verified { id, not_before, not_after, unrevoked_until, path: Arc::new(path) })
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

fn by_webpki(error: &webpki::Error, id: &SpiffeId) -> Reject {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => Reject::Expired,
        Error::CertNotValidYet { .. } => Reject::NotYet,
        Error::PathLenConstraintViolated => {
            Reject::KeyUsage("more signers on its path than one of them allows below it")
        }
        Error::CaUsedAsEndEntity | Error::EndEntityUsedAsCa | Error::EmptyEkuExtension => {
            Reject::KeyUsage("a certificate on its path is not for this use")
        }
        Error::NameConstraintViolation
        | Error::MalformedNameConstraint
        | Error::InvalidNetworkMaskConstraint
        | Error::UnsupportedNameType
        | Error::MaximumNameConstraintComparisonsExceeded => Reject::NameConstraints(id.clone()),
        Error::SignatureAlgorithmMismatch
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Reject::Algorithm(id.clone()),
        // A signature that does not fit is another authority of the same name, or forged: either way nobody vouches.
        Error::UnknownIssuer
        | Error::InvalidSignatureForPublicKey
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumPathDepthExceeded
        | Error::MaximumSignatureChecksExceeded => Reject::UnknownCa(id.clone()),
        Error::UnsupportedCriticalExtension => {
            Reject::Malformed("a certificate on its path has a critical extension that is not understood")
        }
        _ => Reject::Malformed("a certificate on its path is not as RFC 5280 wants it"),
    }
}
