//! Who may ask for what, on the wire.

use std::net::SocketAddr;

use axum::{Router, extract::Request};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sinew::{Mesh, ResponseExt};

use crate::world::client;

const RULES: &str = r#"
inbound:
  authz:
    allow:
    - { name: read, methods: [GET], paths: ["/reviews/*", "/users/{*}/orders"] }
    - { name: local-write, from: { ip_blocks: 127.0.0.0/8 }, methods: [POST], paths: /reviews/0, headers: { x-role: [editor, admin] } }
    - { name: ratings, grpc: { service: ratings.Ratings } }
    deny:
    - { name: no-admin, paths: "/reviews/admin*" }
    - { name: no-guests, headers: { x-role: guest }, shadow: true }
"#;

async fn serve(yaml: &str) -> (Mesh, SocketAddr) {
    let mesh = Mesh::builder("s").config_str(yaml).build().await.unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    let app = Router::new().fallback(|request: Request| async move { request.uri().path().to_owned() });
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    (mesh, addr)
}

#[tokio::test]
async fn rules_decide_and_the_caller_learns_the_code_only() {
    let (_server, addr) = serve(RULES).await;
    let (_mesh, client) = client(addr).await;
    for (path, expected) in [
        ("/reviews/0", 200),
        ("/users/7/orders", 200),
        ("/users//orders", 400),
        ("/reviews", 403),
        ("/reviews/admin", 403),
        ("/reviews/adm%69n", 400),
        ("/", 403),
    ] {
        assert_eq!(client.get(path).send().await.unwrap().status(), expected, "{path}");
    }
    let denied = client.get("/reviews/admin").send().await.unwrap();
    let body = denied.text().await.unwrap();
    assert!(body.starts_with("SINEW-E051 denied: ") && !body.contains("no-admin"), "{body}");

    let post = |role: Option<&'static str>| {
        let request = client.post("/reviews/0");
        match role {
            Some(role) => request.header("x-role", role),
            None => request,
        }
    };
    assert_eq!(post(Some("editor")).send().await.unwrap().status(), 200);
    assert_eq!(post(Some("reader")).send().await.unwrap().status(), 403);
    assert_eq!(post(None).send().await.unwrap().status(), 403);
    let twice = post(Some("reader")).header("x-role", "editor").send().await.unwrap();
    assert!(twice.text().await.unwrap().starts_with("SINEW-E055 bad_request; header: "));
}

#[tokio::test]
async fn grpc_callers_get_permission_denied() {
    let (_server, addr) = serve(RULES).await;
    let (_mesh, client) = client(addr).await;
    let call = |path: &'static str| client.post(path).header("content-type", "application/grpc").send();
    let denied = call("/reviews.Reviews/Get").await.unwrap();
    assert_eq!((denied.status().as_u16(), &denied.headers()["grpc-status"]), (200, &"7".parse().unwrap()));
    let allowed = call("/ratings.Ratings/Get").await.unwrap();
    assert!(!allowed.headers().contains_key("grpc-status"));
}

#[tokio::test]
async fn a_rule_in_shadow_is_counted_and_has_no_effect() {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (server, addr) = serve(RULES).await;
    let (_mesh, client) = client(addr).await;
    assert_eq!(client.get("/reviews/0").header("x-role", "guest").send().await.unwrap().status(), 200);
    assert_eq!(client.get("/reviews/admin").send().await.unwrap().status(), 403);
    server.shutdown(std::time::Duration::from_secs(1)).await;
    let mut counted = Vec::new();
    for (key, _, _, value) in snapshots.snapshot().into_vec() {
        let DebugValue::Counter(count @ 1..) = value else { continue };
        let label = |name| key.key().labels().find(|label| label.key() == name).map(|label| label.value().to_owned());
        if key.key().name().starts_with("sinew_authz_") {
            counted.push((key.key().name().to_owned(), label("decision").unwrap(), label("rule").unwrap(), count));
        }
    }
    counted.sort();
    let row = |name: &str, decision: &str, rule: &str| (name.to_owned(), decision.to_owned(), rule.to_owned(), 1);
    let expected = [
        row("sinew_authz_decisions_total", "allow", "read"),
        row("sinew_authz_decisions_total", "deny", "no-admin"),
        row("sinew_authz_shadow_total", "deny", "no-guests"),
    ];
    assert_eq!(counted, expected);
}

#[tokio::test]
async fn what_code_pinned_has_to_allow_as_well() {
    use sinew::authz::{Operation, PathText, Policy, Rule};
    let paths = |path: &str| {
        let mut operation = Operation::default();
        operation.paths = vec![PathText::new(path).unwrap()];
        operation
    };
    let mesh = Mesh::builder("s")
        .config_str("inbound: { authz: { allow: [{}] } }")
        .pin_authz(Policy::new([
            Rule::allow("api").to(paths("/api/*")),
            Rule::deny("internal").to(paths("/api/internal")),
        ]))
        .build()
        .await
        .unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    let app = Router::new().fallback(|| async {});
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let (_mesh, client) = client(addr).await;
    for (path, expected) in [("/api/x", 200), ("/api/internal", 403), ("/other", 403)] {
        assert_eq!(client.get(path).send().await.unwrap().status(), expected, "{path}");
    }
}

#[tokio::test]
async fn policies_of_istio_are_read_and_held_to() {
    let text = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: read, namespace: prod }
spec:
  selector: { matchLabels: { app: reviews } }
  rules:
  - to: [{ operation: { methods: [GET], paths: ["/reviews/*"] } }]
    when: [{ key: source.ip, values: [127.0.0.0/8] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-admin, namespace: istio-system }
spec: { action: DENY, rules: [{ to: [{ operation: { paths: ["*/admin"] } }] }] }
"#;
    let workload = sinew::import::Workload::new("prod").label("app", "reviews");
    let imported = sinew::import::istio(text, &workload).unwrap();
    let mesh = Mesh::builder("reviews").authz(imported.authz).build().await.unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    let app = Router::new().fallback(|| async {});
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let (_mesh, client) = client(addr).await;
    for (path, expected) in [("/reviews/0", 200), ("/reviews/admin", 403), ("/other", 403)] {
        assert_eq!(client.get(path).send().await.unwrap().status(), expected, "{path}");
    }
    assert_eq!(client.post("/reviews/0").send().await.unwrap().status(), 403);
}
