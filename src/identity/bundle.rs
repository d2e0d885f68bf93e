//! Whom to believe: authorities by trust domain.

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;

use super::certificate::Facts;
use crate::name::TrustDomain;

/// The authorities of one trust domain. Empty: nobody of it is believed.
///
/// The library that builds paths takes an authority's name and key for the truth. So each is checked when it is loaded, and
/// what that library does not look at, validity and path length, is kept beside it.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Bundle {
    anchors: Vec<Anchor>,
    /// Parallel to `anchors`, as the library wants them.
    roots: Vec<TrustAnchor<'static>>,
}

/// An authority.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Anchor {
    der: CertificateDer<'static>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) path_length: Option<u32>,
    pub(super) crl_sign: Option<bool>,
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
        let mut bundle = Self::default();
        for (index, der) in certificates.into_iter().enumerate() {
            if bundle.anchors.iter().any(|anchor| anchor.der == der) {
                continue;
            }
            match anchor(der, development) {
                Ok((anchor, root)) => {
                    bundle.anchors.push(anchor);
                    bundle.roots.push(root);
                }
                Err(why) => bad.push(BadAnchor { place: index + 1, why }),
            }
        }
        (bundle, bad)
    }

    pub(super) fn roots(&self) -> &[TrustAnchor<'static>] {
        &self.roots
    }

    /// What is kept beside a root, which must be one of [`roots`](Self::roots) itself and not an equal one: of two
    /// authorities with the same name and key, each has its own validity.
    pub(super) fn anchor(&self, root: &TrustAnchor<'_>) -> Option<&Anchor> {
        let at = self.roots.iter().position(|known| std::ptr::eq(known, root))?;
        self.anchors.get(at)
    }

    /// Whether this authority, by name and key, is one of them.
    pub(super) fn has(&self, (subject, key): &(Vec<u8>, Vec<u8>)) -> bool {
        self.roots.iter().any(|root| root.subject.as_ref() == subject && root.subject_public_key_info.as_ref() == key)
    }

    /// How many authorities there are.
    pub(crate) fn len(&self) -> usize {
        self.anchors.len()
    }
}

fn anchor(der: CertificateDer<'static>, development: bool) -> Result<(Anchor, TrustAnchor<'static>), String> {
    let facts = Facts::of(&der).map_err(|bad| format!("it cannot be read: {}", bad.0))?;
    if !facts.is_ca() {
        return Err("it is not a certificate authority (basicConstraints)".into());
    }
    if facts.key_cert_sign() == Some(false) {
        return Err("it may not sign certificates (keyUsage)".into());
    }
    if facts.development && !development {
        return Err("it is an authority for development: anyone on that machine can sign with it".into());
    }
    if !facts.is_named() {
        return Err("it has no name (subject)".into());
    }
    if facts.mystery {
        return Err("it has a critical extension that is not understood".into());
    }
    if !facts.has_strong_key() {
        return Err("its key is of a kind or size that is not accepted".into());
    }
    let root = anchor_from_trusted_cert(&der).map_err(|error| format!("it cannot be read: {error}"))?.to_owned();
    let anchor = Anchor {
        not_before: facts.not_before,
        not_after: facts.not_after,
        path_length: facts.path_length(),
        crl_sign: facts.crl_sign(),
        der: der.clone(),
    };
    Ok((anchor, root))
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({})", self.anchors.len())
    }
}

/// Bundles by trust domain.
pub(crate) type BundleMap = BTreeMap<TrustDomain, Arc<Bundle>>;
