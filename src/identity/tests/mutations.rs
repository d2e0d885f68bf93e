//! What strangers may send, broken at random: nothing panics, and nothing that was changed is accepted.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, SerialNumber};

use super::{forge::Signer, *};
use crate::{
    identity::{certificate::Facts, document::BundleDocument},
    rt::Rng,
};

const ROUNDS: u64 = 20_000;

/// One to four changes: a byte, a cut, a repetition, an insertion.
fn mutate(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len().max(1) as u32) as usize;
        match rng.below(6) {
            0..=2 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
            3 => bytes.truncate(at),
            4 => {
                let until = (at + rng.below(64) as usize).min(bytes.len());
                let repeated = bytes[at..until].to_vec();
                bytes.splice(at..at, repeated);
            }
            _ => bytes.insert(at, rng.next_u64() as u8),
        }
    }
    bytes
}

#[test]
fn certificates_and_chains() {
    let root = Signer::root(|_| {});
    let middle = root.sub("middle", |_| {});
    let leaf = middle.leaf(|_| {});
    let bundles = [(domain(), Arc::new(Bundle::new([root.cert.clone()], false).0))].into();
    assert_eq!(reason(judged(&bundles, &leaf, std::slice::from_ref(&middle.cert), rt::wall())), "accepted");
    let mut rng = Rng::seeded(7);
    for round in 0..ROUNDS {
        let (mut a, mut b) = (leaf.clone(), middle.cert.clone());
        let changed = if round % 2 == 0 { &mut a } else { &mut b };
        let before = changed.clone();
        *changed = mutate(changed, &mut rng).into();
        if *changed == before {
            continue;
        }
        let _ = Facts::of(changed).map(|facts| (facts.workload(), facts.has_strong_key(), facts.key_type()));
        let _ = Bundle::new([changed.clone().into_owned()], false);
        let found = judged(&bundles, &a, std::slice::from_ref(&b), rt::wall());
        assert!(found.is_err(), "round {round}: {found:?}");
    }
}

#[test]
fn revocation_lists() {
    let root = authority("root", |_| {});
    let params = CertificateRevocationListParams {
        this_update: at(-10).into(),
        next_update: at(1_000).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&root.issuer).unwrap().der().to_vec();
    let known = bundles(&[&root]);
    let (leaf, _) = root.leaf(&[ID], |_| {});
    let provider = default_provider().unwrap();
    let algorithms = provider.signature_verification_algorithms;
    let always = Revocations::none(Asked::Always);
    let judge = |list: Vec<u8>| {
        let (revocations, _) = always.replaced([list], &known, algorithms, rt::wall());
        let trust = Trust { bundles: &known, revocations: &revocations, algorithms: &algorithms };
        reason(verify(&leaf, &[], &trust, rt::wall()))
    };
    assert_eq!(judge(list.clone()), "accepted");
    let mut rng = Rng::seeded(8);
    for round in 0..ROUNDS / 10 {
        let changed = mutate(&list, &mut rng);
        if changed != list {
            assert_eq!(judge(changed), "revocation_unknown", "round {round}");
        }
    }
}

#[test]
fn bundles_and_identities() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/identity/tests/data/grpc-go/spiffe/spiffebundle2.json");
    let document = std::fs::read(directory).unwrap();
    assert!(BundleDocument::parse(&document).is_ok());
    let mut rng = Rng::seeded(9);
    for _ in 0..ROUNDS / 10 {
        let _ = BundleDocument::parse(&mutate(&document, &mut rng));
    }
    for _ in 0..ROUNDS {
        let text = mutate(ID.as_bytes(), &mut rng);
        let Ok(text) = std::str::from_utf8(&text) else { continue };
        if let Ok(id) = SpiffeId::new(text) {
            // What is accepted is written back as it was read.
            assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            assert!(TrustDomain::new(id.trust_domain()).is_ok());
        }
        let _ = TrustDomain::new(text);
    }
}
