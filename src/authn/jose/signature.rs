//! The provider's cryptography: aws-lc-rs, or ring where only that is built in.

use super::key::{Algorithm, Key, Material};

#[cfg(feature = "aws-lc")]
use aws_lc_rs as provider;
#[cfg(all(feature = "ring", not(feature = "aws-lc")))]
use ring as provider;

/// Whether this build can verify this algorithm.
pub(super) const fn is_supported(algorithm: Algorithm) -> bool {
    match algorithm {
        Algorithm::Es512 => cfg!(feature = "aws-lc"),
        _ => cfg!(any(feature = "aws-lc", feature = "ring")),
    }
}

/// Whether the key made this signature of the message, by this algorithm.
#[cfg(any(feature = "aws-lc", feature = "ring"))]
pub(super) fn verify(key: &Key, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    use provider::{hmac, signature as sign};

    let unparsed = |scheme: &'static dyn sign::VerificationAlgorithm, public: &[u8]| {
        sign::UnparsedPublicKey::new(scheme, public).verify(message, signature).is_ok()
    };
    match (&key.material, algorithm) {
        (Material::Rsa { n, e }, algorithm) => {
            let scheme = match algorithm {
                Algorithm::Rs256 => &sign::RSA_PKCS1_2048_8192_SHA256,
                Algorithm::Rs384 => &sign::RSA_PKCS1_2048_8192_SHA384,
                Algorithm::Rs512 => &sign::RSA_PKCS1_2048_8192_SHA512,
                Algorithm::Ps256 => &sign::RSA_PSS_2048_8192_SHA256,
                Algorithm::Ps384 => &sign::RSA_PSS_2048_8192_SHA384,
                Algorithm::Ps512 => &sign::RSA_PSS_2048_8192_SHA512,
                _ => return false,
            };
            sign::RsaPublicKeyComponents { n, e }.verify(scheme, message, signature).is_ok()
        }
        (Material::Ec { point }, Algorithm::Es256) => unparsed(&sign::ECDSA_P256_SHA256_FIXED, point),
        (Material::Ec { point }, Algorithm::Es384) => unparsed(&sign::ECDSA_P384_SHA384_FIXED, point),
        #[cfg(feature = "aws-lc")]
        (Material::Ec { point }, Algorithm::Es512) => unparsed(&sign::ECDSA_P521_SHA512_FIXED, point),
        (Material::Ed { public }, Algorithm::EdDsa) => unparsed(&sign::ED25519, public),
        (Material::Secret { secret }, algorithm) => {
            let scheme = match algorithm {
                Algorithm::Hs256 => hmac::HMAC_SHA256,
                Algorithm::Hs384 => hmac::HMAC_SHA384,
                Algorithm::Hs512 => hmac::HMAC_SHA512,
                _ => return false,
            };
            // In constant time, whole signatures only.
            hmac::verify(&hmac::Key::new(scheme, secret), message, signature).is_ok()
        }
        _ => false,
    }
}

/// Nothing can be verified without a provider.
#[cfg(not(any(feature = "aws-lc", feature = "ring")))]
pub(super) fn verify(_key: &Key, _algorithm: Algorithm, _message: &[u8], _signature: &[u8]) -> bool {
    false
}
