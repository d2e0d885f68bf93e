//! Revocation lists.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use super::*;
use crate::identity::certificate::Facts;

fn list(authority: &Authority, number: u64, revoked: &[&CertificateDer<'_>]) -> Vec<u8> {
    list_with(authority, number, revoked, |_| {})
}

fn list_with(
    authority: &Authority,
    number: u64,
    revoked: &[&CertificateDer<'_>],
    change: impl FnOnce(&mut CertificateRevocationListParams),
) -> Vec<u8> {
    let revoked_certs = revoked.iter().map(|der| RevokedCertParams {
        serial_number: SerialNumber::from_slice(Facts::of(der).unwrap().serial),
        revocation_time: at(-10).into(),
        reason_code: None,
        invalidity_date: None,
    });
    let mut params = CertificateRevocationListParams {
        this_update: at(-10).into(),
        next_update: at(1_000).into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    change(&mut params);
    params.signed_by(&authority.issuer).unwrap().der().to_vec()
}

fn replaced(before: &Revocations, lists: &[Vec<u8>], bundles: &BundleMap) -> (Revocations, Vec<String>) {
    let algorithms = default_provider().unwrap().signature_verification_algorithms;
    before.replaced(lists.to_vec(), bundles, algorithms, rt::wall())
}

fn read(lists: &[Vec<u8>], bundles: &BundleMap) -> Revocations {
    let (revocations, bad) = replaced(&Revocations::default(), lists, bundles);
    assert_eq!(bad, [""; 0]);
    revocations
}

fn by(
    revocations: &Revocations,
    bundles: &BundleMap,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: SystemTime,
) -> &'static str {
    let provider = default_provider().unwrap();
    let algorithms = &provider.signature_verification_algorithms;
    reason(verify(leaf, intermediates, &Trust { bundles, revocations, algorithms }, now))
}

#[test]
fn a_revoked_leaf_and_a_revoked_signer_are_refused_and_their_neighbours_are_not() {
    let root = authority("root", |_| {});
    let signing = |params: &mut CertificateParams| params.key_usages.push(KeyUsagePurpose::CrlSign);
    let (one, two) = (root.signer("one", signing), root.signer("two", signing));
    let (a, b, c) = (one.leaf(&[ID], |_| {}).0, one.leaf(&[ID], |_| {}).0, two.leaf(&[ID], |_| {}).0);
    let known = bundles(&[&root]);
    let lists = read(&[list(&root, 1, &[&two.cert]), list(&one, 1, &[&a])], &known);
    let judge = |leaf, signer: &Authority| by(&lists, &known, leaf, std::slice::from_ref(&signer.cert), rt::wall());
    assert_eq!(judge(&a, &one), "revoked");
    assert_eq!(judge(&b, &one), "accepted");
    assert_eq!(judge(&c, &two), "revoked");
}

#[test]
fn a_list_that_ran_out_or_was_taken_away_makes_nothing_good_again() {
    let root = authority("root", |_| {});
    let (leaf, _) = root.leaf(&[ID], |params| params.not_after = at(10_000).into());
    let known = bundles(&[&root]);
    let lists = read(&[list(&root, 1, &[])], &known);
    assert_eq!(by(&lists, &known, &leaf, &[], rt::wall()), "accepted");
    assert_eq!(by(&lists, &known, &leaf, &[], at(1_002)), "revocation_unknown");
    let revoked = read(&[list(&root, 1, &[&leaf])], &known);
    let (gone, bad) = replaced(&revoked, &[], &known);
    assert_eq!(bad, [""; 0]);
    assert_eq!(by(&gone, &known, &leaf, &[], rt::wall()), "revoked");
}

#[test]
fn the_newest_list_counts_and_an_older_one_brings_nobody_back() {
    let root = authority("root", |_| {});
    let (leaf, _) = root.leaf(&[ID], |_| {});
    let known = bundles(&[&root]);
    let (old, new) = (list(&root, 255, &[]), list(&root, 256, &[&leaf]));
    for order in [[old.clone(), new.clone()], [new.clone(), old.clone()]] {
        assert_eq!(by(&read(&order, &known), &known, &leaf, &[], rt::wall()), "revoked");
    }
    let (rolled_back, _) = replaced(&read(&[new], &known), &[old], &known);
    assert_eq!(by(&rolled_back, &known, &leaf, &[], rt::wall()), "revoked");
}

#[test]
fn a_list_signed_by_somebody_else_is_nobodys() {
    let (root, impostor) = (authority("root", |_| {}), authority("root", |_| {}));
    let (leaf, _) = root.leaf(&[ID], |_| {});
    let known = bundles(&[&root]);
    assert_eq!(by(&read(&[list(&impostor, 9, &[&leaf])], &known), &known, &leaf, &[], rt::wall()), "accepted");
    let both = read(&[list(&impostor, 9, &[]), list(&root, 1, &[&leaf])], &known);
    assert_eq!(by(&both, &known, &leaf, &[], rt::wall()), "revoked");
}

#[test]
fn what_cannot_be_used_is_named_and_the_last_good_list_stays() {
    let root = authority("root", |_| {});
    let (leaf, _) = root.leaf(&[ID], |_| {});
    let known = bundles(&[&root]);
    let good = read(&[list(&root, 1, &[&leaf])], &known);
    let future = list_with(&root, 2, &[], |params| params.this_update = at(120).into());
    let partial = list_with(&root, 3, &[], |params| {
        params.issuing_distribution_point = Some(rcgen::CrlIssuingDistributionPoint {
            distribution_point: rcgen::CrlDistributionPoint { uris: vec!["http://a/b".into()] },
            scope: Some(rcgen::CrlScope::UserCertsOnly),
        });
    });
    let mut flipped = list(&root, 4, &[]);
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    for (bad, why) in [
        (future, Some("future")),
        (partial, Some("issuingDistributionPoint")),
        (vec![0x30, 0], Some("")),
        (flipped, None),
    ] {
        let (next, complaints) = replaced(&good, &[bad], &known);
        assert_eq!(complaints.len(), usize::from(why.is_some()), "{complaints:?}");
        assert!(why.is_none_or(|why| complaints[0].contains(why)), "{complaints:?}");
        assert_eq!(by(&next, &known, &leaf, &[], rt::wall()), "revoked");
    }
}

#[test]
fn where_every_issuer_needs_a_list_one_without_is_refused() {
    let root = authority("root", |_| {});
    let (leaf, _) = root.leaf(&[ID], |_| {});
    let known = bundles(&[&root]);
    let always = Revocations::none(Asked::Always);
    assert_eq!(by(&always, &known, &leaf, &[], rt::wall()), "revocation_unknown");
    let (listed, _) = replaced(&always, &[list(&root, 1, &[])], &known);
    assert_eq!(by(&listed, &known, &leaf, &[], rt::wall()), "accepted");
}

/// Each authority has the same name, so only its key tells whose list is whose.
#[test]
fn three_changes_of_the_root_with_lists_on() {
    let roots: Vec<_> = (0..4).map(|_| authority("root", |_| {})).collect();
    let leaves: Vec<_> = roots.iter().map(|root| root.leaf(&[ID], |_| {})).collect();
    let doomed: Vec<_> = roots.iter().map(|root| root.leaf(&[ID], |_| {}).0).collect();
    let provider = default_provider().unwrap();
    let identity = Identity::new(domain(), Arc::clone(&provider));
    let mut revocations = Arc::new(Revocations::default());
    for (at, root) in roots.iter().enumerate() {
        let before = at.saturating_sub(1);
        let known = Arc::new(bundles(&[&roots[before], root]));
        let lists = [list(&roots[before], 2, &[&doomed[before]]), list(root, 1, &[&doomed[at]])];
        let (next, bad) = replaced(&revocations, &lists, &known);
        assert_eq!(bad, [""; 0]);
        revocations = Arc::new(next);
        let (leaf, key) = &leaves[at];
        let own = Svid::new(vec![leaf.clone()], key.clone_key(), &provider).unwrap();
        identity.publish(Material { own, bundles: Arc::clone(&known), revocations: Arc::clone(&revocations) }).unwrap();
        for trusted in [before, at] {
            assert_eq!(by(&revocations, &known, &leaves[trusted].0, &[], rt::wall()), "accepted", "{at} {trusted}");
            assert_eq!(by(&revocations, &known, &doomed[trusted], &[], rt::wall()), "revoked", "{at} {trusted}");
        }
        if at >= 2 {
            assert_eq!(by(&revocations, &known, &leaves[at - 2].0, &[], rt::wall()), "unknown_ca", "{at}");
        }
    }
    assert_eq!(identity.changes().borrow().generation, 4);
}

#[test]
fn what_a_peer_proved_ends_when_its_certificate_is_revoked() {
    let root = authority("root", |_| {});
    let provider = default_provider().unwrap();
    let identity = Identity::new(domain(), Arc::clone(&provider));
    let before = material(&root, ID);
    identity.publish(before.clone()).unwrap();
    let leaves: Vec<_> = (0..2).map(|_| root.leaf(&[ID], |_| {}).0).collect();
    let generation = identity.generation().unwrap();
    let proven: Vec<_> =
        leaves.iter().map(|leaf| generation.prove(Some(std::slice::from_ref(leaf))).unwrap()).collect();
    let revocations = Arc::new(read(&[list(&root, 1, &[&leaves[0]])], &before.bundles));
    identity.publish(Material { revocations, ..before }).unwrap();
    assert_eq!(proven.iter().map(|peer| identity.holds(peer)).collect::<Vec<_>>(), [false, true]);
}
