//! What the library below accepts of a path, and this verifier does not.

use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, NameConstraints};

use super::*;

fn through(change: impl FnOnce(&mut CertificateParams)) -> &'static str {
    let root = authority("root", |_| {});
    let middle = root.signer("middle", change);
    let (leaf, _) = middle.leaf(&[ID], |_| {});
    reason(judged(&bundles(&[&root]), &leaf, std::slice::from_ref(&middle.cert), rt::wall()))
}

fn critical(oid: &[u64], content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(true);
    extension
}

#[test]
fn a_signer_for_other_uses_signs_no_workloads() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    let with = |uses: &[ExtendedKeyUsagePurpose]| through(|params| params.extended_key_usages = uses.to_vec());
    assert_eq!(with(&[ServerAuth, ClientAuth]), "accepted");
    assert_eq!(with(&[Any]), "accepted");
    assert_eq!(with(&[CodeSigning]), "key_usage");
    assert_eq!(with(&[ServerAuth]), "key_usage");
}

#[test]
fn a_signer_of_another_trust_domain_signs_none_of_ours() {
    let named = |uri: &'static str| {
        through(move |params| params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())])
    };
    assert_eq!(named("spiffe://a.example"), "accepted");
    assert_eq!(named("spiffe://b.example"), "wrong_trust_domain");
}

#[test]
fn name_constraints_on_uris_fail_closed_and_others_do_not_touch_them() {
    let uri = |params: &mut CertificateParams| {
        // permittedSubtrees [0] { { [6] "a.example" } }
        let content = [&[0x30, 0x0f, 0xa0, 0x0d, 0x30, 0x0b, 0x86, 0x09][..], b"a.example"].concat();
        params.custom_extensions = vec![critical(&[2, 5, 29, 30], content)];
    };
    assert_eq!(through(uri), "name_constraints");
    let dns = |params: &mut CertificateParams| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("a.example".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    };
    assert_eq!(through(dns), "accepted");
}

#[test]
fn what_is_critical_must_be_understood() {
    assert_eq!(through(|params| params.custom_extensions = vec![critical(&[1, 2, 3, 4], vec![5, 0])]), "malformed");
}

#[test]
fn of_two_authorities_with_one_name_and_key_each_has_its_own_validity() {
    let key = KeyPair::generate().unwrap();
    let certificate = |from: i64, until: i64| {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = (at(from).into(), at(until).into());
        Authority { cert: params.self_signed(&key).unwrap().der().clone(), issuer: Issuer::new(params, key_of(&key)) }
    };
    let (ended, current) = (certificate(-100, -10), certificate(-50, 100));
    let (leaf, _) = current.leaf(&[ID], |_| {});
    for order in [[&ended, &current], [&current, &ended]] {
        let verified = judged(&bundles(&order), &leaf, &[], rt::wall()).unwrap();
        assert!(verified.not_after <= at(101) && verified.not_before >= at(-51));
    }
    assert_eq!(reason(judged(&bundles(&[&ended]), &leaf, &[], rt::wall())), "expired");
}

fn key_of(key: &KeyPair) -> KeyPair {
    KeyPair::try_from(key.serialize_der()).unwrap()
}

#[test]
fn what_was_accepted_ends_with_its_certificate() {
    let root = authority("root", |_| {});
    let identity = Identity::new(domain(), default_provider().unwrap());
    identity.publish(material(&root, ID)).unwrap();
    let (leaf, _) = root.leaf(&[ID], |params| params.not_after = at(100).into());
    let generation = identity.generation().unwrap();
    let judged = |now| generation.verify(&leaf, &[], now).map_err(|reject| reject.reason());
    assert!(judged(at(0)).is_ok() && judged(at(50)).is_ok());
    assert_eq!(judged(at(102)), Err("expired"));
    assert!(judged(at(50)).is_ok());
}
