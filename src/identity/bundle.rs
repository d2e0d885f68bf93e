//! Whom to believe: authorities by trust domain.

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;

use super::der::Facts;
use crate::name::TrustDomain;

/// The authorities of one trust domain. Empty: nobody of it is believed.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Bundle {
    anchors: Vec<Anchor>,
}

/// An authority.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) der: CertificateDer<'static>,
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) path_len: Option<u32>,
}

impl Anchor {
    /// Whether two authorities are the same as far as signatures tell.
    pub(super) fn is(&self, other: &TrustAnchor<'_>) -> bool {
        self.anchor.subject == other.subject && self.anchor.subject_public_key_info == other.subject_public_key_info
    }
}

/// An authority that cannot be one, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BadAnchor {
    /// Its place in the bundle, from 1.
    pub(crate) place: usize,
    /// What is wrong.
    pub(crate) why: String,
}

impl fmt::Display for BadAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate {} of the bundle is left out: {}", self.place, self.why)
    }
}

impl Bundle {
    /// Takes the certificates that can be authorities, and says which cannot. `development`: marked ones are taken.
    pub(crate) fn new(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
        development: bool,
    ) -> (Self, Vec<BadAnchor>) {
        let mut bad = Vec::new();
        let mut anchors: Vec<Anchor> = Vec::new();
        for (index, der) in certificates.into_iter().enumerate() {
            match anchor(&der, development) {
                Ok(anchor) if anchors.contains(&anchor) => {}
                Ok(anchor) => anchors.push(anchor),
                Err(why) => bad.push(BadAnchor { place: index + 1, why }),
            }
        }
        (Self { anchors }, bad)
    }

    pub(super) fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// Whether this authority, by name and key, is one of them.
    pub(super) fn has(&self, (subject, key): &(Vec<u8>, Vec<u8>)) -> bool {
        self.anchors.iter().any(|anchor| {
            anchor.anchor.subject.as_ref() == subject && anchor.anchor.subject_public_key_info.as_ref() == key
        })
    }

    /// How many authorities there are.
    pub(crate) fn len(&self) -> usize {
        self.anchors.len()
    }
}

fn anchor(der: &CertificateDer<'static>, development: bool) -> Result<Anchor, String> {
    let facts = Facts::read(der).map_err(|malformed| format!("it cannot be read: {}", malformed.0))?;
    if facts.ca != Some(true) {
        return Err("it is not a certificate authority (basicConstraints)".into());
    }
    if facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
        return Err("it may not sign certificates (keyUsage)".into());
    }
    if facts.development && !development {
        return Err("it is an authority for development: anyone on that machine can sign with it".into());
    }
    let trust = anchor_from_trusted_cert(der).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(Anchor {
        anchor: trust.to_owned(),
        not_before: facts.not_before,
        not_after: facts.not_after,
        path_len: facts.path_len,
        der: der.clone(),
    })
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({})", self.anchors.len())
    }
}

/// Bundles by trust domain.
pub(crate) type BundleMap = BTreeMap<TrustDomain, Arc<Bundle>>;
