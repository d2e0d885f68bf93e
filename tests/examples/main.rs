//! Every example runs to its end and prints what its documentation promises.
//!
//! `cargo test` builds the examples beside the tests; the binaries are run as a reader would run them.

mod bookinfo;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Once,
    time::Duration,
};

use tokio::process::{Child, Command};

/// Long enough for a debug build on a busy machine; only a hang gets there.
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::test]
async fn helloworld_splits_between_two_versions() {
    let output = run("helloworld", &[]).await;
    assert!(output.contains("Hello version: v"), "{output}");
    assert!(output.contains(", instance: helloworld-v"), "{output}");
    let count = |version: &str| -> u32 {
        let line = output.lines().find_map(|line| line.strip_prefix(version)).unwrap_or("0 of");
        line.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    let (v1, v2) = (count("v1: "), count("v2: "));
    assert_eq!(v1 + v2, 1000, "{output}");
    // 99.9999 % of fair splits.
    assert!((54..=150).contains(&v2), "{output}");
}

#[tokio::test]
async fn http_client_calls_by_name_and_explains_failures() {
    let output = run("http_client", &[]).await;
    expect(
        &output,
        &[
            "found: The Tempest",
            "stored: Order { book: \"The Tempest\", copies: 2 }",
            "not found: the response's status is 404 Not Found",
            "too slow: SINEW-E02",
            "patient: 200 OK",
            "by URL: Macbeth",
            "unknown: SINEW-E002",
        ],
    );
}

#[tokio::test]
async fn axum_server_passes_the_deadline_on_and_drains() {
    let output = run("axum_server", &[]).await;
    expect(
        &output,
        &[
            "peer is loopback: true",
            "two hops away: less than 2 s are left",
            "drained",
            "under axum::serve: less than 2 s are left",
        ],
    );
}

#[tokio::test]
async fn tonic_client_and_server_need_no_adapter() {
    let output = run("tonic_client_server", &[]).await;
    expect(
        &output,
        &[
            "unary: hello",
            "stream: a\nstream: b\nstream: c",
            "the server knows of the deadline: true",
            "late: ",
            "status: InvalidArgument: nothing to echo",
        ],
    );
}

#[tokio::test]
async fn websocket_and_event_stream_pass_through() {
    let output = run("websocket_sse", &[]).await;
    expect(&output, &["websocket: tick 3", "websocket: closed by both", "event: tick 3", "event stream ended"]);
}

#[tokio::test]
async fn config_reload_takes_good_changes_and_refuses_bad_ones() {
    let output = run("config_reload", &[]).await;
    expect(
        &output,
        &["at first: blue", "after the edit: green", "did you mean `endpoints`?", "still: green", "corrected: blue"],
    );
}

#[tokio::test]
async fn retries_repeat_what_may_be_repeated_within_a_budget() {
    let output = run("retries", &[]).await;
    expect(
        &output,
        &[
            "read: 12 in stock",
            "read: 12 in stock",
            "ordered once each: 2 of 4 refused",
            "ordered by number: 0 of 4 refused",
            "less than 10 s: true",
            "retries: true",
        ],
    );
}

#[tokio::test]
async fn one_layer_works_around_a_foreign_service() {
    let output = run("one_layer", &[]).await;
    expect(&output, &["refused: SINEW-E030", "read: hello", "late: SINEW-E020"]);
}

#[tokio::test]
async fn own_policy_is_configured_and_reloaded_like_a_built_in_one() {
    let output = run("own_policy", &[]).await;
    expect(
        &output,
        &[
            "2 calls of trial: 200 200 429",
            "another timeout: 429 429 429",
            "1 call of trial: 200 429 429",
            "at: services.horoscope.trial_quota",
        ],
    );
}

#[tokio::test]
async fn library_client_needs_no_runtime_of_its_own() {
    let output = run("library_client", &[]).await;
    expect(&output, &["built without a runtime", "stars: 5", "stars, by a clone in a task: 3"]);
}

/// All of them, in this order.
#[track_caller]
fn expect(output: &str, parts: &[&str]) {
    let mut rest = output;
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => panic!("`{part}` is missing, or not at its place, in:\n{output}"),
        }
    }
    assert!(!output.contains("unexpected"), "{output}");
}

/// Runs an example to its end and returns what it printed.
async fn run(example: &str, arguments: &[&str]) -> String {
    let child = start(example, arguments);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("the example ends").unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example} ended with {}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// Starts an example. It ends with the returned value.
fn start(example: &str, arguments: &[&str]) -> Child {
    Command::new(binary(example))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("SINEW_CONFIG")
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// `target/<profile>/examples/<name>`, beside the `deps` that this test is in.
fn binary(example: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let directory = profile.join("examples");
    let path = directory.join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    // `cargo test --test examples` does not build them.
    BUILD.call_once(|| {
        if !path.exists() {
            let profile = match profile.file_name().and_then(|name| name.to_str()) {
                Some("debug") | None => "dev",
                Some(name) => name,
            };
            let build = std::process::Command::new(env!("CARGO"))
                .args(["build", "--examples", "--profile", profile])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status();
            assert!(build.unwrap().success(), "the examples do not build");
        }
    });
    path
}
