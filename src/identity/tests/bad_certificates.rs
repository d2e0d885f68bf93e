//! Certificates that are wrong in exactly one way, by name, each with the reason it is refused for; and odd ones that are
//! right.

use std::collections::BTreeSet;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::pem::PemObject;

use super::{
    forge::{BASIC, CONSTRAINTS, Draft, PURPOSES, SAN, Signer, USAGE, name, names, purposes, spki, uri, usage},
    *,
};
use crate::identity::{
    certificate::Facts,
    encode::{extension, sequence, tlv},
};

/// A chain, leaf first, whom to trust, and when.
struct Case {
    chain: Vec<CertificateDer<'static>>,
    trusted: Vec<CertificateDer<'static>>,
    revocations: Revocations,
    now: SystemTime,
}

impl Case {
    fn new(chain: Vec<CertificateDer<'static>>, root: &Signer) -> Self {
        Self { chain, trusted: vec![root.cert.clone()], revocations: Revocations::default(), now: rt::wall() }
    }

    fn judge(&self) -> Result<Verified, Reject> {
        let provider = default_provider().unwrap();
        let (bundle, _) = Bundle::new(self.trusted.clone(), false);
        let bundles = [(domain(), Arc::new(bundle))].into();
        let algorithms = &provider.signature_verification_algorithms;
        let trust = Trust { bundles: &bundles, revocations: &self.revocations, algorithms };
        verify(&self.chain[0], &self.chain[1..], &trust, self.now)
    }
}

fn leaf(change: impl FnOnce(&mut Draft)) -> Case {
    let root = Signer::root(|_| {});
    Case::new(vec![root.leaf(change)], &root)
}

fn san(list: &[Vec<u8>]) -> Case {
    leaf(|draft| draft.put(SAN, false, &names(list)))
}

fn id(text: &str) -> Case {
    san(&[uri(text.as_bytes())])
}

fn through(change: impl FnOnce(&mut Draft)) -> Case {
    let root = Signer::root(|_| {});
    let middle = root.sub("middle", change);
    Case::new(vec![middle.leaf(|_| {}), middle.cert.clone()], &root)
}

fn under(change: impl FnOnce(&mut Draft)) -> Case {
    let root = Signer::root(change);
    Case::new(vec![root.leaf(|_| {})], &root)
}

/// A certificate whose bytes are changed after they were signed, and signed bytes that were not DER to begin with.
fn bytes(change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Case {
    let mut case = leaf(|_| {});
    case.chain[0] = change(case.chain[0].to_vec()).into();
    case
}

/// A chain by an authority of OpenSSL's making that a strong root has signed, or that is itself the root.
fn weak(pem: (&[u8], &[u8]), below_a_root: bool) -> Case {
    let [leaf, ca] = [pem.0, pem.1].map(|pem| CertificateDer::from_pem_slice(pem).unwrap());
    let facts = Facts::of(&ca).unwrap();
    let root = Signer::root(|draft| draft.until = at(20 * 365 * 86_400));
    let mut cross = Draft::signer("", facts.spki.to_vec());
    cross.subject = sequence(&[facts.subject]);
    cross.until = at(20 * 365 * 86_400);
    let cross = cross.signed_by(&root);
    let mut case = Case::new(vec![leaf, cross], &root);
    if !below_a_root {
        case.chain.pop();
        case.trusted = vec![ca];
    }
    // OpenSSL dated them when they were made.
    case.now = case.now.max(Facts::of(&case.chain[0]).unwrap().not_before);
    case
}

macro_rules! weak {
    ($name:literal) => {
        (
            &include_bytes!(concat!("data/weak/", $name, "-leaf.pem"))[..],
            &include_bytes!(concat!("data/weak/", $name, "-ca.pem"))[..],
        )
    };
}

/// A list of these serial numbers, by the signer.
fn revoking(signer: &Signer, serials: &[&CertificateDer<'_>], from: i64, until: i64) -> Vec<u8> {
    let revoked_certs = serials.iter().map(|der| RevokedCertParams {
        serial_number: SerialNumber::from_slice(Facts::of(der).unwrap().serial),
        revocation_time: at(-10).into(),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: at(from).into(),
        next_update: at(until).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    // By the signer's name and key; what rcgen believes of its certificate does not matter.
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = rcgen::DistinguishedName::new();
    issuer.distinguished_name.push(DnType::CommonName, common(&signer.name));
    let key = KeyPair::try_from(signer.key.serialize_der()).unwrap();
    params.signed_by(&Issuer::new(issuer, key)).unwrap().der().to_vec()
}

fn common(name: &[u8]) -> String {
    String::from_utf8(name[13..].to_vec()).unwrap()
}

fn with_lists(mut case: Case, asked: Asked, lists: Vec<Vec<u8>>) -> Case {
    let (bundle, _) = Bundle::new(case.trusted.clone(), false);
    let bundles = [(domain(), Arc::new(bundle))].into();
    let algorithms = default_provider().unwrap().signature_verification_algorithms;
    case.revocations = Revocations::none(asked).replaced(lists, &bundles, algorithms, rt::wall()).0;
    case
}

fn path_length(length: u8) -> Vec<u8> {
    sequence(&[&[1, 1, 0xff], &[2, 1, length]])
}

const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Every bad certificate: its name, why it is refused, and the certificate.
fn bad() -> Vec<(&'static str, &'static str, Case)> {
    let mut cases: Vec<(&'static str, &'static str, Case)> = Vec::new();
    let mut bad = |name, reason, case| cases.push((name, reason, case));

    // Names.
    bad("no_uri", "san_count", san(&[tlv(0x82, &[b"a.example"])]));
    bad("no_san", "san_count", leaf(|draft| draft.without(SAN)));
    bad(
        "cn_only_identity",
        "san_count",
        leaf(|draft| {
            draft.without(SAN);
            draft.subject = name(ID);
        }),
    );
    bad("two_uris", "san_count", san(&[uri(ID.as_bytes()), uri(b"spiffe://a.example/other")]));
    bad("the_same_uri_twice", "san_count", san(&[uri(ID.as_bytes()), uri(ID.as_bytes())]));
    bad("a_uri_and_one_that_is_not_utf8", "san_count", san(&[uri(ID.as_bytes()), uri(&[0xff, 0xfe])]));
    bad("a_uri_and_an_empty_one", "san_count", san(&[uri(b""), uri(ID.as_bytes())]));
    bad("a_uri_that_is_not_utf8", "san_count", san(&[uri(&[ID.as_bytes(), &[0xc3, 0x28]].concat())]));
    bad("identity_as_a_dns_name", "san_count", san(&[tlv(0x82, &[ID.as_bytes()])]));
    bad("trust_domain_as_identity", "san_count", id("spiffe://a.example"));
    bad("scheme_in_capitals", "san_count", id("Spiffe://a.example/x"));
    bad("another_scheme", "san_count", id("https://a.example/x"));
    bad("trust_domain_in_capitals", "san_count", id("spiffe://A.example/x"));
    bad("user_in_the_identity", "san_count", id("spiffe://u@a.example/x"));
    bad("port_in_the_identity", "san_count", id("spiffe://a.example:1/x"));
    bad("query_in_the_identity", "san_count", id("spiffe://a.example/x?y"));
    bad("fragment_in_the_identity", "san_count", id("spiffe://a.example/x#y"));
    bad("percent_in_the_identity", "san_count", id("spiffe://a.example/%78"));
    bad("dots_in_the_identity", "san_count", id("spiffe://a.example/x/../y"));
    bad("slash_behind_the_identity", "san_count", id("spiffe://a.example/x/"));
    bad("nul_in_the_identity", "san_count", id("spiffe://a.example/x\0"));
    bad("identity_of_2049_bytes", "san_count", id(&format!("spiffe://a.example/{}", "x".repeat(2049 - 19))));
    bad("empty_san", "malformed", san(&[]));
    bad("name_of_no_known_type", "malformed", san(&[uri(ID.as_bytes()), tlv(0x89, &[b"x"])]));

    // Uses.
    bad("leaf_is_an_authority", "key_usage", leaf(|draft| draft.put(BASIC, true, &sequence(&[&[1, 1, 0xff]]))));
    bad("basic_constraints_malformed", "malformed", leaf(|draft| draft.put(BASIC, true, &[0x30, 3, 1, 1, 1])));
    bad("basic_constraints_with_a_default", "malformed", leaf(|draft| draft.put(BASIC, true, &[0x30, 3, 1, 1, 0])));
    bad("path_length_without_ca", "malformed", leaf(|draft| draft.put(BASIC, true, &[0x30, 3, 2, 1, 0])));
    bad("no_key_usage", "key_usage", leaf(|draft| draft.without(USAGE)));
    bad("key_usage_not_critical", "key_usage", leaf(|draft| draft.put(USAGE, false, &usage(7, &[0x80]))));
    bad("key_usage_cert_sign", "key_usage", leaf(|draft| draft.put(USAGE, true, &usage(2, &[0x84]))));
    bad("key_usage_crl_sign", "key_usage", leaf(|draft| draft.put(USAGE, true, &usage(1, &[0x82]))));
    bad("key_usage_no_signature", "key_usage", leaf(|draft| draft.put(USAGE, true, &usage(5, &[0x20]))));
    bad("key_usage_without_a_use", "malformed", leaf(|draft| draft.put(USAGE, true, &usage(0, &[]))));
    bad("key_usage_with_trailing_zeros", "malformed", leaf(|draft| draft.put(USAGE, true, &usage(0, &[0x80]))));
    bad("purpose_client_only", "key_usage", leaf(|draft| draft.put(PURPOSES, false, &purposes(&[2]))));
    bad("purpose_server_only", "key_usage", leaf(|draft| draft.put(PURPOSES, false, &purposes(&[1]))));
    bad("purpose_none", "malformed", leaf(|draft| draft.put(PURPOSES, false, &purposes(&[]))));

    // Encoding.
    bad(
        "san_twice",
        "malformed",
        leaf(|draft| {
            draft.extensions.push((SAN, extension(SAN, false, &names(&[uri(ID.as_bytes())]))));
        }),
    );
    bad(
        "key_usage_twice",
        "malformed",
        leaf(|draft| {
            draft.extensions.push((USAGE, extension(USAGE, true, &usage(7, &[0x80]))));
        }),
    );
    bad(
        "unknown_extension_twice",
        "malformed",
        leaf(|draft| {
            draft.extensions.extend([
                (CONSTRAINTS, extension(&[0x2a, 3], false, &[5, 0])),
                (&[], extension(&[0x2a, 3], false, &[5, 0])),
            ]);
        }),
    );
    bad(
        "oid_not_minimal",
        "malformed",
        leaf(|draft| {
            draft.extensions.push((&[], extension(&[0x55, 0x1d, 0x80, 0x11], false, &[5, 0])));
        }),
    );
    bad(
        "criticality_written_as_default",
        "malformed",
        leaf(|draft| {
            let written = sequence(&[&tlv(0x06, &[&[0x2a, 3]]), &[1, 1, 0], &tlv(0x04, &[&[5, 0]])]);
            draft.extensions.push((&[], written));
        }),
    );
    bad("bytes_behind_the_certificate", "malformed", bytes(|der| [&der[..], &[0]].concat()));
    bad("bytes_behind_the_extensions", "malformed", leaf(|draft| draft.behind = vec![5, 0]));
    bad(
        "bytes_behind_the_names",
        "malformed",
        leaf(|draft| {
            draft.put(SAN, false, &[&names(&[uri(ID.as_bytes())])[..], &[5, 0]].concat());
        }),
    );
    bad("length_not_minimal", "malformed", bytes(|der| [&[0x30, 0x83, 0], &der[2..]].concat()));
    bad("length_indefinite", "malformed", bytes(|der| [&[0x30, 0x80], &der[4..], &[0, 0]].concat()));
    bad("cut_short", "malformed", bytes(|der| der[..der.len() - 1].to_vec()));
    bad("empty", "malformed", bytes(|_| Vec::new()));
    bad(
        "high_tag",
        "malformed",
        bytes(|mut der| {
            der[0] = 0x3f;
            der
        }),
    );
    bad(
        "version_1",
        "malformed",
        leaf(|draft| {
            draft.version.clear();
            draft.extensions.clear();
        }),
    );
    bad("version_2", "malformed", leaf(|draft| draft.version = vec![0xa0, 3, 2, 1, 1]));
    bad("serial_of_22_bytes", "malformed", leaf(|draft| draft.serial = tlv(2, &[&[1; 22]])));
    bad("ends_before_it_begins", "malformed", leaf(|draft| (draft.from, draft.until) = (at(100), at(50))));
    bad(
        "unknown_critical_extension",
        "malformed",
        leaf(|draft| {
            draft.extensions.push((&[], extension(&[0x2a, 3], true, &[5, 0])));
        }),
    );
    bad("algorithms_differ", "algorithm", {
        let root = Signer::root(|_| {});
        let draft = Draft::leaf(ID, spki(&KeyPair::generate().unwrap())).with_algorithms(true, false);
        Case::new(vec![draft.signed_by(&root)], &root)
    });

    // Signatures.
    bad(
        "signature_flipped",
        "unknown_ca",
        bytes(|mut der| {
            let last = der.len() - 1;
            der[last] ^= 1;
            der
        }),
    );
    bad(
        "signed_part_flipped",
        "unknown_ca",
        bytes(|mut der| {
            // A letter of the subject's name, which nothing else looks at.
            let at = der.windows(8).position(|window| window == b"workload").unwrap();
            der[at] ^= 0x20;
            der
        }),
    );
    bad("self_signed", "unknown_ca", {
        let alone = Signer::root(|draft| draft.subject = name("workload"));
        let mut case = leaf(|_| {});
        case.chain[0] = alone.leaf(|draft| draft.subject = name("workload"));
        case
    });
    bad("another_authority_of_the_same_name", "unknown_ca", {
        let mut case = leaf(|_| {});
        case.chain[0] = Signer::root(|_| {}).leaf(|_| {});
        case
    });
    bad("leaf_as_authority_of_itself", "wrong_trust_domain", {
        let mut case = leaf(|_| {});
        case.trusted = case.chain.clone();
        case
    });
    bad("leaf_as_signer", "key_usage", {
        let root = Signer::root(|_| {});
        let key = KeyPair::generate().unwrap();
        let cert = Draft::leaf("spiffe://a.example/signer", spki(&key)).signed_by(&root);
        let signer = Signer { name: name("workload"), key, cert };
        Case::new(vec![signer.leaf(|draft| draft.subject = name("below")), signer.cert.clone()], &root)
    });
    bad("bundle_of_another_trust_domain", "wrong_trust_domain", id("spiffe://b.example/x"));

    // Signers.
    bad("signer_without_cert_sign", "key_usage", through(|draft| draft.put(USAGE, true, &usage(1, &[0x02]))));
    bad("signer_without_key_usage", "key_usage", through(|draft| draft.without(USAGE)));
    bad("signer_without_ca", "key_usage", through(|draft| draft.put(BASIC, true, &sequence(&[]))));
    bad("signer_without_basic_constraints", "key_usage", through(|draft| draft.without(BASIC)));
    bad("signer_for_code", "key_usage", through(|draft| draft.put(PURPOSES, false, &purposes(&[3]))));
    bad("signer_expired", "expired", through(|draft| draft.until = at(-1)));
    bad("signer_not_yet", "not_yet", through(|draft| draft.from = at(62)));
    bad(
        "signer_of_another_trust_domain",
        "wrong_trust_domain",
        through(|draft| {
            draft.put(SAN, false, &names(&[uri(b"spiffe://b.example")]));
        }),
    );
    bad("signer_malformed", "malformed", {
        let mut case = through(|_| {});
        case.chain[1] = [&case.chain[1][..], &[0]].concat().into();
        case
    });
    bad("signer_missing", "unknown_ca", {
        let mut case = through(|_| {});
        case.chain.pop();
        case
    });
    bad("path_longer_than_a_signer_allows", "key_usage", {
        let root = Signer::root(|_| {});
        let top = root.sub("top", |draft| draft.put(BASIC, true, &path_length(0)));
        let low = top.sub("low", |_| {});
        Case::new(vec![low.leaf(|_| {}), low.cert.clone(), top.cert.clone()], &root)
    });
    bad("path_longer_than_the_authority_allows", "key_usage", {
        let root = Signer::root(|draft| draft.put(BASIC, true, &path_length(0)));
        let low = root.sub("low", |_| {});
        Case::new(vec![low.leaf(|_| {}), low.cert.clone()], &root)
    });
    bad(
        "constraint_on_uris",
        "name_constraints",
        through(|draft| {
            let permitted = tlv(0xa0, &[&sequence(&[&uri(b"a.example")])]);
            draft.put(CONSTRAINTS, true, &sequence(&[&permitted]));
        }),
    );
    bad("nine_certificates", "malformed", {
        let mut case = through(|_| {});
        case.chain.extend((0..7).map(|n| Signer::root(|draft| draft.subject = name(&format!("{n}"))).cert));
        case
    });
    bad("chain_of_17_kib", "malformed", {
        let large = |common: &str| {
            Signer::root(|draft| {
                draft.subject = name(common);
                draft.extensions.push((&[], extension(&[0x2a, 3], false, &vec![0; 8 * 1024 + 512])));
            })
        };
        let mut case = leaf(|_| {});
        case.chain.extend([large("a").cert, large("b").cert]);
        case
    });

    // Time.
    bad("expired_a_second_ago", "expired", leaf(|draft| draft.until = at(-2)));
    bad("begins_in_62_seconds", "not_yet", leaf(|draft| draft.from = at(62)));
    bad("authority_expired", "expired", under(|draft| draft.until = at(-2)));
    bad("authority_not_yet", "not_yet", under(|draft| draft.from = at(62)));
    bad("far_future_clock", "expired", {
        let mut case = leaf(|_| {});
        case.now += NEVER;
        case
    });

    // Authorities that cannot be any: the bundle is empty without them.
    bad("authority_without_cert_sign", "wrong_trust_domain", under(|draft| draft.put(USAGE, true, &usage(1, &[0x02]))));
    bad("authority_without_ca", "wrong_trust_domain", under(|draft| draft.put(BASIC, true, &sequence(&[]))));
    bad(
        "authority_for_development",
        "wrong_trust_domain",
        under(|draft| {
            let mark = extension(&[0x69, 0x83, 0xa5, 0xa1, 0x21, 0x9f, 0x21], true, &[5, 0]);
            draft.extensions.push((&[], mark));
        }),
    );

    // Revocation.
    bad("revoked", "revoked", {
        let root = Signer::root(|_| {});
        let case = Case::new(vec![root.leaf(|_| {})], &root);
        let list = revoking(&root, &[&case.chain[0]], -10, 100);
        with_lists(case, Asked::WhereListed, vec![list])
    });
    bad("signer_revoked", "revoked", {
        let root = Signer::root(|_| {});
        let middle = root.sub("middle", |_| {});
        let list = revoking(&root, &[&middle.cert], -10, 100);
        with_lists(Case::new(vec![middle.leaf(|_| {}), middle.cert.clone()], &root), Asked::WhereListed, vec![list])
    });
    bad("list_out_of_date", "revocation_unknown", {
        let root = Signer::root(|_| {});
        let list = revoking(&root, &[], -100, -10);
        with_lists(Case::new(vec![root.leaf(|_| {})], &root), Asked::WhereListed, vec![list])
    });
    bad("list_of_another_issuer", "revocation_unknown", {
        let root = Signer::root(|_| {});
        let list = revoking(&Signer::root(|_| {}), &[], -10, 100);
        with_lists(Case::new(vec![root.leaf(|_| {})], &root), Asked::Always, vec![list])
    });
    bad("list_of_the_future", "revocation_unknown", {
        let root = Signer::root(|_| {});
        let list = revoking(&root, &[], 120, 200);
        with_lists(Case::new(vec![root.leaf(|_| {})], &root), Asked::Always, vec![list])
    });

    // Keys and digests.
    bad("rsa_1024_signer", "algorithm", weak(weak!("rsa-1024"), true));
    bad("rsa_1024_authority", "wrong_trust_domain", weak(weak!("rsa-1024"), false));
    bad("sha_1", "algorithm", weak(weak!("rsa-2048-sha1"), false));
    bad("md5", "algorithm", weak(weak!("rsa-2048-md5"), false));
    bad("p_192_signer", "algorithm", weak(weak!("p-192"), true));
    bad("p_192_authority", "wrong_trust_domain", weak(weak!("p-192"), false));
    bad("secp256k1_signer", "algorithm", weak(weak!("secp256k1"), true));
    bad("rsa_pss_key", "algorithm", weak(weak!("rsa-pss"), true));
    bad("rsa_1024_leaf", "algorithm", {
        let root = Signer::root(|_| {});
        let modulus = [&[0x00, 0x80][..], &[0x55; 126], &[0x01]].concat();
        let key = sequence(&[&tlv(2, &[&modulus]), &[2, 3, 1, 0, 1]]);
        let algorithm = sequence(&[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1], &[5, 0]]);
        let spki = sequence(&[&algorithm, &tlv(3, &[&[0], &key])]);
        Case::new(vec![Draft::leaf(ID, spki).signed_by(&root)], &root)
    });
    cases
}

#[test]
fn no_bad_certificate_is_accepted_and_each_is_refused_for_its_own_reason() {
    let cases = bad();
    let names: BTreeSet<_> = cases.iter().map(|(name, ..)| name).collect();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 60, "{}", cases.len());
    let wrong: Vec<_> = cases
        .iter()
        .map(|(name, expected, case)| (name, expected, reason(case.judge())))
        .filter(|(_, expected, found)| **expected != *found)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn odd_certificates_that_are_right_are_accepted() {
    let ed25519 = |change: fn(&mut CertificateParams)| {
        let key = || KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_key = key();
        let root = params.self_signed(&root_key).unwrap().der().clone();
        let mut leaf = CertificateParams::default();
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        change(&mut leaf);
        let leaf = leaf.signed_by(&key(), &Issuer::new(params, root_key)).unwrap().der().clone();
        Case { chain: vec![leaf], trusted: vec![root], revocations: Revocations::default(), now: rt::wall() }
    };
    let cases: Vec<(&str, Case)> = vec![
        ("plain", leaf(|_| {})),
        ("basic_constraints_absent", leaf(|draft| draft.without(BASIC))),
        ("purposes_absent", leaf(|draft| draft.without(PURPOSES))),
        ("purposes_and_more", leaf(|draft| draft.put(PURPOSES, false, &purposes(&[1, 2, 17])))),
        ("key_usage_and_more", leaf(|draft| draft.put(USAGE, true, &usage(3, &[0xa8])))),
        ("wildcard_dns_beside_the_uri", san(&[tlv(0x82, &[b"*.a.example"]), uri(ID.as_bytes())])),
        ("san_critical", leaf(|draft| draft.put(SAN, true, &names(&[uri(ID.as_bytes())])))),
        ("empty_subject", leaf(|draft| draft.subject = sequence(&[]))),
        ("unknown_extension", leaf(|draft| draft.extensions.push((&[], extension(&[0x2a, 3], false, &[5, 0]))))),
        ("identity_of_2048_bytes", id(&format!("spiffe://a.example/{}", "x".repeat(2048 - 19)))),
        ("begins_in_55_seconds", leaf(|draft| draft.from = at(55))),
        ("signer_begins_in_55_seconds", through(|draft| draft.from = at(55))),
        ("authority_begins_in_55_seconds", under(|draft| draft.from = at(55))),
        ("authority_without_key_usage", under(|draft| draft.without(USAGE))),
        (
            "signer_with_the_trust_domains_id",
            through(|draft| {
                draft.put(SAN, false, &names(&[uri(b"spiffe://a.example")]));
            }),
        ),
        (
            "constraint_on_dns_only",
            through(|draft| {
                let permitted = tlv(0xa0, &[&sequence(&[&tlv(0x82, &[b"b.example"])])]);
                draft.put(CONSTRAINTS, true, &sequence(&[&permitted]));
            }),
        ),
        ("root_in_the_chain", {
            let mut case = through(|_| {});
            case.chain.push(case.trusted[0].clone());
            case
        }),
        ("signers_in_another_order", {
            let root = Signer::root(|_| {});
            let top = root.sub("top", |_| {});
            let low = top.sub("low", |_| {});
            Case::new(vec![low.leaf(|_| {}), top.cert.clone(), low.cert.clone()], &root)
        }),
        ("six_signers", {
            let root = Signer::root(|_| {});
            let mut signers: Vec<Signer> = Vec::new();
            for n in 0..6 {
                let next = signers.last().unwrap_or(&root).sub(&format!("{n}"), |_| {});
                signers.push(next);
            }
            let mut chain = vec![signers[5].leaf(|_| {})];
            chain.extend(signers.iter().rev().map(|signer| signer.cert.clone()));
            Case::new(chain, &root)
        }),
        ("ed25519", ed25519(|_| {})),
        ("rsa_2048", weak(weak!("rsa-2048"), false)),
        ("rsa_2048_signer", weak(weak!("rsa-2048"), true)),
    ];
    let wrong: Vec<_> =
        cases.iter().filter_map(|(name, case)| case.judge().err().map(|reject| (name, reject.to_string()))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
