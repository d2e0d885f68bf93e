//! TLS with those outside of the mesh: known by a name of DNS or an address, never a principal.
//!
//! Files are looked at when a connection is made, and read again if they changed. What cannot be read then leaves what was
//! read last in use, so that a half-written file costs no connection.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    ClientConfig, ServerConfig,
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, ProducesTickets},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use super::{
    bundle::Bundle,
    side::{ClientSide, Clock, OutsideJudge, ServerSide},
};
use crate::error::{Code, Error};

/// `tls: public`: the platform's trust store, the server's name, no certificate of our own.
pub(crate) struct PublicTls {
    config: Arc<ClientConfig>,
}

impl PublicTls {
    /// Reads the platform's trust store, or the file that `SSL_CERT_FILE` names.
    ///
    /// # Errors
    /// If nobody is trusted there.
    pub(crate) fn new(provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let loaded = rustls_native_certs::load_native_certs();
        let (roots, _) = Bundle::new(loaded.certs, false);
        if roots.len() == 0 {
            let why = loaded.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
            return Err(failed(format!(
                "this machine trusts no public authority{why}; install its `ca-certificates`, or set SSL_CERT_FILE"
            )));
        }
        client(provider, roots, None).map(|config| Self { config: Arc::new(config) })
    }

    /// Towards the server of this host: a DNS name or an address.
    ///
    /// # Errors
    /// If it is neither.
    pub(crate) fn side(&self, host: &str) -> Result<ClientSide, Error> {
        Ok(outside(Arc::clone(&self.config), Some(server_name(host)?), None))
    }
}

/// `tls: {private: ..}`: a named authority, and our certificate where the server asks for one.
pub(crate) struct PrivateTls {
    provider: Arc<CryptoProvider>,
    name: Option<ServerName<'static>>,
    ca: PathBuf,
    /// Chain and key.
    client: Option<(PathBuf, PathBuf)>,
    last: Kept<ClientSide>,
}

impl PrivateTls {
    /// `name` stands in the server's certificate; without it, the address that is dialled does.
    ///
    /// # Errors
    /// If `name` is neither a DNS name nor an address.
    pub(crate) fn new(
        provider: Arc<CryptoProvider>,
        ca: &Path,
        name: Option<&str>,
        client: Option<(&Path, &Path)>,
    ) -> Result<Self, Error> {
        let client = client.map(|(cert, key)| (cert.to_owned(), key.to_owned()));
        let name = name.map(server_name).transpose()?;
        Ok(Self { provider, name, ca: ca.to_owned(), client, last: Kept::default() })
    }

    /// Made of the files as they are now.
    ///
    /// # Errors
    /// If they cannot be read or used, and never could.
    pub(crate) fn side(&self) -> Result<Arc<ClientSide>, Error> {
        let own = self.client.iter().flat_map(|(cert, key)| [cert, key]);
        self.last.get(std::iter::once(&self.ca).chain(own), || {
            let (roots, bad) = Bundle::new(certificates(&self.ca)?, false);
            match bad.first() {
                Some(bad) if roots.len() == 0 => return Err(in_file(&self.ca, bad)),
                Some(bad) => tracing::warn!("{}", in_file(&self.ca, bad)),
                None => {}
            }
            let own = self.client.as_ref().map(|(cert, key)| pair(cert, key)).transpose()?;
            let validity = own.as_ref().and_then(|(chain, _)| validity(chain));
            let config = client(&self.provider, roots, own)?;
            Ok(outside(Arc::new(config), self.name.clone(), validity))
        })
    }
}

/// TLS of an edge listener: one certificate for everybody, nobody asked for theirs.
pub(crate) struct EdgeTls {
    provider: Arc<CryptoProvider>,
    cert: PathBuf,
    key: PathBuf,
    last: Kept<ServerSide>,
}

impl EdgeTls {
    /// Chain, leaf first, and key, PEM.
    pub(crate) fn new(provider: Arc<CryptoProvider>, cert: &Path, key: &Path) -> Self {
        Self { provider, cert: cert.to_owned(), key: key.to_owned(), last: Kept::default() }
    }

    /// Made of the files as they are now.
    ///
    /// # Errors
    /// If they cannot be read or used, and never could.
    pub(crate) fn side(&self) -> Result<Arc<ServerSide>, Error> {
        self.last.get([&self.cert, &self.key], || {
            let (chain, key) = pair(&self.cert, &self.key)?;
            let mut config = ServerConfig::builder_with_details(Arc::clone(&self.provider), Arc::new(Clock))
                .with_safe_default_protocol_versions()
                .map_err(|error| failed(error.to_string()))?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(|error| in_file(&self.cert, error))?;
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            // A session costs memory of ours, a ticket a key that must be changed; nobody here depends on either.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.ticketer = Arc::new(NoTickets);
            config.send_tls13_tickets = 0;
            Ok(ServerSide { config: Arc::new(config), prove: Box::new(|_| None) })
        })
    }
}

#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// What was last made of files, and what the files looked like.
struct Kept<T> {
    last: Mutex<Option<(Vec<Stamp>, Arc<T>)>>,
}

type Stamp = Option<(u64, Option<SystemTime>)>;

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { last: Mutex::default() }
    }
}

impl<T> Kept<T> {
    fn get<'a>(
        &self,
        files: impl IntoIterator<Item = &'a PathBuf>,
        make: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Arc<T>, Error> {
        let stamp = |path| fs::metadata(path).ok().map(|meta| (meta.len(), meta.modified().ok()));
        let now: Vec<Stamp> = files.into_iter().map(stamp).collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, kept)) = &*last
            && *seen == now
        {
            return Ok(Arc::clone(kept));
        }
        let made = match make() {
            Ok(made) => Arc::new(made),
            Err(error) => {
                let Some((seen, kept)) = &mut *last else { return Err(error) };
                tracing::warn!("{error}; what was read before stays in use");
                *seen = now;
                return Ok(Arc::clone(kept));
            }
        };
        *last = Some((now, Arc::clone(&made)));
        Ok(made)
    }
}

fn outside(
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    validity: Option<(SystemTime, SystemTime)>,
) -> ClientSide {
    ClientSide { config, name, validity, prove: Box::new(|_| None) }
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: Bundle,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_details(Arc::clone(provider), Arc::new(Clock))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OutsideJudge::new(Arc::clone(provider), roots)));
    match own {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| failed(format!("our certificate and its key cannot be used together: {error}"))),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, Error> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    // The dot that makes a name absolute does not stand in certificates.
    let name = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(name.to_owned())
        .map_err(|_| failed(format!("`{host}` is neither a DNS name nor an address, so no certificate can carry it")))
}

fn pair(cert: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| in_file(key, error))?;
    Ok((chain, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    super::document::pem_certificates(&read(path)?).map_err(|why| in_file(path, why))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error: io::Error| in_file(path, error))
}

/// When a chain begins and ends, as far as it can be read.
fn validity(chain: &[CertificateDer<'_>]) -> Option<(SystemTime, SystemTime)> {
    super::certificate::Facts::of(chain.first()?).ok().map(|facts| (facts.not_before, facts.not_after))
}

fn in_file(path: &Path, why: impl std::fmt::Display) -> Error {
    failed(format!("`{}`: {why}", path.display()))
}

fn failed(text: String) -> Error {
    Error::new(Code::TlsFailed, text)
}
