//! What callers prove besides a certificate, on the wire. The tokens were made once and are good until 2100.

use std::net::SocketAddr;

use axum::{Json, Router, extract::Request, routing::get};
use serde_json::{Value, json};
use sinew::{Caller, Client, Mesh, ResponseExt};

const ALICE: &str = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJhdWQiOiJyZXZpZXdzIiwicm9sZSI6ImVkaXRvciIsImV4cCI6NDEwMjQ0NDgwMH0.KXbzGPoW-nhsvy-l_dLw2xCsCeWbQuBhLj6iju6PW0E";
const BOB: &str = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYm9iIiwiYXVkIjoicmV2aWV3cyIsInJvbGUiOiJyZWFkZXIiLCJleHAiOjQxMDI0NDQ4MDB9.f6TG-460m_PDayiDQB09GciWUyxba8FH87kVQRQxfl0";
const EXPIRED: &str = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJhdWQiOiJyZXZpZXdzIiwiZXhwIjoxMDAwMDAwMDAwfQ.jFPGNwaxpGQ8WiVXnIc0lcEtaYHpZJlH05HY0nhS4vU";

/// The API key of `batch` is `0123456789abcdefghijkl`.
const CONFIG: &str = r#"
inbound:
  authn:
    jwt:
    - issuer: https://issuer.example
      audiences: [reviews]
      jwks: '{"keys": [{"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}'
      output_claim_to_headers: { x-user: sub }
    api_keys: { keys: { batch: "sha256:26594ba2c73ebc172047f2305663bc2c5e6ff60a88182eef43e353f48fc95b94" } }
    client_address: { trusted_hops: 1, trusted_proxies: 127.0.0.0/8 }
  authz:
    allow:
    - { name: public, paths: ["/public", "/who"] }
    - { name: signed-in, from: { request_principals: "*" }, paths: /read }
    - { name: editors, from: { request_principals: "https://issuer.example/*" }, paths: /write, claims: { role: editor } }
    - { name: batch, from: { api_keys: batch }, paths: /batch }
    - { name: office, from: { remote_ip_blocks: 203.0.113.0/24 }, paths: /office }
"#;

async fn who(caller: Caller, request: Request) -> Json<Value> {
    let headers: Vec<String> = request.headers().keys().map(ToString::to_string).collect();
    Json(json!({
        "subject": caller.token().and_then(|token| token.subject()),
        "role": caller.token().and_then(|token| token.claim::<String>("role")),
        "client": caller.client_ip(),
        "x-user": request.headers().get("x-user").map(|value| value.to_str().unwrap()),
        "headers": headers,
        "uri": request.uri().to_string(),
    }))
}

async fn world() -> (Mesh, Mesh, Client) {
    let server = Mesh::builder("reviews").config_str(CONFIG).build().await.unwrap();
    let listener = server.listen("127.0.0.1:0").await.unwrap();
    let addr: SocketAddr = listener.local_addr();
    let app = Router::new().route("/who", get(who)).fallback(|| async { "served" });
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let mesh = Mesh::builder("c").service("s", |s| s.endpoints([addr.to_string()])).build().await.unwrap();
    let client = mesh.client("s");
    (server, mesh, client)
}

async fn status(client: &Client, path: &str, headers: &[(&'static str, String)]) -> (u16, String) {
    let mut request = client.get(path);
    for (name, value) in headers {
        request = request.header(*name, value.as_str());
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let body = response.text().await.unwrap();
    (status, body.split(':').next().unwrap().to_owned())
}

fn bearer(token: &str) -> Vec<(&'static str, String)> {
    vec![("authorization", format!("Bearer {token}"))]
}

#[tokio::test]
async fn tokens_verify_or_are_refused_and_rules_ask_for_them() {
    let (_server, _mesh, client) = world().await;
    let rows = [
        ("/public", vec![], 200, "served"),
        ("/read", vec![], 403, "SINEW-E051 denied"),
        ("/read", bearer(ALICE), 200, "served"),
        ("/read", bearer(BOB), 200, "served"),
        ("/write", bearer(ALICE), 200, "served"),
        ("/write", bearer(BOB), 403, "SINEW-E051 denied"),
        ("/public", bearer(EXPIRED), 401, "SINEW-E050 unauthenticated; expired"),
        ("/public", bearer("a.b.c"), 401, "SINEW-E050 unauthenticated; malformed"),
        ("/public", bearer(&ALICE.replace("KXbz", "KXbA")), 401, "SINEW-E050 unauthenticated; signature"),
        ("/public", [bearer(ALICE), bearer(BOB)].concat(), 400, "SINEW-E055 bad_request; header"),
    ];
    for (path, headers, expected, error) in rows {
        assert_eq!(status(&client, path, &headers).await, (expected, error.to_owned()), "{path} {headers:.40?}");
    }
    let refused = client.get("/public").header("authorization", format!("Bearer {EXPIRED}")).send().await.unwrap();
    assert_eq!(refused.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn the_handler_sees_claims_and_no_token_and_nothing_spoofed() {
    let (_server, _mesh, client) = world().await;
    let request = client
        .get(format!("/who?a=1&access_token={ALICE}"))
        .header("x-user", "root")
        .header("x-envoy-external-address", "10.0.0.1")
        .header("x-forwarded-client-cert", "URI=spiffe://td/root")
        .header("x-sinew-user", "root")
        .header("x-api-key", "0123456789abcdefghijkl")
        .header("x-forwarded-for", "10.9.9.9, 203.0.113.7");
    let seen: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(
        (&seen["subject"], &seen["role"], &seen["x-user"]),
        (&json!("alice"), &json!("editor"), &json!("alice"))
    );
    assert_eq!(seen["client"], "203.0.113.7");
    assert!(seen["uri"].as_str().unwrap().ends_with("/who?a=1"), "{seen}");
    let headers: Vec<&str> = seen["headers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for gone in ["authorization", "x-api-key", "x-envoy-external-address", "x-forwarded-client-cert", "x-sinew-user"] {
        assert!(!headers.contains(&gone), "{gone} in {headers:?}");
    }
    let seen = client.get("/who").header("x-user", "root").send().await.unwrap().text().await.unwrap();
    assert!(!seen.contains("root"), "{seen}");
}

#[tokio::test]
async fn api_keys_and_addresses_behind_proxies_are_for_rules_to_ask_for() {
    let (_server, _mesh, client) = world().await;
    let one = |name: &'static str, value: &str| vec![(name, value.to_owned())];
    let rows = [
        ("/batch", vec![], 403),
        ("/batch", one("x-api-key", "0123456789abcdefghijkl"), 200),
        ("/batch", one("x-api-key", "0123456789abcdefghijkm"), 401),
        ("/office", vec![], 403),
        ("/office", one("x-forwarded-for", "203.0.113.7"), 200),
        ("/office", one("x-forwarded-for", "203.0.113.7, 198.51.100.1"), 403),
        ("/office", one("x-forwarded-for", "198.51.100.1, 203.0.113.7"), 200),
    ];
    for (path, headers, expected) in rows {
        assert_eq!(status(&client, path, &headers).await.0, expected, "{path} {headers:?}");
    }
}
