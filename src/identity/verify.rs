//! The one strict verifier, for both sides.
//!
//! In this order, so that the cheapest and surest refusals come first: sizes, every certificate's own bytes, the leaf as
//! X509-SVID wants it, the bundle of its trust domain, then a path by rustls-webpki, on which what webpki does not look at
//! is judged by us: whether signers may sign, and whether the authority itself is valid.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};

use super::{
    bundle::{Bundle, BundleMap},
    der::{Facts, Malformed},
    reject::Reject,
    revocation::Revocations,
};
use crate::name::{SpiffeId, TrustDomain};

/// Most certificates of a chain, and most bytes of all of them.
const MAX_CHAIN: usize = 8;
const MAX_BYTES: usize = 16 * 1024;
/// How much earlier than its beginning a certificate is taken, for the sake of clocks that differ. None at the end.
const LEEWAY: Duration = Duration::from_secs(60);

/// A leaf that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Verified {
    pub(crate) id: SpiffeId,
    /// The path is valid between these.
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) path: Arc<Path>,
}

/// What revocation and a changed bundle are judged by later, without the certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Path {
    pub(super) domain: TrustDomain,
    /// Each certificate below the authority: its issuer's name and key, and its serial number.
    pub(super) links: Vec<Link>,
    /// The authority's name and key.
    pub(super) anchor: (Vec<u8>, Vec<u8>),
}

/// One certificate on a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) issuer: Vec<u8>,
    pub(super) issuer_spki: Vec<u8>,
    pub(super) serial: Vec<u8>,
}

/// What certificates are judged by at one moment.
pub(crate) struct Trust<'a> {
    pub(crate) bundles: &'a BundleMap,
    pub(crate) revocations: &'a Revocations,
    pub(crate) algorithms: &'a WebPkiSupportedAlgorithms,
}

/// `ExtendedKeyUsage` is read from the leaf's own bytes.
struct ReadElsewhere;

impl ExtendedKeyUsageValidator for ReadElsewhere {
    fn validate(&self, _iter: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
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
    let facts = Facts::read(leaf).map_err(malformed)?;
    let id = workload(&facts)?;
    let mut newest = facts.not_before;
    let mut signers = Vec::with_capacity(intermediates.len());
    for der in intermediates {
        let facts = Facts::read(der).map_err(malformed)?;
        newest = newest.max(facts.not_before);
        // What may not sign is not looked at, as if it had not been sent.
        if facts.ca == Some(true) && facts.key_usage.is_some_and(|usage| usage.key_cert_sign) {
            signers.push(der.clone());
        }
    }
    let domain = TrustDomain::new(id.trust_domain()).map_err(|error| Reject::SanSyntax(error.to_string()))?;
    let bundle = trust.bundles.get(&domain).filter(|bundle| bundle.len() > 0);
    let Some(bundle) = bundle else { return Err(Reject::WrongTrustDomain(id)) };
    let at = if newest > now && newest <= now + LEEWAY { newest } else { now };
    let path = path(leaf, &signers, bundle, trust, at, &domain, &id)?;
    let (not_before, not_after) = path.1;
    Ok(Verified { id, not_before, not_after, path: Arc::new(path.0) })
}

fn malformed(malformed: Malformed) -> Reject {
    Reject::Malformed(malformed.0)
}

/// The leaf by itself (X509-SVID §2, §4, §5).
pub(super) fn workload(facts: &Facts<'_>) -> Result<SpiffeId, Reject> {
    let [uri] = facts.uris[..] else { return Err(Reject::SanCount(facts.uris.len())) };
    let text = std::str::from_utf8(uri).map_err(|_| Reject::SanSyntax("the certificate's URI is not UTF-8".into()))?;
    let id = SpiffeId::new(text).map_err(|error| Reject::SanSyntax(error.to_string()))?;
    if id.path().is_empty() {
        return Err(Reject::SanSyntax(format!("`{id}` is a trust domain, not a workload of one")));
    }
    if facts.ca == Some(true) {
        return Err(Reject::KeyUsage("a certificate authority is not a workload (basicConstraints)"));
    }
    let Some(usage) = facts.key_usage else { return Err(Reject::KeyUsage("the certificate has no keyUsage")) };
    if !usage.critical {
        return Err(Reject::KeyUsage("keyUsage is not critical"));
    }
    if !usage.digital_signature {
        return Err(Reject::KeyUsage("the certificate may not be used for signatures (keyUsage)"));
    }
    if usage.key_cert_sign || usage.crl_sign {
        return Err(Reject::KeyUsage("a workload may not sign certificates or revocation lists (keyUsage)"));
    }
    if facts.both_auth == Some(false) {
        return Err(Reject::KeyUsage("the certificate is not for servers and clients both (extKeyUsage)"));
    }
    Ok(id)
}

fn path(
    leaf: &CertificateDer<'_>,
    signers: &[CertificateDer<'_>],
    bundle: &Bundle,
    trust: &Trust<'_>,
    at: SystemTime,
    domain: &TrustDomain,
    id: &SpiffeId,
) -> Result<(Path, (SystemTime, SystemTime)), Reject> {
    let anchors: Vec<_> = bundle.anchors().iter().map(|anchor| anchor.anchor.clone()).collect();
    let entity = EndEntityCert::try_from(leaf).map_err(|_| Reject::Malformed("rustls-webpki cannot read it"))?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let reason: Cell<Option<Reject>> = Cell::new(None);
    let refuse = |reject: Reject, error: webpki::Error| {
        reason.set(Some(reject));
        Err(error)
    };
    let verify_path = |path: &VerifiedPath<'_>| {
        // A path without its authority cannot be; that more than one is the same by name and key can.
        let depth = u32::try_from(path.intermediate_certificates().count()).unwrap_or(u32::MAX);
        let same = || bundle.anchors().iter().filter(|anchor| anchor.is(path.anchor()));
        if !same().any(|anchor| anchor.not_after >= at) {
            return refuse(Reject::Expired, webpki::Error::UnknownIssuer);
        }
        if !same().any(|anchor| anchor.not_before <= at && anchor.not_after >= at) {
            return refuse(Reject::NotYet, webpki::Error::UnknownIssuer);
        }
        if !same().any(|anchor| anchor.path_len.is_none_or(|most| depth <= most)) {
            return refuse(Reject::UnknownCa(id.clone()), webpki::Error::UnknownIssuer);
        }
        for link in links(path) {
            if let Some(why) = trust.revocations.refuses(&link, at) {
                return refuse(Reject::Revoked(why), webpki::Error::CertRevoked);
            }
        }
        Ok(())
    };
    let found = entity
        .verify_for_usage(
            trust.algorithms.all,
            &anchors,
            signers,
            UnixTime::since_unix_epoch(since),
            ReadElsewhere,
            None,
            Some(&verify_path),
        )
        .map_err(|error| reason.take().unwrap_or_else(|| by_webpki(&error, id)))?;
    let mut valid = (SystemTime::UNIX_EPOCH, None::<SystemTime>);
    let mut within = |not_before: SystemTime, not_after: SystemTime| {
        valid = (valid.0.max(not_before), Some(valid.1.map_or(not_after, |end| end.min(not_after))));
    };
    let ders = std::iter::once(leaf.clone()).chain(found.intermediate_certificates().map(|cert| cert.der()));
    for der in ders {
        let facts = Facts::read(&der).map_err(malformed)?;
        within(facts.not_before, facts.not_after);
    }
    for anchor in bundle.anchors().iter().filter(|anchor| anchor.is(found.anchor())).take(1) {
        within(anchor.not_before, anchor.not_after);
    }
    let anchor = (found.anchor().subject.as_ref().to_vec(), found.anchor().subject_public_key_info.as_ref().to_vec());
    let path = Path { domain: domain.clone(), links: links(&found).collect(), anchor };
    Ok((path, (valid.0, valid.1.unwrap_or(valid.0))))
}

/// The certificates of a path, leaf first, each with its issuer.
fn links<'p>(path: &'p VerifiedPath<'p>) -> impl Iterator<Item = Link> + 'p {
    let keys = path
        .intermediate_certificates()
        .map(|cert| cert.subject_public_key_info().as_ref().to_vec())
        .chain(std::iter::once(webpki::spki_for_anchor(path.anchor()).as_ref().to_vec()));
    let leaf = path.end_entity();
    let certificates = std::iter::once((leaf.issuer().to_vec(), leaf.serial().to_vec()))
        .chain(path.intermediate_certificates().map(|cert| (cert.issuer().to_vec(), cert.serial().to_vec())));
    certificates.zip(keys).map(|((issuer, serial), issuer_spki)| Link { issuer, issuer_spki, serial })
}

fn by_webpki(error: &webpki::Error, id: &SpiffeId) -> Reject {
    match error {
        webpki::Error::CertExpired { .. } => Reject::Expired,
        webpki::Error::CertNotValidYet { .. } => Reject::NotYet,
        webpki::Error::UnknownIssuer
        | webpki::Error::PathLenConstraintViolated
        | webpki::Error::InvalidSignatureForPublicKey
        | webpki::Error::NameConstraintViolation
        | webpki::Error::MaximumPathDepthExceeded => Reject::UnknownCa(id.clone()),
        _ => Reject::UnknownCa(id.clone()),
    }
}
