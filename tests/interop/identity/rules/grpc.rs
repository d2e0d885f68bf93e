//! grpc-go's authorization policies.

use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use sinew::import::grpc_authz;

use super::*;
use crate::peer::{Running, peer};

const PATHS: [&str; 8] =
    ["/pkg.S/M", "/pkg.S/N", "/pkg.T/M", "/pkg.S/Mm", "/Pkg.S/M", "/a.b.C/D", "/aXb.C/D", "/pkg.S2/M"];
const ROLES: [&str; 6] = ["user", "admin", "User", "us", "user,admin", "a.c"];

/// As it stands, a beginning, an end, or anything.
fn pattern(dice: &mut Dice, texts: &[&str]) -> String {
    let text = dice.one(texts);
    let at = dice.below(text.len());
    match dice.below(6) {
        0 => "*".to_owned(),
        1 | 2 => format!("{}*", &text[..at]),
        3 => format!("*{}", &text[at..]),
        _ => text.to_owned(),
    }
}

fn rule(dice: &mut Dice, name: &str) -> Value {
    let names = [id("a"), id("b"), id("ab"), id("c")];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut rule = json!({ "name": name });
    if dice.below(2) == 0 {
        rule["source"] = json!({ "principals": dice.some(2, |dice| pattern(dice, &names)) });
    }
    let mut request = json!({});
    if dice.below(3) > 0 {
        request["paths"] = dice.some(3, |dice| pattern(dice, &PATHS)).into();
    }
    if dice.below(3) == 0 {
        let header = |dice: &mut Dice| {
            let key = dice.one(&["x-role", "X-Role", "x-tenant"]);
            json!({ "key": key, "values": dice.some(2, |dice| pattern(dice, &ROLES)) })
        };
        request["headers"] = dice.some(2, header).into();
    }
    rule["request"] = request;
    rule
}

fn policy(dice: &mut Dice) -> Value {
    let rules = |dice: &mut Dice, list: &str| -> Vec<Value> {
        let many = 1 + dice.below(3);
        (0..many).map(|number| rule(dice, &format!("{list}{number}"))).collect()
    };
    let mut policy = json!({ "name": "p", "allow_rules": rules(dice, "allow") });
    if dice.below(2) == 0 {
        policy["deny_rules"] = rules(dice, "deny").into();
    }
    policy
}

fn asked(dice: &mut Dice) -> Asked {
    let mut headers = vec![("content-type", "application/grpc"), ("te", "trailers")];
    headers.extend(dice.one(&[
        &[][..],
        &[("x-role", "user")],
        &[("x-role", "admin"), ("x-tenant", "user")],
        &[("x-role", "User")],
        &[("x-role", "abc"), ("x-tenant", "a.c")],
        &[("x-role", "")],
        &[("x-tenant", "us")],
        &[("x-role", "user"), ("x-role", "admin")],
    ]));
    Asked {
        caller: dice.one(&CALLERS),
        method: http::Method::POST,
        uri: format!("http://reviews{}", dice.one(&PATHS)),
        headers,
    }
}

fn allows(_: &sinew::Body, head: &http::response::Parts) -> bool {
    let status = head.headers.get("grpc-status").and_then(|status| status.to_str().ok());
    match (head.status.as_u16(), status) {
        (200, Some("0")) => true,
        (200, Some("7")) => false,
        other => panic!("neither allowed nor denied: {other:?} {head:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_go_decides_2000_random_pairs_as_we_do() {
    let Some(program) = peer("grpc-authz") else { return };
    let world = World::new();
    world.member("theirs", &[]);
    let mut dice = Dice(0x43);
    let policies: Vec<String> = (0..POLICIES).map(|_| policy(&mut dice).to_string()).collect();
    let pairs = pairs(|| asked(&mut dice));
    let port = port();
    let file = world.write("policies.json", &format!("[{}]", policies.join(","))).display().to_string();
    let (cert, key, root) = (world.path("theirs.pem"), world.path("theirs.key"), world.path("root.pem"));
    let (log, address) = (world.path("grpc.log"), format!("127.0.0.1:{port}"));
    let server = Running::logged(&program, &[&file, &cert, &key, &root, &address], Path::new(&log));
    listens(port, "grpc-go", Path::new(&log)).await;
    let app =
        Router::new().fallback(|| async { ([(CONTENT_TYPE.as_str(), "application/grpc"), ("grpc-status", "0")], "") });
    let ours = |number: usize, _| grpc_authz(&policies[number]).unwrap();
    let sides = Sides::start(&world, ours, app, port).await;
    sides.compare(&pairs, &policies, &[], allows).await;
    sides.stop().await;
    drop(server);
}
