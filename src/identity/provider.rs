//! The cryptography: always passed, never that of the process.

use std::{any::Any, sync::Arc};

use rustls::crypto::{CryptoProvider, hash::Context};

use crate::error::{Code, Error};

/// The cryptography of a mesh: what code gave it, else what is built in.
#[derive(Clone, Default)]
pub(crate) struct Cryptography(Option<Arc<CryptoProvider>>);

impl Cryptography {
    /// What code gave, if it is a provider of the version that is linked here.
    pub(crate) fn given(provider: Arc<dyn Any + Send + Sync>) -> Option<Self> {
        provider.downcast().ok().map(|provider| Self(Some(provider)))
    }

    /// # Errors
    /// If none was given and none is built in.
    pub(crate) fn provider(&self) -> Result<Arc<CryptoProvider>, Error> {
        self.0.clone().map_or_else(default_provider, Ok)
    }
}

/// aws-lc-rs where it is built in, else ring.
///
/// # Errors
/// If neither is.
pub(crate) fn default_provider() -> Result<Arc<CryptoProvider>, Error> {
    #[cfg(feature = "aws-lc")]
    return Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(all(feature = "ring", not(feature = "aws-lc")))]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(not(any(feature = "aws-lc", feature = "ring")))]
    Err(Error::new(
        Code::Internal,
        "this build has no cryptography: enable the feature `aws-lc` or `ring`, or give the builder a `crypto_provider`",
    ))
}

#[cfg(any(feature = "aws-lc", feature = "ring"))]
const _: fn(Code) = |_| {};

/// SHA-256 by the provider, of parts that are told apart.
pub(super) fn sha256(provider: &CryptoProvider, parts: &[&[u8]]) -> Option<[u8; 32]> {
    let mut hash = hasher(provider)?;
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finish().as_ref().try_into().ok()
}

/// The fingerprint of a certificate.
pub(super) fn fingerprint(provider: &CryptoProvider, bytes: &[u8]) -> Option<[u8; 32]> {
    let mut hash = hasher(provider)?;
    hash.update(bytes);
    hash.finish().as_ref().try_into().ok()
}

fn hasher(provider: &CryptoProvider) -> Option<Box<dyn Context>> {
    let suite = provider.cipher_suites.iter().find_map(|suite| match suite.tls13()?.common.suite {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 | rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
            suite.tls13()
        }
        _ => None,
    })?;
    Some(suite.common.hash_provider.start())
}
