//! What code holds fast, and what documents say against it.

use std::time::Duration;

use sinew::{
    Builder, Mesh,
    model::{Floor, IdentityFiles, IdentitySource, Mtls, TlsMode},
};

const OTHER: &str = "spiffe://shop.example/ns/shop/sa/other";

fn id(text: &str) -> sinew::name::SpiffeId {
    text.parse().unwrap()
}

fn held() -> Builder {
    let floor = Floor::new()
        .mtls(Mtls::Strict)
        .identities(
            "ledger",
            [id("spiffe://shop.example/ns/shop/sa/ledger"), id("spiffe://shop.example/ns/shop/sa/old")],
        )
        .unprocessed_only()
        .max_timeout(Duration::from_secs(5));
    let files = IdentityFiles::new("/nowhere/cert.pem", "/nowhere/key.pem", "/nowhere/ca.pem");
    Mesh::builder("web").identity(IdentitySource::Files(files), "shop.example").floor(floor)
}

#[tokio::test]
async fn no_document_lowers_what_code_holds_fast() {
    let ledger =
        |body: &str| format!("services: {{ ledger: {{ endpoints: {{ static: [\"127.0.0.1:1\"] }}, {body} }} }}");
    for (document, path, said) in [
        ("mtls: permissive".to_owned(), "mtls", "`permissive` is less"),
        ("listeners: { mesh: { mtls: off } }".to_owned(), "listeners.mesh.mtls", "`off` is less"),
        (ledger("tls: off"), "services.ledger.tls", "`off` is less"),
        (ledger("tls: public, hosts: [a.example]"), "services.ledger.tls", "`public` is less"),
        (ledger(&format!("identities: [\"{OTHER}\"]")), "services.ledger.identities", "is not among those"),
        (ledger("retry: { retry_on: [5xx] }"), "services.ledger.retry", "`5xx` may repeat"),
        (ledger("hedge: { delay: 10ms }"), "services.ledger.retry", "hedging may repeat"),
        (ledger("timeouts: { request: off }"), "services.ledger.timeouts.request", "`off` is less"),
        (ledger("timeouts: { request: 6s }"), "services.ledger.timeouts.request", "`6s` is less"),
        (ledger("timeouts: { enforcement: shadow }"), "services.ledger.timeouts.enforcement", "`shadow` is less"),
        (ledger("timeouts: { percentage: 50% }"), "services.ledger.timeouts.percentage", "`50%` is less"),
        (
            ledger("routes: [{ name: slow, match: { path: { exact: /a } }, timeout: 1m }]"),
            "services.ledger.routes[0].timeout",
            "`1m` is less",
        ),
        (
            ledger("routes: [{ name: again, match: { path: { exact: /a } }, retry: { retry_on: [reset] } }]"),
            "services.ledger.routes[0].retry",
            "`reset` may repeat",
        ),
    ] {
        let error = held().config_str(&document).build().await.expect_err(&document).to_string();
        assert!(
            error.contains(said) && error.contains(path) && error.contains("Builder::floor"),
            "{document}: {error}"
        );
        assert!(error.contains("sinew.yaml:1:") || error.contains("code:1:") || error.contains(":1:"), "{error}");
    }
}

#[tokio::test]
async fn what_nobody_sets_is_raised_and_more_may_be_asked_for() {
    let document = "services: { ledger: { endpoints: { static: [\"127.0.0.1:1\"] } }, \
                    news: { endpoints: { static: [\"127.0.0.1:1\"] }, timeouts: { request: 1s }, tls: off } }";
    let mesh = held().config_str(document).build().await.unwrap();
    let snapshot = mesh.snapshot();
    let (ledger, news) = (&snapshot.services["ledger"], &snapshot.services["news"]);
    assert_eq!((snapshot.mtls, &ledger.tls, ledger.identities.len()), (Mtls::Strict, &TlsMode::Mesh, 2));
    assert_eq!(ledger.timeouts.request, Some(Duration::from_secs(5)));
    assert_eq!(news.timeouts.request, Some(Duration::from_secs(1)));
    // Development would be permissive.
    let dir = tempfile::tempdir().unwrap();
    let dev = Mesh::builder("web").identity(IdentitySource::Dev, "dev.local").dev_dir(dir.path().join("dev"));
    let mesh = dev.floor(Floor::new().mtls(Mtls::Strict)).build().await.unwrap();
    assert_eq!(mesh.snapshot().mtls, Mtls::Strict);
    // Nothing runs in plaintext under it.
    let error = Mesh::builder("web").floor(Floor::new().mtls(Mtls::Strict)).build().await.unwrap_err();
    assert!(error.to_string().contains("needs an identity"), "{error}");
}
