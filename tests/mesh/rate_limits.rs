//! Rate limits on both sides, seen by callers and by the metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::HeaderMap, routing::get};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sinew::{Code, Mesh, Network, ResponseExt};

use crate::echo::EchoClient;

const SECOND: Duration = Duration::from_secs(1);

/// A service that counts its requests, under this `inbound`.
async fn serve(network: &Network, inbound: &str) -> (Mesh, Arc<AtomicU32>) {
    let served = Arc::<AtomicU32>::default();
    let count = Arc::clone(&served);
    let app = Router::new().fallback(get(move |headers: HeaderMap| {
        count.fetch_add(1, Relaxed);
        async move { if headers.contains_key("fail") { "failed" } else { "ok" } }
    }));
    let yaml = format!("inbound: {inbound}");
    let mesh = Mesh::builder("leaf")
        .network(network)
        .rate_limit_key("tenant", |subject| Some(subject.path().split('/').nth(1)?.to_owned()))
        .config_str(&yaml)
        .build()
        .await
        .unwrap();
    tokio::spawn(mesh.listen("memory:leaf").await.unwrap().serve(app).into_future());
    (mesh, served)
}

async fn client(network: &Network, service: &str) -> Mesh {
    let yaml = format!("services: {{ leaf: {{ endpoints: {{ static: [\"memory:leaf\"] }}, {service} }} }}");
    let mesh = Mesh::builder("client").network(network).config_str(&yaml).build().await.unwrap();
    mesh.client("leaf").wait_ready(SECOND).await.unwrap();
    mesh
}

/// Ends the mesh, and tells what its limits counted: admitted, refused, refused in shadow.
async fn counted(mesh: &Mesh) -> [u64; 3] {
    let recorder = DebuggingRecorder::new();
    let recording = metrics::set_default_local_recorder(&recorder);
    mesh.shutdown(SECOND).await;
    drop(recording);
    let mut counts = [0; 3];
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        let DebugValue::Counter(count) = value else { continue };
        let result = key.key().labels().find(|label| label.key() == "result");
        if let ("sinew_rate_limit_total", Some(result)) = (key.key().name(), result) {
            counts[["ok", "limited", "shadow"].iter().position(|name| *name == result.value()).unwrap()] += count;
        }
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn a_served_request_over_the_limit_gets_a_429_that_says_when_to_come_back() {
    let network = Network::new();
    let limit = "{ rate_limit: { token_bucket: { max_tokens: 2, fill_interval: 1500ms }, headers: draft03 } }";
    let (server, served) = serve(&network, limit).await;
    let mesh = client(&network, "").await;
    let leaf = mesh.client("leaf");
    let response = leaf.get("/").send().await.unwrap();
    assert_eq!(response.headers()["x-ratelimit-remaining"], "1");
    leaf.get("/").send().await.unwrap();
    let response = leaf.get("/").send().await.unwrap();
    assert_eq!((response.status().as_u16(), served.load(Relaxed)), (429, 2));
    assert_eq!(response.headers()["retry-after"], "2");
    assert_eq!(response.headers()["x-ratelimit-limit"], "2, 2;w=3");
    assert_eq!(response.headers()["x-ratelimit-remaining"], "0");
    let error = response.error_for_status().unwrap_err();
    assert_eq!(error.mesh_error(), Some("SINEW-E040; rate_limited"));
    tokio::time::sleep(SECOND * 3 / 2).await;
    assert_eq!(leaf.get("/").send().await.unwrap().status(), 200);
    assert_eq!(counted(&server).await, [3, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn grpc_callers_hear_resource_exhausted() {
    let network = Network::new();
    let (_server, _) =
        serve(&network, "{ rate_limit: { quota: { requests: 1, window: 1h }, headers: structured } }").await;
    let mesh = client(&network, "").await;
    let mut echo = EchoClient::new(mesh.client("leaf"));
    let _ = echo.say("x").await;
    let status = echo.say("x").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(status.metadata().get("ratelimit").unwrap(), "\"default\";r=0;t=3713");
}

#[tokio::test(start_paused = true)]
async fn keys_by_header_and_by_a_function_of_the_application() {
    let network = Network::new();
    let limit = "{ rate_limit: { key: [{ custom: tenant }, { header: x-user }], \
                 token_bucket: { max_tokens: 1, fill_interval: 1h } } }";
    let (_server, _) = serve(&network, limit).await;
    let mesh = client(&network, "").await;
    let leaf = mesh.client("leaf");
    let mut statuses = Vec::new();
    for (path, user) in [("/a/1", "u"), ("/a/2", "u"), ("/a/3", "v"), ("/b/1", "u"), ("/%61/1", "u")] {
        statuses.push(leaf.get(path).header("x-user", user).send().await.unwrap().status().as_u16());
    }
    // Another way to write the path is no way around.
    assert_eq!(statuses, [200, 429, 200, 200, 400]);
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_once_and_routes_share_the_limit_of_their_service() {
    let network = Network::new();
    let (_server, served) = serve(&network, "{}").await;
    let service = "rate_limit: { token_bucket: { max_tokens: 2, fill_interval: 1s } }, routes: [\
                   { name: own, match: { path: { exact: /own } }, rate_limit: { token_bucket: { max_tokens: 1, fill_interval: 1s } } },\
                   { name: free, match: { path: { exact: /free } }, rate_limit: { mode: off } },\
                   { name: a, match: { path: { exact: /a } } }, { name: rest } ]";
    let mesh = client(&network, service).await;
    let leaf = mesh.client("leaf");
    let call = async |path: &str| leaf.get(path).send().await.map(|response| response.status().as_u16());
    assert!(call("/a").await.is_ok() && call("/b").await.is_ok());
    let error = call("/c").await.unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (Code::RateLimited, Some(SECOND)));
    assert!(error.message().contains("the rate limit of `leaf`"), "{error}");
    assert!(call("/own").await.is_ok());
    let error = call("/own").await.unwrap_err();
    assert!(error.message().contains("route `own` of `leaf`"), "{error}");
    for _ in 0..10 {
        assert_eq!(call("/free").await.unwrap(), 200);
    }
    assert_eq!(served.load(Relaxed), 13);
}

#[tokio::test]
async fn a_reload_changes_the_limit_and_not_the_count() {
    let network = Network::new();
    let (_server, _) = serve(&network, "{}").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sinew.yaml");
    let write = |max: u32, timeout: &str| {
        let yaml = format!(
            "services: {{ leaf: {{ endpoints: {{ static: [\"memory:leaf\"] }}, timeout: {timeout}, \
             rate_limit: {{ token_bucket: {{ max_tokens: {max}, fill_interval: 24h }} }} }} }}"
        );
        let next = folder.path().join("next");
        std::fs::write(&next, yaml).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    write(37, "1s");
    let mesh = Mesh::builder("client").network(&network).config_file(&path).build().await.unwrap();
    let leaf = mesh.client("leaf");
    let mut passed = 0;
    for round in 0..20u64 {
        for _ in 0..4 {
            passed += u32::from(leaf.get("/").send().await.is_ok());
        }
        let generation = mesh.snapshot().generation;
        write(37, &format!("{}s", round + 2));
        mesh.changed(generation).await;
    }
    assert_eq!(passed, 37);
    let generation = mesh.snapshot().generation;
    write(40, "1s");
    mesh.changed(generation).await;
    let mut more = 0;
    for _ in 0..10 {
        more += u32::from(leaf.get("/").send().await.is_ok());
    }
    assert_eq!(more, 3);
}

#[tokio::test(start_paused = true)]
async fn shadow_refuses_nothing_and_tells_what_it_would_have_refused() {
    let network = Network::new();
    let (_server, served) = serve(&network, "{}").await;
    let service = "rate_limit: { token_bucket: { max_tokens: 1, fill_interval: 1h }, mode: shadow }";
    let mesh = client(&network, service).await;
    for _ in 0..5 {
        mesh.client("leaf").get("/").send().await.unwrap();
    }
    assert_eq!((served.load(Relaxed), counted(&mesh).await), (5, [1, 0, 4]));
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_divided_among_the_instances_of_the_own_service_as_discovery_counts_them() {
    let network = Network::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leaf.yaml");
    let write = |instances: u32| {
        let list: Vec<_> = (0..instances)
            .map(|n| format!("\"memory:leaf{}\"", if n == 0 { String::new() } else { n.to_string() }))
            .collect();
        let next = folder.path().join("next");
        std::fs::write(&next, format!("[{}]", list.join(", "))).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    write(4);
    let app = Router::new().fallback(get(|| async { "ok" }));
    let yaml = format!(
        "services: {{ leaf: {{ endpoints: {{ file: \"{}\" }} }} }}\n\
         inbound: {{ rate_limit: {{ quota: {{ requests: 20, window: 8000h }}, share_with: local_cluster }} }}",
        path.display()
    );
    let server = Mesh::builder("leaf").network(&network).config_str(&yaml).build().await.unwrap();
    tokio::spawn(server.listen("memory:leaf").await.unwrap().serve(app).into_future());
    let known = async |count: usize| {
        while server.status().services["leaf"].cluster.as_ref().map_or(0, |cluster| cluster.endpoints.len()) != count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    known(4).await;
    let mesh = client(&network, "").await;
    let passed = async || {
        let mut passed = 0;
        for _ in 0..30 {
            passed += u32::from(mesh.client("leaf").get("/").send().await.unwrap().status() == 200);
        }
        passed
    };
    assert_eq!(passed().await, 5, "a quarter");
    write(2);
    known(2).await;
    assert_eq!(passed().await, 5, "half, of which a quarter is gone");
}

/// Tokens of `tests/mesh/authn.rs`, good until 2100.
const ALICE: &str = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJhdWQiOiJyZXZpZXdzIiwicm9sZSI6ImVkaXRvciIsImV4cCI6NDEwMjQ0NDgwMH0.KXbzGPoW-nhsvy-l_dLw2xCsCeWbQuBhLj6iju6PW0E";
const BOB: &str = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYm9iIiwiYXVkIjoicmV2aWV3cyIsInJvbGUiOiJyZWFkZXIiLCJleHAiOjQxMDI0NDQ4MDB9.f6TG-460m_PDayiDQB09GciWUyxba8FH87kVQRQxfl0";

#[tokio::test(start_paused = true)]
async fn a_claim_of_the_callers_token_is_a_key_and_those_without_share_one() {
    let network = Network::new();
    let keys = r#"{"keys": [{"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}"#;
    let inbound = format!(
        "{{ authn: {{ jwt: [{{ issuer: \"https://issuer.example\", audiences: [reviews], jwks: '{keys}' }}] }}, \
         rate_limit: {{ key: {{ claim: sub }}, quota: {{ requests: 1, window: 1h }} }} }}"
    );
    let (_server, _) = serve(&network, &inbound).await;
    let mesh = client(&network, "").await;
    let mut statuses = Vec::new();
    for token in [Some(ALICE), Some(ALICE), Some(BOB), None, None, Some(BOB)] {
        let request = mesh.client("leaf").get("/");
        let request = match token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        statuses.push(request.send().await.unwrap().status().as_u16());
    }
    assert_eq!(statuses, [200, 429, 200, 200, 429, 429]);
}
