//! Limits that one service counts for many processes: while it answers, while it does not, and when it is back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::HeaderMap, routing::get};
use metrics_util::debugging::DebuggingRecorder;
use sinew::{Code, Error, Mesh, Network};
use tokio::time::Instant;

use crate::{
    echo::EchoClient,
    rls::{Mood, Rls},
    world::Counters,
};

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_millis(20);

/// A rate limit service, served by a mesh of its own.
async fn counting(network: &Network, each: u32) -> (Mesh, Rls) {
    let (mesh, rls) = (Mesh::builder("ratelimit").network(network).build().await.unwrap(), Rls::new(each));
    tokio::spawn(mesh.listen("memory:ratelimit").await.unwrap().serve(rls.clone()).into_future());
    (mesh, rls)
}

/// A service at `address` with this limit on what it serves, and how often it was asked.
async fn serve(network: &Network, address: &str, limit: &str) -> (Mesh, Arc<AtomicU32>) {
    let served = Arc::<AtomicU32>::default();
    let count = Arc::clone(&served);
    let app = Router::new().fallback(get(move |headers: HeaderMap| {
        count.fetch_add(1, Relaxed);
        async move { headers.get("x-counted-by").map_or(String::new(), |value| value.to_str().unwrap().to_owned()) }
    }));
    let yaml = format!(
        "services: {{ ratelimit: {{ endpoints: {{ static: [\"memory:ratelimit\"] }}, protocol: http2 }} }}\n{limit}"
    );
    let mesh = Mesh::builder("leaf").network(network).config_str(&yaml).build().await.unwrap();
    mesh.client("ratelimit").wait_ready(SECOND).await.unwrap();
    tokio::spawn(mesh.listen(address).await.unwrap().serve(app).into_future());
    (mesh, served)
}

const BY_TENANT: &str = "descriptors: [{ entries: [{ header: x-tenant }] }]";

fn inbound(more: &str) -> String {
    format!("inbound: {{ rate_limit: {{ global: {{ service: ratelimit, domain: shop, {BY_TENANT} }}, {more} }} }}")
}

/// A mesh that calls `leaf` and may ask `ratelimit`.
async fn client(network: &Network, leaf: &str) -> Mesh {
    let yaml = format!(
        "services:
           leaf: {{ endpoints: {{ static: [\"memory:leaf\"] }}, {leaf} }}
           ratelimit: {{ endpoints: {{ static: [\"memory:ratelimit\"] }}, protocol: http2 }}"
    );
    let mesh = Mesh::builder("client").network(network).config_str(&yaml).build().await.unwrap();
    for service in ["leaf", "ratelimit"] {
        mesh.client(service).wait_ready(SECOND).await.unwrap();
    }
    mesh
}

fn global(more: &str) -> String {
    limited(more, "enforce")
}

fn limited(more: &str, mode: &str) -> String {
    format!("rate_limit: {{ mode: {mode}, global: {{ service: ratelimit, domain: shop, {BY_TENANT}, {more} }} }}")
}

/// One call of this tenant: its status or why there was none, and how long it took.
async fn call(mesh: &Mesh, tenant: &str) -> (Result<u16, Error>, Duration) {
    let begun = Instant::now();
    let result = mesh.client("leaf").get("/").header("x-tenant", tenant).send().await;
    (result.map(|response| response.status().as_u16()), begun.elapsed())
}

async fn passes(mesh: &Mesh, tenant: &str) -> bool {
    call(mesh, tenant).await.0.is_ok_and(|status| status == 200)
}

/// The end of a mesh, as its counters tell it.
async fn counters(mesh: &Mesh) -> Counters {
    let recorder = DebuggingRecorder::new();
    let recording = metrics::set_default_local_recorder(&recorder);
    mesh.shutdown(SECOND).await;
    drop(recording);
    Counters::of(&recorder)
}

#[tokio::test(start_paused = true)]
async fn processes_share_what_one_service_counts() {
    let network = Network::new();
    let (_ratelimit, rls) = counting(&network, 5).await;
    let (_a, in_a) = serve(&network, "memory:a", &inbound("headers: draft03")).await;
    let (_b, in_b) = serve(&network, "memory:b", &inbound("headers: draft03")).await;
    let yaml =
        "services: { leaf: { endpoints: { static: [\"memory:a\", \"memory:b\"] }, load_balancer: round_robin } }";
    let mesh = Mesh::builder("client").network(&network).config_str(yaml).build().await.unwrap();
    let leaf = mesh.client("leaf");
    leaf.wait_ready(SECOND).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..8 {
        let response = leaf.get("/").header("x-tenant", "t").send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("x-ratelimit-limit").as_deref(), Some("5, 5;w=60"));
        assert_eq!((header("x-counted").as_deref(), header("connection")), (Some("yes"), None));
        told.push((response.status().as_u16(), header("x-ratelimit-remaining").unwrap(), header("retry-after")));
    }
    let passed = ["4", "3", "2", "1", "0"].map(|left| (200, left.to_owned(), None));
    let refused = std::iter::repeat_n((429, "0".to_owned(), Some("17".to_owned())), 3);
    assert_eq!(told, passed.into_iter().chain(refused).collect::<Vec<_>>());
    assert_eq!(in_a.load(Relaxed) + in_b.load(Relaxed), 5);
    assert!(in_a.load(Relaxed) > 0 && in_b.load(Relaxed) > 0);
    let asked = &rls.asked()[0];
    assert_eq!((asked.domain.as_str(), asked.hits_addend, asked.descriptors.len()), ("shop", 1, 1));
    let entry = &asked.descriptors[0].entries[0];
    assert_eq!((entry.key.as_str(), entry.value.as_str()), ("header.x-tenant", "t"));

    // Others have a count of their own, and what has no value is not asked about.
    assert_eq!(leaf.get("/").header("x-tenant", "u").send().await.unwrap().status(), 200);
    rls.asked();
    assert_eq!(leaf.get("/").send().await.unwrap().status(), 200);
    assert!(rls.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_elsewhere_is_not_sent_and_one_that_passes_carries_what_it_is_given() {
    let network = Network::new();
    let (_ratelimit, _) = counting(&network, 2).await;
    let (_leaf, served) = serve(&network, "memory:leaf", "").await;
    let mesh = client(&network, &global("")).await;
    let response = mesh.client("leaf").get("/").header("x-tenant", "t").send().await.unwrap();
    assert_eq!(sinew::ResponseExt::text(response).await.unwrap(), "rls");
    assert!(passes(&mesh, "t").await);
    let error = call(&mesh, "t").await.0.unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (Code::RateLimited, Some(SECOND * 17)));
    assert!(error.message().contains("`ratelimit` counts"), "{error}");
    assert_eq!(served.load(Relaxed), 2);
    let counted = counters(&mesh).await;
    let result = |metric: &str, result: &str| counted.sum(metric, ("result", result));
    assert_eq!([result("sinew_rate_limit_total", "ok"), result("sinew_rate_limit_total", "limited")], [2, 1]);
    assert_eq!(
        ["ok", "over_limit", "error", "timeout", "skipped"].map(|kind| result("sinew_rate_limit_service_total", kind)),
        [2, 1, 0, 0, 0]
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_limit_here_refuses_is_not_asked_about() {
    let network = Network::new();
    let (_ratelimit, rls) = counting(&network, 100).await;
    let (_leaf, _) = serve(&network, "memory:leaf", "").await;
    let limit = format!(
        "rate_limit: {{ quota: {{ requests: 2, window: 1h }}, global: {{ service: ratelimit, domain: shop, {BY_TENANT} }} }}"
    );
    let mesh = client(&network, &limit).await;
    let mut passed = 0;
    for _ in 0..5 {
        passed += u32::from(passes(&mesh, "t").await);
    }
    assert_eq!((passed, rls.asked().len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_costs_five_timeouts_and_then_one_a_second_until_it_is_back() {
    let network = Network::new();
    let (_ratelimit, rls) = counting(&network, 3).await;
    let (_leaf, _) = serve(&network, "memory:leaf", "").await;
    let mesh = client(&network, &global("")).await;
    assert!(passes(&mesh, "t").await);
    rls.mood(Mood::Hangs);
    let spent = async |calls: u32| {
        let mut spent = Vec::new();
        for _ in 0..calls {
            let (result, took) = call(&mesh, "t").await;
            assert_eq!(result.unwrap(), 200, "it fails open");
            spent.push(took >= TIMEOUT);
            assert!(took < TIMEOUT + Duration::from_millis(5), "{took:?}");
        }
        spent
    };
    assert_eq!(spent(8).await, [true, true, true, true, true, false, false, false]);
    tokio::time::sleep(SECOND).await;
    assert_eq!(spent(3).await, [true, false, false], "one asks again");
    rls.mood(Mood::Answers);
    assert_eq!(spent(1).await, [false], "nobody knows yet");
    tokio::time::sleep(SECOND).await;
    rls.asked();
    // The questions that were given up count only where they were answered after all.
    let mut passed = 0;
    for _ in 0..5 {
        passed += u32::from(passes(&mesh, "back").await);
    }
    assert_eq!((passed, rls.asked().len()), (3, 5));
    let counted = counters(&mesh).await;
    let result = |metric: &str, result: &str| counted.sum(metric, ("result", result));
    assert_eq!(
        ["ok", "over_limit", "error", "timeout", "skipped"].map(|kind| result("sinew_rate_limit_service_total", kind)),
        [4, 2, 0, 6, 6]
    );
    assert_eq!(result("sinew_rate_limit_unanswered_total", "open"), 12);
}

#[tokio::test(start_paused = true)]
async fn while_it_is_down_nothing_passes_where_the_policy_says_so() {
    let network = Network::new();
    let (ratelimit, rls) = counting(&network, 100).await;
    let limit = inbound("").replace("domain: shop", "domain: shop, failure_mode_deny: true");
    let (server, served) = serve(&network, "memory:leaf", &limit).await;
    let mesh = client(&network, "").await;
    assert!(passes(&mesh, "t").await);
    rls.mood(Mood::Fails);
    let mut statuses = Vec::new();
    for _ in 0..7 {
        statuses.push(call(&mesh, "t").await.0.unwrap());
    }
    assert_eq!(statuses, [429; 7]);
    let mut echo = EchoClient::new(mesh.client("leaf"));
    let mut request = tonic::Request::new(crate::echo::Message::new("x"));
    request.metadata_mut().insert("x-tenant", "t".parse().unwrap());
    let status = echo.unary(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(status.message().contains("SINEW-E041"), "{status}");
    // Not only unwilling: gone.
    ratelimit.shutdown(SECOND).await;
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(call(&mesh, "t").await.0.unwrap(), 429);
    let (_again, _) = counting(&network, 100).await;
    tokio::time::sleep(SECOND * 3).await;
    assert!(passes(&mesh, "t").await, "it is back");
    assert_eq!(served.load(Relaxed), 2);
    let counted = counters(&server).await;
    assert_eq!(counted.sum("sinew_rate_limit_unanswered_total", ("result", "denied")), 9);
    assert_eq!(counted.sum("sinew_rate_limit_total", ("result", "limited")), 9);
    let asked = |result| counted.sum("sinew_rate_limit_service_total", ("result", result));
    assert_eq!((asked("error"), asked("skipped"), asked("timeout")), (6, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_each_combination_of_values_is_held_to_the_fallback() {
    let network = Network::new();
    let (_ratelimit, rls) = counting(&network, 100).await;
    let (_leaf, _) = serve(&network, "memory:leaf", "").await;
    let mesh = client(&network, &global("fallback: { quota: { requests: 2, window: 1h } }")).await;
    rls.mood(Mood::Fails);
    let mut passed = Vec::new();
    for tenant in ["a", "a", "a", "b", "b", "b", "a"] {
        passed.push(passes(&mesh, tenant).await);
    }
    assert_eq!(passed, [true, true, false, true, true, false, false]);
    let error = call(&mesh, "a").await.0.unwrap_err();
    assert_eq!(error.code(), Code::RateLimited);
    assert!(error.message().contains("rate_limit.global.fallback") && error.retry_after().is_some(), "{error}");
    rls.mood(Mood::Answers);
    tokio::time::sleep(SECOND).await;
    assert!(passes(&mesh, "a").await && passes(&mesh, "a").await);
    let counted = counters(&mesh).await;
    let result = |result| counted.sum("sinew_rate_limit_unanswered_total", ("result", result));
    assert_eq!([result("fallback_ok"), result("fallback_limited"), result("open")], [4, 4, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_the_defaults_does_not_ask_about_its_own_questions() {
    let network = Network::new();
    let (_ratelimit, rls) = counting(&network, 2).await;
    let (_leaf, _) = serve(&network, "memory:leaf", "").await;
    let yaml = format!(
        "defaults: {{ {} }}\n\
         services:\n\
         \x20 leaf: {{ endpoints: {{ static: [\"memory:leaf\"] }} }}\n\
         \x20 ratelimit: {{ endpoints: {{ static: [\"memory:ratelimit\"] }}, protocol: http2 }}",
        global("").replace("header: x-tenant", "key: host")
    );
    let mesh = Mesh::builder("client").network(&network).config_str(&yaml).build().await.unwrap();
    for service in ["leaf", "ratelimit"] {
        mesh.client(service).wait_ready(SECOND).await.unwrap();
    }
    assert!(passes(&mesh, "").await && passes(&mesh, "").await && !passes(&mesh, "").await);
    assert_eq!(rls.asked().len(), 3);
    // The application's own calls to it are calls like others.
    let answer = mesh.client("ratelimit").get("/").send().await;
    assert_eq!((answer.is_ok(), rls.asked().len()), (true, 1));
}

#[tokio::test(start_paused = true)]
async fn asking_is_inside_the_deadline_of_the_call() {
    let network = Network::new();
    let (_ratelimit, rls) = counting(&network, 2).await;
    let (_leaf, served) = serve(&network, "memory:leaf", "").await;
    let mesh = client(&network, &format!("timeout: 10ms, {}", global("timeout: 1s"))).await;
    rls.mood(Mood::Hangs);
    let (result, took) = call(&mesh, "t").await;
    assert_eq!(result.unwrap_err().code(), Code::TimeoutRequest);
    assert!(took < Duration::from_millis(15), "{took:?}");
    assert_eq!(served.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn in_shadow_it_is_asked_and_nothing_is_refused() {
    let network = Network::new();
    let (_ratelimit, rls) = counting(&network, 1).await;
    let (_leaf, served) = serve(&network, "memory:leaf", "").await;
    let mesh = client(&network, &limited("", "shadow")).await;
    for _ in 0..4 {
        assert!(passes(&mesh, "t").await);
    }
    assert_eq!((served.load(Relaxed), rls.asked().len()), (4, 4));
    let counted = counters(&mesh).await;
    let result = |result| counted.sum("sinew_rate_limit_total", ("result", result));
    assert_eq!([result("ok"), result("limited"), result("shadow")], [1, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_layer_alone_asks_over_any_channel() {
    use sinew::{
        RlsClient,
        limit::{GlobalEntry, GlobalPolicy, KeySource, RateLimitLayer, RateLimitPolicy},
    };
    use tower::{Layer, Service, ServiceExt};

    let rls = Rls::new(2);
    let global = GlobalPolicy::new("anything".parse().unwrap(), "shop")
        .descriptor([GlobalEntry::fixed("generic_key", "checkout"), GlobalEntry::of(KeySource::Path).keyed("way")]);
    let policy = RateLimitPolicy::counted_by(global);
    assert_eq!(RateLimitLayer::new(policy.clone()).unwrap_err().code(), Code::BadRequest);
    let layer = RateLimitLayer::asking(policy, RlsClient::new(rls.clone())).unwrap();
    let inner = tower::service_fn(async |_: http::Request<()>| Ok::<_, Error>(http::Response::new(())));
    let mut service = layer.layer(inner);
    let mut codes = Vec::new();
    for _ in 0..3 {
        let request = http::Request::get("/a?b").body(()).unwrap();
        let result = service.ready().await.unwrap().call(request).await;
        codes.push(result.map(|response| response.status().as_u16()).map_err(|error| error.code()));
    }
    assert_eq!(codes, [Ok(200), Ok(200), Err(Code::RateLimited)]);
    let entries = rls.asked().remove(0).descriptors.remove(0).entries;
    let entries: Vec<_> = entries.iter().map(|pair| (pair.key.as_str(), pair.value.as_str())).collect();
    assert_eq!(entries, [("generic_key", "checkout"), ("way", "/a")]);
}
