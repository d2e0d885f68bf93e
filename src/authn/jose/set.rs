//! The keys of an issuer.

use std::collections::HashSet;

use serde_json::Value;

use super::{Refused, json, key::Key};

/// The largest key set that is read, in bytes.
pub(crate) const MAX_SET: usize = 256 * 1024;
const MAX_KEYS: usize = 256;

/// Where keys come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyOrigin {
    /// The configuration: the only place for shared secrets.
    Local,
    /// The network.
    Remote,
    /// A SPIFFE bundle: keys of X.509 stand beside those of tokens, which all have names.
    Bundle,
}

impl KeyOrigin {
    fn purpose(self) -> &'static str {
        if self == Self::Bundle { "jwt-svid" } else { "sig" }
    }
}

/// Keys that verify the tokens of one issuer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeySet {
    pub(super) keys: Box<[Key]>,
}

impl KeySet {
    /// Reads a JWKS, or one JWK.
    ///
    /// # Errors
    /// If a key cannot be trusted, no key is left, two share a name, or secrets stand among public keys or come from the
    /// network.
    pub(crate) fn read(bytes: &[u8], origin: KeyOrigin) -> Result<Self, Refused> {
        if bytes.len() > MAX_SET {
            return Err(Refused::key("the key set is larger than 256 KiB"));
        }
        let document =
            json::object(bytes).ok_or(Refused::key("the key set is no JSON object, or a name occurs twice"))?;
        let keys = match document.get("keys") {
            Some(Value::Array(keys)) => Self::all(keys, origin.purpose())?,
            Some(_) => return Err(Refused::key("`keys` is not a list")),
            None if origin == KeyOrigin::Bundle => return Err(Refused::key("the bundle has no `keys`")),
            None => Key::read(&document, origin.purpose())?.into_iter().collect(),
        };
        Self::checked(keys, origin)
    }

    fn all(keys: &[Value], purpose: &str) -> Result<Vec<Key>, Refused> {
        if keys.len() > MAX_KEYS {
            return Err(Refused::key("the key set has more than 256 keys"));
        }
        let mut all = Vec::new();
        for key in keys {
            let Value::Object(key) = key else { return Err(Refused::key("a key is not an object")) };
            all.extend(Key::read(key, purpose)?);
        }
        Ok(all)
    }

    fn checked(keys: Vec<Key>, origin: KeyOrigin) -> Result<Self, Refused> {
        let symmetric = keys.iter().filter(|key| key.is_symmetric()).count();
        if symmetric > 0 && origin != KeyOrigin::Local {
            return Err(Refused::key("a shared secret comes from the network"));
        }
        if symmetric > 0 && symmetric < keys.len() {
            return Err(Refused::key("shared secrets stand among public keys"));
        }
        if origin == KeyOrigin::Bundle && keys.iter().any(|key| key.id.is_none()) {
            return Err(Refused::key("a key of the bundle has no `kid`"));
        }
        let mut names = HashSet::new();
        if !keys.iter().filter_map(|key| key.id.as_deref()).all(|name| names.insert(name)) {
            return Err(Refused::key("two keys have the same `kid`"));
        }
        if keys.is_empty() {
            return Err(Refused::key("no key verifies signatures"));
        }
        Ok(Self { keys: keys.into() })
    }

    /// Whether these are shared secrets.
    pub(crate) fn is_secret(&self) -> bool {
        self.keys.iter().any(Key::is_symmetric)
    }

    /// Whether a token's `kid` names one of these keys.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }
}
