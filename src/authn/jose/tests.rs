//! Tokens made here, the examples of the RFCs, and the vectors of others where they are at hand.

use serde_json::{Value, json};

#[cfg(feature = "aws-lc")]
mod vectors;

use super::{Compact, HeaderRules, KeyOrigin, KeySet, Refused, encoding::encode};

/// A compact token whose parts are these.
fn token(header: &str, payload: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", encode(header), encode(payload));
    let signature = encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn keys(jwk: &Value) -> Result<KeySet, Refused> {
    KeySet::read(jwk.to_string().as_bytes(), KeyOrigin::Local)
}

fn verify(token: &str, jwk: &Value) -> Result<Vec<u8>, Refused> {
    Compact::parse(token, HeaderRules::Jwt)?.verify(&keys(jwk)?)
}

/// Signers of every kind, by the provider that the tests are built with.
#[cfg(feature = "aws-lc")]
pub(crate) mod signers {
    use aws_lc_rs::{
        hmac,
        rand::SystemRandom,
        rsa::{KeyPair as RsaKeyPair, KeySize},
        signature::{
            self as sign, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
            ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        },
    };
    use serde_json::{Value, json};

    use super::encode;

    pub(crate) type Sign = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

    /// Modulus and exponent of a PKCS #1 public key.
    fn numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
        fn value(der: &[u8]) -> (&[u8], &[u8]) {
            let (length, header) = match der[1] {
                0x82 => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
                0x81 => (usize::from(der[2]), 3),
                short => (usize::from(short), 2),
            };
            der[header..].split_at(length)
        }
        let (n, rest) = value(value(der).0);
        let plain = |number: &[u8]| number[number.iter().position(|byte| *byte != 0).unwrap()..].to_vec();
        (plain(n), plain(value(rest).0))
    }

    /// A public JWK without `alg` and `kid`, and what signs for it by the algorithm.
    pub(crate) fn signer(algorithm: &str) -> (Value, Sign) {
        match algorithm {
            "HS256" | "HS384" | "HS512" => {
                let secret = [7u8; 64];
                let scheme = match algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                let key = hmac::Key::new(scheme, &secret);
                let sign: Sign = Box::new(move |message| hmac::sign(&key, message).as_ref().to_vec());
                (json!({"kty": "oct", "k": encode(secret)}), sign)
            }
            "ES256" | "ES384" | "ES512" => {
                let (scheme, curve) = match algorithm {
                    "ES256" => (&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
                    "ES384" => (&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
                    _ => (&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
                };
                let pair = EcdsaKeyPair::generate(scheme).unwrap();
                let point = pair.public_key().as_ref()[1..].to_vec();
                let (x, y) = point.split_at(point.len() / 2);
                let jwk = json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)});
                let sign: Sign =
                    Box::new(move |message| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec());
                (jwk, sign)
            }
            "EdDSA" => {
                let pair = Ed25519KeyPair::generate().unwrap();
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key())});
                (jwk, Box::new(move |message| pair.sign(message).as_ref().to_vec()))
            }
            algorithm => {
                let scheme: &'static dyn sign::RsaEncoding = match algorithm {
                    "RS256" => &sign::RSA_PKCS1_SHA256,
                    "RS384" => &sign::RSA_PKCS1_SHA384,
                    "RS512" => &sign::RSA_PKCS1_SHA512,
                    "PS256" => &sign::RSA_PSS_SHA256,
                    "PS384" => &sign::RSA_PSS_SHA384,
                    "PS512" => &sign::RSA_PSS_SHA512,
                    other => panic!("{other}"),
                };
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let (n, e) = numbers(pair.public_key().as_ref());
                let jwk = json!({"kty": "RSA", "n": encode(n), "e": encode(e)});
                let sign: Sign = Box::new(move |message| {
                    let mut signature = vec![0; pair.public_modulus_len()];
                    pair.sign(scheme, &SystemRandom::new(), message, &mut signature).unwrap();
                    signature
                });
                (jwk, sign)
            }
        }
    }
}

#[cfg(feature = "aws-lc")]
const ALGORITHMS: [&str; 13] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
];

#[cfg(feature = "aws-lc")]
#[test]
fn every_algorithm_verifies_its_own_and_no_other() {
    for algorithm in ALGORITHMS {
        let (jwk, sign) = signers::signer(algorithm);
        let made = token(&format!(r#"{{"alg":"{algorithm}"}}"#), "payload", &sign);
        assert_eq!(verify(&made, &jwk).as_deref(), Ok(b"payload".as_slice()), "{algorithm}");
        let mut pinned = jwk.clone();
        pinned["alg"] = algorithm.into();
        assert!(verify(&made, &pinned).is_ok(), "{algorithm}");
        // The same bytes under another name, and the same key for another algorithm.
        for other in ALGORITHMS.into_iter().filter(|other| *other != algorithm) {
            let renamed = token(&format!(r#"{{"alg":"{other}"}}"#), "payload", &sign);
            assert!(verify(&renamed, &jwk).is_err(), "{algorithm} as {other}");
            let mut pinned = jwk.clone();
            pinned["alg"] = other.into();
            assert!(verify(&made, &pinned).is_err(), "{algorithm} with a key for {other}");
        }
        // Any bit of the signature, a shorter one, a longer one, none.
        let (signed, signature) = made.rsplit_once('.').unwrap();
        let bytes = super::encoding::decode(signature).unwrap();
        for bit in [0, 1, 7, bytes.len() * 4, bytes.len() * 8 - 1] {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&format!("{signed}.{}", encode(flipped)), &jwk).is_err(), "{algorithm} bit {bit}");
        }
        for wrong in [&bytes[1..], &bytes[..bytes.len() - 1], &[bytes.as_slice(), &[0]].concat(), &[]] {
            assert!(verify(&format!("{signed}.{}", encode(wrong)), &jwk).is_err(), "{algorithm}");
        }
    }
}

/// The tricks of the trade: the token says how it wants to be verified.
#[cfg(feature = "aws-lc")]
#[test]
fn tokens_do_not_choose_how_they_are_verified() {
    let (jwk, sign) = signers::signer("RS256");
    let refused =
        |header: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| verify(&token(header, "{}", sign), &jwk).unwrap_err().reason;
    let none = |_: &[u8]| Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", "", "RS256 ", "rs256", "HS1", "RS1"] {
        assert_eq!(refused(&format!(r#"{{"alg":"{alg}"}}"#), &none), "algorithm", "{alg}");
    }
    // The public key as the secret of an HMAC.
    let public = jwk["n"].as_str().unwrap().as_bytes().to_vec();
    let hmac = move |message: &[u8]| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &public);
        aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
    };
    assert_eq!(refused(r#"{"alg":"HS256"}"#, &hmac), "algorithm");
    // Keys, and places to find some, in the header; headers that must be understood.
    for extra in [
        format!(r#""jwk":{jwk}"#),
        r#""jku":"https://evil.example/keys""#.into(),
        r#""x5u":"https://evil.example/cert""#.into(),
        r#""crit":["exp"]"#.into(),
        r#""crit":[]"#.into(),
        r#""b64":false"#.into(),
        r#""alg":"RS256""#.into(),
        r#""typ":7"#.into(),
        r#""typ":"dpop+jwt""#.into(),
        r#""kid":7"#.into(),
    ] {
        assert_eq!(refused(&format!(r#"{{"alg":"RS256",{extra}}}"#), &*sign), "malformed", "{extra}");
    }
    // A path, a query, an SQL in `kid` is a name that no key has.
    for kid in ["../../../dev/null", "' OR '1'='1", "a?b", "https://evil.example"] {
        let mut named = jwk.clone();
        named["kid"] = "one".into();
        let made = token(&json!({"alg": "RS256", "kid": kid}).to_string(), "{}", &sign);
        assert_eq!(verify(&made, &named).unwrap_err().reason, "unknown_key", "{kid}");
    }
    for typ in ["JWT", "jwt", "JOSE", "at+jwt", "application/at+jwt"] {
        assert!(verify(&token(&json!({"alg": "RS256", "typ": typ}).to_string(), "{}", &sign), &jwk).is_ok(), "{typ}");
    }
    // What is not understood and changes nothing is ignored, except by JWT-SVIDs.
    let made = token(r#"{"alg":"RS256","x5t":"abc","cty":"JWT"}"#, "{}", &sign);
    assert!(verify(&made, &jwk).is_ok());
    assert!(Compact::parse(&made, HeaderRules::Svid).is_err());
    assert!(Compact::parse(&token(r#"{"alg":"RS256","typ":"jwt"}"#, "{}", &sign), HeaderRules::Svid).is_err());
}

#[cfg(feature = "aws-lc")]
#[test]
fn keys_are_found_by_name_or_where_one_alone_fits() {
    let ((mut one, sign), (mut two, other)) = (signers::signer("ES256"), signers::signer("ES256"));
    let made = |kid: Option<&str>, sign: &signers::Sign| {
        let header = match kid {
            Some(kid) => json!({"alg": "ES256", "kid": kid}),
            None => json!({"alg": "ES256"}),
        };
        token(&header.to_string(), "{}", sign)
    };
    let reason = |token: &str, set: &Value| verify(token, set).err().map(|refused| refused.reason);
    let anonymous = json!({"keys": [one, two]});
    assert_eq!(reason(&made(None, &sign), &anonymous), Some("unknown_key"));
    (one["kid"], two["kid"]) = ("one".into(), "two".into());
    let named = json!({"keys": [one, two]});
    assert_eq!(reason(&made(Some("one"), &sign), &named), None);
    assert_eq!(reason(&made(Some("two"), &sign), &named), Some("signature"));
    assert_eq!(reason(&made(Some("two"), &other), &named), None);
    assert_eq!(reason(&made(Some("three"), &sign), &named), Some("unknown_key"));
    assert_eq!(reason(&made(None, &sign), &named), Some("unknown_key"));
    assert_eq!(reason(&made(None, &sign), &json!({"keys": [one]})), None);
    // A key of another kind beside it is no second candidate.
    let (rsa, _) = signers::signer("RS256");
    assert_eq!(reason(&made(None, &sign), &json!({"keys": [one, rsa]})), None);
}

#[test]
fn keys_that_cannot_be_trusted_are_refused() {
    let n = |bits: usize| {
        let mut n = vec![0xff; bits / 8];
        n[0] = 0xc3;
        encode(n)
    };
    let rsa = |n: String, e: &str| json!({"kty": "RSA", "n": n, "e": e});
    let secret = |bytes: usize| json!({"kty": "oct", "k": encode(vec![1; bytes])});
    let ec = json!({"kty": "EC", "crv": "P-256", "x": encode([1; 32]), "y": encode([2; 32])});
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let good = [
        rsa(n(2048), "AQAB"),
        rsa(n(8192), "Aw"),
        secret(32),
        ec.clone(),
        with(ec.clone(), "use", "sig".into()),
        with(ec.clone(), "key_ops", json!(["verify"])),
        with(ec.clone(), "x5c", json!(["ignored"])),
        json!({"keys": [ec, {"kty": "new"}, with(ec.clone(), "use", "enc".into())]}),
    ];
    for key in good {
        assert!(keys(&key).is_ok(), "{key}");
    }
    let even = {
        let mut n = vec![0xff; 256];
        n[255] = 2;
        encode(n)
    };
    let bad = [
        rsa(n(1024), "AQAB"),
        rsa(n(2040), "AQAB"),
        rsa(n(16_384), "AQAB"),
        rsa(even, "AQAB"),
        rsa(n(2048), "AQ"),
        rsa(n(2048), "Ag"),
        rsa(n(2048), "AAEAAQ"),
        rsa(n(2048), ""),
        rsa(encode([&[0], vec![0xff; 256].as_slice()].concat()), "AQAB"),
        secret(31),
        secret(0),
        with(secret(32), "alg", "HS384".into()),
        with(secret(64), "alg", "RS256".into()),
        with(ec.clone(), "alg", "ES384".into()),
        with(ec.clone(), "alg", 7.into()),
        with(ec.clone(), "x", encode([1; 31]).into()),
        with(ec.clone(), "x", encode([1; 33]).into()),
        with(ec.clone(), "x", format!("{}=", encode([1; 32])).into()),
        with(ec.clone(), "crv", "P-192".into()),
        with(ec.clone(), "use", "enc".into()),
        with(ec.clone(), "key_ops", json!(["sign"])),
        with(ec.clone(), "key_ops", json!("verify")),
        json!({"keys": []}),
        json!({"keys": {}}),
        json!({"keys": [1]}),
        json!({"keys": [ec, secret(32)]}),
        json!({"keys": [with(ec.clone(), "kid", "a".into()), with(ec.clone(), "kid", "a".into())]}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": encode([1; 31])}),
        json!({}),
    ];
    for key in bad {
        assert!(keys(&key).is_err(), "{key}");
    }
    assert!(KeySet::read(secret(32).to_string().as_bytes(), KeyOrigin::Remote).is_err());
    assert!(KeySet::read(br#"{"kty":"oct","kty":"oct","k":"x"}"#, KeyOrigin::Local).is_err());
    assert!(KeySet::read(&vec![b' '; 300_000], KeyOrigin::Local).is_err());
    assert!(!format!("{:?}", keys(&secret(32)).unwrap()).contains("AQEB"), "secrets are not printed");
}

#[test]
fn tokens_have_one_form() {
    let jwk = json!({"kty": "oct", "k": encode([7; 32])});
    let header = encode(r#"{"alg":"HS256"}"#);
    let long = format!("{header}.{}.AAAA", "A".repeat(9000));
    let padded = format!("{header}=.e30.AAAA");
    let bad = [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c.d",
        "e30.e30.",
        "e30.e30.AAAA",
        &padded,
        &long,
        r#"{"payload":"e30","signatures":[{"signature":"AAAA"}]}"#,
        " e30.e30.AAAA",
        "e30.e30.AAAA\n",
    ];
    for token in bad {
        assert!(verify(token, &jwk).is_err(), "{token:.60}");
    }
}

/// RFC 7515 A.1 and RFC 8037 A.4: payloads with line breaks, keys as they are printed there.
#[test]
fn examples_of_the_rfcs_verify() {
    let hmac = json!({
        "kty": "oct",
        "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    });
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let payload = verify(token, &hmac).unwrap();
    assert_eq!(super::object(&payload).unwrap()["iss"], "joe");
    let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(verify(token, &ed).unwrap(), b"Example of Ed25519 signing");
}
