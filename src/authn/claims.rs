//! Claims, once a signature has been verified.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::jose::Refused;
use crate::name::{SpiffeId, TrustDomain};

/// What a token has to say.
pub(super) struct Expected<'e> {
    pub(super) by: By<'e>,
    pub(super) audiences: &'e [Arc<str>],
    pub(super) skew: Duration,
    pub(super) allow_missing_exp: bool,
}

/// Who has to have issued it.
#[derive(Clone, Copy)]
pub(super) enum By<'e> {
    /// `iss` is this.
    Issuer(&'e str),
    /// `sub` is an identity of this trust domain.
    Domain(&'e TrustDomain),
}

const fn refused(reason: &'static str, why: &'static str) -> Refused {
    Refused::new(reason, why)
}

/// Whether these claims hold at `now`, in seconds since 1970.
///
/// # Errors
/// The first that does not.
pub(super) fn check(claims: &Map<String, Value>, expected: &Expected<'_>, now: u64) -> Result<(), Refused> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let own = match expected.by {
        By::Issuer(issuer) => text("iss") == Some(issuer),
        By::Domain(domain) => {
            text("sub").and_then(|sub| SpiffeId::new(sub).ok()).is_some_and(|id| id.is_member_of(domain))
        }
    };
    if !own {
        return Err(refused("issuer", "it is another's token"));
    }
    let skew = expected.skew.as_secs();
    match date(claims, "exp")? {
        // RFC 7519 §4.1.4: on or after this time it is not accepted.
        Some(exp) if now.saturating_sub(skew) >= exp => return Err(refused("expired", "the token has expired")),
        None if !expected.allow_missing_exp => return Err(refused("claims", "the token never expires")),
        _ => {}
    }
    if date(claims, "nbf")?.is_some_and(|nbf| now.saturating_add(skew) < nbf) {
        return Err(refused("not_yet", "the token is not valid yet"));
    }
    date(claims, "iat")?;
    // Without an audience of our own none would do, and one is mandatory in JWT-SVID §3.2.
    if matches!(expected.by, By::Domain(_)) && expected.audiences.is_empty() {
        return Err(refused("audience", "no audience of this service is configured"));
    }
    audiences(claims.get("aud"), expected.audiences)
}

fn audiences(aud: Option<&Value>, expected: &[Arc<str>]) -> Result<(), Refused> {
    let well_formed = match aud {
        None => true,
        Some(Value::String(_)) => true,
        Some(Value::Array(list)) => !list.is_empty() && list.iter().all(Value::is_string),
        Some(_) => false,
    };
    if !well_formed {
        return Err(refused("claims", "`aud` is neither a text nor a list of some"));
    }
    if expected.is_empty() || crate::caller::texts(aud).any(|aud| expected.iter().any(|own| **own == *aud)) {
        return Ok(());
    }
    Err(refused("audience", "the token is for somebody else"))
}

/// A time in seconds; fractions are cut off.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refused> {
    const LAST: f64 = 253_402_300_799.0;
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) if (0.0..=LAST).contains(&seconds) => Ok(Some(seconds as u64)),
            _ => Err(refused("claims", "a time of the token is none")),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn reason(claims: Value, audiences: &[&str]) -> Option<&'static str> {
        let audiences: Vec<Arc<str>> = audiences.iter().map(|text| Arc::from(*text)).collect();
        let expected = Expected {
            by: By::Issuer("https://i"),
            audiences: &audiences,
            skew: Duration::from_secs(30),
            allow_missing_exp: false,
        };
        let mut claims = claims.as_object().unwrap().clone();
        claims.entry("iss").or_insert("https://i".into());
        claims.entry("exp").or_insert((NOW + 60).into());
        check(&claims, &expected, NOW).err().map(|refused| refused.reason)
    }

    #[test]
    fn claims_hold_or_are_refused_for_their_reason() {
        let rows = [
            (json!({}), None),
            (json!({"iss": "https://i/"}), Some("issuer")),
            (json!({"iss": "HTTPS://i"}), Some("issuer")),
            (json!({"iss": ["https://i"]}), Some("issuer")),
            (json!({"exp": NOW}), None),
            (json!({"exp": NOW - 29}), None),
            (json!({"exp": NOW - 30}), Some("expired")),
            (json!({"exp": NOW as f64 + 0.5}), None),
            (json!({"exp": (NOW + 60).to_string()}), Some("claims")),
            (json!({"exp": -1}), Some("claims")),
            (json!({"exp": 1e300}), Some("claims")),
            (json!({"exp": null}), Some("claims")),
            (json!({"nbf": NOW + 30}), None),
            (json!({"nbf": NOW + 31}), Some("not_yet")),
            (json!({"nbf": "soon"}), Some("claims")),
            (json!({"iat": true}), Some("claims")),
        ];
        for (claims, expected) in rows {
            assert_eq!(reason(claims.clone(), &[]), expected, "{claims}");
        }
    }

    #[test]
    fn audiences_are_one_of_ours() {
        let rows = [
            (json!({}), Some("audience")),
            (json!({"aud": "a"}), None),
            (json!({"aud": "A"}), Some("audience")),
            (json!({"aud": ["x", "b"]}), None),
            (json!({"aud": ["x"]}), Some("audience")),
            (json!({"aud": []}), Some("claims")),
            (json!({"aud": ""}), Some("audience")),
            (json!({"aud": ["a", 1]}), Some("claims")),
            (json!({"aud": {"a": 1}}), Some("claims")),
        ];
        for (claims, expected) in rows {
            assert_eq!(reason(claims.clone(), &["a", "b"]), expected, "{claims}");
        }
        assert_eq!(reason(json!({"aud": "anything"}), &[]), None);
        assert_eq!(reason(json!({"aud": []}), &[]), Some("claims"));
    }

    #[test]
    fn a_token_without_end_needs_leave() {
        let mut expected =
            Expected { by: By::Issuer("i"), audiences: &[], skew: Duration::ZERO, allow_missing_exp: false };
        let claims = json!({"iss": "i"});
        assert!(check(claims.as_object().unwrap(), &expected, NOW).is_err());
        expected.allow_missing_exp = true;
        assert!(check(claims.as_object().unwrap(), &expected, NOW).is_ok());
    }
}
