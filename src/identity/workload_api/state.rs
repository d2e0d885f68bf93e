//! From a message to what it means. A message is taken whole or not at all.

use std::{collections::BTreeMap, fmt, sync::Arc};

use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::message::{Entry, JwtBundlesResponse, JwtSvidResponse, X509Svid, X509SvidResponse};
use crate::{
    identity::{
        Bundle, BundleMap, Material, Revocations, Svid,
        der::{self, Reader},
    },
    name::{SpiffeId, TrustDomain},
    rt,
};

/// What a message publishes.
pub(super) fn read(
    message: X509SvidResponse,
    hint: Option<&str>,
    provider: &Arc<CryptoProvider>,
    before: &Revocations,
) -> Result<Material, String> {
    for svid in &message.svids {
        let missing = [
            ("spiffe_id", svid.spiffe_id.is_empty()),
            ("x509_svid", svid.x509_svid.is_empty()),
            ("x509_svid_key", svid.x509_svid_key.is_empty()),
            ("bundle", svid.bundle.is_empty()),
        ];
        if let Some((field, _)) = missing.iter().find(|(_, missing)| *missing) {
            return Err(format!("`{field}` of `{}` is empty", svid.spiffe_id.escape_debug()));
        }
    }
    let chosen = choose(message.svids, hint)?;
    let id = SpiffeId::new(&chosen.spiffe_id).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(one(chosen.x509_svid_key, "x509_svid_key")?));
    let own = Svid::new(many(&chosen.x509_svid, "x509_svid")?, key, provider)?;
    if *own.id() != id {
        return Err(format!("the certificate is that of `{}`, the message says `{id}`", own.id()));
    }
    let domain = TrustDomain::new(id.trust_domain()).map_err(|error| error.to_string())?;
    let mut bundles = BundleMap::new();
    bundles.insert(domain.clone(), bundle(&domain, &chosen.bundle)?);
    for (domain, value) in domains(message.federated_bundles)? {
        let bundle = bundle(&domain, &value)?;
        if bundles.insert(domain.clone(), bundle).is_some() {
            return Err(format!("the bundle of our own trust domain `{domain}` is among the federated ones"));
        }
    }
    let (revocations, bad) =
        before.replaced(message.crl, &bundles, provider.signature_verification_algorithms, rt::wall());
    match bad.first() {
        Some(why) => Err(why.clone()),
        None => Ok(Material { own, bundles: Arc::new(bundles), revocations: Arc::new(revocations) }),
    }
}

/// The one with the hint, of which the first counts; without one, the first of all.
fn choose(svids: Vec<X509Svid>, hint: Option<&str>) -> Result<X509Svid, String> {
    let count = svids.len();
    match hint {
        None => svids.into_iter().next().ok_or_else(|| "it has no identity".to_owned()),
        Some(hint) => svids
            .into_iter()
            .find(|svid| svid.hint == hint)
            .ok_or_else(|| format!("none of its {count} identities has the hint `{hint}`")),
    }
}

fn bundle(domain: &TrustDomain, der: &[u8]) -> Result<Arc<Bundle>, String> {
    let (bundle, bad) = Bundle::new(many(der, "bundle")?, false);
    for why in bad {
        tracing::warn!("Workload API, trust domain `{domain}`: {why}");
    }
    Ok(Arc::new(bundle))
}

/// Keys are `spiffe://<trust domain>` and occur once.
fn domains(entries: Vec<Entry>) -> Result<BTreeMap<TrustDomain, Vec<u8>>, String> {
    let mut domains = BTreeMap::new();
    for entry in entries {
        let id = SpiffeId::new(&entry.key).map_err(|error| error.to_string())?;
        if !id.path().is_empty() {
            return Err(format!("`{id}` is a workload, not a trust domain"));
        }
        if entry.value.is_empty() {
            return Err(format!("the bundle of `{id}` is empty"));
        }
        let domain = TrustDomain::new(id.trust_domain()).map_err(|error| error.to_string())?;
        if domains.insert(domain, entry.value).is_some() {
            return Err(format!("the bundle of `{id}` occurs twice"));
        }
    }
    Ok(domains)
}

/// Certificates one behind the other.
fn many(bytes: &[u8], field: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut reader = Reader::new(bytes);
    let mut certificates = Vec::new();
    while !reader.is_empty() {
        let one = reader.expect(der::SEQUENCE).map_err(|bad| format!("`{field}` cannot be read: {}", bad.0))?;
        certificates.push(CertificateDer::from(one.whole.to_vec()));
    }
    Ok(certificates)
}

fn one(bytes: Vec<u8>, field: &str) -> Result<Vec<u8>, String> {
    Reader::new(&bytes).only(der::SEQUENCE).map_err(|bad| format!("`{field}` cannot be read: {}", bad.0))?;
    Ok(bytes)
}

/// JWK sets by trust domain, unread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct JwtBundles(pub(crate) BTreeMap<TrustDomain, Vec<u8>>);

impl JwtBundles {
    pub(super) fn read(message: JwtBundlesResponse) -> Result<Self, String> {
        domains(message.bundles).map(Self)
    }
}

/// A token that proves an id to its audience.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct JwtSvid {
    pub(crate) id: SpiffeId,
    pub(crate) token: String,
    pub(crate) hint: String,
}

impl JwtSvid {
    pub(super) fn read(message: JwtSvidResponse) -> Result<Vec<Self>, String> {
        let mut svids: Vec<Self> = Vec::new();
        for svid in message.svids {
            if svid.svid.is_empty() {
                return Err(format!("`svid` of `{}` is empty", svid.spiffe_id.escape_debug()));
            }
            let id = SpiffeId::new(&svid.spiffe_id).map_err(|error| error.to_string())?;
            if svid.hint.is_empty() || svids.iter().all(|known| known.hint != svid.hint) {
                svids.push(Self { id, token: svid.svid, hint: svid.hint });
            }
        }
        if svids.is_empty() { Err("it has no identity".into()) } else { Ok(svids) }
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid").field("id", &self.id).finish_non_exhaustive()
    }
}
