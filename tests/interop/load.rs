//! Load generators that are not ours: h2load, wrk and ghz against our listener.

use std::path::Path;

use axum::{Router, routing::get};

use crate::{
    echo::Echo,
    peer::{peer, run, text},
    world::Instance,
};

async fn instance() -> Instance {
    Instance::start("server", "127.0.0.1:0", Router::new().route("/", get(|| async { "hello" }))).await
}

fn args(args: &str) -> Vec<String> {
    args.split_ascii_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_sees_no_error_over_http2_and_http1() {
    let Some(h2load) = peer("h2load") else { return };
    let instance = instance().await;
    for options in ["-n 20000 -c 8 -m 32", "-n 20000 -c 32 --h1"] {
        let output = run(h2load.clone(), args(&format!("{options} http://{}/", instance.addr))).await;
        let text = text(&output);
        let line = text.lines().find(|line| line.starts_with("requests:")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains("20000 succeeded, 0 failed, 0 errored, 0 timeout"), "{options}: {line}\n{text}");
        assert!(text.contains("20000 2xx"), "{options}: {text}");
    }
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrk_sees_no_error() {
    let Some(wrk) = peer("wrk") else { return };
    let instance = instance().await;
    let output = run(wrk, args(&format!("-t 1 -c 32 -d 2s http://{}/", instance.addr))).await;
    let text = text(&output);
    assert!(text.contains("requests in"), "{text}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_go_client_calls_unary_and_reads_streams() {
    let Some(ghz) = peer("ghz") else { return };
    let instance = Instance::start("server", "127.0.0.1:0", Echo::new("v1").routes()).await;
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/echo.proto");
    for (method, data) in [("Unary", r#"{"text":"hi"}"#), ("Feed", r#"{"count":20}"#)] {
        let mut all = args("--insecure --format json -n 2000 -c 16 --connections 4 --proto");
        all.push(proto.to_str().unwrap().into());
        all.extend(["--call", &format!("test.Echo.{method}"), "-d", data].map(str::to_owned));
        all.push(instance.addr.to_string());
        let output = run(ghz.clone(), all).await;
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        assert_eq!(report["statusCodeDistribution"], serde_json::json!({ "OK": 2000 }), "{method}");
        assert!(report["errorDistribution"].as_object().is_none_or(serde_json::Map::is_empty), "{method}");
    }
    instance.stop().await;
}
