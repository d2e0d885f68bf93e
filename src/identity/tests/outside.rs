//! TLS with those outside of the mesh.

use std::{fs, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

struct Place {
    directory: tempfile::TempDir,
    root: Authority,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap(), root: authority("root", |_| {}) };
        fs::write(place.path("ca.pem"), pem("CERTIFICATE", &place.root.cert)).unwrap();
        place.server("db.example");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A server's certificate with a DNS name and an address, without a SPIFFE identity.
    fn server(&self, name: &str) {
        let (leaf, key) = self.root.leaf(&[], |params| {
            params.subject_alt_names =
                vec![SanType::DnsName(name.try_into().unwrap()), SanType::IpAddress([10, 0, 0, 1].into())];
        });
        fs::write(self.path("cert.pem"), pem("CERTIFICATE", &leaf)).unwrap();
        fs::write(self.path("key.pem"), pem("PRIVATE KEY", key.secret_der())).unwrap();
    }

    fn edge(&self) -> EdgeTls {
        EdgeTls::new(default_provider().unwrap(), &self.path("cert.pem"), &self.path("key.pem"))
    }

    fn private(&self, name: Option<&str>) -> PrivateTls {
        PrivateTls::new(default_provider().unwrap(), &self.path("ca.pem"), name, None).unwrap()
    }
}

#[test]
fn a_private_server_is_known_by_its_name_or_address_and_is_no_principal() {
    let place = Place::new();
    let edge = place.edge().side().unwrap();
    for name in ["db.example", "10.0.0.1", "DB.example."] {
        let side = place.private(Some(name)).side().unwrap();
        assert_eq!(shake(&edge, &side).unwrap(), (None, None), "{name}");
    }
    for name in ["other.example", "10.0.0.2"] {
        assert!(shake(&edge, &place.private(Some(name)).side().unwrap()).is_err(), "{name}");
    }
    let stranger = Place::new();
    assert!(shake(&edge, &stranger.private(Some("db.example")).side().unwrap()).is_err());
    let error = PrivateTls::new(default_provider().unwrap(), &place.path("ca.pem"), Some("a b"), None).err().unwrap();
    assert!(error.message().contains("neither a DNS name nor an address"), "{error}");
}

#[test]
fn files_are_read_again_when_they_change_and_what_is_broken_changes_nothing() {
    let place = Place::new();
    let (edge, private) = (place.edge(), place.private(Some("next.example")));
    let side = private.side().unwrap();
    assert!(Arc::ptr_eq(&side, &private.side().unwrap()));
    assert!(shake(&edge.side().unwrap(), &side).is_err());
    place.server("next.example");
    assert!(shake(&edge.side().unwrap(), &private.side().unwrap()).is_ok());
    fs::write(place.path("key.pem"), "half").unwrap();
    fs::write(place.path("ca.pem"), "half").unwrap();
    assert!(shake(&edge.side().unwrap(), &private.side().unwrap()).is_ok());
    let error = place.private(None).side().unwrap_err();
    assert!(error.message().contains("ca.pem"), "{error}");
}

#[test]
fn a_certificate_of_ours_is_shown_where_it_is_configured() {
    let place = Place::new();
    let (leaf, key) = place.root.leaf(&[ID], |params| params.not_after = at(100).into());
    fs::write(place.path("own.pem"), pem("CERTIFICATE", &leaf)).unwrap();
    fs::write(place.path("own.key"), pem("PRIVATE KEY", key.secret_der())).unwrap();
    let own = (place.path("own.pem"), place.path("own.key"));
    let provider = default_provider().unwrap();
    let private =
        PrivateTls::new(provider.clone(), &place.path("ca.pem"), Some("db.example"), Some((&own.0, &own.1))).unwrap();
    let side = private.side().unwrap();
    assert!(side.validity.is_some_and(|(_, end)| end <= at(100)));
    // A mesh member asks for it: what it proves there is judged by the mesh's rules, not by these.
    let mesh = Identity::new(domain(), provider);
    let (leaf, key) = place.root.leaf(&[ID], |params| {
        params.subject_alt_names.push(SanType::DnsName("db.example".try_into().unwrap()));
    });
    let own = Svid::new(vec![leaf], key, mesh.provider()).unwrap();
    let bundles = Arc::new(bundles(&[&place.root]));
    mesh.publish(Material { own, bundles, revocations: Arc::default() }).unwrap();
    let (caller, callee) = shake(&mesh.server_side().unwrap(), &side).unwrap();
    assert_eq!((caller.unwrap().id.as_str(), callee), (ID, None));
    assert!(shake(&mesh.server_side().unwrap(), &place.private(Some("db.example")).side().unwrap()).is_err());
}

#[test]
fn the_public_side_trusts_the_platform_and_nobody_else() {
    // Machines without a trust store say so.
    let public = match PublicTls::new(&default_provider().unwrap()) {
        Ok(public) => public,
        Err(error) => return assert!(error.message().contains("ca-certificates"), "{error}"),
    };
    let place = Place::new();
    let side = public.side("db.example").unwrap();
    assert_eq!(side.name.as_ref().unwrap().to_str(), "db.example");
    assert!(shake(&place.edge().side().unwrap(), &side).is_err());
    assert!(public.side("[::1]").is_ok() && public.side("").is_err());
}
