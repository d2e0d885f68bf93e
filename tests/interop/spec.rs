//! h2spec against our listener.

use std::collections::BTreeMap;

use axum::{Router, routing::get};

use crate::{
    peer::{peer, run, text},
    world::Instance,
};

/// What hyper's server misses, with or without sinew around it. Anything else that fails, fails the test.
const MISSES: &[(&str, &str)] = &[
    (
        "Sends invalid connection preface",
        "3.5/2: a connection that does not begin with the preface is HTTP/1.1 here and gets a 400, since both versions \
         share the port",
    ),
    (
        "Sends a HEADERS frame that contains a request with a connection-specific header field",
        "8.1.2.6/2 and 8.1.2.2: depends on the version of h2; malformed requests are reset as its parser sees fit",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_listener_speaks_http2_as_the_specification_says() {
    let Some(h2spec) = peer("h2spec") else { return };
    let app = Router::new().route("/", get(|| async { "hello" }).post(|body: String| async { body }));
    let instance = Instance::start("server", "127.0.0.1:0", app).await;
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.xml");
    let args = ["-h", "127.0.0.1", "-p", &instance.addr.port().to_string(), "-j", report.to_str().unwrap()];
    let output = run(h2spec, args.map(str::to_owned).to_vec()).await;
    let xml = std::fs::read_to_string(&report).unwrap_or_else(|_| panic!("{}", text(&output)));
    let (passed, failed) = read(&xml);
    assert!(passed > 130, "{passed} passed:\n{}", text(&output));
    let known: BTreeMap<_, _> = MISSES.iter().copied().collect();
    let unknown: Vec<_> = failed.iter().filter(|name| !known.contains_key(name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:#?}\n{}", text(&output));
    instance.stop().await;
}

/// How many cases passed, and the names of those that failed.
fn read(xml: &str) -> (usize, Vec<String>) {
    let mut passed = 0;
    let mut failed = Vec::new();
    for case in xml.split("<testcase").skip(1) {
        let case = case.split("</testcase>").next().unwrap();
        if case.contains("<failure") || case.contains("<error") {
            failed.push(case.split("classname=\"").nth(1).unwrap().split('"').next().unwrap().to_owned());
        } else if !case.contains("<skipped") {
            passed += 1;
        }
    }
    (passed, failed)
}
