//! Requests go where the rules say.

use axum::{Router, routing::get};
use sinew::ResponseExt;

use crate::world::{Instance, mesh};

fn app(version: &'static str) -> Router {
    Router::new()
        .fallback(get(move |request: axum::extract::Request| async move { format!("{version} {}", request.uri()) }))
}

async fn versions() -> (Instance, Instance) {
    (Instance::start("v1", "127.0.0.1:0", app("v1")).await, Instance::start("v2", "127.0.0.1:0", app("v2")).await)
}

#[tokio::test]
async fn headers_choose_exactly_and_weights_within_the_binomial_band() {
    let (v1, v2) = versions().await;
    let mesh = mesh(&format!(
        r#"
services:
  reviews:
    endpoints:
      - {{ static: ["{}"], labels: {{ version: v1 }} }}
      - {{ static: ["{}"], labels: {{ version: v2 }} }}
    subsets: {{ v1: {{ version: v1 }}, v2: {{ version: v2 }} }}
    routes:
      - {{ name: jason, match: {{ headers: {{ end-user: jason }} }}, to: v2 }}
      - {{ name: default, split: {{ v1: 90, v2: 10 }} }}
"#,
        v1.addr, v2.addr
    ))
    .await;
    let reviews = mesh.client("reviews");
    for _ in 0..200 {
        let text = reviews.get("/").header("end-user", "jason").send().await.unwrap().text().await.unwrap();
        assert!(text.starts_with("v2"), "{text}");
    }
    let mut second = 0u32;
    let total = 10_000;
    for _ in 0..total {
        let text = reviews.get("/").send().await.unwrap().text().await.unwrap();
        second += u32::from(text.starts_with("v2"));
    }
    // Mean 1000, standard deviation 30; 99.9 % of binomial draws lie within 3.29 of them.
    assert!((901..=1099).contains(&second), "{second} of {total}");
    v1.stop().await;
    v2.stop().await;
}

#[tokio::test]
async fn paths_are_rewritten_and_routes_answer_by_themselves() {
    let (v1, v2) = versions().await;
    let mesh = mesh(&format!(
        r#"
services:
  s:
    endpoints: {{ static: ["{}"] }}
    hosts: ["s.example.com"]
    routes:
      - name: moved
        match: {{ path: {{ prefix: /old }} }}
        redirect: {{ path: {{ prefix: /new }}, status: 301 }}
      - name: fixed
        match: {{ path: {{ exact: /teapot }} }}
        direct_response: {{ status: 418, body: "short and stout" }}
      - name: inner
        match: {{ path: {{ prefix: /api }} }}
        rewrite: {{ path: {{ prefix: /v2 }} }}
        request_headers: {{ set: {{ x-a: "1" }} }}
        response_headers: {{ add: {{ x-b: "2" }} }}
"#,
        v1.addr
    ))
    .await;
    let client = mesh.client("s");
    let response = client.get("/old/a?b=c").send().await.unwrap();
    assert_eq!(response.status(), 301);
    assert!(response.headers()["location"].to_str().unwrap().ends_with("/new/a?b=c"));
    let response = client.get("/teapot").send().await.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(response.text().await.unwrap(), "short and stout");
    let response = client.get("/api/x?q=1").send().await.unwrap();
    assert_eq!(response.headers()["x-b"], "2");
    let text = response.text().await.unwrap();
    assert!(text.ends_with("/v2/x?q=1"), "{text}");
    let error = client.get("/else").send().await.unwrap_err();
    assert_eq!(error.code(), sinew::Code::NoRoute);

    let http = mesh.http();
    assert!(http.get("http://s/api/x").send().await.unwrap().status().is_success());
    assert!(http.get("http://s.example.com/api/x").send().await.unwrap().status().is_success());
    assert_eq!(http.get("http://other/").send().await.unwrap_err().code(), sinew::Code::UnknownService);
    v1.stop().await;
    v2.stop().await;
}
