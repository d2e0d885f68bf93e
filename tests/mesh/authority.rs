//! Meshes whose certificates come from an authority that signs requests.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use sinew::{
    Body, CertificateAuthority, CertificateRequest, Mesh, Peer, ResponseExt, Signing,
    model::{AuthorityKind, AuthoritySpec, IdentityFiles, IdentitySource},
};
use tokio::io::AsyncWriteExt;
use tower::service_fn;

use crate::signer::{Leaf, Root, TestAuthority, pem, self_signed};

const HOUR: Duration = Duration::from_secs(3_600);

async fn whoami(request: Request<Body>) -> Result<Response<Body>, sinew::BoxError> {
    let id = Peer::of(request.extensions()).and_then(|peer| peer.id().map(ToString::to_string));
    Ok(Response::new(Body::from(id.unwrap_or_else(|| "nobody".into()))))
}

fn builder(name: &str, authority: &TestAuthority) -> sinew::Builder {
    let source = IdentitySource::Ca(Arc::new(AuthoritySpec::new(AuthorityKind::Custom("test".into()))));
    Mesh::builder(name).identity(source, "shop.example").certificate_authority("test", authority.clone())
}

async fn serve(mesh: &Mesh) -> String {
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.addr().to_string();
    tokio::spawn(listener.serve(service_fn(whoami)).with_graceful_shutdown(std::future::pending()).into_future());
    addr
}

/// Polls, since what is waited for happens on the wall clock.
async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect(what);
}

#[tokio::test]
async fn an_authority_of_ones_own_gives_every_hop_its_identity() {
    let authority = TestAuthority::new(HOUR);
    let server = builder("reviews", &authority).build().await.unwrap();
    let endpoint = serve(&server).await;
    let client = builder("web", &authority).service("reviews", |service| service.endpoints([&endpoint]));
    let client = client.build().await.unwrap();
    until("both have their certificates", || server.status().ready && client.status().identity.unwrap().id.is_some())
        .await;
    let response = client.client("reviews").get("/").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "spiffe://shop.example/ns/default/sa/web");
    assert_eq!((client.status().identity.unwrap().source, authority.signed()), ("ca", 2));
    // Who answers is known by its name: nothing else was configured.
    let other = builder("web", &authority).service("ratings", |service| service.endpoints([&endpoint]));
    let other = other.build().await.unwrap();
    until("it has its certificate", || other.status().identity.unwrap().id.is_some()).await;
    let error = other.client("ratings").get("/").timeout(Duration::from_secs(5)).send().await.unwrap_err();
    assert!(error.to_string().contains("identity_mismatch"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_nobody_renews_is_told_by_readiness_before_it_ends() {
    let authority = TestAuthority::new(Duration::from_secs(3));
    let server = builder("reviews", &authority).build().await.unwrap();
    let _endpoint = serve(&server).await;
    until("it is ready", || server.status().ready).await;
    authority.fail();
    until("it is not ready any more", || !server.status().ready).await;
    let status = server.status();
    let identity = status.identity.unwrap();
    assert!(identity.expires.unwrap() > std::time::SystemTime::now(), "before the end");
    assert!(identity.error.unwrap().contains("out of order"));
    assert!(status.waiting_for.iter().any(|text| text.contains("not renewed")), "{:?}", status.waiting_for);
}

#[tokio::test]
async fn an_authority_that_code_did_not_register_is_told_by_its_name() {
    let source = IdentitySource::Ca(Arc::new(AuthoritySpec::new(AuthorityKind::Custom("vault".into()))));
    let error = Mesh::builder("web").identity(source, "shop.example").build().await.unwrap_err();
    assert!(error.to_string().contains("no authority is named `vault`"), "{error}");
}

#[tokio::test]
async fn roots_change_while_calls_are_made_and_none_fails() {
    let authority = TestAuthority::new(Duration::from_secs(4));
    let server = builder("reviews", &authority).build().await.unwrap();
    let endpoint = serve(&server).await;
    let client = builder("web", &authority).service("reviews", |service| service.endpoints([&endpoint]));
    let client = client.build().await.unwrap();
    until("both have their certificates", || server.status().ready && client.status().identity.unwrap().id.is_some())
        .await;
    let reviews = client.client("reviews");
    let signed = authority.signed();
    let next = Arc::new(Root::new("root 1"));
    let mut named = false;
    while authority.signed() < signed + 8 {
        // Everybody knows the new root before it signs.
        if !named && authority.signed() >= signed + 2 {
            let old = authority.roots();
            authority.name([vec![Arc::clone(&next)], old].concat());
            named = true;
        }
        if named && authority.signed() >= signed + 5 {
            authority.name(vec![Arc::clone(&next)]);
        }
        let response = reviews.get("/").send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), "spiffe://shop.example/ns/default/sa/web");
    }
    assert_eq!(authority.roots().len(), 1);
}

/// Signs once it is told to.
struct Later {
    authority: TestAuthority,
    told: Arc<tokio::sync::Semaphore>,
}

impl CertificateAuthority for Later {
    fn sign(&self, request: CertificateRequest) -> Signing {
        let (authority, told) = (self.authority.clone(), Arc::clone(&self.told));
        Box::pin(async move {
            let _told = told.acquire().await?;
            authority.sign(request).await
        })
    }
}

#[tokio::test]
async fn a_call_before_the_first_certificate_waits_for_it() {
    let authority = TestAuthority::new(HOUR);
    let server = builder("reviews", &authority).build().await.unwrap();
    let endpoint = serve(&server).await;
    let told = Arc::new(tokio::sync::Semaphore::new(0));
    let later = Later { authority: authority.clone(), told: Arc::clone(&told) };
    let client = builder("web", &authority)
        .certificate_authority("test", later)
        .service("reviews", |service| service.endpoints([&endpoint]));
    let client = client.build().await.unwrap();
    until("the server has its certificate", || server.status().ready).await;
    let reviews = client.client("reviews");
    let mut call = std::pin::pin!(reviews.get("/").send());
    let waits = tokio::time::timeout(Duration::from_millis(50), &mut call).await;
    assert!(waits.is_err(), "{waits:?}");
    told.add_permits(1);
    assert_eq!(call.await.unwrap().text().await.unwrap(), "spiffe://shop.example/ns/default/sa/web");
}

#[cfg(all(feature = "aws-lc", feature = "ring"))]
#[tokio::test]
async fn each_mesh_has_its_own_cryptography() {
    let authority = TestAuthority::new(HOUR);
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let server = builder("reviews", &authority).crypto_provider(ring).build().await.unwrap();
    let endpoint = serve(&server).await;
    until("it has its certificate", || server.status().ready).await;
    let client = builder("web", &authority).service("reviews", |service| service.endpoints([&endpoint]));
    let client = client.build().await.unwrap();
    let response = client.client("reviews").get("/").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "spiffe://shop.example/ns/default/sa/web");
    assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "the process has none");
    let error = builder("web", &authority).crypto_provider(Arc::new("rot13")).build().await.unwrap_err();
    assert!(error.to_string().contains("no `CryptoProvider`"), "{error}");
}

/// Shakes hands as this one with whoever comes.
async fn impostor(leaf: &Leaf) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(leaf.key.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![rustls_pki_types::CertificateDer::from(leaf.cert.clone())], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let _ = acceptor.accept(io).await;
        }
    });
    addr
}

#[tokio::test]
async fn who_is_not_believed_is_refused_each_with_a_reason_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (Root::new("root"), Root::new("other"));
    let own = root.leaf("spiffe://shop.example/ns/default/sa/web", &[], HOUR);
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let cert = file("own.pem", pem("CERTIFICATE", &own.cert) + &pem("PRIVATE KEY", &own.key));
    let reviews = "spiffe://shop.example/ns/default/sa/reviews";
    let stolen = root.leaf(reviews, &[], HOUR);
    let mut files = IdentityFiles::new(&cert, &cert, file("ca.pem", pem("CERTIFICATE", &root.cert)));
    files.crl = Some(file("crl.pem", pem("X509 CRL", &root.revokes(1, &[&stolen]))));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let _ = io.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
        }
    });
    for (reason, endpoint) in [
        ("wrong_trust_domain", impostor(&root.leaf("spiffe://other.example/ns/default/sa/reviews", &[], HOUR)).await),
        ("unknown_ca", impostor(&other.leaf(reviews, &[], HOUR)).await),
        ("expired", impostor(&root.ended(reviews)).await),
        ("not_yet", impostor(&root.early(reviews)).await),
        ("key_usage", impostor(&root.misused(reviews)).await),
        ("revoked", impostor(&stolen).await),
        ("san_count", impostor(&self_signed("reviews.example")).await),
        ("identity_mismatch", impostor(&root.leaf("spiffe://shop.example/ns/default/sa/other", &[], HOUR)).await),
        ("plaintext", plain),
    ] {
        let client = Mesh::builder("web")
            .identity(IdentitySource::Files(files.clone()), "shop.example")
            .service("reviews", |service| {
                service.endpoints([&endpoint]).identities([sinew::name::SpiffeId::new(reviews).unwrap()])
            });
        let client = client.build().await.unwrap();
        let error = client.client("reviews").get("/").timeout(Duration::from_secs(5)).send().await.unwrap_err();
        assert_eq!(error.code(), sinew::Code::TlsFailed, "{reason}: {error:?}");
        assert!(error.never_processed() && format!("{error:?}").contains(reason), "{reason}: {error:?}");
    }
}

#[tokio::test]
async fn who_has_no_certificate_learns_that_this_is_why() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new("root");
    let own = root.leaf("spiffe://shop.example/ns/default/sa/reviews", &["reviews.example"], HOUR);
    let (cert, ca) = (dir.path().join("own.pem"), dir.path().join("ca.pem"));
    std::fs::write(&cert, pem("CERTIFICATE", &own.cert) + &pem("PRIVATE KEY", &own.key)).unwrap();
    std::fs::write(&ca, pem("CERTIFICATE", &root.cert)).unwrap();
    let files = IdentityFiles::new(&cert, &cert, &ca);
    let server = Mesh::builder("reviews").identity(IdentitySource::Files(files), "shop.example").build().await.unwrap();
    let endpoint = serve(&server).await;
    let config = format!(
        "services: {{ reviews: {{ endpoints: {{ static: [\"{endpoint}\"] }}, \
         tls: {{ private: {{ ca: {}, server_name: reviews.example }} }} }} }}",
        ca.display()
    );
    let client = Mesh::builder("web").config_str(&config).build().await.unwrap();
    let error = client.client("reviews").get("/").timeout(Duration::from_secs(5)).send().await.unwrap_err();
    assert_eq!(error.code(), sinew::Code::TlsFailed, "{error:?}");
    assert!(error.never_processed() && format!("{error:?}").contains("no_certificate"), "{error:?}");
}
