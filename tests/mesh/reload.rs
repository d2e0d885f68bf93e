//! New configuration while calls run.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use axum::{Router, routing::get};
use sinew::{Mesh, ResponseExt};

use crate::world::Instance;

fn write(path: &std::path::Path, yaml: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, yaml).unwrap();
    std::fs::rename(next, path).unwrap();
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_used_a_broken_one_changes_nothing_and_no_call_fails() {
    let app = |version: &'static str| Router::new().route("/", get(move || async move { version }));
    let a = Instance::start("a", "127.0.0.1:0", app("a")).await;
    let b = Instance::start("b", "127.0.0.1:0", app("b")).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sinew.yaml");
    let yaml = |addr| format!("services: {{ s: {{ endpoints: {{ static: [\"{addr}\"] }} }} }}");
    write(&path, &yaml(a.addr));
    let mesh = Mesh::builder("client").config_file(&path).build().await.unwrap();
    let client = mesh.client("s");
    let (done, failed, last) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let load = {
        let (client, done, failed, last) = (client.clone(), done.clone(), failed.clone(), last.clone());
        tokio::spawn(async move {
            while !done.load(Relaxed) {
                match client.get("/").send().await {
                    Ok(response) => last.store(u64::from(response.text().await.unwrap() == "b"), Relaxed),
                    Err(_) => _ = failed.fetch_add(1, Relaxed),
                }
            }
        })
    };
    until("the first version answers", || last.load(Relaxed) == 0).await;
    write(&path, &yaml(b.addr));
    assert_eq!(mesh.changed(1).await.generation, 2);
    until("the change is used", || last.load(Relaxed) == 1).await;

    write(&path, "services: { s: { endpoint: 1 } }");
    until("the broken file is reported", || mesh.status().sources[0].error.is_some()).await;
    let report = mesh.status().sources[0].error.clone().unwrap();
    assert!(report.contains("endpoints"), "{report}");
    assert_eq!(mesh.snapshot().generation, 2);
    assert_eq!(client.get("/").send().await.unwrap().text().await.unwrap(), "b");

    write(&path, &yaml(a.addr));
    until("the repaired file is used", || last.load(Relaxed) == 0).await;
    assert!(mesh.status().sources[0].error.is_none());
    done.store(true, Relaxed);
    load.await.unwrap();
    assert_eq!(failed.load(Relaxed), 0);
    a.stop().await;
    b.stop().await;
}

/// Whoever knows that a configuration is in use need not wait for what it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_in_the_configuration_are_in_use_when_it_is() {
    let a = Instance::start("a", "127.0.0.1:0", Router::new().route("/", get(|| async { "a" }))).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sinew.yaml");
    let yaml = |of: &str| format!("services: {{ s: {{ endpoints: {{ static: [{of}] }} }} }}");
    write(&path, &yaml(""));
    let mesh = Mesh::builder("client").config_file(&path).build().await.unwrap();
    let client = mesh.client("s");
    for round in 0..10 {
        write(&path, &yaml(&format!("\"{}\"", a.addr)));
        mesh.changed(2 * round + 1).await;
        assert_eq!(client.get("/").send().await.unwrap().status(), 200);
        write(&path, &yaml(""));
        mesh.changed(2 * round + 2).await;
        assert_eq!(client.get("/").send().await.unwrap_err().code(), sinew::Code::NoHealthyEndpoint);
    }
    a.stop().await;
}

/// A call keeps its route; when that is renamed away while the call waits, the subset still means what it meant.
#[tokio::test(start_paused = true)]
async fn a_call_that_began_before_its_subset_was_renamed_goes_where_it_said() {
    let network = sinew::Network::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sinew.yaml");
    let yaml = |subset: &str| {
        format!(
            "services: {{ s: {{ endpoints: {{ static: [{{address: \"memory:late\", labels: {{v: \"1\"}}}}] }}, \
             timeouts: {{connect_wait: 1h}}, subsets: {{ {subset}: {{v: \"1\"}} }}, routes: [{{to: {subset}}}] }} }}"
        )
    };
    write(&path, &yaml("before"));
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let mesh = Mesh::builder("c")
        .network(&network)
        .config_file(&path)
        .attempt(sinew::seat::seat_fn(|request, next: sinew::seat::Next| async move {
            // Between the choice of the route and the pick of the endpoint.
            tokio::time::sleep(std::time::Duration::from_secs(600)).await;
            next.run(request).await
        }))
        .build()
        .await
        .unwrap();
    let listener = server.listen("memory:late").await.unwrap();
    let app = Router::new().route("/", get(|| async { "ok" }));
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let client = mesh.client("s");
    let call = tokio::spawn(client.get("/").timeout(std::time::Duration::from_secs(3600)).send());
    tokio::task::yield_now().await;
    write(&path, &yaml("after"));
    while mesh.snapshot().generation < 2 {
        // Files change in real time.
        tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(!call.is_finished());
    assert_eq!(call.await.unwrap().unwrap().text().await.unwrap(), "ok");
}
