//! API keys: long random texts, of which only hashes are known here.

use std::{collections::HashMap, sync::Arc};

use http::HeaderMap;

use super::{jose::Refused, policy::ApiKeys};

#[cfg(feature = "aws-lc")]
use aws_lc_rs::digest;
#[cfg(all(feature = "ring", not(feature = "aws-lc")))]
use ring::digest;

/// 128 bits in base64url.
const SHORTEST: usize = 22;
/// Nobody's key is longer; a hash of more would be work for strangers.
const LONGEST: usize = 512;

/// Keys by their hashes. Looked up by hash, so that time tells nothing about a key.
#[derive(Debug)]
pub(crate) struct KeyRing {
    header: http::HeaderName,
    keys: HashMap<[u8; 32], Arc<str>>,
}

impl KeyRing {
    pub(crate) fn new(policy: &ApiKeys) -> Self {
        let keys = policy.keys.iter().map(|(hash, name)| (hash.0, Arc::clone(name))).collect();
        Self { header: policy.header.clone(), keys }
    }

    /// Where a key stands.
    pub(crate) fn header(&self) -> &http::HeaderName {
        &self.header
    }

    /// The name of the key that a request has.
    ///
    /// # Errors
    /// If it has one that is not known, or several.
    pub(crate) fn find(&self, headers: &HeaderMap) -> Result<Option<Arc<str>>, Refused> {
        let mut values = headers.get_all(&self.header).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Refused::new("malformed", "there are several API keys"));
        }
        let key = value.as_bytes();
        let known = (SHORTEST..=LONGEST).contains(&key.len()).then(|| self.keys.get(&sha256(key)?)).flatten();
        known.map(|name| Some(Arc::clone(name))).ok_or(Refused::new("unknown_key", "nobody has this API key"))
    }
}

#[cfg(any(feature = "aws-lc", feature = "ring"))]
fn sha256(key: &[u8]) -> Option<[u8; 32]> {
    digest::digest(&digest::SHA256, key).as_ref().try_into().ok()
}

/// Without a provider no key is known.
#[cfg(not(any(feature = "aws-lc", feature = "ring")))]
fn sha256(_key: &[u8]) -> Option<[u8; 32]> {
    None
}

#[cfg(all(test, any(feature = "aws-lc", feature = "ring")))]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::authn::KeyHash;

    #[test]
    fn a_key_is_known_by_its_hash() {
        const KEY: &str = "0123456789abcdefghijkl";
        // printf 0123456789abcdefghijkl | sha256sum
        let hash = KeyHash::parse("26594ba2c73ebc172047f2305663bc2c5e6ff60a88182eef43e353f48fc95b94").unwrap();
        let keys = [(hash, "alice".into())].into();
        let ring = KeyRing::new(&ApiKeys { header: HeaderName::from_static("x-api-key"), keys });
        let find = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-api-key", HeaderValue::from_static(value));
            }
            ring.find(&headers).map(|name| name.map(|name| name.to_string())).map_err(|refused| refused.reason)
        };
        assert_eq!(find(&[]), Ok(None));
        assert_eq!(find(&[KEY]), Ok(Some("alice".into())));
        assert_eq!(find(&["0123456789abcdefghijkm"]), Err("unknown_key"));
        assert_eq!(find(&["short"]), Err("unknown_key"));
        assert_eq!(find(&[""]), Err("unknown_key"));
        assert_eq!(find(&[KEY, KEY]), Err("malformed"));
    }

    #[test]
    fn hashes_are_64_digits() {
        let text = "ab".repeat(32);
        assert_eq!(KeyHash::parse(&text).unwrap().to_string(), text);
        assert_eq!(KeyHash::parse(&text.to_uppercase()).unwrap().to_string(), text);
        for bad in ["", "ab", &"ab".repeat(33), &"zz".repeat(32), &"ä".repeat(32)] {
            assert!(KeyHash::parse(bad).is_none(), "{bad}");
        }
    }
}
