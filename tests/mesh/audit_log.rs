//! What is denied and audited, kept in a log that shows if it is changed.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use axum::{Router, extract::Request};
use serde_json::Value;
use sinew::{
    Builder, Mesh, ResponseExt,
    authz::audit::{AuditLog, AuditSink, Verifier, verify_file},
};

use crate::world::client;

const RULES: &str = r#"
  authz:
    allow: [{ name: all }]
    deny: [{ name: no-admin, paths: "/admin*" }]
    audit: [{ name: writes, methods: [POST] }]
"#;

async fn serve(builder: Builder) -> (Mesh, SocketAddr) {
    let mesh = builder.build().await.unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    let app = Router::new().fallback(|_: Request| async {});
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    (mesh, addr)
}

fn document(file: &Path, more: &str) -> String {
    format!("inbound:\n  audit_log: {{ file: {}{more} }}{RULES}", Value::from(file.display().to_string()))
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn what_is_denied_or_audited_is_kept_and_a_change_shows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    for _ in 0..2 {
        let (server, addr) = serve(Mesh::builder("s").config_str(&document(&path, ""))).await;
        let (_mesh, client) = client(addr).await;
        assert_eq!(client.get("/quiet").send().await.unwrap().status(), 200);
        assert_eq!(client.post("/a?token=secret").send().await.unwrap().status(), 200);
        assert_eq!(client.get("/admin/x").send().await.unwrap().status(), 403);
        // Ends when all of it is written.
        server.shutdown(Duration::from_secs(30)).await;
    }
    let lines = read(&path);
    let kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    let one = ["open", "decision", "decision", "close"];
    assert_eq!(kinds, [one, one].concat());
    let (write, denied) = (&lines[1], &lines[2]);
    for (line, decision, rule, path) in [(write, "allow", "all", "/a"), (denied, "deny", "no-admin", "/admin/x")] {
        assert_eq!((&line["decision"], &line["rule"], &line["path"]), (&decision.into(), &rule.into(), &path.into()));
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:") && line["host"].is_string(), "{line}");
    }
    assert_eq!((&write["audit"], &write["method"], &denied["audit"]), (&"writes".into(), &"POST".into(), &Value::Null));
    assert!(!std::fs::read_to_string(&path).unwrap().contains("secret"));

    let found = verify_file(&path, Verifier::new()).unwrap();
    assert_eq!((found.lines, found.lost, found.unclosed), (8, 0, 0));
    let head = found.head.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("/admin/x", "/harmless", 1)).unwrap();
    assert!(verify_file(&path, Verifier::new()).unwrap_err().to_string().starts_with("line 3: its hash is another"));
    let whole = text.lines().count();
    let cut: String = text.lines().take(whole - 1).map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, cut).unwrap();
    assert!(verify_file(&path, Verifier::new()).is_ok());
    assert!(verify_file(&path, Verifier::new().known(head)).is_err());
}

/// Takes lines only while it is let.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    text: String,
    shut: bool,
    fails: bool,
    entered: bool,
}

impl Gate {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Off the runtime's thread, which has to go on meanwhile.
    async fn until(&self, holds: fn(&State) -> bool) {
        let own = self.clone();
        let wait = move || drop(own.0.1.wait_while(own.0.0.lock().unwrap(), |state| !holds(state)).unwrap());
        tokio::task::spawn_blocking(wait).await.unwrap();
    }
}

impl AuditSink for Gate {
    fn last(&self) -> io::Result<Option<String>> {
        Ok(self.0.0.lock().unwrap().text.lines().last().map(str::to_owned))
    }

    fn write(&self, lines: &str) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        state.entered = true;
        self.0.1.notify_all();
        let mut state = self.0.1.wait_while(state, |state| state.shut).unwrap();
        if state.fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.text.push_str(lines);
        self.0.1.notify_all();
        Ok(())
    }
}

fn rules() -> String {
    format!("inbound:{RULES}")
}

#[tokio::test]
async fn a_sink_that_hangs_holds_nobody_up_and_what_it_missed_is_told_in_its_place() {
    let gate = Gate::default();
    let log = AuditLog::sink(gate.clone()).queue(2);
    let (server, addr) = serve(Mesh::builder("s").config_str(&rules()).audit_log(log)).await;
    let (_mesh, client) = client(addr).await;
    gate.until(|state| !state.text.is_empty()).await;
    gate.set(|state| (state.shut, state.entered) = (true, false));
    // One is in the sink's hands, two wait, three are lost.
    assert_eq!(client.get("/admin/0").send().await.unwrap().status(), 403);
    gate.until(|state| state.entered).await;
    for n in 1..6 {
        assert_eq!(client.get(format!("/admin/{n}")).send().await.unwrap().status(), 403);
    }
    gate.set(|state| state.shut = false);
    gate.until(|state| state.text.contains("/admin/2")).await;
    server.shutdown(Duration::from_secs(30)).await;
    let text = gate.0.0.lock().unwrap().text.clone();
    let mut verifier = Verifier::new();
    text.lines().for_each(|line| verifier.line(line).unwrap());
    let found = verifier.end().unwrap();
    assert_eq!((found.lost, found.lines), (3, 6), "{text}");
}

#[tokio::test]
async fn what_has_to_be_audited_waits_for_no_sink_but_is_refused() {
    let gate = Gate::default();
    gate.set(|state| state.fails = true);
    let log = AuditLog::sink(gate.clone()).required(true);
    let (server, addr) = serve(Mesh::builder("s").config_str(&rules()).pin_audit_log(log)).await;
    let (_mesh, client) = client(addr).await;
    // What is neither denied nor audited needs no log.
    assert_eq!(client.get("/quiet").send().await.unwrap().status(), 200);
    let refused = client.post("/a").send().await.unwrap();
    assert_eq!(refused.status(), 403);
    let text = refused.text().await.unwrap();
    assert!(text.starts_with("SINEW-E051 denied; audit: "), "{text}");
    gate.set(|state| state.fails = false);
    // Ready once the log is open.
    server.ready().await;
    assert_eq!(client.post("/a").send().await.unwrap().status(), 200);
    server.shutdown(Duration::from_secs(30)).await;
    let text = gate.0.0.lock().unwrap().text.clone();
    // What did not pass left no record that it did.
    assert_eq!(text.lines().filter(|line| line.contains("\"decision\":\"allow\"")).count(), 1, "{text}");
    assert!(text.contains("\"lost\":1,"), "{text}");
}

#[tokio::test]
async fn another_log_closes_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sinew.yaml");
    let logs = [folder.path().join("one.log"), folder.path().join("two.log")];
    std::fs::write(&config, document(&logs[0], "")).unwrap();
    let (server, addr) = serve(Mesh::builder("s").config_file(&config)).await;
    let (_mesh, client) = client(addr).await;
    client.get("/admin/1").send().await.unwrap().text().await.unwrap();
    let generation = server.snapshot().generation;
    std::fs::write(&config, document(&logs[1], ", denied: false")).unwrap();
    server.changed(generation).await;
    client.get("/admin/2").send().await.unwrap().text().await.unwrap();
    client.post("/b").send().await.unwrap();
    server.shutdown(Duration::from_secs(30)).await;
    let paths = |log: &Path| -> Vec<String> {
        let path = |line: &Value| line["path"].as_str().map(str::to_owned);
        read(log).iter().filter_map(path).collect()
    };
    assert_eq!((paths(&logs[0]), paths(&logs[1])), (vec!["/admin/1".to_owned()], vec!["/b".to_owned()]));
    let last = read(&logs[0]).pop().unwrap();
    assert_eq!(last["kind"], "close");
    assert!(read(&logs[0]).iter().any(|line| line["kind"] == "lowered"));
}

#[tokio::test]
async fn who_asked_others_and_who_was_not_let_in_stand_there_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    // Nobody answers there.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = silent.local_addr().unwrap();
    let config = format!(
        "services: {{ authz: {{ endpoints: [\"{nobody}\"] }} }}
inbound:
  audit_log: {{ file: {} }}
  authz:
    audit: [{{ name: posts, methods: [POST] }}]
    custom: [{{ name: opa, paths: /asked, ext_authz: {{ service: authz, protocol: http }} }}]
",
        Value::from(path.display().to_string())
    );
    let (server, addr) = serve(Mesh::builder("s").config_str(&config)).await;
    let (_mesh, client) = client(addr).await;
    assert_eq!(client.post("/asked").send().await.unwrap().status(), 403);
    assert_eq!(client.get("/other").send().await.unwrap().status(), 200);
    server.shutdown(Duration::from_secs(30)).await;
    let lines = read(&path);
    let told: Vec<_> = lines.iter().map(|line| (line["decision"].as_str(), line["rule"].as_str())).collect();
    let (ask, deny) = ((Some("ask"), Some("_baseline")), (Some("deny"), Some("opa")));
    assert_eq!(told, [(None, None), ask, deny, (None, None)]);
    assert!(lines[2]["reason"] == "timeout" && lines[1]["audit"] == "posts", "{lines:?}");
    drop(silent);

    let config = format!(
        "inbound:\n  audit_log: {{ file: {} }}\n  authz: {{ deny: [{{ name: out, from: {{ ip_blocks: 127.0.0.0/8 }} }}] }}\n",
        Value::from(path.display().to_string())
    );
    let (server, addr) = serve(Mesh::builder("s").config_str(&config)).await;
    let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    let from = socket.local_addr().unwrap().to_string();
    // Closed before anything is read, which may show as a reset.
    let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut [0; 1]).await;
    server.shutdown(Duration::from_secs(30)).await;
    let line = read(&path).into_iter().find(|line| line["kind"] == "connection").unwrap();
    assert_eq!((&line["peer"], &line["rule"], &line["decision"]), (&from.into(), &"out".into(), &"deny".into()));
    assert_eq!(verify_file(&path, Verifier::new()).unwrap().unclosed, 0);
}
