//! Which certificates were taken back: revocation lists, found by the name *and* key of their issuer.
//!
//! Two authorities of one name are common while one replaces the other; a look-up by name alone checks the certificates
//! of one against the list of the other. So a list is bound to an issuer by its signature, which is verified once: for
//! authorities when the lists are loaded, for signers between when a path first names one.
//!
//! An issuer that has had a list must have a current one: that a list ran out, or was taken away, does not make its
//! certificates good again. Issuers without any list are not asked, unless [`Asked::Always`].

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::{CertRevocationList, OwnedCertRevocationList, RawPublicKeyEntity};

use super::{
    bundle::BundleMap,
    certificate::wall_time,
    der::{self, BadDer, Reader},
    path::{Issuer, Link},
    reject::Reject,
    verify::LEEWAY,
};

/// Largest list: some 400,000 entries.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Issuers whose lists are remembered; more would be looked for anew each time.
const MAX_ISSUERS: usize = 4_096;

/// Whether an issuer needs a list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Asked {
    /// Where it has had one.
    #[default]
    WhereListed,
    /// Each issuer on a path.
    Always,
}

/// The revocation lists of one generation.
#[derive(Default)]
pub(crate) struct Revocations {
    asked: Asked,
    lists: Vec<Arc<List>>,
    algorithms: Option<WebPkiSupportedAlgorithms>,
    /// The newest list that each issuer signed.
    bound: Mutex<HashMap<Issuer, Option<Arc<List>>>>,
}

/// A list. Whether its signature is right depends on whose it is.
struct List {
    der: Vec<u8>,
    this_update: SystemTime,
    next_update: SystemTime,
    /// Big-endian, without leading zeros.
    number: Vec<u8>,
    entries: CertRevocationList<'static>,
}

impl Revocations {
    /// No lists.
    pub(crate) fn none(asked: Asked) -> Self {
        Self { asked, ..Self::default() }
    }

    /// These lists, DER, in the place of `self`. Says which cannot be used; for the issuer of such a one, and for one whose
    /// list is gone, the last that was good stays.
    pub(crate) fn replaced(
        &self,
        lists: impl IntoIterator<Item = Vec<u8>>,
        bundles: &BundleMap,
        algorithms: WebPkiSupportedAlgorithms,
        now: SystemTime,
    ) -> (Self, Vec<String>) {
        let mut bad = Vec::new();
        let mut kept: Vec<Arc<List>> = Vec::new();
        for der in lists {
            if kept.iter().any(|list| list.der == der) {
                continue;
            }
            let known = self.lists.iter().find(|list| list.der == der).cloned();
            match known.map_or_else(|| List::read(der, now).map(Arc::new), Ok) {
                Ok(list) => kept.push(list),
                Err(why) => bad.push(format!("a revocation list is not usable: {why}")),
            }
        }
        for last in self.bound().values().flatten() {
            if !kept.iter().any(|list| list.der == last.der) {
                kept.push(Arc::clone(last));
            }
        }
        let next = Self { asked: self.asked, lists: kept, algorithms: Some(algorithms), bound: Mutex::default() };
        let authorities = bundles
            .values()
            .flat_map(|bundle| bundle.roots())
            .map(|root| Issuer { name: root.subject.to_vec(), spki: webpki::spki_for_anchor(root).to_vec() });
        let known: Vec<_> = self.bound().keys().cloned().chain(authorities).collect();
        for issuer in known {
            next.list(&issuer);
        }
        (next, bad)
    }

    /// Until when the issuer is known not to have revoked a certificate; `None` if that is not asked.
    ///
    /// # Errors
    /// If it has, or if that cannot be known.
    pub(super) fn check(&self, link: &Link, now: SystemTime) -> Result<Option<SystemTime>, Reject> {
        let Some(list) = self.list(&link.issuer) else {
            return match self.asked {
                Asked::WhereListed => Ok(None),
                Asked::Always => {
                    Err(Reject::RevocationUnknown("its issuer has no revocation list, and one is required"))
                }
            };
        };
        if now > list.next_update {
            return Err(Reject::RevocationUnknown("the revocation list of its issuer is out of date"));
        }
        match list.entries.find_serial(&link.serial) {
            Ok(None) => Ok(Some(list.next_update)),
            Ok(Some(_)) => Err(Reject::Revoked),
            Err(_) => Err(Reject::RevocationUnknown("the revocation list of its issuer cannot be read")),
        }
    }

    /// When the first list runs out.
    pub(crate) fn next_update(&self) -> Option<SystemTime> {
        self.bound().values().flatten().map(|list| list.next_update).min()
    }

    fn list(&self, issuer: &Issuer) -> Option<Arc<List>> {
        let algorithms = self.algorithms.filter(|_| !self.lists.is_empty())?;
        if let Some(known) = self.bound().get(issuer) {
            return known.clone();
        }
        let spki = SubjectPublicKeyInfoDer::from(&*issuer.spki);
        let newest = self
            .lists
            .iter()
            .filter(|list| list.entries.issuer() == issuer.name && list.is_signed_by(&spki, &algorithms))
            .max_by(|a, b| a.age().cmp(&b.age()))
            .cloned();
        let mut bound = self.bound();
        if bound.len() < MAX_ISSUERS {
            bound.insert(issuer.clone(), newest.clone());
        }
        newest
    }

    fn bound(&self) -> MutexGuard<'_, HashMap<Issuer, Option<Arc<List>>>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Revocations {
    fn eq(&self, other: &Self) -> bool {
        self.asked == other.asked
            && self.lists.len() == other.lists.len()
            && self.lists.iter().all(|list| other.lists.iter().any(|there| there.der == list.der))
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revocations({})", self.lists.len())
    }
}

impl List {
    fn read(der: Vec<u8>, now: SystemTime) -> Result<Self, String> {
        if der.len() > MAX_BYTES {
            return Err("it is larger than 16 MiB".into());
        }
        // The library checks version, entries and extensions, and refuses delta and indirect lists.
        let entries = OwnedCertRevocationList::from_der(&der).map_err(|error| error.to_string())?;
        let entries = CertRevocationList::Owned(entries);
        if entries.issuing_distribution_point().is_some() {
            return Err("it covers only some certificates of its issuer (issuingDistributionPoint)".into());
        }
        let parts = Parts::of(&der).map_err(|bad| bad.0)?;
        if parts.this_update > now + LEEWAY {
            return Err("it begins in the future".into());
        }
        let number = parts.number.iter().copied().skip_while(|byte| *byte == 0).collect();
        let (this_update, next_update) = (parts.this_update, parts.next_update);
        Ok(Self { this_update, next_update, number, entries, der })
    }

    /// By which the newest of an issuer's lists is told: its number, then its date.
    fn age(&self) -> (usize, &[u8], SystemTime) {
        (self.number.len(), &self.number, self.this_update)
    }

    fn is_signed_by(&self, spki: &SubjectPublicKeyInfoDer<'_>, algorithms: &WebPkiSupportedAlgorithms) -> bool {
        let (Ok(parts), Ok(key)) = (Parts::of(&self.der), RawPublicKeyEntity::try_from(spki)) else { return false };
        algorithms
            .all
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == parts.algorithm)
            .any(|algorithm| key.verify_signature(*algorithm, parts.signed, parts.signature).is_ok())
    }
}

/// What of a list the library keeps to itself.
struct Parts<'a> {
    /// What the signature is over.
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    this_update: SystemTime,
    next_update: SystemTime,
    number: &'a [u8],
}

const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];

impl<'a> Parts<'a> {
    fn of(list: &'a [u8]) -> Result<Self, BadDer> {
        let mut outer = Reader::new(list).only(der::SEQUENCE)?.inside();
        let signed = outer.expect(der::SEQUENCE)?;
        let algorithm = outer.expect(der::SEQUENCE)?.value;
        let [0, signature @ ..] = outer.expect(der::BIT_STRING)?.value else {
            return Err(BadDer("a signature that is not whole bytes"));
        };
        outer.end()?;
        let mut tbs = signed.inside();
        tbs.expect(der::INTEGER)?;
        tbs.expect(der::SEQUENCE)?;
        tbs.expect(der::SEQUENCE)?;
        let (this_update, next_update) = (wall_time(tbs.any()?.time()?), wall_time(tbs.any()?.time()?));
        tbs.optional(der::SEQUENCE)?;
        let mut number = None;
        if let Some(extensions) = tbs.optional(der::constructed(0))? {
            let mut extensions = extensions.inside().only(der::SEQUENCE)?.inside();
            while !extensions.is_empty() {
                let mut extension = extensions.expect(der::SEQUENCE)?.inside();
                let oid = extension.expect(der::OID)?.oid()?;
                let critical = extension.optional(der::BOOLEAN)?.is_some();
                let value = extension.expect(der::OCTET_STRING)?.value;
                extension.end()?;
                if oid == CRL_NUMBER {
                    if critical {
                        return Err(BadDer("a number that is critical"));
                    }
                    number = Some(Reader::new(value).only(der::INTEGER)?.integer()?);
                }
            }
        }
        tbs.end()?;
        // RFC 5280 §5.2.3: each has one. Without it, an older one could not be told from a newer.
        let number = number.ok_or(BadDer("it has no number (cRLNumber)"))?;
        Ok(Self { signed: signed.whole, algorithm, signature, this_update, next_update, number })
    }
}
