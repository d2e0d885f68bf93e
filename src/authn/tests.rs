//! Tokens in whole requests.
#![cfg(feature = "aws-lc")]

use std::{sync::Arc, time::Duration};

use http::Request;
use serde_json::{Value, json};

use super::{
    Issuer, JwtIssuer, JwtKeys, JwtLocation, Tokens, Verdict,
    jose::{KeyOrigin, KeySet, encode, tests::signers},
};
use crate::rt::{self, Instant, Rng};

const NOW: u64 = 1_700_000_000;
const ISSUER: &str = "https://issuer.example";

fn signed(sign: &signers::Sign, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", encode(signature))
}

struct World {
    sign: signers::Sign,
    tokens: Tokens,
}

fn world(change: impl FnOnce(&mut JwtIssuer)) -> World {
    let (jwk, sign) = signers::signer("ES256");
    let mut policy = JwtIssuer::new(ISSUER, JwtKeys::Inline("".into()));
    change(&mut policy);
    let keys = KeySet::read(jwk.to_string().as_bytes(), KeyOrigin::Local).unwrap();
    World { sign, tokens: Tokens::new(vec![Arc::new(Issuer::local(policy, keys))]) }
}

impl World {
    fn token(&self, claims: Value) -> String {
        let mut claims = claims;
        for (name, value) in [("iss", json!(ISSUER)), ("sub", json!("alice")), ("exp", json!(NOW + 60))] {
            let map = claims.as_object_mut().unwrap();
            map.entry(name).or_insert(value);
        }
        signed(&self.sign, &json!({"alg": "ES256"}), &claims)
    }

    /// The reason of a refusal, or what is left of the request.
    fn pass(&self, mut request: Request<()>) -> Result<Option<Request<()>>, &'static str> {
        self.tokens.sanitize(request.headers_mut());
        match self.tokens.check(request.uri(), request.headers(), rt::now(), NOW).map_err(|refused| refused.reason)? {
            Verdict::None => Ok(None),
            Verdict::Wait(_) => Err("wait"),
            Verdict::Token(found) => {
                assert_eq!(found.token.issuer(), ISSUER);
                self.tokens.apply(&found, &mut request);
                Ok(Some(request))
            }
        }
    }
}

fn get(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_token_is_found_verified_and_taken_out() {
    let world = world(|_| {});
    let token = world.token(json!({}));
    let bearer = format!("Bearer {token}");
    assert!(world.pass(get("/", &[])).unwrap().is_none());
    assert!(world.pass(get("/", &[("authorization", "Basic abc")])).unwrap().is_none());
    let passed = world.pass(get("/", &[("authorization", &bearer)])).unwrap().unwrap();
    assert!(!passed.headers().contains_key("authorization"));
    assert!(world.pass(get("/", &[("authorization", &format!("bearer {token}"))])).unwrap().is_some());
    let passed = world.pass(get(&format!("/p?a=1&access_token={token}&b"), &[])).unwrap().unwrap();
    assert_eq!(passed.uri(), "/p?a=1&b");
    let passed = world.pass(get(&format!("https://h/p?access_token={token}"), &[])).unwrap().unwrap();
    assert_eq!(passed.uri(), "https://h/p");
    assert!(world.pass(get("/", &[("authorization", "Bearer")])).unwrap().is_none());
    for bad in ["Bearer ", "Bearer x", "Bearer a.b.c"] {
        assert_eq!(world.pass(get("/", &[("authorization", bad)])).unwrap_err(), "malformed", "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn several_tokens_are_one_too_many() {
    let world = world(|_| {});
    let token = world.token(json!({}));
    let bearer = format!("Bearer {token}");
    let both = get(&format!("/?access_token={token}"), &[("authorization", &bearer)]);
    assert_eq!(world.pass(both).unwrap_err(), "several");
    assert_eq!(world.pass(get("/", &[("authorization", &bearer), ("authorization", &bearer)])).unwrap_err(), "several");
    let twice = get(&format!("/?access_token={token}&access_token={token}"), &[]);
    assert_eq!(world.pass(twice).unwrap_err(), "several");
}

#[tokio::test(start_paused = true)]
async fn places_are_those_of_the_issuer() {
    let world = world(|policy| {
        policy.locations = vec![
            JwtLocation::Header { name: http::HeaderName::from_static("x-jwt"), prefix: "".into() },
            JwtLocation::Cookie("session".into()),
        ];
        policy.forward_original_token = true;
    });
    let token = world.token(json!({}));
    let passed = world.pass(get("/", &[("x-jwt", &token)])).unwrap().unwrap();
    assert_eq!(passed.headers()["x-jwt"], token.as_str());
    assert!(world.pass(get("/", &[("cookie", &format!("a=b; session={token}"))])).unwrap().is_some());
    assert!(world.pass(get("/", &[("authorization", &format!("Bearer {token}"))])).unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn claims_reach_the_application_in_headers_that_nobody_else_can_set() {
    let world = world(|policy| {
        let name = http::HeaderName::from_static;
        policy.output_claim_to_headers = vec![
            (name("x-user"), "sub".into()),
            (name("x-tenant"), "org.tenant".into()),
            (name("x-groups"), "groups".into()),
            (name("x-admin"), "admin".into()),
        ];
        policy.output_payload_to_header = Some(name("x-payload"));
    });
    let spoofed = [("x-user", "root"), ("x-tenant", "all"), ("x-payload", "e30"), ("x-other", "kept")];
    let mut request = get("/", &spoofed);
    world.tokens.sanitize(request.headers_mut());
    assert_eq!(request.headers().len(), 1);
    let token = world.token(json!({"org": {"tenant": 7}, "groups": ["a"], "admin": false}));
    let bearer = format!("Bearer {token}");
    let headers: Vec<_> = spoofed.into_iter().chain([("authorization", bearer.as_str())]).collect();
    let passed = world.pass(get("/", &headers)).unwrap().unwrap();
    let header = |name: &str| passed.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("x-user").as_deref(), Some("alice"));
    assert_eq!(header("x-tenant").as_deref(), Some("7"));
    assert_eq!(header("x-admin").as_deref(), Some("false"));
    assert_eq!(header("x-groups"), None);
    assert_eq!(header("x-payload").as_deref(), token.split('.').nth(1));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_issuer_or_a_changed_one_is_refused() {
    let world = world(|policy| policy.audiences = vec!["reviews".into()]);
    let bearer = |token: &str| get("/", &[("authorization", &format!("Bearer {token}"))]);
    let reason = |claims: Value| world.pass(bearer(&world.token(claims))).map(|_| ()).err();
    assert_eq!(reason(json!({"aud": "reviews"})), None);
    assert_eq!(reason(json!({"aud": "ratings"})), Some("audience"));
    assert_eq!(reason(json!({"aud": "reviews", "iss": "https://other"})), Some("issuer"));
    assert_eq!(reason(json!({"aud": "reviews", "exp": NOW - 31})), Some("expired"));
    let good = world.token(json!({"aud": "reviews"}));
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    parts[1] = encode(json!({"iss": ISSUER, "aud": "reviews", "sub": "root", "exp": NOW + 60}).to_string());
    assert_eq!(world.pass(bearer(&parts.join("."))).unwrap_err(), "signature");
}

#[tokio::test(start_paused = true)]
async fn eddsa_needs_leave() {
    let (jwk, sign) = signers::signer("EdDSA");
    let keys = || KeySet::read(jwk.to_string().as_bytes(), KeyOrigin::Local).unwrap();
    let token = signed(&sign, &json!({"alg": "EdDSA"}), &json!({"iss": ISSUER, "exp": NOW + 60}));
    for allow in [false, true] {
        let policy = JwtIssuer { allow_eddsa: allow, ..JwtIssuer::new(ISSUER, JwtKeys::Inline("".into())) };
        let tokens = Tokens::new(vec![Arc::new(Issuer::local(policy, keys()))]);
        let request = get("/", &[("authorization", &format!("Bearer {token}"))]);
        let verdict = tokens.check(request.uri(), request.headers(), rt::now(), NOW);
        assert_eq!(verdict.is_ok(), allow);
    }
}

/// The life of fetched keys: missing, there, rolled over, stale, gone; and another issuer that does not notice.
#[tokio::test(start_paused = true)]
async fn an_outage_of_one_issuer_is_its_own() {
    let second = Duration::from_secs(1);
    let remote = |issuer: &str| {
        let keys =
            JwtKeys::Remote { uri: None, timeout: 5 * second, cache_duration: 300 * second, networks: Vec::new() };
        Arc::new(Issuer::remote(JwtIssuer::new(issuer, keys), rt::now()))
    };
    let (down, up) = (remote("https://down"), remote("https://up"));
    let tokens = Tokens::new(vec![Arc::clone(&down), Arc::clone(&up)]);
    let mut rng = Rng::seeded(1);
    let ((mut old, old_sign), (mut new, new_sign)) = (signers::signer("ES256"), signers::signer("ES256"));
    (old["kid"], new["kid"]) = ("old".into(), "new".into());
    let set = |keys: &[&Value]| json!({ "keys": keys }).to_string();
    let check = |issuer: &str, kid: &str, sign: &signers::Sign, now: Instant| {
        let token = signed(sign, &json!({"alg": "ES256", "kid": kid}), &json!({"iss": issuer, "exp": NOW + 60}));
        let request = get("/", &[("authorization", &format!("Bearer {token}"))]);
        match tokens.check(request.uri(), request.headers(), now, NOW) {
            Ok(Verdict::Token(_)) => "good",
            Ok(Verdict::Wait(_)) => "wait",
            Ok(Verdict::None) => "none",
            Err(refused) => refused.reason,
        }
    };
    let start = rt::now();
    up.fetched(Ok(set(&[&old]).as_bytes()), start, &mut rng).unwrap();
    // The first fetch of the other is under way, then it failed.
    assert_eq!(check("https://down", "old", &old_sign, start), "wait");
    assert!(down.fetched(Err(()), start, &mut rng).is_err());
    assert_eq!(check("https://down", "old", &old_sign, start), "no_keys");
    assert_eq!(check("https://up", "old", &old_sign, start), "good");

    // Rolled over: the unknown key is worth a fetch, but not two.
    let mut wanted = up.wanted();
    let later = start + 60 * second;
    assert_eq!(check("https://up", "new", &new_sign, start + second), "unknown_key");
    assert_eq!(check("https://up", "new", &new_sign, later), "wait");
    assert!(wanted.has_changed().unwrap());
    wanted.mark_unchanged();
    assert_eq!(check("https://up", "new", &new_sign, later), "unknown_key");
    assert!(!wanted.has_changed().unwrap());
    up.fetched(Ok(set(&[&old, &new]).as_bytes()), later, &mut rng).unwrap();
    assert_eq!(check("https://up", "new", &new_sign, later), "good");

    // What is no key set changes nothing; the last good one serves a day.
    for bad in ["", "{}", "<html>", r#"{"keys":[]}"#, &set(&[&old, &old])] {
        assert!(up.fetched(Ok(bad.as_bytes()), later, &mut rng).is_err(), "{bad}");
    }
    assert_eq!(check("https://up", "old", &old_sign, later + 86_399 * second), "good");
    let gone = later + 86_400 * second;
    assert_eq!(check("https://up", "old", &old_sign, gone), "wait");
    assert_eq!(check("https://up", "old", &old_sign, gone), "no_keys");
}

/// Named rows of JWT-SVID §3: what is mandatory there and optional elsewhere.
#[tokio::test(start_paused = true)]
async fn a_jwt_svid_is_held_to_its_own_standard() {
    let (mut jwk, sign) = signers::signer("ES256");
    (jwk["kid"], jwk["use"]) = ("one".into(), "jwt-svid".into());
    let x509 = json!({"kty": "EC", "crv": "P-256", "use": "x509-svid", "x": jwk["x"], "y": jwk["y"], "x5c": ["AAAA"]});
    let bundle = json!({"keys": [x509, jwk], "spiffe_sequence": 1, "spiffe_refresh_hint": 300}).to_string();
    let keys = KeySet::read(bundle.as_bytes(), KeyOrigin::Bundle).unwrap();
    let domain = crate::name::TrustDomain::new("td.example").unwrap();
    let policy = JwtIssuer::svids(domain, ["reviews".into()], JwtKeys::Inline("".into()));
    let tokens = Tokens::new(vec![Arc::new(Issuer::local(policy, keys))]);
    let check = |header: Value, change: Value| {
        let mut claims = json!({"sub": "spiffe://td.example/web", "aud": ["reviews"], "exp": NOW + 60});
        for (name, value) in change.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        let token = signed(&sign, &header, &claims);
        let request = get("/", &[("authorization", &format!("Bearer {token}"))]);
        match tokens.check(request.uri(), request.headers(), rt::now(), NOW) {
            Ok(Verdict::Token(found)) => {
                assert_eq!(found.token.issuer(), "spiffe://td.example");
                "good"
            }
            Ok(other) => panic!("{other:?}"),
            Err(refused) => refused.reason,
        }
    };
    let header = || json!({"alg": "ES256", "kid": "one", "typ": "JWT"});
    let rows = [
        (header(), json!({}), "good"),
        (header(), json!({"iss": "https://anybody"}), "good"),
        (json!({"alg": "ES256", "kid": "one"}), json!({}), "good"),
        (json!({"alg": "ES256", "kid": "one", "typ": "at+jwt"}), json!({}), "malformed"),
        (json!({"alg": "ES256", "kid": "one", "cty": "x"}), json!({}), "malformed"),
        (json!({"alg": "ES256", "kid": "two"}), json!({}), "unknown_key"),
        (json!({"alg": "HS256", "kid": "one"}), json!({}), "algorithm"),
        (json!({"alg": "EdDSA", "kid": "one"}), json!({}), "algorithm"),
        (header(), json!({"aud": null}), "audience"),
        (header(), json!({"aud": []}), "claims"),
        (header(), json!({"aud": "ratings"}), "audience"),
        (header(), json!({"exp": null}), "claims"),
        (header(), json!({"exp": NOW - 60}), "expired"),
        (header(), json!({"sub": null}), "issuer"),
        (header(), json!({"sub": "spiffe://other/web"}), "issuer"),
        (header(), json!({"sub": "Spiffe://td.example/web"}), "issuer"),
        (header(), json!({"sub": "spiffe://td.example/../web"}), "issuer"),
        (header(), json!({"sub": "alice"}), "issuer"),
    ];
    for (header, change, expected) in rows {
        assert_eq!(check(header.clone(), change.clone()), expected, "{header} {change}");
    }
    // Bundles: every key of tokens has a name, and those of certificates are no keys of tokens.
    let read = |keys: Value| KeySet::read(json!({ "keys": keys }).to_string().as_bytes(), KeyOrigin::Bundle);
    let mut nameless = jwk.clone();
    nameless.as_object_mut().unwrap().remove("kid");
    assert!(read(json!([jwk])).is_ok() && read(json!([nameless])).is_err() && read(json!([x509])).is_err());
}
