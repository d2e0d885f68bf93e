//! Compact serialization: three parts, their header, and the key that verifies them.

use serde_json::{Map, Value};

use super::{
    Refused, encoding, json,
    key::{Algorithm, Key},
    set::KeySet,
    signature,
};

/// The largest token that is read, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

/// What a header may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderRules {
    /// RFC 7515: what is not understood is ignored, except what would change how the token is verified.
    Jwt,
    /// JWT-SVID §3: `alg`, `kid` and `typ` only.
    Svid,
}

/// A token that has not been verified yet.
#[derive(Debug)]
pub(crate) struct Compact<'t> {
    /// What is signed.
    signed: &'t str,
    payload: &'t str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    id: Option<String>,
}

impl<'t> Compact<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// If it has not the one accepted form, or asks to be verified in a way of its own.
    pub(crate) fn parse(token: &'t str, rules: HeaderRules) -> Result<Self, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(Refused::malformed("the token is longer than 8 KiB"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(tag), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refused::malformed("the token has not three parts"));
        };
        let signed = &token[..header.len() + 1 + payload.len()];
        let header = encoding::decode(header).ok_or(Refused::malformed("the header is not base64url"))?;
        let header =
            json::object(&header).ok_or(Refused::malformed("the header is no JSON object, or a name occurs twice"))?;
        let tag = encoding::decode(tag).ok_or(Refused::malformed("the signature is not base64url"))?;
        check_header(&header, rules)?;
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Refused::malformed("a member of the header is not a text")),
        };
        let name = text("alg")?.ok_or(Refused::algorithm("the token names none"))?;
        let algorithm =
            Algorithm::named(&name).ok_or(Refused::algorithm("the token names one that is not accepted"))?;
        Ok(Self { signed, payload, signature: tag, algorithm, id: text("kid")? })
    }

    /// The name of the key, if the token gives one.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// How it is signed.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The claims as the token has them. Nothing has been verified: good for finding the issuer, and for nothing else.
    ///
    /// # Errors
    /// If they are no JSON object.
    pub(crate) fn unverified_claims(&self) -> Result<Map<String, Value>, Refused> {
        let payload = encoding::decode(self.payload).ok_or(Refused::malformed("the payload is not base64url"))?;
        json::object(&payload).ok_or(Refused::malformed("the payload is no JSON object, or a name occurs twice"))
    }

    /// The payload, once one of the keys has verified it.
    ///
    /// # Errors
    /// If no key fits, or the signature is not its.
    pub(crate) fn verify(&self, keys: &KeySet) -> Result<Vec<u8>, Refused> {
        let key = self.key(keys)?;
        if !signature::is_supported(self.algorithm) {
            return Err(Refused::algorithm("this build cannot verify it"));
        }
        if !signature::verify(key, self.algorithm, self.signed.as_bytes(), &self.signature) {
            return Err(Refused::new("signature", "the signature is not that of the key"));
        }
        encoding::decode(self.payload).ok_or(Refused::malformed("the payload is not base64url"))
    }

    /// By name if the token gives one; keys without a name, and all keys if it gives none, only where one alone fits.
    fn key<'k>(&self, keys: &'k KeySet) -> Result<&'k Key, Refused> {
        let fits = |key: &&Key| key.algorithms.contains(&self.algorithm);
        if let Some(id) = &self.id
            && let Some(key) = keys.keys.iter().find(|key| key.id.as_deref() == Some(id))
        {
            return Some(key).filter(fits).ok_or(Refused::algorithm("the key is not for it"));
        }
        let anonymous = |key: &&Key| self.id.is_none() || key.id.is_none();
        let mut fitting = keys.keys.iter().filter(anonymous).filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(Refused::new("unknown_key", "several keys fit, and the token names none")),
            (None, _) if self.id.is_some() => {
                Err(Refused::new("unknown_key", "no key has the name that the token gives"))
            }
            (None, _) => Err(Refused::algorithm("no key is for it")),
        }
    }
}

fn check_header(header: &Map<String, Value>, rules: HeaderRules) -> Result<(), Refused> {
    for name in header.keys() {
        match (name.as_str(), rules) {
            ("alg" | "kid" | "typ", _) => {}
            // A key in the token, or a place to fetch one, or another way to read it.
            ("crit" | "b64" | "jwk" | "jku" | "x5u", _) => {
                return Err(Refused::malformed(
                    "the header says how to verify it: `crit`, `b64`, `jwk`, `jku` or `x5u`",
                ));
            }
            (_, HeaderRules::Jwt) => {}
            (_, HeaderRules::Svid) => {
                return Err(Refused::malformed("the header has more than `alg`, `kid` and `typ`"));
            }
        }
    }
    let typ = match header.get("typ") {
        None => return Ok(()),
        Some(Value::String(typ)) => typ.strip_prefix("application/").unwrap_or(typ),
        Some(_) => return Err(Refused::malformed("`typ` is not a text")),
    };
    let is = |name: &str| typ.eq_ignore_ascii_case(name);
    match rules {
        HeaderRules::Jwt if is("JWT") || is("JOSE") || is("at+jwt") => Ok(()),
        HeaderRules::Svid if typ == "JWT" || typ == "JOSE" => Ok(()),
        _ => Err(Refused::malformed("its `typ` is not that of a token")),
    }
}
