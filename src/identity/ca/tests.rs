//! The source against authorities of one's own, and the two protocols against servers written to them.

#[cfg(feature = "tonic")]
mod istio;
mod step;

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, PublicKeyData, SanType, SignatureAlgorithm};
use rustls::ServerConfig;

use tokio::io::DuplexStream;

use super::*;
use crate::{
    identity::{
        Identity, default_provider,
        der::{self, Reader},
        dial::{Connect, Io},
        tests::{Authority, authority, domain},
    },
    name::SpiffeId,
    rt::{self, TaskSet},
};

const ID: &str = "spiffe://a.example/ns/default/sa/web";

/// The public key of a request, as rcgen wants it.
struct Asked(Vec<u8>);

impl Asked {
    fn of(request: &[u8]) -> Self {
        let info = Reader::new(request).only(der::SEQUENCE).unwrap().inside().expect(der::SEQUENCE).unwrap();
        let mut info = info.inside();
        info.any().unwrap();
        info.any().unwrap();
        let mut key = info.expect(der::SEQUENCE).unwrap().inside();
        key.any().unwrap();
        Self(key.expect(der::BIT_STRING).unwrap().value[1..].to_vec())
    }
}

impl PublicKeyData for Asked {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn signed(root: &Authority, request: &[u8], id: &str, life: Duration) -> Vec<u8> {
    let mut params = CertificateParams::new([]).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.not_before = (rt::wall() - Duration::from_secs(60)).into();
    params.not_after = (rt::wall() + life).into();
    params.signed_by(&Asked::of(request), &root.issuer).unwrap().der().to_vec()
}

/// Answers as it is told, and counts.
#[derive(Clone)]
struct Own {
    answer: Arc<Mutex<Box<dyn Fn(&CertificateRequest) -> Result<IssuedCertificate, String> + Send>>>,
    trusted: Arc<Mutex<Option<Vec<Vec<u8>>>>>,
    asked: Arc<AtomicUsize>,
}

impl Own {
    fn new(answer: impl Fn(&CertificateRequest) -> Result<IssuedCertificate, String> + Send + 'static) -> Self {
        Self { answer: Arc::new(Mutex::new(Box::new(answer))), trusted: Arc::default(), asked: Arc::default() }
    }

    fn answers(&self, answer: impl Fn(&CertificateRequest) -> Result<IssuedCertificate, String> + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }
}

impl CertificateAuthority for Own {
    fn sign(&self, request: CertificateRequest) -> Signing {
        self.asked.fetch_add(1, SeqCst);
        let answer = (self.answer.lock().unwrap())(&request);
        Box::pin(async move { answer.map_err(Into::into) })
    }

    fn trusted(&self) -> Trusting {
        let trusted = self.trusted.lock().unwrap().clone();
        Box::pin(async move { Ok(trusted) })
    }
}

/// Signs what it is asked with `root`, and names it.
fn by(root: &Arc<Authority>, life: u64) -> impl Fn(&CertificateRequest) -> Result<IssuedCertificate, String> + use<> {
    let root = Arc::clone(root);
    move |request| {
        let leaf = signed(&root, request.der(), request.id().as_str(), Duration::from_secs(life));
        Ok(IssuedCertificate::new(vec![leaf], vec![root.cert.to_vec()]))
    }
}

struct Member {
    identity: Identity,
    tasks: TaskSet,
}

impl Member {
    fn of(authority: impl CertificateAuthority) -> Self {
        let member = Self { identity: Identity::new(domain(), default_provider().unwrap()), tasks: TaskSet::new() };
        let id = SpiffeId::new(ID).unwrap();
        let source = CaSource::new(Arc::new(authority), member.identity.clone(), id, Some(Duration::from_secs(3_600)));
        member.tasks.spawn(source.run());
        member
    }

    async fn generation(&self, number: u64) {
        self.identity.changes().wait_for(|change| change.generation >= number).await.unwrap();
    }

    async fn trouble(&self, what: &str) {
        while self.identity.trouble().is_none_or(|trouble| !trouble.why.contains(what)) {
            rt::sleep(Duration::from_millis(10)).await;
        }
    }

    fn trusts(&self) -> usize {
        self.identity.generation().unwrap().material.bundles[&domain()].len()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn renewed_at_half_of_its_life_with_another_key() {
    let root = Arc::new(authority("root", |_| {}));
    let own = Own::new(by(&root, 3_600));
    let member = Member::of(own.clone());
    member.generation(1).await;
    let (first, begun) = (member.identity.own().unwrap(), rt::now());
    assert_eq!(first.id().as_str(), ID);
    member.generation(2).await;
    let second = member.identity.own().unwrap();
    assert_ne!(first.key.key.public_key(), second.key.key.public_key());
    let waited = begun.elapsed();
    assert!((1_600..2_000).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!((own.asked.load(SeqCst), member.identity.trouble()), (2, None));
}

#[tokio::test(start_paused = true)]
async fn while_it_fails_the_last_good_one_stays_and_it_is_asked_later_each_time() {
    let root = Arc::new(authority("root", |_| {}));
    let own = Own::new(|_| Err("it is on fire".into()));
    let member = Member::of(own.clone());
    member.trouble("on fire").await;
    assert!(member.identity.server_side().is_err());
    rt::sleep(Duration::from_secs(60)).await;
    let asked = own.asked.load(SeqCst);
    assert!((10..20).contains(&asked), "without a certificate every 5 s at last, not {asked} times in a minute");
    own.answers(by(&root, 600));
    member.generation(1).await;
    let other = Arc::new(authority("other", |_| {}));
    type Answer = Box<dyn Fn(&CertificateRequest) -> Result<IssuedCertificate, String> + Send>;
    let (signs, names, ends) = (Arc::clone(&root), Arc::clone(&other), Arc::clone(&root));
    let wrong: Vec<(&str, Answer)> = vec![
        ("on fire", Box::new(|_| Err("it is on fire".into()))),
        ("no certificate", Box::new(|_| Ok(IssuedCertificate::new(vec![], vec![])))),
        ("not the certificate's", {
            let leaf = root.leaf(&[ID], |_| {}).0.to_vec();
            Box::new(move |_| Ok(IssuedCertificate::new(vec![leaf.clone()], vec![])))
        }),
        ("mesh.trust_domain", {
            Box::new(move |request| {
                let leaf = signed(&signs, request.der(), "spiffe://b.example/x", Duration::from_secs(60));
                Ok(IssuedCertificate::new(vec![leaf], vec![signs.cert.to_vec()]))
            })
        }),
        ("expired", {
            Box::new(move |request| {
                let mut params = CertificateParams::new([]).unwrap();
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
                params.not_after = (rt::wall() - Duration::from_secs(1)).into();
                let leaf = params.signed_by(&Asked::of(request.der()), &ends.issuer).unwrap().der().to_vec();
                Ok(IssuedCertificate::new(vec![leaf], vec![ends.cert.to_vec()]))
            })
        }),
        ("unknown_ca", {
            let unnamed = Arc::new(authority("unnamed", |_| {}));
            Box::new(move |request| {
                let leaf = signed(&unnamed, request.der(), ID, Duration::from_secs(60));
                Ok(IssuedCertificate::new(vec![leaf], vec![names.cert.to_vec()]))
            })
        }),
    ];
    let good = member.identity.own().unwrap();
    for (why, answer) in wrong {
        own.answers(answer);
        let why = if why == "expired" { "has ended" } else { why };
        member.trouble(why).await;
        assert_eq!(member.identity.own().unwrap(), good);
    }
    own.answers(by(&root, 600));
    while member.identity.own().unwrap() == good {
        rt::sleep(Duration::from_secs(1)).await;
    }
    rt::sleep(Duration::from_secs(1)).await;
    assert_eq!(member.identity.trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_is_no_longer_named_is_trusted_for_the_life_of_a_certificate() {
    let (old, new) = (Arc::new(authority("old", |_| {})), Arc::new(authority("new", |_| {})));
    let own = Own::new(by(&old, 3_600));
    let member = Member::of(own.clone());
    member.generation(1).await;
    assert_eq!(member.trusts(), 1);
    // It is named before it signs, and known within a minute.
    *own.trusted.lock().unwrap() = Some(vec![old.cert.to_vec(), new.cert.to_vec()]);
    let begun = rt::now();
    member.generation(2).await;
    assert!(begun.elapsed() < Duration::from_secs(70) && member.trusts() == 2, "{:?}", begun.elapsed());
    // The old one goes.
    own.answers(by(&new, 3_600));
    *own.trusted.lock().unwrap() = Some(vec![new.cert.to_vec()]);
    rt::sleep(Duration::from_secs(3_000)).await;
    assert_eq!(member.trusts(), 2, "peers may hold a certificate of the old one");
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_hangs_is_given_up() {
    struct Hangs;
    impl CertificateAuthority for Hangs {
        fn sign(&self, _: CertificateRequest) -> Signing {
            Box::pin(std::future::pending())
        }
    }
    let begun = rt::now();
    Member::of(Hangs).trouble("does not answer").await;
    assert!((15..16).contains(&begun.elapsed().as_secs()));
}

/// A server's end of TLS, for a name.
fn acceptor(root: &Authority, name: &str, protocol: &[u8], asks: bool) -> tokio_rustls::TlsAcceptor {
    let (leaf, key) = root.leaf(&[], |params| {
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
    });
    let provider = default_provider().unwrap();
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = if asks {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.cert.clone()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![leaf], key).unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config).into()
}

/// Connections through memory, each served by `serve`.
fn through<F>(serve: impl Fn(DuplexStream) -> F + Send + Sync + 'static) -> Connect
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move || {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve(far));
        Box::pin(async move { Ok(Box::new(near) as Box<dyn Io>) })
    })
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        base64::engine::general_purpose::STANDARD.encode(der)
    )
}

/// A request out of PEM.
fn unpem(text: &str) -> Vec<u8> {
    use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
    CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).unwrap().to_vec()
}
