//! The path core by the test cases of others, whose certificates carry DNS names and addresses: x509-limbo, and BetterTLS where
//! its exporter is installed.

use std::{collections::BTreeMap, fs, io::Write, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::ServerName;
use serde_json::Value;

use super::*;
use crate::identity::{
    certificate::Facts,
    revocation::Asked,
    verify::{OutsideTrust, verify_server},
};

/// Whether this server is accepted under this name.
fn judge(
    chain: &[CertificateDer<'static>],
    anchors: &Bundle,
    revocations: &Revocations,
    name: &str,
    now: SystemTime,
) -> Result<(), Reject> {
    let provider = default_provider().unwrap();
    let algorithms = &provider.signature_verification_algorithms;
    let trust = OutsideTrust { anchors, revocations, algorithms };
    let Ok(name) = ServerName::try_from(name) else { return Err(Reject::NameMismatch(name.into())) };
    verify_server(&chain[0], &chain[1..], &name, &trust, now)
}

fn der(base64: &Value) -> CertificateDer<'static> {
    STANDARD.decode(base64.as_str().unwrap()).unwrap().into()
}

/// What is accepted here and should not be.
const ACCEPTED: &[(&str, &str)] = &[
    ("rfc5280::aki::cross-signed-root-missing-aki", NO_KEY_ID),
    ("rfc5280::aki::intermediate-missing-aki", NO_KEY_ID),
    ("rfc5280::aki::leaf-missing-aki", NO_KEY_ID),
    ("rfc5280::nc::invalid-dnsname-leading-period", "widespread, and the library reads it as the suffix that is meant"),
    ("rfc5280::nc::permitted-dns-match-noncritical", "the constraint is applied all the same"),
    ("rfc5280::pc::ica-noncritical-pc", "nobody asks for a policy here"),
    ("rfc5280::root-non-critical-basic-constraints", "it says that it is an authority, which is what counts"),
    ("rfc5280::san::noncritical-with-empty-subject", "the names are read in any case"),
    ("rfc5280::san::underscore-dns", "names of containers have them"),
    ("rfc5280::ski::intermediate-missing-ski", NO_KEY_ID),
    ("rfc5280::ski::root-missing-ski", NO_KEY_ID),
    ("webpki::aki::root-with-aki-all-fields", FORUM),
    ("webpki::aki::root-with-aki-authoritycertissuer", FORUM),
    ("webpki::aki::root-with-aki-authoritycertserialnumber", FORUM),
    ("webpki::aki::root-with-aki-missing-keyidentifier", FORUM),
    ("webpki::aki::root-with-aki-ski-mismatch", FORUM),
    ("webpki::cn::case-mismatch", COMMON_NAME),
    ("webpki::cn::ipv4-hex-mismatch", COMMON_NAME),
    ("webpki::cn::ipv4-leading-zeros-mismatch", COMMON_NAME),
    ("webpki::cn::ipv6-non-rfc5952-mismatch", COMMON_NAME),
    ("webpki::cn::ipv6-uncompressed-mismatch", COMMON_NAME),
    ("webpki::cn::ipv6-uppercase-mismatch", COMMON_NAME),
    ("webpki::cn::not-in-san", COMMON_NAME),
    ("webpki::cn::punycode-not-in-san", COMMON_NAME),
    ("webpki::cn::utf8-vs-punycode-mismatch", COMMON_NAME),
    ("webpki::eku::ee-anyeku", "serverAuth stands beside it"),
    ("webpki::eku::ee-critical-eku", FORUM),
    ("webpki::eku::ee-without-eku", "without one, every use is allowed (RFC 5280 §4.2.1.12)"),
    ("webpki::eku::root-has-eku", FORUM),
    ("webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf", FORUM),
    ("webpki::forbidden-rsa-not-divisible-by-8-in-root", FORUM),
    ("webpki::malformed-aia", "it says where to fetch things, and nothing is fetched"),
    ("webpki::nc::intermediate-permitted-excluded-subtrees-both-empty-sequences", "constraints that constrain nothing"),
    ("webpki::nc::intermediate-permitted-excluded-subtrees-both-null", "constraints that constrain nothing"),
    ("webpki::san::public-suffix-multi-label-wildcard-san", SUFFIX),
    ("webpki::san::public-suffix-private-namespace-wildcard-san", SUFFIX),
    ("webpki::san::san-critical-with-nonempty-subject", FORUM),
];

/// Paths are found by name and signature; the identifiers only speed that up, and private authorities leave them out.
const NO_KEY_ID: &str = "a key identifier is missing";
const FORUM: &str =
    "a rule of the CA/Browser Forum for what public authorities issue, without bearing on who is believed";
const COMMON_NAME: &str = "the common name is never looked at, so it need not agree";
const SUFFIX: &str = "the list of public suffixes is not at hand";

/// What is refused here and should be accepted.
const REFUSED: &[(&str, &str)] = &[
    ("pathlen::self-issued-certs-pathlen", "the library counts signers that signed themselves anew"),
    ("pathlen::validation-ignores-pathlen-in-leaf", "an authority is no server"),
    ("rfc5280::ca-as-leaf", "an authority is no server"),
    ("rfc5280::nc::permitted-dn-match", "constraints on directory names are not judged, and fail closed"),
    ("rfc5280::nc::permitted-self-issued", "the library applies constraints to signers that signed themselves anew"),
];

#[test]
fn x509_limbo() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/identity/tests/data/x509-limbo/cases.json");
    let data: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let certificates: Vec<_> = data["certificates"].as_array().unwrap().iter().map(der).collect();
    let numbered = |numbers: &Value| -> Vec<_> {
        numbers.as_array().unwrap().iter().map(|at| certificates[at.as_u64().unwrap() as usize].clone()).collect()
    };
    let provider = default_provider().unwrap();
    let (mut right, mut accepted, mut refused) = (0, BTreeMap::new(), BTreeMap::new());
    let mut aside = Vec::new();
    let cases = data["cases"].as_array().unwrap();
    for case in cases {
        let id = case["id"].as_str().unwrap();
        // Clients known by an address of mail, and a depth to be set per call: neither is there to be tested.
        if case["kind"] == "CLIENT" || case["features"].to_string().contains("max-chain-depth") {
            aside.push(id);
            continue;
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(case["at"].as_u64().unwrap());
        let (anchors, _) = Bundle::new(numbered(&case["roots"]), false);
        let mut chain = vec![certificates[case["leaf"].as_u64().unwrap() as usize].clone()];
        chain.extend(numbered(&case["via"]));
        let revocations = match case["crls"].as_array() {
            Some(lists) => {
                let lists = lists.iter().map(|list| STANDARD.decode(list.as_str().unwrap()).unwrap());
                let algorithms = provider.signature_verification_algorithms;
                Revocations::none(Asked::Always).replaced(lists, &BundleMap::new(), algorithms, now).0
            }
            None => Revocations::default(),
        };
        let name = case["name"].as_str().unwrap_or("example.com");
        let found = judge(&chain, &anchors, &revocations, name, now);
        match (found, case["accept"].as_bool().unwrap()) {
            (Ok(()), false) => drop(accepted.insert(id, String::new())),
            (Err(why), true) => drop(refused.insert(id, why.to_string())),
            _ => right += 1,
        }
    }
    let listed = |list: &[(&'static str, &str)]| list.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    let found = |map: &BTreeMap<&str, String>| map.keys().map(ToString::to_string).collect::<Vec<_>>();
    println!("accepted {accepted:#?}\nrefused {refused:#?}\n{} aside, {right} right", aside.len());
    assert_eq!(found(&accepted), listed(ACCEPTED));
    assert_eq!(found(&refused), listed(REFUSED), "{refused:#?}");
    assert_eq!((cases.len(), aside.len(), right + ACCEPTED.len() + REFUSED.len()), (208, 15, 193));
}

/// 30 MB of them, exported by `tests/interop/peers.sh bettertls`.
#[test]
fn bettertls() {
    let Some(path) = vectors("bettertls.json") else { return };
    let data: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let root = der(&data["trustRoot"]);
    let (anchors, bad) = Bundle::new([root.clone()], false);
    assert_eq!(bad, []);
    // The exporter's clock: what it makes began a day before.
    let now = Facts::of(&root).unwrap().not_before + Duration::from_secs(86_400 + 60);
    let (mut seen, mut wrong, mut excused) = (BTreeMap::new(), Vec::new(), 0);
    for (suite, of) in data["suites"].as_object().unwrap() {
        for case in of["testCases"].as_array().unwrap() {
            *seen.entry(suite.as_str()).or_insert(0) += 1;
            let chain: Vec<_> = case["certificates"].as_array().unwrap().iter().map(der).collect();
            let host = case["hostname"].as_str().unwrap();
            let accepts = case["expected"] == "ACCEPT";
            let found = judge(&chain, &anchors, &Revocations::default(), host, now);
            if found.is_ok() != accepts {
                // Where the expected outcome is a recommendation only, both are right; none is accepted against it.
                if case["failureIsWarning"] == true && found.is_err() {
                    excused += 1;
                } else {
                    wrong.push(format!("{suite} {} expected {}, found {found:?}", case["id"], case["expected"]));
                }
            }
        }
    }
    println!("{excused} recommendations are refused");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(seen, [("nameconstraints", 9_491), ("pathbuilding", 81)].into());
}

/// A file of test vectors that is too large to be kept here.
fn vectors(name: &str) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let peers = set("SINEW_PEERS").or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        cache.map(|cache| cache.join("sinew-peers"))
    })?;
    let path = peers.join("vectors").join(name);
    if !path.exists() {
        // Written past the test harness, which shows what passing tests print to nobody.
        let _ =
            writeln!(std::io::stderr(), "\n*** SKIPPED: {} is not there; run tests/interop/peers.sh\n", path.display());
        return None;
    }
    Some(path)
}
