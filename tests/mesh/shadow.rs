//! Everything in shadow at once, or switched off by the environment: who asks and who is asked see what they would see without
//! it, byte by byte.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};
use sinew::{Client, Mesh, Network, ResponseExt};
use tokio::task::JoinSet;

use crate::world::passes_with;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// What the application was asked for, a line each.
type Asked = Arc<Mutex<Vec<String>>>;

fn line(headers: &http::HeaderMap) -> String {
    // A trace has an id of its own, and dates are those of the clock.
    let known = headers.iter().filter(|(name, _)| !["traceparent", "date"].contains(&name.as_str()));
    let mut headers: Vec<_> = known.map(|(name, value)| format!("{name}: {value:?}")).collect();
    headers.sort();
    headers.join("; ")
}

async fn app(State(asked): State<Asked>, request: Request<axum::body::Body>) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let said = format!("{} {} [{}] {body:?}", parts.method, parts.uri, line(&parts.headers));
    asked.lock().unwrap().push(said);
    match parts.uri.path() {
        "/fails" => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")], "not now").into_response(),
        "/breaks" => (StatusCode::BAD_GATEWAY, "broken").into_response(),
        "/slow" => {
            tokio::time::sleep(3 * SECOND).await;
            "slow".into_response()
        }
        "/works" => {
            tokio::time::sleep(50 * MS).await;
            ([("x-own", "1")], body).into_response()
        }
        _ => "ok".into_response(),
    }
}

/// What is configured.
#[derive(Clone, Copy)]
struct Policies {
    server: &'static str,
    /// Of the service, from its endpoints on.
    client: &'static str,
}

const OFF: Policies = Policies {
    server: "version: 1",
    client: "
    outlier_detection: off
    timeouts: { request: off, response: off }
    load_balancer: { failover: off }
    retry: off
",
};

const SHADOW: Policies = Policies {
    server: "
inbound:
  rate_limit: { token_bucket: { max_tokens: 1, fill_interval: 1h }, mode: shadow }
  load_shed: { max_in_flight: 1, mode: shadow }
  adaptive_concurrency: { initial_limit: 1, min_limit: 1, max_limit: 1, mode: shadow }
  authz:
    deny: [{ name: nobody, shadow: true }]
    allow: [{ name: few, methods: [PUT], shadow: true }]
",
    client: "
      - { static: [\"memory:backup\"], priority: 1 }
    outlier_detection: { consecutive_gateway_failure: 1, consecutive_5xx: 1, enforcement: shadow }
    health_checks: { http: { path: /fails }, interval: 1s, unhealthy_threshold: 1, enforcement: shadow }
    retry: { retry_on: [5xx], num_retries: 3, enforcement: shadow }
    hedge: { delay: 1ms, enforcement: shadow }
    timeouts: { request: 100ms, response: 50ms, max_stream_duration: 50ms, enforcement: shadow }
    throttle: { mode: shadow }
    rate_limit: { token_bucket: { max_tokens: 1, fill_interval: 1h }, mode: shadow }
    load_balancer: { failover: { how: spill, enforcement: shadow } }
    circuit_breakers: { breaker: { minimum_calls: 1, failure_rate_threshold: 1%, mode: shadow } }
    routes:
      - name: all
        fault: { abort: { http_status: 418, percentage: 100% }, delay: { fixed_delay: 9s, percentage: 100% }, mode: shadow }
        mirror: { percent: 100%, mode: shadow }
",
};

/// All that `SINEW_DISABLE` turns off.
const SWITCHED: Policies = Policies {
    server: "
inbound:
  rate_limit: { token_bucket: { max_tokens: 1, fill_interval: 1h } }
  load_shed: { max_in_flight: 1 }
  adaptive_concurrency: { initial_limit: 1, min_limit: 1, max_limit: 1 }
",
    client: "
    outlier_detection: { consecutive_gateway_failure: 1, consecutive_5xx: 1, max_ejection_percent: 100 }
    timeouts: { request: off, response: off }
    load_balancer: { failover: off }
    health_checks: { http: { path: /fails }, interval: 1s, unhealthy_threshold: 1 }
    retry: { retry_on: [5xx], num_retries: 3 }
    hedge: { delay: 1ms }
    throttle: {}
    rate_limit: { token_bucket: { max_tokens: 1, fill_interval: 1h } }
    routes:
      - name: all
        fault: { abort: { http_status: 418, percentage: 100% }, delay: { fixed_delay: 9s, percentage: 100% } }
        mirror: { percent: 100% }
",
};

async fn answer(answer: Result<http::Response<sinew::Body>, sinew::Error>) -> String {
    match answer {
        Ok(answer) => {
            let head = format!("{} [{}]", answer.status(), line(answer.headers()));
            format!("{head} {:?}", answer.bytes().await)
        }
        Err(error) => error.to_string(),
    }
}

async fn calls(client: &Client, said: &mut Vec<String>) {
    for (method, path) in [("GET", "/"), ("GET", "/fails"), ("POST", "/works"), ("GET", "/slow"), ("PUT", "/breaks")] {
        for _ in 0..6 {
            let method = http::Method::from_bytes(method.as_bytes()).unwrap();
            let body = if method == "GET" { "" } else { "some bytes" };
            said.push(answer(client.request(method, path).header("x-asked", "yes").body(body).send().await).await);
            tokio::time::sleep(100 * MS).await;
        }
    }
    let mut together = JoinSet::new();
    for index in 0..20 {
        let call = client.get(if index % 3 == 0 { "/breaks" } else { "/works" }).send();
        together.spawn(async move { format!("{index} {}", answer(call.await).await) });
    }
    let mut all = together.join_all().await;
    all.sort();
    said.extend(all);
}

async fn transcript(policies: Policies, protocol: &str) -> String {
    let network = Network::new();
    let asked = Asked::default();
    let mut servers = Vec::new();
    for name in ["s", "backup"] {
        let server = Mesh::builder("s").network(&network).config_str(policies.server).build().await.unwrap();
        let app = Router::new().fallback(app).with_state(Arc::clone(&asked));
        let listener = server.listen(&*format!("memory:{name}")).await.unwrap();
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
        servers.push(server);
    }
    let yaml = format!(
        "services:\n  s:\n    protocol: {protocol}\n    endpoints:\n      - {{ static: [\"memory:s\"] }}{}",
        policies.client
    );
    let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
    let client = mesh.client("s");
    client.wait_ready(SECOND).await.unwrap();
    let mut said = Vec::new();
    calls(&client, &mut said).await;
    let mut asked = asked.lock().unwrap().clone();
    // Those of health checks are the check's own.
    asked.retain(|line| line.contains("x-asked"));
    asked.sort();
    said.extend(asked);
    said.join("\n")
}

async fn agree(with: Policies) {
    for protocol in ["http2", "http1"] {
        let without = transcript(OFF, protocol).await;
        let with = transcript(with, protocol).await;
        for (without, with) in without.lines().zip(with.lines()) {
            assert_eq!(without, with, "{protocol}");
        }
        assert_eq!(without, with);
        assert!(without.lines().count() >= 80, "{without}");
    }
}

#[tokio::test(start_paused = true)]
async fn everything_in_shadow_changes_no_byte() {
    agree(SHADOW).await;
    // In earnest they do.
    assert_ne!(transcript(OFF, "http2").await, transcript(SWITCHED, "http2").await);
}

/// The environment is read once by each process, so this needs one of its own.
#[test]
fn everything_switched_off_changes_no_byte() {
    const ALL: &str = "retry,hedge,outlier,health_checks,fault,mirror,rate_limit,throttle,shed";
    passes_with("shadow::with_switches", &[("SINEW_DISABLE", ALL)]);
}

#[tokio::test(start_paused = true)]
#[ignore = "run by the test above in an environment of its own"]
async fn with_switches() {
    agree(SWITCHED).await;
}
