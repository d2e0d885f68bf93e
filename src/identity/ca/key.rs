//! Keys, made with the randomness of the provider that is configured.

use std::sync::Arc;

use rustls::{crypto::CryptoProvider, sign::SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::identity::{
    der,
    encode::{sequence, tlv},
};

/// `id-ecPublicKey`, 1.2.840.10045.2.1.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// `secp256r1`, 1.2.840.10045.3.1.7.
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// A key on P-256, which every peer of a mesh can verify.
///
/// # Errors
/// If the provider neither takes a bare private key nor is one that makes keys.
pub(super) fn generate(provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, String> {
    // A number above the group's order, one in 2^32, is refused by who loads it: the method of FIPS 186-5 A.2.2.
    for _ in 0..2 {
        let mut number = [0; 32];
        provider.secure_random.fill(&mut number).map_err(|_| "the provider has no randomness".to_owned())?;
        if let Ok(key) = provider.key_provider.load_private_key(bare(&number))
            && key.public_key().is_some()
        {
            return Ok(key);
        }
    }
    whole(provider)
}

/// PKCS #8 without the public key, which some providers compute.
fn bare(number: &[u8; 32]) -> PrivateKeyDer<'static> {
    let key = sequence(&[&tlv(der::INTEGER, &[&[1]]), &tlv(der::OCTET_STRING, &[number])]);
    let algorithm = sequence(&[&tlv(der::OID, &[EC]), &tlv(der::OID, &[P256])]);
    let key = sequence(&[&tlv(der::INTEGER, &[&[0]]), &algorithm, &tlv(der::OCTET_STRING, &[&key])]);
    PrivatePkcs8KeyDer::from(key).into()
}

/// ring does not compute it, and makes both.
#[cfg(feature = "ring")]
fn whole(provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, String> {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
    };
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map_err(|_| "a key cannot be made".to_owned())?;
    let key = PrivatePkcs8KeyDer::from(key.as_ref().to_vec());
    provider.key_provider.load_private_key(key.into()).map_err(|error| format!("a key cannot be made: {error}"))
}

#[cfg(not(feature = "ring"))]
fn whole(_: &CryptoProvider) -> Result<Arc<dyn SigningKey>, String> {
    Err("the provider of cryptography does not take a private key without its public one".into())
}

#[cfg(test)]
mod tests {
    use rustls::SignatureScheme;

    use super::*;

    fn makes_keys(provider: &CryptoProvider) {
        let (one, two) = (generate(provider).unwrap(), generate(provider).unwrap());
        assert_ne!(one.public_key(), two.public_key());
        assert!(one.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_some());
    }

    #[cfg(feature = "aws-lc")]
    #[test]
    fn keys_by_aws_lc() {
        makes_keys(&rustls::crypto::aws_lc_rs::default_provider());
    }

    #[cfg(feature = "ring")]
    #[test]
    fn keys_by_ring() {
        makes_keys(&rustls::crypto::ring::default_provider());
    }
}
