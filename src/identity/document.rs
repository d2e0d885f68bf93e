//! Trust bundles as documents: PEM, the SPIFFE bundle of one trust domain (a JWK set), and a map of such by trust domain.
//!
//! A document is taken whole or not at all. What it may hold besides X.509 authorities (keys for JWT-SVIDs, uses and key
//! types of later versions) is left aside, as the standard wants. (SPIFFE Trust Domain and Bundle §4)

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::certificate::Facts;
use crate::name::TrustDomain;

/// Larger than any bundle of CAs.
const MAX_DOCUMENT: usize = 4 * 1024 * 1024;

/// The authorities of trust domains, as a document lists them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum BundleDocument {
    /// Of one trust domain, which the document does not name.
    One(Vec<CertificateDer<'static>>),
    /// By trust domain.
    Map(BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>),
}

impl BundleDocument {
    /// Reads PEM, or JSON if the text begins with `{`.
    ///
    /// # Errors
    /// Says what is wrong with the document.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_DOCUMENT {
            return Err("it is larger than 4 MiB".into());
        }
        if text.trim_ascii_start().first() != Some(&b'{') {
            return pem_certificates(text).map(Self::One);
        }
        let document = strict_json(text)?;
        let Some(domains) = document.get("trust_domains") else { return authorities(&document).map(Self::One) };
        let domains = domains.as_object().ok_or("`trust_domains` is no object")?;
        let mut map = BTreeMap::new();
        for (name, bundle) in domains {
            let domain = TrustDomain::new(name).map_err(|error| error.to_string())?;
            let bundle = authorities(bundle).map_err(|why| format!("`{domain}`: {why}"))?;
            // A domain may be spelled as a name and as an id.
            if map.insert(domain, bundle).is_some() {
                return Err(format!("`{name}` occurs twice"));
            }
        }
        Ok(Self::Map(map))
    }
}

/// The certificates of a PEM text; at least one.
pub(super) fn pem_certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is not PEM: {error}"))?;
    if certificates.is_empty() { Err("it has no certificate".into()) } else { Ok(certificates) }
}

/// The `x509-svid` keys of a JWK set.
fn authorities(set: &Value) -> Result<Vec<CertificateDer<'static>>, String> {
    let keys = set.get("keys").ok_or("`keys` is missing")?;
    let keys = match keys {
        // How Go writes a set without keys.
        Value::Null => return Ok(Vec::new()),
        keys => keys.as_array().ok_or("`keys` is no list")?,
    };
    if let Some(sequence) = set.get("spiffe_sequence") {
        sequence.as_u64().ok_or("`spiffe_sequence` is no unsigned integer")?;
    }
    let mut found = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let kind = key.get("kty").and_then(Value::as_str).ok_or_else(|| format!("key {at} has no `kty`"))?;
        let usage = key.get("use").and_then(Value::as_str).unwrap_or_default();
        if usage != "x509-svid" || !matches!(kind, "RSA" | "EC" | "OKP") {
            continue;
        }
        let chain = key.get("x5c").and_then(Value::as_array).ok_or_else(|| format!("key {at} has no `x5c`"))?;
        let [certificate] = &**chain else {
            return Err(format!("key {at} has {} certificates in `x5c`, where exactly one is allowed", chain.len()));
        };
        let der = certificate.as_str().and_then(|text| STANDARD.decode(text).ok());
        let der = der.ok_or_else(|| format!("key {at}: `x5c` is not base64"))?;
        let facts = Facts::of(&der).map_err(|bad| format!("key {at}: `x5c` cannot be read: {}", bad.0))?;
        if facts.key_type() != Some(kind) {
            return Err(format!("key {at}: `kty` is not the type of the key in `x5c`"));
        }
        found.push(CertificateDer::from(der));
    }
    Ok(found)
}

/// JSON in which no object has a key twice: of two values, which one counts would depend on the reader.
fn strict_json(text: &[u8]) -> Result<Value, String> {
    struct Strict(Value);
    struct StrictVisitor;

    impl<'de> Deserialize<'de> for Strict {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(StrictVisitor).map(Strict)
        }
    }

    impl<'de> Visitor<'de> for StrictVisitor {
        type Value = Value;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }

        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }

        fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_str<E>(self, value: &str) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
            let mut values = Vec::new();
            while let Some(Strict(value)) = list.next_element()? {
                values.push(value);
            }
            Ok(values.into())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
            let mut object = serde_json::Map::new();
            while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
                if object.insert(key.clone(), value).is_some() {
                    return Err(de::Error::custom(format_args!("`{key}` occurs twice")));
                }
            }
            Ok(object.into())
        }
    }

    serde_json::from_slice::<Strict>(text).map(|Strict(value)| value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::authority;

    fn key(certificate: &CertificateDer<'_>) -> String {
        format!(r#"{{"use":"x509-svid","kty":"EC","crv":"P-256","x5c":["{}"]}}"#, STANDARD.encode(certificate))
    }

    #[test]
    fn pem_a_bundle_and_a_map() {
        let (a, b) = (authority("a", |_| {}).cert, authority("b", |_| {}).cert);
        let pem = |der: &CertificateDer<'_>| {
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
        };
        let one = BundleDocument::parse((pem(&a) + &pem(&b)).as_bytes()).unwrap();
        assert_eq!(one, BundleDocument::One(vec![a.clone(), b.clone()]));
        let jwt =
            r#"{"use":"jwt-svid","kty":"EC","kid":"k"},{"use":"later","kty":"EC"},{"use":"x509-svid","kty":"later"}"#;
        let set = format!(r#" {{"spiffe_sequence":18446744073709551615,"keys":[{},{jwt},{}]}}"#, key(&a), key(&b));
        assert_eq!(BundleDocument::parse(set.as_bytes()).unwrap(), one);
        let map = format!(r#"{{"trust_domains":{{"a":{{"keys":[{}]}},"b":{{"keys":[]}}}}}}"#, key(&a));
        let domain = |name| TrustDomain::new(name).unwrap();
        let expected = BTreeMap::from([(domain("a"), vec![a]), (domain("b"), vec![])]);
        assert_eq!(BundleDocument::parse(map.as_bytes()).unwrap(), BundleDocument::Map(expected));
    }

    #[test]
    fn a_document_with_any_fault_is_refused_whole() {
        let good = key(&authority("a", |_| {}).cert);
        for (document, why) in [
            ("".into(), "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nMIIB".into(), "not PEM"),
            ("{".into(), "EOF"),
            ("{}".into(), "`keys` is missing"),
            (r#"{"keys":{}}"#.into(), "no list"),
            (format!(r#"{{"keys":[{good}],"keys":[]}}"#), "`keys` occurs twice"),
            (format!(r#"{{"keys":[{good}],"spiffe_sequence":-1}}"#), "spiffe_sequence"),
            (r#"{"keys":[{"use":"x509-svid","kty":"EC"}]}"#.into(), "no `x5c`"),
            (r#"{"keys":[{"use":"x509-svid","x5c":[""]}]}"#.into(), "no `kty`"),
            (r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":["MAA="]}]}"#.into(), "cannot be read"),
            (format!(r#"{{"keys":[{}]}}"#, good.replace(r#""EC""#, r#""RSA""#)), "not the type"),
            (r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":[]}]}"#.into(), "0 certificates"),
            (r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":["a","b"]}]}"#.into(), "2 certificates"),
            (r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":["*"]}]}"#.into(), "not base64"),
            (r#"{"trust_domains":[]}"#.into(), "no object"),
            (r#"{"trust_domains":{"A":{"keys":[]}}}"#.into(), "lower-case"),
            (r#"{"trust_domains":{"a":{"keys":[]},"a":{"keys":[]}}}"#.into(), "`a` occurs twice"),
            (r#"{"trust_domains":{"a":{"keys":[]},"spiffe://a":{"keys":[]}}}"#.into(), "occurs twice"),
            ("[".repeat(200), "no certificate"),
            (format!("{}{}", r#"{"a":"#.repeat(200), "}".repeat(200)), "recursion"),
        ] {
            let found = BundleDocument::parse(document.as_bytes()).unwrap_err();
            assert!(found.contains(why), "{document:.80}: {found}");
        }
        assert!(BundleDocument::parse(&vec![b' '; MAX_DOCUMENT + 1]).is_err());
    }
}
