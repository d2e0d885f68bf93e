//! Keys, and what each of them is for.

use serde_json::{Map, Value};

use super::{Refused, encoding, roca};

/// A signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1). `none` is not one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the names of the standard")]
pub(crate) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

use Algorithm::{EdDsa, Es256, Es384, Es512, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};

impl Algorithm {
    const NAMES: [(&'static str, Self); 13] = [
        ("HS256", Hs256),
        ("HS384", Hs384),
        ("HS512", Hs512),
        ("RS256", Rs256),
        ("RS384", Rs384),
        ("RS512", Rs512),
        ("PS256", Ps256),
        ("PS384", Ps384),
        ("PS512", Ps512),
        ("ES256", Es256),
        ("ES384", Es384),
        ("ES512", Es512),
        ("EdDSA", EdDsa),
    ];

    /// By the name in a header or a key, byte for byte.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(other, _)| *other == name).map(|(_, algorithm)| *algorithm)
    }

    /// JWT-SVID §3.1: neither shared secrets nor EdDSA.
    pub(crate) fn is_for_svids(self) -> bool {
        !matches!(self, Hs256 | Hs384 | Hs512 | EdDsa)
    }
}

/// A public key, or a secret one for HMAC.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Material {
    /// Modulus and exponent, big-endian.
    Rsa { n: Box<[u8]>, e: Box<[u8]> },
    /// An uncompressed point.
    Ec { point: Box<[u8]> },
    /// Ed25519.
    Ed { public: Box<[u8]> },
    /// A shared secret.
    Secret { secret: Box<[u8]> },
}

/// A key and the algorithms that it verifies, which no token can widen.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(super) id: Option<Box<str>>,
    pub(super) algorithms: Box<[Algorithm]>,
    pub(super) material: Material,
}

/// Secrets are not printed.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

const SMALLEST_RSA: usize = 2048;
const LARGEST_RSA: usize = 8192;

impl Key {
    /// Reads a JWK. `None` if it is not for verifying signatures, or of a kind that is not known: other members of its
    /// set may be.
    ///
    /// # Errors
    /// If it is for verifying signatures and cannot be trusted to.
    pub(super) fn read(jwk: &Map<String, Value>, purpose: &str) -> Result<Option<Self>, Refused> {
        let text = |name: &str| match jwk.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Refused::key("a member of the key is not a text")),
        };
        if text("use")?.is_some_and(|other| other != purpose) {
            return Ok(None);
        }
        if let Some(operations) = jwk.get("key_ops") {
            let Value::Array(operations) = operations else { return Err(Refused::key("`key_ops` is not a list")) };
            let verifies = |operation: &Value| operation == "verify";
            if !operations.iter().any(verifies) {
                return Ok(None);
            }
        }
        let bytes = |name: &str| -> Result<Box<[u8]>, Refused> {
            let text = text(name)?.ok_or(Refused::key("a member of the key is missing"))?;
            encoding::decode(text)
                .map(Vec::into_boxed_slice)
                .ok_or(Refused::key("a member of the key is not base64url"))
        };
        let (possible, material): (&[Algorithm], Material) = match text("kty")? {
            Some("RSA") => (&[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512], rsa(bytes("n")?, bytes("e")?)?),
            Some("EC") => {
                let (algorithm, size): (&[Algorithm], usize) = match text("crv")? {
                    Some("P-256") => (&[Es256], 32),
                    Some("P-384") => (&[Es384], 48),
                    Some("P-521") => (&[Es512], 66),
                    _ => return Ok(None),
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != size || y.len() != size {
                    return Err(Refused::key("a coordinate has the wrong length"));
                }
                (algorithm, Material::Ec { point: [&[4], &*x, &*y].concat().into() })
            }
            Some("OKP") if text("crv")? == Some("Ed25519") => {
                let public = bytes("x")?;
                if public.len() != 32 {
                    return Err(Refused::key("the public key has the wrong length"));
                }
                (&[EdDsa], Material::Ed { public })
            }
            Some("oct") => {
                let secret = bytes("k")?;
                // RFC 7518 §3.2: at least as long as the hash.
                let fitting: &[Algorithm] = match secret.len() {
                    64.. => &[Hs256, Hs384, Hs512],
                    48.. => &[Hs256, Hs384],
                    32.. => &[Hs256],
                    _ => return Err(Refused::key("the secret is shorter than 256 bits")),
                };
                (fitting, Material::Secret { secret })
            }
            Some(_) => return Ok(None),
            None => return Err(Refused::key("`kty` is missing")),
        };
        let algorithms = match text("alg")? {
            None => possible.into(),
            Some(name) => match Algorithm::named(name) {
                Some(algorithm) if possible.contains(&algorithm) => [algorithm].into(),
                Some(_) => return Err(Refused::key("the key is too short, or of another kind than its `alg`")),
                // Such as RSA-OAEP: not for signatures.
                None => return Ok(None),
            },
        };
        Ok(Some(Self { id: text("kid")?.map(Into::into), algorithms, material }))
    }

    pub(super) fn is_symmetric(&self) -> bool {
        matches!(self.material, Material::Secret { .. })
    }
}

fn rsa(n: Box<[u8]>, e: Box<[u8]>) -> Result<Material, Refused> {
    let (Some(first), Some(last)) = (n.first(), n.last()) else { return Err(Refused::key("the modulus is empty")) };
    if *first == 0 || e.first().is_none_or(|first| *first == 0) {
        return Err(Refused::key("a number of the key begins with zeros"));
    }
    let bits = n.len() * 8 - first.leading_zeros() as usize;
    if !(SMALLEST_RSA..=LARGEST_RSA).contains(&bits) || last % 2 == 0 {
        return Err(Refused::key("an RSA modulus is odd and has 2048 to 8192 bits"));
    }
    let exponent = e.iter().fold(0u64, |value, byte| value.saturating_mul(256).saturating_add(u64::from(*byte)));
    if exponent < 3 || exponent % 2 == 0 || exponent > (1 << 33) - 1 {
        return Err(Refused::key("an RSA exponent is odd, at least 3 and below 2^33"));
    }
    if roca::is_marked(&n) {
        return Err(Refused::key("the RSA key was made by a broken generator (CVE-2017-15361)"));
    }
    Ok(Material::Rsa { n, e })
}
