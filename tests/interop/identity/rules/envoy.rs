//! Envoy's RBAC filter.

use serde_json::{Value, json};
use sinew::import::envoy_rbac;

use super::*;
use crate::peer::{Running, peer};

/// Where we differ on purpose.
const EXPLAINED: &[(&str, fn(&str, &Asked) -> bool)] = &[
    // Envoy compares `url_path` with the path as it arrived, we with what the application reads: decoded once.
    ("paths are compared decoded", |policy, asked| {
        asked.uri.contains('%') && policy.matches("urlPath").count() > policy.matches("/elsewhere").count()
    }),
    // Envoy looks at each value by itself since 1.37; we at all of them joined by commas, as gRFC A41 and older ones do, and
    // at each where that denies.
    ("a header that stands twice", |policy, asked| policy.contains("x-role") && asked.headers.len() == 2),
    // Our rules for hosts mean any port where none is named, and no case: one host has one spelling.
    ("a host has one spelling", |policy, asked| {
        policy.contains(":authority") && (asked.uri.contains(":8080") || asked.uri.contains("REVIEWS"))
    }),
];

const PATHS: [&str; 10] = ["/", "/a", "/a/b", "/a/b/c", "/admin", "/Admin", "/a.b", "/ab", "/a?admin=1", "/a%20b"];
const TEXTS: [&str; 8] = ["/", "/a", "/a/b", "/admin", "a", "b", "min", "/ab"];
const ROLES: [&str; 5] = ["user", "admin", "User", "user,admin", "7"];

fn string(dice: &mut Dice, texts: &[&str], plain: bool) -> Value {
    let text = dice.one(texts);
    let kind = dice.one(&["exact", "exact", "prefix", "suffix", "contains", "safeRegex"]);
    let mut matcher = match kind {
        "safeRegex" if plain => json!({ "exact": text }),
        "safeRegex" => return json!({ "safeRegex": { "regex": format!("{}.*", text.replace('.', "\\.")) } }),
        kind => json!({ kind: text }),
    };
    if !plain && dice.below(5) == 0 {
        matcher["ignoreCase"] = true.into();
    }
    matcher
}

fn header(dice: &mut Dice) -> Value {
    let mut matcher = match dice.below(6) {
        0 => json!({ "name": ":method", "stringMatch": { "exact": dice.one(&["GET", "POST", "HEAD"]) } }),
        1 => json!({ "name": ":path", "stringMatch": string(dice, &TEXTS, false) }),
        2 => json!({ "name": ":authority", "stringMatch": { "exact": dice.one(&["reviews", "ratings"]) } }),
        3 => json!({ "name": "x-role", "presentMatch": dice.below(2) == 0 }),
        4 => json!({ "name": "x-role", "rangeMatch": { "start": "5", "end": "10" } }),
        _ => json!({ "name": "x-role", "stringMatch": string(dice, &ROLES, false) }),
    };
    if dice.below(4) == 0 {
        matcher["invertMatch"] = true.into();
    }
    if dice.below(5) == 0 && matcher["name"] == "x-role" {
        matcher["treatMissingHeaderAsEmpty"] = true.into();
    }
    matcher
}

fn cidr(dice: &mut Dice) -> Value {
    let (prefix, length) = dice.one(&[("127.0.0.0", 8), ("127.0.0.1", 32), ("10.0.0.0", 8), ("0.0.0.0", 0), ("::", 0)]);
    json!({ "addressPrefix": prefix, "prefixLen": length })
}

/// The port of each side stands for `PORT`.
fn permission(dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 8 } else { 11 }) {
        0 => json!({ "any": true }),
        1..=3 => json!({ "header": header(dice) }),
        4 | 5 => json!({ "urlPath": { "path": string(dice, &TEXTS, false) } }),
        6 => json!({ "destinationIp": cidr(dice) }),
        7 => match dice.below(3) {
            0 => json!({ "destinationPort": "PORT" }),
            1 => json!({ "destinationPortRange": { "start": 1, "end": "PORT" } }),
            _ => json!({ "requestedServerName": { "exact": "reviews" } }),
        },
        8 => json!({ "andRules": { "rules": dice.some(3, |dice| permission(dice, depth - 1)) } }),
        9 => json!({ "orRules": { "rules": dice.some(3, |dice| permission(dice, depth - 1)) } }),
        _ => json!({ "notRule": permission(dice, depth - 1) }),
    }
}

fn principal(dice: &mut Dice, depth: usize) -> Value {
    let names = [id("a"), id("b"), id("ab"), "/sa/b".to_owned(), "spiffe://interop.example/".to_owned()];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match dice.below(if depth == 0 { 7 } else { 10 }) {
        0 => json!({ "any": true }),
        1 => json!({ "authenticated": {} }),
        2 | 3 => json!({ "authenticated": { "principalName": string(dice, &names, true) } }),
        4 => json!({ dice.one(&["directRemoteIp", "remoteIp"]): cidr(dice) }),
        5 => json!({ "header": header(dice) }),
        6 => json!({ "urlPath": { "path": string(dice, &TEXTS, false) } }),
        7 => json!({ "andIds": { "ids": dice.some(3, |dice| principal(dice, depth - 1)) } }),
        8 => json!({ "orIds": { "ids": dice.some(3, |dice| principal(dice, depth - 1)) } }),
        _ => json!({ "notId": principal(dice, depth - 1) }),
    }
}

fn rbac(dice: &mut Dice) -> Value {
    // Something about requests in each: what is denied by addresses alone, we do not accept at all.
    let elsewhere = json!({ "notRule": { "urlPath": { "path": { "exact": "/elsewhere" } } } });
    let policy = |dice: &mut Dice| {
        let mut permission = |dice: &mut Dice| json!({ "andRules": { "rules": [permission(dice, 2), elsewhere] } });
        json!({
            "permissions": dice.some(2, &mut permission),
            "principals": dice.some(2, |dice| principal(dice, 2)),
        })
    };
    let policies: serde_json::Map<String, Value> =
        dice.some(3, policy).into_iter().enumerate().map(|(number, policy)| (format!("p{number}"), policy)).collect();
    json!({ "action": dice.one(&["ALLOW", "ALLOW", "DENY"]), "policies": policies })
}

fn asked(dice: &mut Dice) -> Asked {
    let authority = dice.one(&["reviews", "reviews", "reviews", "ratings", "reviews:8080", "REVIEWS"]);
    let headers = dice.one(&[
        &[][..],
        &[("x-role", "user")],
        &[("x-role", "admin")],
        &[("x-role", "User")],
        &[("x-role", "7")],
        &[("x-role", "")],
        &[("x-role", "user"), ("x-role", "admin")],
    ]);
    Asked {
        caller: dice.one(&CALLERS),
        method: dice.one(&[&http::Method::GET, &http::Method::POST, &http::Method::HEAD]).clone(),
        uri: format!("http://{authority}{}", dice.one(&PATHS)),
        headers: headers.to_vec(),
    }
}

/// One listener, and a route with a policy of its own for each.
fn configuration(world: &World, port: u16, policies: &[String]) -> String {
    let direct = json!({ "status": 200 });
    let typed = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let rbac = typed("filters.http.rbac.v3.RBACPerRoute");
    let routes: Vec<Value> = policies
        .iter()
        .enumerate()
        .map(|(number, policy)| {
            let rules: Value = serde_json::from_str(policy).unwrap();
            json!({
                "match": { "prefix": "/", "headers": [{ "name": "x-policy", "string_match": { "exact": number.to_string() } }] },
                "direct_response": direct,
                "typed_per_filter_config": { "envoy.filters.http.rbac": { "@type": rbac, "rbac": { "rules": rules } } },
            })
        })
        .collect();
    let tls = json!({
        "@type": typed("transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificates": [{
                "certificate_chain": { "filename": world.path("theirs.pem") },
                "private_key": { "filename": world.path("theirs.key") },
            }],
            "validation_context": { "trusted_ca": { "filename": world.path("root.pem") } },
        },
    });
    let manager = json!({
        "@type": typed("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "mesh",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
        "http_filters": [
            { "name": "envoy.filters.http.rbac", "typed_config": { "@type": typed("filters.http.rbac.v3.RBAC") } },
            { "name": "envoy.filters.http.router", "typed_config": { "@type": typed("filters.http.router.v3.Router") } },
        ],
    });
    let listener = json!({
        "name": "mesh",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "filter_chains": [{
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
        }],
    });
    json!({ "static_resources": { "listeners": [listener] } }).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_filter_decides_2000_random_pairs_as_we_do() {
    let Some(program) = peer("envoy") else { return };
    let world = World::new();
    world.member("theirs", &[]);
    let mut dice = Dice(0x5113);
    let policies: Vec<Value> = (0..POLICIES).map(|_| rbac(&mut dice)).collect();
    let pairs = pairs(|| asked(&mut dice));
    let port = port();
    let with = |policy: &Value, port: u16| policy.to_string().replace("\"PORT\"", &port.to_string());
    let theirs: Vec<String> = policies.iter().map(|policy| with(policy, port)).collect();
    let file = world.write("envoy.json", &configuration(&world, port, &theirs)).display().to_string();
    let log = world.path("envoy.log");
    let args =
        ["-c", &file, "--log-path", &log, "--log-level", "warning", "--use-dynamic-base-id", "--concurrency", "1"];
    let envoy = Running::start(&program, &args);
    listens(port, "Envoy", Path::new(&log)).await;
    let app = Router::new().fallback(|| async {});
    let ours = |number: usize, port: u16| envoy_rbac(&with(&policies[number], port)).unwrap();
    let sides = Sides::start(&world, ours, app, port).await;
    sides.compare(&pairs, &theirs, EXPLAINED, |_, head| head.status == 200).await;
    sides.stop().await;
    drop(envoy);
}
