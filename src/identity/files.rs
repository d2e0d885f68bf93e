//! Identity from files that others write: cert-manager, a CSI driver, Kubernetes' `podCertificate`, a person.
//!
//! Files are replaced by rename, by a symlink flip, or in place and half-written; events get lost. So all of them are read
//! together whenever any may have changed, and published only if they fit each other; what does not is read again soon,
//! and what was published stays.

mod layout;
#[cfg(feature = "file")]
mod watch;
#[cfg(not(feature = "file"))]
#[path = "files/watch_off.rs"]
mod watch;

pub(crate) use self::layout::FileLayout;

use std::{
    fmt, fs,
    future::{Future, poll_fn},
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use rustls_pki_types::{CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};

use self::watch::Watch;
use super::{
    Bundle, BundleMap, Identity, Material, Revocations, Svid,
    document::{BundleDocument, pem_certificates},
};
use crate::{name::TrustDomain, rt};

/// How soon files that do not fit each other are read again: a writer may be between two of them.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a directory of revocation lists is read: that a file in it was written in place changes nothing outside of it.
const LISTS: Duration = Duration::from_secs(30);
/// Largest file.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// How much of a certificate's life passes before it is said that nobody renews it.
const LATE_PERCENT: u32 = 80;

/// Files, and what was last read of them.
pub(crate) struct Files {
    layout: FileLayout,
    identity: Identity,
    revocations: Arc<Revocations>,
}

impl Files {
    pub(crate) fn new(layout: FileLayout, identity: Identity) -> Self {
        Self { layout, identity, revocations: Arc::default() }
    }

    /// Publishes what the files say, now and whenever they change, for as long as it is polled.
    pub(crate) async fn run(mut self) {
        // Watching begins before the first reading, so that nothing is missed in between.
        let mut watches: Vec<Watch> = self.layout.paths().map(Watch::new).collect();
        loop {
            let mut look = self.round();
            if self.layout.crl.as_deref().is_some_and(Path::is_dir) {
                look = look.min(LISTS);
            }
            tokio::select! {
                () = any_changed(&mut watches) => {}
                () = rt::sleep(look) => {}
            }
        }
    }

    /// Reads and publishes. How long until the files are looked at even if nothing changes.
    pub(crate) fn round(&mut self) -> Duration {
        let material = match self.read() {
            Ok(material) => material,
            Err(why) => {
                self.identity.source_failed(&why);
                return AGAIN;
            }
        };
        let own = material.own.clone();
        if let Err(error) = self.identity.publish(material) {
            self.identity.source_failed(error.message());
            return AGAIN;
        }
        self.identity.source_works();
        let now = rt::wall();
        let left = own.not_after().duration_since(now).unwrap_or_default();
        match own.passed(LATE_PERCENT).duration_since(now) {
            Ok(until_late) => until_late.max(AGAIN),
            Err(_) => {
                tracing::warn!(
                    "`{}` has not been replaced although {LATE_PERCENT} % of its certificate's life have passed; it ends \
                     in {} s",
                    self.layout.cert.display(),
                    left.as_secs(),
                );
                // Some ten more times before it ends.
                (left / 10).max(AGAIN)
            }
        }
    }

    fn read(&mut self) -> Result<Material, String> {
        let provider = Arc::clone(self.identity.provider());
        let text = read(&self.layout.cert)?;
        let chain = pem_certificates(&text).map_err(|why| at(&self.layout.cert, why))?;
        let key = if self.layout.key == self.layout.cert { text } else { read(&self.layout.key)? };
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| at(&self.layout.key, error))?;
        let own = Svid::new(chain, key, &provider).map_err(|why| at(&self.layout.cert, why))?;
        let bundles = Arc::new(self.bundles()?);
        if let Some(path) = &self.layout.crl {
            let algorithms = provider.signature_verification_algorithms;
            let (next, bad) = self.revocations.replaced(lists(path)?, &bundles, algorithms, rt::wall());
            for why in &bad {
                tracing::warn!("`{}`: {why}; its issuer's last one stays", path.display());
            }
            // At first there is no last one, and who is revoked is not known.
            if let (Some(why), None) = (bad.first(), self.identity.own()) {
                return Err(at(path, why));
            }
            if next != *self.revocations {
                self.revocations = Arc::new(next);
            }
        }
        Ok(Material { own, bundles, revocations: Arc::clone(&self.revocations) })
    }

    fn bundles(&self) -> Result<BundleMap, String> {
        let path = &self.layout.bundle;
        let domains = match BundleDocument::parse(&read(path)?).map_err(|why| at(path, why))? {
            BundleDocument::One(certificates) => [(self.identity.domain().clone(), certificates)].into(),
            BundleDocument::Map(map) => map,
        };
        let bundle = |(domain, certificates): (TrustDomain, Vec<_>)| {
            let (bundle, bad) = Bundle::new(certificates, false);
            for why in bad {
                tracing::warn!("`{}`, trust domain `{domain}`: {why}", path.display());
            }
            (domain, Arc::new(bundle))
        };
        Ok(domains.into_iter().map(bundle).collect())
    }
}

/// Resolves when one of the files may have changed.
async fn any_changed(watches: &mut [Watch]) {
    let mut changes: Vec<_> = watches.iter_mut().map(|watch| Box::pin(watch.changed())).collect();
    poll_fn(|cx| {
        let any = changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready());
        if any { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let length = fs::metadata(path).map_err(|error| at(path, error))?.len();
    if length > MAX_FILE {
        return Err(at(path, "it is larger than 16 MiB"));
    }
    fs::read(path).map_err(|error| at(path, error))
}

fn at(path: &Path, why: impl fmt::Display) -> String {
    format!("`{}`: {why}", path.display())
}

/// The revocation lists of a file, or of every file of a directory: PEM or DER.
fn lists(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(|error| at(path, error))?;
        let entries: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
        files = entries.map_err(|error| at(path, error))?;
        // Kubernetes keeps the versions of a volume in directories beside the links to its files.
        files.retain(|path| path.is_file());
        files.sort();
    }
    let mut lists = Vec::new();
    for path in files {
        let text = read(&path)?;
        if !text.trim_ascii_start().starts_with(b"-----BEGIN") {
            lists.push(text);
            continue;
        }
        for list in CertificateRevocationListDer::pem_slice_iter(&text) {
            lists.push(list.map_err(|error| at(&path, error))?.to_vec());
        }
    }
    Ok(lists)
}
