//! The one strict verifier, for both sides.
//!
//! In this order, so that the cheapest and surest refusals come first: sizes, every certificate's own bytes, the leaf as
//! X509-SVID wants it, the bundle of its trust domain, then a path ([`path`](super::path)).
//!
//! Servers outside of the mesh are judged by the same core, with their names in the place of an identity.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use super::{
    bundle::{Bundle, BundleMap},
    certificate::Facts,
    path::{self, Found, Path, Search, Wanted},
    reject::{Reject, Subject},
    revocation::Revocations,
};
use crate::name::{SpiffeId, TrustDomain};

/// Most certificates of a chain, and most bytes of all of them.
const MAX_CHAIN: usize = 8;
const MAX_BYTES: usize = 16 * 1024;
/// The same outside, where cross-signed authorities send many.
const MAX_CHAIN_OUTSIDE: usize = 64;
const MAX_BYTES_OUTSIDE: usize = 64 * 1024;
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

/// What certificates are judged by at one moment.
pub(crate) struct Trust<'a> {
    pub(crate) bundles: &'a BundleMap,
    pub(crate) revocations: &'a Revocations,
    pub(crate) algorithms: &'a WebPkiSupportedAlgorithms,
}

/// What servers outside of the mesh are judged by.
pub(super) struct OutsideTrust<'a> {
    pub(super) anchors: &'a Bundle,
    pub(super) revocations: &'a Revocations,
    pub(super) algorithms: &'a WebPkiSupportedAlgorithms,
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
        return Err(Reject::Algorithm(Subject::Workload(id)));
    }
    let search = Search {
        anchors: bundle,
        revocations: trust.revocations,
        algorithms: trust.algorithms,
        wanted: Wanted::Workload(&id, &domain),
    };
    let found = search.find(leaf, &facts, intermediates, now)?;
    let Found { not_before, not_after, unrevoked_until, links, anchor } = found;
    let path = Arc::new(Path { domain, links, anchor });
    Ok(Verified { id, not_before, not_after, unrevoked_until, path })
}

/// Whether a chain, leaf first, is a server outside of the mesh that has this name.
pub(super) fn verify_server(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    trust: &OutsideTrust<'_>,
    now: SystemTime,
) -> Result<(), Reject> {
    let bytes: usize = leaf.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
    if intermediates.len() >= MAX_CHAIN_OUTSIDE || bytes > MAX_BYTES_OUTSIDE {
        return Err(Reject::TooLarge);
    }
    let facts = Facts::of(leaf)?;
    facts.server()?;
    let subject = || Subject::Server(name.to_str().into());
    if !facts.has_strong_key() {
        return Err(Reject::Algorithm(subject()));
    }
    let search = Search {
        anchors: trust.anchors,
        revocations: trust.revocations,
        algorithms: trust.algorithms,
        wanted: Wanted::Server(name),
    };
    search.find(leaf, &facts, intermediates, now)?;
    let entity = EndEntityCert::try_from(leaf).map_err(|error| path::by_webpki(&error, subject()))?;
    entity.verify_is_valid_for_subject_name(name).map_err(|_| Reject::NameMismatch(name.to_str().into()))
}
