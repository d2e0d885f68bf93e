//! A certificate authority for development: one per user of a machine, so that processes in different terminals know each
//! other without a file being made by hand.
//!
//! Its key lies in the user's runtime directory, readable by nobody else, and its root carries a private critical mark that
//! no other source of identity accepts: what anyone on the machine can sign must never count elsewhere. Everything is
//! made by rename, so that two processes that start together agree.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    bundle::Bundle,
    material::{Material, Svid},
};
use crate::{
    name::TrustDomain,
    rt::{self, Rng},
};

const ROOT_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// A root with less than this left is made anew.
const ROOT_LEFT: Duration = Duration::from_secs(7 * 86_400);
const LEAF_LIFE: Duration = Duration::from_secs(86_400);
/// Certificates begin a little before they are made, for clocks that differ.
const BEFORE: Duration = Duration::from_secs(300);
/// `DEVELOPMENT`, as rcgen takes it.
const MARK: &[u64] = &[2, 25, 6_901_921, 4_001];

/// The authority of this user.
pub(crate) struct DevAuthority {
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl DevAuthority {
    /// The authority in its directory, made if there is none: `SINEW_DEV_DIR`, else `XDG_RUNTIME_DIR/sinew`, else
    /// `sinew-<uid>` in the temporary directory.
    ///
    /// # Errors
    /// If the directory is not this user's alone, or nothing can be written there.
    pub(crate) fn open(env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let directory = directory(&env);
        let at = |error: io::Error| format!("the development authority in `{}`: {error}", directory.display());
        private_directory(&directory).map_err(at)?;
        let file = directory.join("dev-ca.pem");
        if let Some(authority) = Self::read(&file).map_err(at)? {
            return Ok(authority);
        }
        Self::make(&directory, &file).map_err(at)?;
        Self::read(&file).map_err(at)?.ok_or_else(|| format!("`{}` went away while it was read", file.display()))
    }

    /// `None` if there is none, or it ends soon.
    fn read(file: &Path) -> io::Result<Option<Self>> {
        let pem = match fs::read(file) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let broken = |error: &dyn std::fmt::Display| {
            let text = format!("`{}` cannot be read ({error}); remove it, it is made anew", file.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let root = CertificateDer::from_pem_slice(&pem).map_err(|error| broken(&error))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| broken(&error))?;
        let key = KeyPair::try_from(&key).map_err(|error| broken(&error))?;
        let facts = super::certificate::Facts::of(&root).map_err(|bad| broken(&bad.0))?;
        if facts.not_after < rt::wall() + ROOT_LEFT {
            return Ok(None);
        }
        Ok(Some(Self { root, issuer: Issuer::new(root_params(), key) }))
    }

    /// Whoever is first wins; who comes second reads what the first made.
    fn make(directory: &Path, file: &Path) -> io::Result<()> {
        let wrong = |error: rcgen::Error| io::Error::other(error.to_string());
        let key = KeyPair::generate().map_err(wrong)?;
        let mut params = root_params();
        params.not_before = (rt::wall() - BEFORE).into();
        params.not_after = (rt::wall() + ROOT_LIFE).into();
        let root = params.self_signed(&key).map_err(wrong)?;
        let part = directory.join(format!(".dev-ca-{:016x}", Rng::local_u64()));
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        out.write_all(format!("{}{}", root.pem(), key.serialize_pem()).as_bytes())?;
        out.sync_all()?;
        let linked = fs::hard_link(&part, file);
        let replaced = match linked {
            // There is one, and it ends soon.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && Self::read(file)?.is_none() => {
                fs::rename(&part, file)
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        let _ = fs::remove_file(&part);
        replaced
    }

    /// The identity of a service: `spiffe://<domain>/ns/<namespace>/sa/<service>`, for a day.
    ///
    /// # Errors
    /// If a name does not fit into an identity.
    pub(crate) fn issue(
        &self,
        domain: &TrustDomain,
        namespace: &str,
        service: &str,
        provider: &CryptoProvider,
    ) -> Result<Material, String> {
        let id = domain.workload(namespace, service).map_err(|error| error.to_string())?;
        let wrong = |error: rcgen::Error| format!("a certificate for `{id}` cannot be made: {error}");
        let key = KeyPair::generate().map_err(wrong)?;
        let mut params = CertificateParams::new([]).map_err(wrong)?;
        params.distinguished_name.push(DnType::CommonName, service);
        params.not_before = (rt::wall() - BEFORE).into();
        params.not_after = (rt::wall() + LEAF_LIFE).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![
            SanType::URI(id.as_str().try_into().map_err(wrong)?),
            // For curl and browsers, which know nothing of SPIFFE.
            SanType::DnsName("localhost".try_into().map_err(wrong)?),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
        let own = Svid::new(vec![leaf.der().clone()], key, provider)?;
        let (bundle, bad) = Bundle::new([self.root.clone()], true);
        if let Some(bad) = bad.first() {
            return Err(bad.to_string());
        }
        let bundles = [(domain.clone(), Arc::new(bundle))].into();
        Ok(Material { own, bundles: Arc::new(bundles), revocations: Arc::default() })
    }
}

/// Why development identity is not to be used here, if it is not.
pub(crate) fn refusal(env: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    env("KUBERNETES_SERVICE_HOST").map(|_| "this is Kubernetes (KUBERNETES_SERVICE_HOST is set)")
}

fn root_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "sinew");
    params.distinguished_name.push(DnType::CommonName, "development only");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let mut mark = CustomExtension::from_oid_content(MARK, vec![5, 0]);
    mark.set_criticality(true);
    params.custom_extensions = vec![mark];
    params
}

fn directory(env: &impl Fn(&str) -> Option<String>) -> PathBuf {
    let given = |name: &str| env(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    given("SINEW_DEV_DIR")
        .or_else(|| given("XDG_RUNTIME_DIR").map(|runtime| runtime.join("sinew")))
        .unwrap_or_else(|| std::env::temp_dir().join(format!("sinew-{}", user())))
}

/// The user's number. `/proc/self` belongs to whoever runs; elsewhere the home directory does.
fn user() -> u32 {
    let owner = |path: &Path| fs::metadata(path).ok().map(|meta| meta.uid());
    owner(Path::new("/proc/self")).or_else(|| owner(&std::env::home_dir()?)).unwrap_or_default()
}

/// Made for this user alone, or found to be so.
fn private_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let meta = fs::symlink_metadata(directory)?;
    let denied = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !meta.is_dir() {
        return denied("it is not a directory, or a link to one");
    }
    if meta.uid() != user() {
        return denied("it belongs to somebody else");
    }
    if meta.mode() & 0o077 != 0 {
        return denied("others may enter it; `chmod 700` it, or set SINEW_DEV_DIR");
    }
    Ok(())
}

/// When a certificate is renewed: at half of its life, ±10 % of that, so that a fleet does not do so at once.
pub(crate) fn renewal(svid: &Svid, now: SystemTime) -> Duration {
    let half = svid.renew_at().duration_since(now).unwrap_or_default();
    Rng::local().jitter(half, 10)
}
