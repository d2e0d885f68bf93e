//! What is believed and what is not.

#[cfg(feature = "tonic")]
mod agent;
mod bad_certificates;
mod fixtures;
mod forge;
mod from_files;
mod mutations;
mod outside;
mod outside_paths;
mod paths;
mod revoked;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{
    bundle::{Bundle, BundleMap},
    material::{Change, Material, Svid},
    reject::Reject,
    revocation::Revocations,
    verify::{Trust, Verified, verify},
    *,
};
use crate::{
    name::{SpiffeId, TrustDomain},
    rt,
};

pub(in crate::identity) struct Authority {
    pub(in crate::identity) cert: CertificateDer<'static>,
    pub(in crate::identity) issuer: Issuer<'static, KeyPair>,
}

pub(in crate::identity) fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    let cert = params.self_signed(&key).unwrap().der().clone();
    Authority { cert, issuer: Issuer::new(params, key) }
}

impl Authority {
    pub(super) fn signer(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Authority { cert, issuer: Issuer::new(params, key) }
    }

    pub(in crate::identity) fn leaf(
        &self,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (cert, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

pub(in crate::identity) fn domain() -> TrustDomain {
    TrustDomain::new("a.example").unwrap()
}

pub(super) fn bundles(authorities: &[&Authority]) -> BundleMap {
    let (bundle, bad) = Bundle::new(authorities.iter().map(|authority| authority.cert.clone()), false);
    assert_eq!(bad, []);
    [(domain(), Arc::new(bundle))].into()
}

const ID: &str = "spiffe://a.example/ns/default/sa/web";

fn judged(
    bundles: &BundleMap,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<Verified, Reject> {
    let provider = default_provider().unwrap();
    let algorithms = &provider.signature_verification_algorithms;
    verify(leaf, intermediates, &Trust { bundles, revocations: &Revocations::default(), algorithms }, now)
}

fn reason(result: Result<Verified, Reject>) -> &'static str {
    result.map_or_else(|reject| reject.reason(), |_| "accepted")
}

fn at(seconds: i64) -> SystemTime {
    let wall = rt::wall();
    if seconds < 0 {
        wall - Duration::from_secs(seconds.unsigned_abs())
    } else {
        wall + Duration::from_secs(seconds as u64)
    }
}

#[test]
fn a_workload_of_a_known_domain_is_accepted() {
    let root = authority("root", |_| {});
    let (leaf, _) = root.leaf(&[ID], |_| {});
    let verified = judged(&bundles(&[&root]), &leaf, &[], rt::wall()).unwrap();
    assert_eq!(verified.id.as_str(), ID);
    let middle = root.signer("middle", |_| {});
    let (leaf, _) = middle.leaf(&[ID], |params| params.not_after = at(100).into());
    let verified = judged(&bundles(&[&root]), &leaf, std::slice::from_ref(&middle.cert), rt::wall()).unwrap();
    assert!(verified.not_after <= at(101));
}

/// Changes of a leaf that is otherwise right, and why each is refused.
#[test]
fn each_thing_that_is_wrong_with_a_leaf_has_its_reason() {
    let root = authority("root", |_| {});
    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    let uris = |uris: &[&str]| -> Change {
        let names: Vec<_> = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        Box::new(|params| params.subject_alt_names = names)
    };
    let cases: Vec<(&str, Change)> = vec![
        ("accepted", Box::new(|_| {})),
        ("accepted", Box::new(|params| params.subject_alt_names.push(SanType::DnsName("*.a".try_into().unwrap())))),
        ("accepted", Box::new(|params| params.extended_key_usages.clear())),
        ("accepted", Box::new(|params| params.is_ca = IsCa::ExplicitNoCa)),
        ("san_count", uris(&[])),
        ("san_count", uris(&[ID, ID])),
        ("san_count", uris(&[ID, "https://a.example"])),
        ("san_count", uris(&["https://a.example/web"])),
        ("san_count", uris(&["spiffe://a.example"])),
        ("san_count", uris(&["Spiffe://a.example/x"])),
        ("san_count", uris(&["spiffe://A.example/x"])),
        ("san_count", uris(&["spiffe://a.example:1/x"])),
        ("san_count", uris(&["spiffe://a.example/x?y"])),
        ("wrong_trust_domain", uris(&["spiffe://b.example/x"])),
        ("key_usage", Box::new(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("key_usage", Box::new(|params| params.key_usages.clear())),
        ("key_usage", Box::new(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement])),
        ("key_usage", Box::new(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign))),
        ("key_usage", Box::new(|params| params.key_usages.push(KeyUsagePurpose::CrlSign))),
        ("key_usage", Box::new(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])),
        ("expired", Box::new(|params| (params.not_before, params.not_after) = (at(-20).into(), at(-10).into()))),
        ("not_yet", Box::new(|params| (params.not_before, params.not_after) = (at(120).into(), at(200).into()))),
        ("accepted", Box::new(|params| (params.not_before, params.not_after) = (at(30).into(), at(200).into()))),
    ];
    let bundles = bundles(&[&root]);
    for (index, (expected, change)) in cases.into_iter().enumerate() {
        let (leaf, _) = root.leaf(&[ID], change);
        assert_eq!(reason(judged(&bundles, &leaf, &[], rt::wall())), expected, "case {index}");
    }
}

#[test]
fn each_thing_that_is_wrong_with_a_path_has_its_reason() {
    let root = authority("root", |_| {});
    let known = bundles(&[&root]);
    let with = |signer: Authority| {
        let (leaf, _) = signer.leaf(&[ID], |_| {});
        reason(judged(&known, &leaf, std::slice::from_ref(&signer.cert), rt::wall()))
    };
    assert_eq!(with(root.signer("middle", |_| {})), "accepted");
    assert_eq!(with(root.signer("middle", |params| params.key_usages.clear())), "key_usage");
    let no_signing = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(with(root.signer("middle", no_signing)), "key_usage");
    let ended =
        |params: &mut CertificateParams| (params.not_before, params.not_after) = (at(-20).into(), at(-10).into());
    assert_eq!(with(root.signer("middle", ended)), "expired");
    assert_eq!(with(authority("root", |_| {}).signer("middle", |_| {})), "unknown_ca");
    let (leaf, _) = root.signer("middle", |_| {}).leaf(&[ID], |_| {});
    assert_eq!(reason(judged(&known, &leaf, &[], rt::wall())), "unknown_ca");
    // A path longer than its authority allows.
    let short = authority("short", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let middle = short.signer("middle", |_| {});
    let (leaf, _) = middle.leaf(&[ID], |_| {});
    assert_eq!(reason(judged(&bundles(&[&short]), &leaf, std::slice::from_ref(&middle.cert), rt::wall())), "key_usage");
    // More than is looked at.
    let (leaf, _) = root.leaf(&[ID], |_| {});
    let many: Vec<_> = (0..8).map(|_| root.cert.clone()).collect();
    assert_eq!(reason(judged(&known, &leaf, &many, rt::wall())), "malformed");
    assert_eq!(reason(judged(&BundleMap::new(), &leaf, &[], rt::wall())), "wrong_trust_domain");
}

#[test]
fn an_authority_that_has_ended_vouches_for_nobody() {
    let ended = authority("root", |params| (params.not_before, params.not_after) = (at(-20).into(), at(-10).into()));
    let (leaf, _) = ended.leaf(&[ID], |_| {});
    assert_eq!(reason(judged(&bundles(&[&ended]), &leaf, &[], rt::wall())), "expired");
    let later = authority("root", |params| (params.not_before, params.not_after) = (at(100).into(), at(200).into()));
    let (leaf, _) = later.leaf(&[ID], |_| {});
    assert_eq!(reason(judged(&bundles(&[&later]), &leaf, &[], rt::wall())), "not_yet");
}

#[test]
fn what_cannot_be_an_authority_is_left_out_of_the_bundle_by_its_place() {
    let root = authority("root", |_| {});
    let (leaf, _) = root.leaf(&[ID], |_| {});
    let no_signing = authority("no", |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let garbage = CertificateDer::from(vec![0x30, 0]);
    let given = [leaf, root.cert.clone(), no_signing.cert.clone(), garbage, root.cert.clone()];
    let (bundle, bad) = Bundle::new(given, false);
    assert_eq!(bundle.len(), 1);
    let places: Vec<_> = bad.iter().map(|bad| bad.place).collect();
    assert_eq!(places, [1, 3, 4]);
    assert!(bad[0].to_string().contains("not a certificate authority"), "{}", bad[0]);
}

fn material(authority: &Authority, id: &str) -> Material {
    let (leaf, key) = authority.leaf(&[id], |_| {});
    let own = Svid::new(vec![leaf], key, &default_provider().unwrap()).unwrap();
    Material { own, bundles: Arc::new(bundles(&[authority])), revocations: Arc::default() }
}

#[test]
fn nothing_that_would_not_be_believed_is_published() {
    let (root, other) = (authority("root", |_| {}), authority("other", |_| {}));
    let identity = Identity::new(domain(), default_provider().unwrap());
    let expected = Expected::Domain(domain());
    assert!(identity.server_side().is_err() && identity.client_side(&expected).is_err());
    let changes = identity.changes();
    let good = material(&root, ID);
    identity.publish(good.clone()).unwrap();
    assert_eq!(*changes.borrow(), Change { generation: 1, own: 1 });
    identity.publish(good.clone()).unwrap();
    assert_eq!(changes.borrow().generation, 1, "equal content changes nothing");
    let unknown = Material { bundles: Arc::new(bundles(&[&other])), ..good.clone() };
    let error = identity.publish(unknown).unwrap_err();
    assert!(error.message().contains("unknown_ca"), "{error}");
    let foreign = material(&root, "spiffe://b.example/x");
    assert!(identity.publish(foreign).unwrap_err().message().contains("mesh.trust_domain"));
    let both = Material { bundles: Arc::new(bundles(&[&root, &other])), ..good };
    identity.publish(both).unwrap();
    assert_eq!(*changes.borrow(), Change { generation: 2, own: 1 }, "the own certificate is the same");
    identity.publish(material(&root, ID)).unwrap();
    assert_eq!(*changes.borrow(), Change { generation: 3, own: 2 });
    assert!(identity.server_side().is_ok() && identity.client_side(&expected).is_ok());
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let root = authority("root", |_| {});
    let (leaf, _) = root.leaf(&[ID], |_| {});
    let (_, other) = root.leaf(&[ID], |_| {});
    let error = Svid::new(vec![leaf], other, &default_provider().unwrap()).unwrap_err();
    assert!(error.contains("not the certificate's"), "{error}");
}

/// A handshake in memory: who the server saw, who the client saw.
fn shake(server: &ServerSide, client: &ClientSide) -> Result<(Option<Proven>, Option<Proven>), rustls::Error> {
    let address = || rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let name = client.name.clone().unwrap_or_else(address);
    let mut near = rustls::ClientConnection::new(Arc::clone(&client.config), name)?;
    let mut far = rustls::ServerConnection::new(Arc::clone(&server.config))?;
    while near.is_handshaking() || far.is_handshaking() || near.wants_write() || far.wants_write() {
        let mut bytes = Vec::new();
        while near.wants_write() {
            near.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            far.read_tls(&mut rest).unwrap();
            far.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while far.wants_write() {
            far.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            near.read_tls(&mut rest).unwrap();
            near.process_new_packets()?;
        }
    }
    Ok(((server.prove)(&far), (client.prove)(&near)))
}

#[test]
fn both_sides_learn_who_the_other_is_and_refuse_who_is_not_expected() {
    let root = authority("root", |_| {});
    let one = Identity::new(domain(), default_provider().unwrap());
    let two = Identity::new(domain(), default_provider().unwrap());
    one.publish(material(&root, "spiffe://a.example/one")).unwrap();
    two.publish(material(&root, "spiffe://a.example/two")).unwrap();
    let expect = |id: &str| Expected::Ids([SpiffeId::new(id).unwrap()].into());
    let server = two.server_side().unwrap();
    let (caller, callee) = shake(&server, &one.client_side(&expect("spiffe://a.example/two")).unwrap()).unwrap();
    let (caller, callee) = (caller.unwrap(), callee.unwrap());
    assert_eq!((caller.id.as_str(), callee.id.as_str()), ("spiffe://a.example/one", "spiffe://a.example/two"));
    assert!(caller.member && two.holds(&caller) && one.holds(&callee));
    let error = shake(&server, &one.client_side(&expect("spiffe://a.example/three")).unwrap()).unwrap_err();
    assert!(error.to_string().contains("IdentityMismatch"), "{error}");
    // Withdrawn: what was proven holds no longer.
    let other = authority("other", |_| {});
    two.publish(material(&other, "spiffe://a.example/two")).unwrap();
    assert!(!two.holds(&caller));
    assert!(shake(&two.server_side().unwrap(), &one.client_side(&expect("spiffe://a.example/two")).unwrap()).is_err());
}

#[cfg(feature = "dev-ca")]
#[test]
fn development_identities_are_one_familys_and_count_nowhere_else() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("dev");
    let path = inside.to_str().unwrap().to_owned();
    let env = move |name: &str| (name == "SINEW_DEV_DIR").then(|| path.clone());
    let provider = default_provider().unwrap();
    let (one, two) = (dev::DevAuthority::open(&env).unwrap(), dev::DevAuthority::open(&env).unwrap());
    let one = one.issue(&domain(), "default", "one", &provider).unwrap();
    let two = two.issue(&domain(), "default", "two", &provider).unwrap();
    assert_eq!(one.own.id().as_str(), "spiffe://a.example/ns/default/sa/one");
    assert_eq!(one.bundles, two.bundles, "the second process found the first one's authority");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&inside), mode(&inside.join("dev-ca.pem"))), (0o700, 0o600));
    assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 1, "nothing is left behind");
    let identity = Identity::new(domain(), Arc::clone(&provider));
    identity.publish(one).unwrap();
    // As anybody else's bundle would be read.
    let pem = std::fs::read(inside.join("dev-ca.pem")).unwrap();
    use rustls_pki_types::pem::PemObject;
    let root = CertificateDer::from_pem_slice(&pem).unwrap();
    let (bundle, bad) = Bundle::new([root], false);
    assert!(bundle.len() == 0 && bad[0].why.contains("development"), "{bad:?}");
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = dev::DevAuthority::open(&env).err().unwrap();
    assert!(error.contains("chmod 700"), "{error}");
}
