//! What one call, one client or one process wants differently.

use std::{collections::BTreeMap, time::Duration};

use axum::{Router, routing::any};
use sinew::{Call, Client, Code, Context, Mesh, Network, ResponseExt};

use crate::world::passes_with;

const SECOND: Duration = Duration::from_secs(1);

/// Instances of `s` that answer with their names after `delay`.
async fn instances(network: &Network, names: &[&'static str], delay: Duration) {
    for name in names.iter().copied() {
        let mesh = Mesh::builder("s").network(network).build().await.unwrap();
        let listener = mesh.listen(format!("memory:{name}").as_str()).await.unwrap();
        let app = Router::new().fallback(any(move || async move {
            tokio::time::sleep(delay).await;
            name
        }));
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    }
}

async fn mesh(network: &Network, names: &[&str], more: &str) -> Mesh {
    let static_: Vec<_> = names.iter().map(|name| format!("\"memory:{name}\"")).collect();
    let yaml = format!("services: {{ s: {{ endpoints: {{ static: [{}] }}{more} }} }}", static_.join(", "));
    let mesh = Mesh::builder("client").network(network).config_str(&yaml).build().await.unwrap();
    let all_ready = async {
        while crate::world::status_of(&mesh, "s").endpoints.iter().any(|endpoint| endpoint.state != "ready") {
            let _ = mesh.client("s").bare().get("/").send().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Some take their time to answer.
    tokio::time::timeout(60 * SECOND, all_ready).await.expect("all are there");
    mesh
}

async fn answers(client: &Client, call: Call) -> BTreeMap<String, u32> {
    let mut seen = BTreeMap::new();
    for _ in 0..60 {
        let text = client.get("/").call(call).send().await.unwrap().text().await.unwrap();
        *seen.entry(text).or_default() += 1;
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_call_prefers_an_endpoint_while_it_can_be_used_and_avoids_one_while_there_are_others() {
    let network = Network::new();
    let names = ["a", "b", "c", "d", "e"];
    instances(&network, &names, Duration::ZERO).await;
    let mesh = mesh(&network, &names, ", load_balancer: random").await;
    let client = mesh.client("s");
    assert_eq!(answers(&client, Call::new()).await.len(), 5);
    let preferred = answers(&client, Call::new().prefer("memory:c")).await;
    assert_eq!(preferred, BTreeMap::from([("c".to_owned(), 60)]));
    let avoided = answers(&client, Call::new().avoid("memory:c")).await;
    assert!(avoided.len() == 4 && !avoided.contains_key("c"), "{avoided:?}");
    // Who is not there is no reason to fail, and neither is having nobody else.
    assert_eq!(answers(&client, Call::new().prefer("memory:z")).await.len(), 5);
    let alone = Network::new();
    instances(&alone, &["c"], Duration::ZERO).await;
    let only = self::mesh(&alone, &["c"], "").await;
    assert_eq!(answers(&only.client("s"), Call::new().avoid("memory:c")).await["c"], 60);
}

#[tokio::test(start_paused = true)]
async fn a_scope_chooses_for_the_calls_inside() {
    let network = Network::new();
    instances(&network, &["a", "b"], Duration::ZERO).await;
    let mesh = mesh(&network, &["a", "b"], "").await;
    let client = mesh.client("s");
    let inside = Call::new().prefer("memory:b").scope(async { answers(&client, Call::new()).await }).await;
    assert_eq!(inside["b"], 60);
}

#[tokio::test(start_paused = true)]
async fn a_bare_client_knows_no_policy() {
    let network = Network::new();
    instances(&network, &["a"], 20 * SECOND).await;
    let more = ", timeout: 1s, circuit_breakers: { max_requests: 0 }, routes: [ { name: all, fault: { abort: { \
                http_status: 500 } } } ]";
    let mesh = mesh(&network, &["a"], more).await;
    let client = mesh.client("s");
    assert_eq!(client.get("/").send().await.unwrap().status(), 500);
    // No fault, no limit, and neither the service's timeout nor the default one.
    assert_eq!(client.bare().get("/").send().await.unwrap().text().await.unwrap(), "a");
    let error = client.bare().get("/").timeout(SECOND).send().await.unwrap_err();
    assert_eq!(error.code(), Code::TimeoutRequest);
    assert_eq!(mesh.http().bare().get("http://s/").send().await.unwrap().text().await.unwrap(), "a");
    let error = mesh.client("nobody").bare().get("/").send().await.unwrap_err();
    assert_eq!(error.code(), Code::UnknownService);
}

/// The environment is read once by each process, so this needs one of its own.
#[test]
fn the_environment_turns_features_off_and_suspends_deadlines() {
    passes_with("options::with_switches", &[("SINEW_DISABLE", "fault,mirror"), ("SINEW_DEBUGGER", "1")]);
}

#[tokio::test(start_paused = true)]
#[ignore = "run by the test above in an environment of its own"]
async fn with_switches() {
    let network = Network::new();
    let leaf = Mesh::builder("s").network(&network).build().await.unwrap();
    let app = Router::new().fallback(any(async |context: Context| {
        tokio::time::sleep(60 * SECOND).await;
        format!("{:?}", context.remaining())
    }));
    tokio::spawn(leaf.listen("memory:a").await.unwrap().serve(app).into_future());
    let yaml = "services: { s: { endpoints: { static: [\"memory:a\"] }, timeout: 1s, routes: [ { name: all, timeout: 2s, \
                fault: { abort: { http_status: 500 } } } ] } }";
    let mesh = Mesh::builder("client").network(&network).config_str(yaml).build().await.unwrap();
    assert_eq!(mesh.status().switched_off, ["fault", "mirror", "deadlines"]);
    let origin = mesh.snapshot().provenance.of("services.s.routes[0].fault").to_string();
    assert_eq!(origin, "environment SINEW_DISABLE");
    let response = mesh.client("s").get("/").timeout(3 * SECOND).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "None"));
}
