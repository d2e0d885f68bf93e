//! An issuer of JSON Web Tokens, with a key that is made when the example starts.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};
use serde_json::{Value, json};

use crate::Result;

pub(crate) const ISSUER: &str = "https://issuer.bookinfo.example";

pub(crate) struct Issuer(KeyPair);

impl Issuer {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// The key set that its tokens verify by.
    pub(crate) fn key_set(&self) -> Result<String> {
        // An uncompressed point: 4, then both coordinates.
        let point = self.0.der_bytes();
        let (x, y) = point.get(1..33).zip(point.get(33..65)).ok_or("the key is no point of P-256")?;
        let key = json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "1", "x": encode(x), "y": encode(y) });
        Ok(json!({ "keys": [key] }).to_string())
    }

    /// A token for a subject in these groups. Its hour is over if it was issued two hours ago.
    pub(crate) fn token(&self, subject: &str, groups: &[&str], issued: SystemTime) -> Result<String> {
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map(|since| since.as_secs());
        let mut claims = json!({
            "iss": ISSUER,
            "sub": subject,
            "aud": "bookinfo",
            "iat": seconds(issued)?,
            "exp": seconds(issued + Duration::from_secs(3_600))?,
        });
        if !groups.is_empty() {
            claims["groups"] = Value::from(groups);
        }
        let head = json!({ "alg": "ES256", "kid": "1" });
        let text = format!("{}.{}", encode(head.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = fixed(&self.0.sign(text.as_bytes())?).ok_or("the signature is no pair of numbers")?;
        Ok(format!("{text}.{}", encode(&signature)))
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A signature as tokens have it, two numbers of 32 bytes, from the ASN.1 that it is made as.
fn fixed(der: &[u8]) -> Option<[u8; 64]> {
    let mut fixed = [0; 64];
    let mut rest = der.strip_prefix(&[0x30])?.get(1..)?;
    for half in fixed.chunks_exact_mut(32) {
        let (length, after) = rest.strip_prefix(&[0x02])?.split_first()?;
        let (number, after) = after.split_at_checked(usize::from(*length))?;
        // A leading zero says that the number is not negative; others are left out.
        let number = if number.len() > 32 { number.strip_prefix(&[0])? } else { number };
        half.get_mut(32_usize.checked_sub(number.len())?..)?.copy_from_slice(number);
        rest = after;
    }
    Some(fixed)
}
