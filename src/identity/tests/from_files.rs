//! Identity from files, as they are really replaced.

use std::{fs, os::unix::fs::symlink, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, SerialNumber};

use super::*;
use crate::rt::TaskSet;

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// Certificate and key, PEM.
fn issued(root: &Authority, id: &str) -> (String, String) {
    let (leaf, key) = root.leaf(&[id], |_| {});
    (pem("CERTIFICATE", &leaf), pem("PRIVATE KEY", key.secret_der()))
}

fn write(directory: &Path, root: &Authority, id: &str) {
    let (cert, key) = issued(root, id);
    fs::write(directory.join("tls.crt"), cert).unwrap();
    fs::write(directory.join("tls.key"), key).unwrap();
    fs::write(directory.join("ca.crt"), pem("CERTIFICATE", &root.cert)).unwrap();
}

fn files(directory: &Path) -> (Files, Identity) {
    files_with(directory, None)
}

fn files_with(directory: &Path, crl: Option<&Path>) -> (Files, Identity) {
    let identity = Identity::new(domain(), default_provider().unwrap());
    let layout = FileLayout::resolve(directory, directory, directory, crl).unwrap();
    (Files::new(layout, identity.clone()), identity)
}

fn own(identity: &Identity) -> String {
    identity.own().unwrap().id().to_string()
}

const ONE: &str = "spiffe://a.example/one";
const TWO: &str = "spiffe://a.example/two";

#[test]
fn what_fits_together_is_published_and_what_does_not_leaves_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let root = authority("root", |_| {});
    write(directory.path(), &root, ONE);
    let (mut files, identity) = files(directory.path());
    assert!(files.round() > Duration::from_secs(1_000));
    assert_eq!((own(&identity), identity.trouble()), (ONE.to_owned(), None));
    let changes = identity.changes();
    files.round();
    assert_eq!(*changes.borrow(), Change { generation: 1, own: 1 });
    // A writer between two files, then one half done, then one that is done.
    let (cert, key) = issued(&root, TWO);
    fs::write(directory.path().join("tls.crt"), &cert).unwrap();
    assert_eq!(files.round(), Duration::from_secs(1));
    assert!(identity.trouble().unwrap().why.contains("not the certificate's"));
    fs::write(directory.path().join("tls.key"), &key[..key.len() / 2]).unwrap();
    assert_eq!(files.round(), Duration::from_secs(1));
    assert!(identity.trouble().unwrap().why.contains("tls.key"));
    assert_eq!((own(&identity), changes.borrow().generation), (ONE.to_owned(), 1));
    fs::write(directory.path().join("tls.key"), &key).unwrap();
    files.round();
    assert_eq!((own(&identity), identity.trouble()), (TWO.to_owned(), None));
    assert_eq!(*changes.borrow(), Change { generation: 2, own: 2 });
    // An authority that does not vouch for us would cut us off.
    fs::write(directory.path().join("ca.crt"), pem("CERTIFICATE", &authority("other", |_| {}).cert)).unwrap();
    files.round();
    assert!(identity.trouble().unwrap().why.contains("unknown_ca"));
    fs::remove_file(directory.path().join("ca.crt")).unwrap();
    files.round();
    assert_eq!(changes.borrow().generation, 2);
}

#[test]
fn a_certificate_that_nobody_renews_is_looked_at_more_often() {
    let directory = tempfile::tempdir().unwrap();
    let root = authority("root", |_| {});
    write(directory.path(), &root, ONE);
    let (leaf, key) = root.leaf(&[ONE], |params| {
        (params.not_before, params.not_after) = (at(-900).into(), at(100).into());
    });
    fs::write(directory.path().join("tls.crt"), pem("CERTIFICATE", &leaf)).unwrap();
    fs::write(directory.path().join("tls.key"), pem("PRIVATE KEY", key.secret_der())).unwrap();
    let look = files(directory.path()).0.round();
    assert!((Duration::from_secs(9)..Duration::from_secs(11)).contains(&look), "{look:?}");
}

#[test]
fn directories_are_known_by_their_files() {
    let directory = tempfile::tempdir().unwrap();
    let root = authority("root", |_| {});
    let (cert, key) = issued(&root, ONE);
    let empty = FileLayout::resolve(directory.path(), directory.path(), directory.path(), None).unwrap_err();
    assert!(empty.contains("`tls.crt`, `credentialbundle.pem`"), "{empty}");
    // `podCertificate` writes the key first, then the chain.
    fs::write(directory.path().join("credentialbundle.pem"), key + &cert).unwrap();
    fs::write(directory.path().join("trustbundle.pem"), pem("CERTIFICATE", &root.cert)).unwrap();
    let (mut pod, identity) = files(directory.path());
    pod.round();
    assert_eq!(own(&identity), ONE);
    let inside = directory.path().join("csi");
    fs::create_dir(&inside).unwrap();
    write(&inside, &root, TWO);
    let (mut csi, identity) = files(&inside);
    csi.round();
    assert_eq!(own(&identity), TWO);
}

#[test]
fn a_map_of_bundles_trusts_each_domain_by_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (authority("ours", |_| {}), authority("theirs", |_| {}));
    write(directory.path(), &ours, ONE);
    let keys = |root: &Authority| {
        format!(r#"{{"keys":[{{"use":"x509-svid","kty":"EC","x5c":["{}"]}}]}}"#, STANDARD.encode(&root.cert))
    };
    let map = format!(r#"{{"trust_domains":{{"a.example":{},"b.example":{}}}}}"#, keys(&ours), keys(&theirs));
    fs::write(directory.path().join("ca.crt"), map).unwrap();
    let (mut files, identity) = files(directory.path());
    files.round();
    let generation = identity.generation().unwrap();
    let judge = |root: &Authority, id: &str| {
        let leaf = root.leaf(&[id], |_| {}).0;
        reason(generation.verify(&leaf, &[], rt::wall()))
    };
    assert_eq!(judge(&theirs, "spiffe://b.example/x"), "accepted");
    assert_eq!(judge(&theirs, ONE), "unknown_ca");
    assert_eq!(judge(&ours, "spiffe://b.example/x"), "unknown_ca");
}

#[test]
fn revocation_lists_lie_in_a_file_or_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let lists = directory.path().join("crls");
    fs::create_dir(&lists).unwrap();
    let root = authority("root", |_| {});
    write(directory.path(), &root, ONE);
    let list = |number: u64| {
        CertificateRevocationListParams {
            this_update: at(-10).into(),
            next_update: at(1_000).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&root.issuer)
        .unwrap()
    };
    // Who is revoked cannot be known at first: nothing is published.
    fs::write(lists.join("a.crl"), "junk").unwrap();
    let (mut files, identity) = files_with(directory.path(), Some(&lists));
    files.round();
    assert!(identity.own().is_none() && identity.trouble().unwrap().why.contains("revocation list"));
    fs::write(lists.join("a.crl"), list(1).der()).unwrap();
    fs::write(lists.join("b.crl"), list(2).pem().unwrap()).unwrap();
    files.round();
    assert_eq!(own(&identity), ONE);
    assert_eq!(format!("{:?}", identity.generation().unwrap().material.revocations), "Revocations(2)");
    // Later a bad one costs nothing.
    fs::write(lists.join("b.crl"), "junk").unwrap();
    files.round();
    assert_eq!(identity.trouble(), None);
}

#[tokio::test]
async fn renames_and_flips_of_a_link_are_seen() {
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path();
    let root = authority("root", |_| {});
    let flip = |version: &str, id: &str| {
        fs::create_dir(mount.join(version)).unwrap();
        write(&mount.join(version), &root, id);
        symlink(version, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    flip("..1", ONE);
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{name}"), mount.join(name)).unwrap();
    }
    let (files, identity) = files(mount);
    let tasks = TaskSet::new();
    tasks.spawn(files.run());
    let mut changes = identity.changes();
    changes.wait_for(|change| change.own == 1).await.unwrap();
    flip("..2", TWO);
    changes.wait_for(|change| change.own == 2).await.unwrap();
    assert_eq!(own(&identity), TWO);
    // A tool that renames file by file over the links.
    let (cert, key) = issued(&root, ONE);
    for (name, text) in [("tls.crt", cert), ("tls.key", key)] {
        fs::write(mount.join("new"), text).unwrap();
        fs::rename(mount.join("new"), mount.join(name)).unwrap();
    }
    changes.wait_for(|change| change.own == 3).await.unwrap();
    assert_eq!(own(&identity), ONE);
    tasks.cancel();
}
