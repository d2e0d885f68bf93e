//! Which files there are, by who writes them.

use std::path::{Path, PathBuf};

/// The files of an identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FileLayout {
    /// The chain, leaf first, PEM.
    pub(crate) cert: PathBuf,
    /// The key, PEM; may be the same file.
    pub(crate) key: PathBuf,
    /// Authorities: PEM of the own trust domain, its SPIFFE bundle, or a map of bundles by trust domain.
    pub(crate) bundle: PathBuf,
    /// A revocation list or a directory of them.
    pub(crate) crl: Option<PathBuf>,
}

/// Names of a chain and of its key, by which a directory is known.
const PAIRS: &[(&str, &str)] = &[
    // csi-driver-spiffe, cert-manager's csi-driver, and Kubernetes' secrets of type `tls`.
    ("tls.crt", "tls.key"),
    // Kubernetes' projected `podCertificate`.
    ("credentialbundle.pem", "credentialbundle.pem"),
    // spiffe-helper.
    ("svid.pem", "svid_key.pem"),
];
/// Names of a bundle in a directory: of the writers above, and of Kubernetes' projected `clusterTrustBundle`.
const BUNDLES: &[&str] = &["ca.crt", "trustbundle.pem", "svid_bundle.pem", "bundle.json"];

impl FileLayout {
    /// Each path may be a file, or a directory of a kind that is known.
    ///
    /// # Errors
    /// If a directory has no file of a known name.
    pub(crate) fn resolve(cert: &Path, key: &Path, bundle: &Path, crl: Option<&Path>) -> Result<Self, String> {
        let none = |directory: &Path, names: String| format!("`{}` has none of {names}", directory.display());
        let pair = |directory: &Path| {
            let found = PAIRS.iter().find(|(cert, key)| directory.join(cert).exists() && directory.join(key).exists());
            let names = || PAIRS.iter().map(|(cert, _)| format!("`{cert}`")).collect::<Vec<_>>().join(", ");
            found.ok_or_else(|| none(directory, names()))
        };
        Ok(Self {
            cert: if cert.is_dir() { cert.join(pair(cert)?.0) } else { cert.to_owned() },
            key: if key.is_dir() { key.join(pair(key)?.1) } else { key.to_owned() },
            bundle: if bundle.is_dir() {
                let found = BUNDLES.iter().find(|name| bundle.join(name).exists());
                let names = || BUNDLES.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                bundle.join(found.ok_or_else(|| none(bundle, names()))?)
            } else {
                bundle.to_owned()
            },
            crl: crl.map(Path::to_owned),
        })
    }

    /// Each path that may change.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let key = (self.key != self.cert).then_some(&self.key);
        [Some(&self.cert), key, Some(&self.bundle), self.crl.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }
}
