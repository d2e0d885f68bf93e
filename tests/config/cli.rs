//! The `sinew` command.

use std::{fs, process::Command};

fn sinew(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sinew")).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sinew.yaml");
    fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

#[test]
fn validate_says_what_is_wrong_and_exits_with_2() {
    let (_keep, good) = file("version: 1\n");
    assert_eq!(sinew(&["config", "validate", &good]), (0, format!("{good}: valid\n"), String::new()));

    let (_keep, bad) = file("verson: 1\n");
    let (code, out, err) = sinew(&["config", "validate", &good, &bad]);
    assert_eq!((code, out), (2, format!("{good}: valid\n")));
    assert!(err.contains(&format!("{bad}:1:1")) && err.contains("did you mean `version`?"), "{err}");

    let (code, _, err) = sinew(&["config", "validate", "/nowhere/sinew.yaml"]);
    assert_eq!(code, 2);
    assert!(err.contains("cannot be read"), "{err}");
}

#[test]
fn warnings_refuse_only_when_strict() {
    let (_keep, path) = file("services: { a: { endpoints: { static: [] } } }\n");
    let (code, out, err) = sinew(&["config", "validate", &path]);
    assert_eq!((code, out), (0, format!("{path}: valid, 1 warning\n")));
    assert!(err.starts_with(&format!("warning: {path}:1:29: services.a.endpoints[0].static:")), "{err}");
    assert!(err.trim_end().ends_with("(add an address, or remove the source) [SINEW-W001]"), "{err}");
    assert_eq!(sinew(&["config", "validate", "--strict", &path]).0, 2);
}

#[test]
fn show_prints_every_value_with_its_origin() {
    let (_keep, path) = file("services:\n  a:\n    timeout: 2s\n");
    let (code, out, _) = sinew(&["config", "show", &path]);
    assert_eq!(code, 0);
    let line = |text: &str| out.lines().find(|line| line.trim_start().starts_with(text)).unwrap_or_default().to_owned();
    assert!(line("request: 2s").ends_with(&format!("# {path}:3:14")), "{out}");
    assert!(line("connect: 5s").ends_with("# default"), "{out}");
}

#[test]
fn schema_is_json_and_explain_prints_a_row() {
    let (code, out, _) = sinew(&["config", "schema"]);
    assert_eq!(code, 0);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    for spelling in ["E010", "SINEW-E010", "10"] {
        let (code, out, _) = sinew(&["explain", spelling]);
        assert_eq!(code, 0);
        assert!(out.starts_with("SINEW-E010 no_healthy_endpoint\n") && out.contains("gRPC status   14"), "{out}");
    }
    assert_eq!(sinew(&["explain", "E999"]).0, 2);
    let (code, out, _) = sinew(&["explain", "W010"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("SINEW-W010 unbounded_deadline\n") && out.contains("set `timeouts.request`"), "{out}");
    assert_eq!(sinew(&["explain", "W999"]).0, 2);
}

#[test]
fn audit_logs_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let name = path.display().to_string();
    // What the log of a process looks like that did nothing.
    let zeros = "0".repeat(64);
    let hash = "b562ce0cfb915f9e8613edc5018d47e3f4c765524486f71c58c31d0157864a1b";
    let line =
        format!("{{\"hash\":\"{hash}\",\"kind\":\"open\",\"prev\":\"{zeros}\",\"seq\":1,\"time_ms\":1700000000000}}\n");
    fs::write(&path, &line).unwrap();
    let (code, out, _) = sinew(&["audit", "verify", &name]);
    assert_eq!((code, out), (0, format!("{name}: 1 lines hold together\nhead 1:{hash}\n")));
    assert_eq!(sinew(&["audit", "verify", &name, "--known", &format!("1:{hash}")]).0, 0);
    let (code, _, err) = sinew(&["audit", "verify", &name, "--known", &format!("2:{hash}")]);
    assert!(code == 2 && err.ends_with("lines were cut off\n"), "{err}");
    assert_eq!(sinew(&["audit", "verify", &name, "--known", "x"]).0, 1);
    fs::write(&path, line.replace("open", "opem")).unwrap();
    let (code, _, err) = sinew(&["audit", "verify", &name]);
    assert!(code == 2 && err.starts_with(&format!("{name}: line 1: its hash is another")), "{err}");
    assert_eq!(sinew(&["audit", "verify", "/nowhere/audit.log"]).0, 1);
}
