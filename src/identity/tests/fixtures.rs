//! Test data of go-spiffe and grpc-go, with the outcomes that are right here and why they differ from theirs, where they do.

use std::{fs, path::PathBuf};

use rustls_pki_types::pem::PemObject;

use super::*;
use crate::identity::{certificate::Facts, document::BundleDocument};

fn file(path: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/identity/tests/data");
    fs::read(root.join(path)).unwrap()
}

fn chain(path: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(&file(path)).collect::<Result<Vec<_>, _>>().ok().filter(|chain| !chain.is_empty())
}

/// By this bundle, at a time when the leaf was valid.
fn judge(chain: &[CertificateDer<'_>], domain: &str, roots: Vec<CertificateDer<'static>>) -> &'static str {
    let now = Facts::of(&chain[0]).unwrap().not_before + Duration::from_secs(60);
    let bundles = [(TrustDomain::new(domain).unwrap(), Arc::new(Bundle::new(roots, false).0))].into();
    let provider = default_provider().unwrap();
    let algorithms = &provider.signature_verification_algorithms;
    let trust = Trust { bundles: &bundles, revocations: &Revocations::default(), algorithms };
    reason(verify(&chain[0], &chain[1..], &trust, now))
}

#[test]
fn svids_of_go_spiffe() {
    // Its roots are not among the files, so what is right but for that has no authority.
    for (name, expected) in [
        ("good-leaf-only", "unknown_ca"),
        ("good-leaf-and-intermediate", "unknown_ca"),
        ("good-cert-and-key", "unknown_ca"),
        ("good-key-and-cert", "unknown_ca"),
        ("wrong-leaf-empty-id", "san_count"),
        ("wrong-leaf-ca-true", "key_usage"),
        ("wrong-leaf-cert-sign", "key_usage"),
        ("wrong-leaf-crl-sign", "key_usage"),
        ("wrong-leaf-no-digital-signature", "key_usage"),
        ("wrong-intermediate-no-ca", "key_usage"),
        ("wrong-intermediate-no-key-cert-sign", "key_usage"),
    ] {
        let chain = chain(&format!("go-spiffe/x509svid/{name}.pem")).unwrap();
        assert_eq!(judge(&chain, "example.org", vec![authority("root", |_| {}).cert]), expected, "{name}");
    }
    assert!(Facts::of(&chain("go-spiffe/x509svid/corrupt-cert.pem").unwrap()[0]).is_err());
    assert_eq!(chain("go-spiffe/x509svid/not-pem"), None);
}

#[test]
fn pairs_of_go_spiffe() {
    let pair = |cert: &str, key: &str| {
        let path = |name: &str| format!("go-spiffe/x509svid/{name}.pem");
        let key = PrivateKeyDer::from_pem_slice(&file(&path(key))).map_err(|error| error.to_string())?;
        Svid::new(chain(&path(cert)).unwrap(), key, &default_provider().unwrap()).map(|own| own.id().to_string())
    };
    let id = Ok("spiffe://example.org/workload-1".to_owned());
    assert_eq!(pair("good-leaf-only", "key-pkcs8-rsa"), id);
    assert_eq!(pair("good-leaf-and-intermediate", "key-pkcs8-ecdsa"), id);
    assert_eq!(pair("good-cert-and-key", "good-cert-and-key"), id);
    assert_eq!(pair("good-key-and-cert", "good-key-and-cert"), id);
    assert!(pair("good-leaf-only", "key-pkcs8-ecdsa").is_err());
    assert!(pair("good-leaf-only", "corrupt-key").is_err());
    assert!(pair("wrong-leaf-ca-true", "key-pkcs8-rsa").is_err());
}

/// How many authorities a document names by trust domain and how many of them can be any, or that it is refused.
fn names(path: &str) -> Option<Vec<(String, usize, usize)>> {
    let count =
        |domain: String, certificates: Vec<_>| (domain, certificates.len(), Bundle::new(certificates, false).0.len());
    match BundleDocument::parse(&file(path)).ok()? {
        BundleDocument::One(certificates) => Some(vec![count(String::new(), certificates)]),
        BundleDocument::Map(map) => Some(map.into_iter().map(|(domain, of)| count(domain.to_string(), of)).collect()),
    }
}

#[test]
fn bundles_of_go_spiffe() {
    let one = |named, usable| Some(vec![(String::new(), named, usable)]);
    for (path, expected) in [
        ("spiffebundle/spiffebundle_valid_1.json", one(1, 1)),
        ("spiffebundle/spiffebundle_valid_2.json", one(1, 1)),
        ("spiffebundle/spiffebundle_valid_with_wit.json", one(1, 1)),
        // The keys of JWT-SVIDs are left aside, with what is wrong about them.
        ("spiffebundle/spiffebundle_missing_kid.json", one(1, 1)),
        ("spiffebundle/spiffebundle_multiple_x509.json", None),
        ("spiffebundle/spiffebundle_no_keys.json", None),
        // Of version 1, which says of no certificate that it is an authority's.
        ("x509bundle/cert.pem", one(1, 0)),
        ("x509bundle/certs.pem", one(2, 0)),
        ("x509bundle/corrupted.pem", one(1, 0)),
        ("x509bundle/empty.pem", None),
        ("x509bundle/not-pem.pem", None),
        ("x509bundle/key.pem", None),
    ] {
        assert_eq!(names(&format!("go-spiffe/{path}")), expected, "{path}");
    }
}

#[test]
fn bundle_maps_of_grpc_go() {
    let map = |rows: &[(&str, usize, usize)]| {
        Some(rows.iter().map(|(domain, named, usable)| ((*domain).to_owned(), *named, *usable)).collect())
    };
    for (name, expected) in [
        // The second one's certificate is a workload's.
        ("spiffebundle", map(&[("example.com", 1, 1), ("test.example.com", 1, 0)])),
        ("spiffebundle2", map(&[("example.com", 1, 1)])),
        ("spiffebundle_match_client_spiffe", map(&[("foo.bar.com", 1, 1), ("test.example.com", 1, 0)])),
        ("spiffebundle_corrupted_cert", None),
        ("spiffebundle_empty_keys", None),
        ("spiffebundle_empty_string_key", None),
        ("spiffebundle_invalid_trustdomain", None),
        ("spiffebundle_malformed", None),
        ("spiffebundle_wrong_kid", None),
        ("spiffebundle_wrong_multi_certs", None),
        ("spiffebundle_wrong_root", None),
        ("spiffebundle_wrong_seq_type", None),
        // gRPC refuses these maps. The standard wants uses and types that are not known to be left aside, which leaves
        // a domain in which nobody is trusted.
        ("spiffebundle_wrong_kty", map(&[("example.com", 0, 0), ("test.example.com", 1, 0)])),
        ("spiffebundle_wrong_use", map(&[("example.com", 0, 0)])),
    ] {
        assert_eq!(names(&format!("grpc-go/spiffe/{name}.json")), expected, "{name}");
    }
}

/// Each of these authenticates to gRPC and not here: its key usage is missing, which X509-SVID §4.3 wants, or more than one
/// URI is in it.
#[test]
fn workloads_of_grpc_go_lack_what_an_svid_must_have() {
    let roots = || chain("grpc-go/spiffe_end2end/ca.pem").unwrap();
    for (name, domain, expected) in [
        ("spiffe_end2end/client_spiffe", "foo.bar.com", "key_usage"),
        ("spiffe_end2end/server_spiffe", "example.com", "key_usage"),
        ("spiffe_end2end/leaf_and_intermediate_chain", "example.com", "key_usage"),
        ("spiffe_end2end/leaf_signed_by_intermediate", "example.com", "key_usage"),
        ("spiffe/spiffe_multi_uri_san_cert", "foo.bar.com", "san_count"),
        ("spiffe/client_spiffe", "foo.bar.com", "key_usage"),
        ("spiffe/server1_spiffe", "example.com", "key_usage"),
    ] {
        let chain = chain(&format!("grpc-go/{name}.pem")).unwrap();
        assert_eq!(judge(&chain, domain, roots()), expected, "{name}");
    }
}
