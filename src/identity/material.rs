//! What this process is and whom it believes, at one moment; and the handle by which everybody sees the current one.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use rustls::{
    crypto::CryptoProvider,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use super::{
    bundle::BundleMap,
    cache::Accepted,
    certificate::Facts,
    reject::Reject,
    revocation::Revocations,
    side::{ClientSide, Judge, Proven, ServerSide, client, server},
    verify::{Trust, Verified, verify},
};
use crate::{
    error::{Code, Error},
    name::{SpiffeId, TrustDomain},
    rt,
};

/// An X.509-SVID: who this process is, and the key that proves it.
#[derive(Clone)]
pub(crate) struct Svid {
    pub(super) id: SpiffeId,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) key: Arc<CertifiedKey>,
}

impl Svid {
    /// Pairs a chain, leaf first, with its key.
    ///
    /// # Errors
    /// If the key is not the certificate's, or either cannot be read. Says nothing about who would believe it.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Self, String> {
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| format!("the private key cannot be used: {error}"))?;
        Self::paired(chain, key)
    }

    /// The same with a key that is loaded.
    pub(super) fn paired(chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Result<Self, String> {
        let leaf = chain.first().ok_or("there is no certificate")?;
        let facts = Facts::of(leaf).map_err(|bad| format!("it cannot be read: {}", bad.0))?;
        let id = facts.workload().map_err(|reject| reject.to_string())?;
        let (not_before, not_after) = (facts.not_before, facts.not_after);
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|error| format!("the private key is not the certificate's: {error}"))?;
        Ok(Self { id, not_before, not_after, key: Arc::new(key) })
    }

    /// Who this is.
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// When it ends.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When another one should take its place: at half of its life.
    pub(crate) fn renew_at(&self) -> SystemTime {
        self.passed(50)
    }

    /// When this much of its life has passed.
    pub(crate) fn passed(&self, percent: u32) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life / 100 * percent
    }
}

impl PartialEq for Svid {
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

impl fmt::Debug for Svid {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Everything that a source of identity says at one moment.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Material {
    pub(crate) own: Svid,
    pub(crate) bundles: Arc<BundleMap>,
    pub(crate) revocations: Arc<Revocations>,
}

/// Who may be at the other end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Expected {
    /// One of these.
    Ids(Arc<[SpiffeId]>),
    /// Anyone of a trust domain.
    Domain(TrustDomain),
}

impl Expected {
    pub(super) fn check(&self, id: &SpiffeId) -> Result<(), Reject> {
        let (fits, expected) = match self {
            Self::Ids(ids) => {
                (ids.contains(id), || ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(" or "))
            }
            Self::Domain(domain) if id.is_member_of(domain) => return Ok(()),
            Self::Domain(domain) => {
                let expected = format!("a member of `{domain}`");
                return Err(Reject::IdentityMismatch { found: id.clone(), expected });
            }
        };
        if fits { Ok(()) } else { Err(Reject::IdentityMismatch { found: id.clone(), expected: expected() }) }
    }
}

/// One generation: material, and the configurations made of it.
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) material: Material,
    pub(super) domain: TrustDomain,
    pub(super) provider: Arc<CryptoProvider>,
    accepted: Accepted,
}

impl Generation {
    /// Judges a chain, or remembers that it was.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Verified, Reject> {
        let parts: Vec<&[u8]> = std::iter::once(leaf).chain(intermediates).map(|der| der.as_ref()).collect();
        let hash = super::provider::sha256(&self.provider, &parts);
        if let Some(known) = hash.and_then(|hash| self.accepted.find(&hash, now)) {
            return Ok(known);
        }
        let trust = Trust {
            bundles: &self.material.bundles,
            revocations: &self.material.revocations,
            algorithms: &self.provider.signature_verification_algorithms,
        };
        let verified = verify(leaf, intermediates, &trust, now)?;
        if let Some(hash) = hash {
            self.accepted.insert(hash, verified.clone());
        }
        Ok(verified)
    }

    /// What a finished handshake proved.
    pub(super) fn prove(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<Proven> {
        let (leaf, intermediates) = chain?.split_first()?;
        let verified = self.verify(leaf, intermediates, rt::wall()).ok()?;
        let member = verified.id.is_member_of(&self.domain);
        Some(Proven {
            id: verified.id,
            not_before: verified.not_before,
            not_after: verified.not_after,
            member,
            generation: self.number,
            path: Some(verified.path),
        })
    }
}

/// Both sides of one generation.
struct Current {
    generation: Arc<Generation>,
    server: Arc<ServerSide>,
    clients: Mutex<HashMap<Expected, Arc<ClientSide>>>,
}

/// The identity of a process. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    domain: TrustDomain,
    provider: Arc<CryptoProvider>,
    current: ArcSwapOption<Current>,
    changes: watch::Sender<Change>,
    /// Why the source cannot renew, while it cannot.
    trouble: Mutex<Option<Trouble>>,
}

/// Why nothing newer comes from the source of identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Trouble {
    pub(crate) why: String,
    pub(crate) since: SystemTime,
}

/// How often what changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Change {
    /// Anything.
    pub(crate) generation: u64,
    /// The own certificate: connections made with the one before are to be replaced.
    pub(crate) own: u64,
}

impl Identity {
    /// An identity that has nothing yet: handshakes fail until something is published.
    pub(crate) fn new(domain: TrustDomain, provider: Arc<CryptoProvider>) -> Self {
        let (current, changes) = (ArcSwapOption::empty(), watch::Sender::new(Change::default()));
        Self { shared: Arc::new(Shared { domain, provider, current, changes, trouble: Mutex::default() }) }
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.shared.provider
    }

    pub(crate) fn domain(&self) -> &TrustDomain {
        &self.shared.domain
    }

    /// Sees the changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// Brings material into use, in one swap. Equal content changes nothing.
    ///
    /// # Errors
    /// If our own certificate would not be accepted by our own bundle, or cannot be used: what there is stays.
    pub(crate) fn publish(&self, material: Material) -> Result<(), Error> {
        let before = self.shared.current.load();
        if before.as_ref().is_some_and(|before| before.generation.material == material) {
            return Ok(());
        }
        let refused = |why: String| {
            Error::new(Code::TlsFailed, format!("the new identity is not used, what there was stays: {why}"))
        };
        if !material.own.id.is_member_of(&self.shared.domain) {
            let (id, domain) = (&material.own.id, &self.shared.domain);
            return Err(refused(format!("`{id}` is not of `{domain}`, the `mesh.trust_domain`")));
        }
        // Not from what is in use: a number never comes back, also after a withdrawal.
        let number = self.shared.changes.borrow().generation + 1;
        let own_changed = before.as_ref().is_none_or(|before| before.generation.material.own != material.own);
        let generation = Arc::new(Generation {
            number,
            domain: self.shared.domain.clone(),
            provider: Arc::clone(&self.shared.provider),
            accepted: Accepted::default(),
            material,
        });
        if let Some((leaf, rest)) = generation.material.own.key.cert.split_first() {
            let now = rt::wall().max(generation.material.own.not_before);
            generation
                .verify(leaf, rest, now)
                .map_err(|reject| refused(format!("our own certificate would not be accepted: {reject}")))?;
        }
        let judge = Judge::new(Arc::clone(&generation), None);
        let server = server(&judge).map_err(|error| refused(error.to_string()))?;
        let current = Current { generation, server: Arc::new(server), clients: Mutex::default() };
        self.shared.current.store(Some(Arc::new(current)));
        self.shared.changes.send_modify(|change| {
            change.generation = number;
            change.own += u64::from(own_changed);
        });
        Ok(())
    }

    /// Notes that the source failed; what was published stays. Said once per reason.
    pub(crate) fn source_failed(&self, why: &str) {
        let mut trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref().is_some_and(|known| known.why == why) {
            return;
        }
        match self.own() {
            Some(own) => {
                let left = own.not_after.duration_since(rt::wall()).unwrap_or_default();
                tracing::warn!("the identity is not renewed, the last one stays for {} s: {why}", left.as_secs());
            }
            None => tracing::warn!("there is no identity yet: {why}"),
        }
        let since = trouble.as_ref().map_or_else(rt::wall, |known| known.since);
        *trouble = Some(Trouble { why: why.to_owned(), since });
    }

    /// Notes that what is published is what the source says.
    pub(crate) fn source_works(&self) {
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Why nothing newer comes from the source, if nothing does.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes back what was published: handshakes fail and what peers proved holds no longer, until something is published.
    pub(crate) fn withdraw(&self, why: &str) {
        if self.shared.current.swap(None).is_some() {
            tracing::warn!("the identity is withdrawn: {why}");
            self.shared.changes.send_modify(|change| {
                change.generation += 1;
                change.own += 1;
            });
        }
    }

    fn usable(&self) -> Result<Arc<Current>, Error> {
        let current = self.shared.current.load_full();
        let current = current.ok_or_else(|| {
            Error::new(Code::TlsFailed, "no certificate is there yet; look at the source of `identity`")
        })?;
        if current.generation.material.own.not_after < rt::wall() {
            let text = "our own certificate has ended and no other one came; look at the source of `identity`";
            return Err(Error::new(Code::TlsFailed, text));
        }
        Ok(current)
    }

    /// The accepting side.
    ///
    /// # Errors
    /// If there is no certificate, or it has ended.
    pub(crate) fn server_side(&self) -> Result<Arc<ServerSide>, Error> {
        self.usable().map(|current| Arc::clone(&current.server))
    }

    /// The connecting side towards those who are expected.
    ///
    /// # Errors
    /// As [`server_side`](Self::server_side).
    pub(crate) fn client_side(&self, expected: &Expected) -> Result<Arc<ClientSide>, Error> {
        let current = self.usable()?;
        let mut clients = current.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(side) = clients.get(expected) {
            return Ok(Arc::clone(side));
        }
        let judge = Judge::new(Arc::clone(&current.generation), Some(expected.clone()));
        let side = client(&judge).map_err(|error| Error::new(Code::TlsFailed, error.to_string()))?;
        let side = Arc::new(side);
        clients.insert(expected.clone(), Arc::clone(&side));
        Ok(side)
    }

    /// Whether what a peer proved by an earlier generation holds now.
    pub(crate) fn holds(&self, proven: &Proven) -> bool {
        let Some(current) = self.shared.current.load_full() else { return false };
        let now = rt::wall();
        if proven.not_after < now {
            return false;
        }
        let Some(path) = &proven.path else { return true };
        if proven.generation == current.generation.number {
            return true;
        }
        let material = &current.generation.material;
        let anchored = material.bundles.get(&path.domain).is_some_and(|bundle| bundle.has(&path.anchor));
        anchored && path.links.iter().all(|link| material.revocations.check(link, now).is_ok())
    }

    #[cfg(test)]
    pub(super) fn generation(&self) -> Option<Arc<Generation>> {
        self.shared.current.load().as_ref().map(|current| Arc::clone(&current.generation))
    }

    /// Who this process is now.
    pub(crate) fn own(&self) -> Option<Svid> {
        self.shared.current.load().as_ref().map(|current| current.generation.material.own.clone())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("domain", &self.shared.domain).finish_non_exhaustive()
    }
}
