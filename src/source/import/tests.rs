//! Rows that the tests of Istio, ztunnel and gRPC hold their own evaluators to, and documents that are refused.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::{Istio, Workload, envoy_rbac, grpc_authz, istio};
use crate::{
    authz::{Authorizer, Baseline, Policy},
    caller::Token,
    canon::{Authority, HttpView, View},
    instrument::Registry,
    model::Mtls,
};

/// A request, or with `http` false a connection.
#[derive(Clone, Debug)]
struct Sample {
    principal: Option<&'static str>,
    peer: &'static str,
    local: &'static str,
    server_name: Option<&'static str>,
    host: &'static str,
    method: Method,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    token: Option<Value>,
}

const A: &str = "spiffe://cluster.local/ns/ns1/sa/a";
const OTHER_NS: &str = "spiffe://cluster.local/ns/ns2/sa/a";

impl Default for Sample {
    fn default() -> Self {
        Self {
            principal: Some(A),
            peer: "10.0.0.1",
            local: "10.9.9.9:18080",
            server_name: None,
            host: "b.ns1",
            method: Method::GET,
            path: "/",
            headers: Vec::new(),
            token: None,
        }
    }
}

fn path(path: &'static str) -> Sample {
    Sample { path, ..Sample::default() }
}

fn decide(policies: &[&Policy], sample: &Sample) -> bool {
    let mut headers = HeaderMap::new();
    for (name, value) in &sample.headers {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let token = sample.token.as_ref().map(|claims| {
        let claims = claims.as_object().unwrap().clone();
        let issuer = claims["iss"].as_str().unwrap().into();
        Token::new(issuer, claims, [Arc::from("custom_scope"), Arc::from("teams")].into())
    });
    let peer: std::net::IpAddr = sample.peer.parse().unwrap();
    let target = sample.path;
    let view = View {
        principal: sample.principal,
        in_process: false,
        peer: Some(peer),
        client: Some(peer),
        token: token.as_ref(),
        api_key: None,
        local: Some(sample.local.parse::<SocketAddr>().unwrap()),
        server_name: sample.server_name,
        http: Some(HttpView {
            authority: Some(Authority::parse(sample.host, None).unwrap()),
            method: &sample.method,
            path: Some(target.split('?').next().unwrap()),
            target: Some(target),
            headers: &headers,
        }),
        draw: 0,
    };
    Authorizer::new(policies, &Registry::default()).decide(&view, &Baseline::Everyone).allowed
}

fn read(yaml: &str) -> Istio {
    istio(yaml, &Workload::new("ns1").label("app", "b")).unwrap()
}

/// A policy in `ns1` with this specification.
fn policy(spec: &str) -> Policy {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    read(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p, namespace: ns1 }}\nspec:\n{spec}"
    ))
    .authz
}

#[test]
fn istios_conditions() {
    let policy = policy(
        r#"rules:
- { to: [{ operation: { paths: [/request-headers] } }], when: [{ key: "request.headers[x-foo]", values: [foo] }] }
- { to: [{ operation: { paths: [/request-headers-not] } }], when: [{ key: "request.headers[x-foo]", notValues: [bar] }] }
- { to: [{ operation: { paths: [/source-ip] } }], when: [{ key: source.ip, values: [10.0.0.1] }] }
- { to: [{ operation: { paths: [/source-ip-not] } }], when: [{ key: source.ip, notValues: [10.0.0.2/32] }] }
- { to: [{ operation: { paths: [/remote-ip] } }], when: [{ key: remote.ip, values: [10.0.0.0/31] }] }
- { to: [{ operation: { paths: [/namespace] } }], when: [{ key: source.namespace, values: [ns1] }] }
- { to: [{ operation: { paths: [/namespace-not] } }], when: [{ key: source.namespace, notValues: [ns2] }] }
- { to: [{ operation: { paths: [/principal] } }], when: [{ key: source.principal, values: [cluster.local/ns/ns1/sa/a] }] }
- { to: [{ operation: { paths: [/principal-not] } }], when: [{ key: source.principal, notValues: [cluster.local/ns/ns2/sa/a] }] }
- { to: [{ operation: { paths: [/domain] } }], when: [{ key: source.trustDomain, values: [cluster.local] }] }
- { to: [{ operation: { paths: [/domain-not] } }], when: [{ key: source.trustDomain, notValues: [bad.example.com] }] }
- { to: [{ operation: { paths: [/account] } }], when: [{ key: source.serviceAccount, values: [a] }] }
- { to: [{ operation: { paths: [/destination-ip] } }], when: [{ key: destination.ip, values: [10.9.9.9] }] }
- { to: [{ operation: { paths: [/destination-ip-bad] } }], when: [{ key: destination.ip, values: [1.2.3.4] }] }
- { to: [{ operation: { paths: [/destination-ip-not] } }], when: [{ key: destination.ip, notValues: [10.9.9.9] }] }
- { to: [{ operation: { paths: [/port] } }], when: [{ key: destination.port, values: ["18080"] }] }
- { to: [{ operation: { paths: [/port-bad] } }], when: [{ key: destination.port, values: ["1"] }] }
- { to: [{ operation: { paths: [/port-not] } }], when: [{ key: destination.port, notValues: ["18080"] }] }
- { to: [{ operation: { paths: [/sni] } }], when: [{ key: connection.sni, values: ["*.b.ns1.svc"] }] }
- { to: [{ operation: { paths: [/sni-bad] } }], when: [{ key: connection.sni, values: [never] }] }
- { to: [{ operation: { paths: [/sni-not] } }], when: [{ key: connection.sni, notValues: ["*.b.ns1.svc"] }] }
"#,
    );
    let from = |principal, peer, path| Sample {
        principal: Some(principal),
        peer,
        server_name: Some("outbound_.80_._.b.ns1.svc"),
        path,
        ..Sample::default()
    };
    for (principal, peer, ours) in [(A, "10.0.0.1", true), (OTHER_NS, "10.0.0.2", false)] {
        let rows = [
            ("/source-ip", ours),
            ("/source-ip-not", ours),
            ("/remote-ip", ours),
            ("/namespace", ours),
            ("/namespace-not", ours),
            ("/principal", ours),
            ("/principal-not", ours),
            ("/domain", true),
            ("/domain-not", true),
            ("/account", ours),
            ("/destination-ip", true),
            ("/destination-ip-bad", false),
            ("/destination-ip-not", false),
            ("/port", true),
            ("/port-bad", false),
            ("/port-not", false),
            ("/sni", true),
            ("/sni-bad", false),
            ("/sni-not", false),
            ("/request-headers", false),
            ("/request-headers-not", true),
            ("/other", false),
        ];
        for (path, expected) in rows {
            assert_eq!(decide(&[&policy], &from(principal, peer, path)), expected, "{path} from {principal}");
        }
        for (path, value, expected) in [
            ("/request-headers", "foo", true),
            ("/request-headers", "bar", false),
            ("/request-headers-not", "foo", true),
            ("/request-headers-not", "bar", false),
        ] {
            let sample = Sample { headers: vec![("x-foo", value)], ..from(principal, peer, path) };
            assert_eq!(decide(&[&policy], &sample), expected, "{path} {value}");
        }
    }
}

#[test]
fn istios_tokens() {
    let policy = policy(
        r#"rules:
- { to: [{ operation: { paths: [/token1], methods: [GET] } }], from: [{ source: { requestPrincipals: [issuer-1@istio.io/sub-1] } }] }
- { to: [{ operation: { paths: [/token2], methods: [GET] } }], when: [{ key: "request.auth.claims[groups]", values: [group-2] }] }
- { to: [{ operation: { paths: [/tokenAny], methods: [GET] } }], from: [{ source: { requestPrincipals: ["*"] } }] }
- { to: [{ operation: { paths: [/scope] } }], when: [{ key: "request.auth.claims[scope]", values: [append, write] }] }
- { to: [{ operation: { paths: [/otherscope] } }], when: [{ key: "request.auth.claims[scope]", values: [admin] }] }
- { to: [{ operation: { paths: [/permission] } }], when: [{ key: "request.auth.claims[permission]", values: [write, append] }] }
- { to: [{ operation: { paths: [/custom-scope-admin] } }], when: [{ key: "request.auth.claims[custom_scope]", values: [admin] }] }
- { to: [{ operation: { paths: [/custom-scope-user] } }], when: [{ key: "request.auth.claims[custom_scope]", values: [user] }] }
- { to: [{ operation: { paths: [/nested-key1] } }], when: [{ key: "request.auth.claims[nested][key1]", values: [valueB] }] }
- { to: [{ operation: { paths: [/nested-non-exist] } }], when: [{ key: "request.auth.claims[nested][non-exist]", values: [valueC] }] }
- { to: [{ operation: { paths: [/nested-key2] } }], when: [{ key: "request.auth.claims[nested][key2]", values: [valueC] }] }
- { to: [{ operation: { paths: [/nested-2-key1] } }], when: [{ key: "request.auth.claims[nested][nested-2][key1]", values: [valueA] }] }
- { to: [{ operation: { paths: [/valid-jwt] } }], when: [{ key: request.auth.principal, values: ["*"] }] }
- { to: [{ operation: { paths: ["*/presenter"] } }], when: [{ key: request.auth.presenter, values: [bar] }] }
- { to: [{ operation: { paths: ["*/audiences"] } }], when: [{ key: request.auth.audiences, values: [foo] }] }
- { to: [{ operation: { paths: [/token3], methods: [GET] } }], from: [{ source: { notRequestPrincipals: [issuer-1@istio.io/sub-1] } }] }
"#,
    );
    let issuer = |number: u8, claims: Value| {
        let mut token = json!({"iss": format!("issuer-{number}@istio.io"), "sub": format!("sub-{number}")});
        token.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        Some(token)
    };
    let one = issuer(1, json!({"groups": ["group-1"]}));
    let two = issuer(2, json!({"groups": ["group-1", "group-2"]}));
    let permission = issuer(2, json!({"permission": "read write cancel"}));
    let scope = issuer(2, json!({"scope": "read write cancel"}));
    let custom = issuer(2, json!({"custom_scope": "admin user"}));
    let nested1 = issuer(1, json!({"nested": {"key1": ["valueA", "valueB"], "nested-2": {"key1": ["valueA"]}}}));
    let nested2 =
        issuer(1, json!({"nested": {"key1": "valueA", "key2": ["valueC"], "nested-2": {"key1": ["valueB"]}}}));
    let aud = issuer(1, json!({"aud": "foo"}));
    let auds = issuer(1, json!({"aud": ["bar", "foo"]}));
    let azp = issuer(1, json!({"azp": "bar"}));
    let rows = [
        (&None, "/token1", false),
        (&None, "/token2", false),
        (&one, "/token1", true),
        (&one, "/token2", false),
        (&two, "/token1", false),
        (&two, "/token2", true),
        (&one, "/token3", false),
        (&two, "/token3", true),
        (&None, "/token3", true),
        (&one, "/tokenAny", true),
        (&two, "/tokenAny", true),
        (&one, "/permission", false),
        (&two, "/permission", false),
        (&permission, "/permission", true),
        (&scope, "/scope", true),
        (&scope, "/otherscope", false),
        (&custom, "/custom-scope-admin", true),
        (&custom, "/custom-scope-user", true),
        (&None, "/custom-scope-admin", false),
        (&None, "/custom-scope-user", false),
        (&one, "/custom-scope-admin", false),
        (&one, "/custom-scope-user", false),
        (&nested1, "/nested-key1", true),
        (&nested2, "/nested-key1", false),
        (&nested1, "/nested-key2", false),
        (&nested2, "/nested-key2", true),
        (&nested1, "/nested-2-key1", true),
        (&nested2, "/nested-2-key1", false),
        (&nested1, "/nested-non-exist", false),
        (&nested2, "/nested-non-exist", false),
        (&None, "/tokenAny", false),
        (&aud, "/audiences", true),
        (&auds, "/x/audiences", true),
        (&one, "/audiences", false),
        (&azp, "/presenter", true),
        (&one, "/presenter", false),
        (&one, "/valid-jwt", true),
        (&None, "/valid-jwt", false),
    ];
    for (token, path, expected) in rows {
        let sample = Sample { token: token.clone(), path, ..Sample::default() };
        assert_eq!(decide(&[&policy], &sample), expected, "{path} {token:?}");
    }
}

/// What Istio's tests expect of identities: a matrix of callers and of the ways a rule names them.
#[test]
fn istios_sources() {
    let callers = [
        Some(A),
        Some(OTHER_NS),
        Some("spiffe://cluster.local/ns/ns1/sa/ab"),
        Some("spiffe://other.example/ns/ns1/sa/a"),
        Some("spiffe://cluster.local/ns/ns1x/sa/a"),
        None,
    ];
    let rows: &[(&str, [bool; 6])] = &[
        ("principals: [cluster.local/ns/ns1/sa/a]", [true, false, false, false, false, false]),
        ("principals: [\"cluster.local/ns/ns1/sa/a*\"]", [true, false, true, false, false, false]),
        ("principals: [\"*/ns/ns1/sa/a\"]", [true, false, false, true, false, false]),
        ("principals: [\"*\"]", [true, true, true, true, true, false]),
        ("notPrincipals: [cluster.local/ns/ns1/sa/a]", [false, true, true, true, true, true]),
        ("notPrincipals: [\"*\"]", [false, false, false, false, false, true]),
        ("namespaces: [ns1]", [true, false, true, true, false, false]),
        ("namespaces: [\"ns1*\"]", [true, false, true, true, true, false]),
        ("namespaces: [\"*\"]", [true, true, true, true, true, false]),
        ("notNamespaces: [ns1]", [false, true, false, false, true, true]),
        ("trustDomains: [cluster.local]", [true, true, true, false, true, false]),
        ("trustDomains: [\"*.example\"]", [false, false, false, true, false, false]),
        ("trustDomains: [\"*\"]", [true, true, true, true, true, false]),
        ("notTrustDomains: [cluster.local]", [false, false, false, true, false, true]),
        ("serviceAccounts: [a]", [true, false, false, true, false, false]),
        ("serviceAccounts: [ns2/a]", [false, true, false, false, false, false]),
        ("notServiceAccounts: [a, ns2/a]", [false, false, true, false, true, true]),
        ("{ namespaces: [ns1], notPrincipals: [\"*/sa/ab\"] }", [true, false, false, true, false, false]),
        ("ipBlocks: [10.0.0.0/24]", [true; 6]),
        ("ipBlocks: [10.0.1.0/24]", [false; 6]),
        ("notIpBlocks: [10.0.0.1]", [false; 6]),
        ("remoteIpBlocks: [10.0.0.1]", [true; 6]),
    ];
    for (source, expected) in rows {
        let source = source.trim_start_matches("{ ").trim_end_matches(" }");
        for (action, flip) in [("ALLOW", false), ("DENY", true)] {
            let policy = policy(&format!("action: {action}\nrules: [{{ from: [{{ source: {{ {source} }} }}] }}]"));
            for (principal, holds) in callers.into_iter().zip(expected) {
                let sample = Sample { principal, ..Sample::default() };
                assert_eq!(decide(&[&policy], &sample), *holds != flip, "{action} {source} {principal:?}");
            }
        }
    }
}

#[test]
fn istios_operations() {
    let samples = [
        path("/info"),
        path("/info/a?b=c"),
        path("/admin"),
        Sample { method: Method::POST, ..path("/info") },
        Sample { method: Method::HEAD, ..path("/info") },
        Sample { host: "deny.b.com", ..path("/info") },
        Sample { host: "DENY.B.COM:8080", ..path("/info") },
        Sample { local: "10.9.9.9:80", ..path("/info") },
    ];
    let rows: &[(&str, [bool; 8])] = &[
        ("paths: [/info]", [true, false, false, true, true, true, true, true]),
        ("paths: [\"/info*\"]", [true, true, false, true, true, true, true, true]),
        ("paths: [\"*in*\"]", [false; 8]),
        ("paths: [\"*/a\"]", [false, true, false, false, false, false, false, false]),
        ("paths: [\"*\"]", [true; 8]),
        ("paths: [\"/{*}\"]", [true, false, true, true, true, true, true, true]),
        ("paths: [\"/info/{**}\"]", [false, true, false, false, false, false, false, false]),
        ("notPaths: [/info]", [false, true, true, false, false, false, false, false]),
        ("methods: [POST]", [false, false, false, true, false, false, false, false]),
        ("methods: [\"*\"]", [true; 8]),
        ("notMethods: [POST]", [true, true, true, false, true, true, true, true]),
        ("hosts: [deny.b.com]", [false, false, false, false, false, true, true, false]),
        ("hosts: [\"*.com\"]", [false, false, false, false, false, true, true, false]),
        ("notHosts: [deny.b.com]", [true, true, true, true, true, false, false, true]),
        ("ports: [\"80\"]", [false, false, false, false, false, false, false, true]),
        ("notPorts: [\"80\"]", [true, true, true, true, true, true, true, false]),
        (
            "paths: [\"/info*\"], notPaths: [/info/a], methods: [GET]",
            [true, false, false, false, false, true, true, true],
        ),
    ];
    for (operation, expected) in rows {
        for (action, flip) in [("ALLOW", false), ("DENY", true)] {
            let spec = format!("action: {action}\nrules: [{{ to: [{{ operation: {{ {operation} }} }}] }}]");
            if operation.contains("*in*") {
                let text = format!(
                    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {{{}}}",
                    spec.replace('\n', ", ")
                );
                assert!(istio(&text, &Workload::new("ns1")).is_err());
                continue;
            }
            let policy = policy(&spec);
            for (sample, holds) in samples.iter().zip(expected) {
                // To deny GET denies HEAD as well: stricter than Istio.
                let head = sample.method == Method::HEAD && operation.contains("methods: [GET]") && flip;
                let holds = *holds || head;
                assert_eq!(decide(&[&policy], sample), holds != flip, "{action} {operation} {sample:?}");
            }
        }
    }
}

#[test]
fn which_resources_hold_for_a_workload() {
    let resource = |namespace: &str, selector: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p, namespace: {namespace} }}\nspec: {{ action: DENY, {selector} rules: [{{}}] }}\n"
        )
    };
    let rows = [
        ("ns1", "", true),
        ("ns2", "", false),
        ("istio-system", "", true),
        ("ns1", "selector: { matchLabels: { app: b } },", true),
        ("ns1", "selector: { matchLabels: { app: c } },", false),
        ("ns1", "selector: { matchLabels: { app: b, version: v1 } },", false),
        ("istio-system", "selector: { matchLabels: { app: b } },", true),
        ("ns2", "selector: { matchLabels: { app: b } },", false),
    ];
    for (namespace, selector, holds) in rows {
        let found = read(&resource(namespace, selector)).authz;
        assert_eq!(decide(&[&found], &Sample::default()), !holds, "{namespace} {selector}");
    }
    // Kinds of others are skipped, and an empty document is none.
    let mixed =
        format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: x }}\n---\n\n---\n{}", &resource("ns1", "")[4..]);
    assert_eq!(read(&mixed).authz.rules.len(), 1);
}

/// ztunnel and Istio agree: no rules allow nobody, an empty rule allows everybody, a rule in dry run nobody notices.
#[test]
fn empty_rules_and_dry_runs() {
    let rows = [
        ("{}", false),
        ("rules: []", false),
        ("rules: [{}]", true),
        ("{ action: DENY }", true),
        ("{ action: DENY, rules: [{}] }", false),
        ("{ action: AUDIT, rules: [{}] }", true),
    ];
    for (spec, expected) in rows {
        assert_eq!(decide(&[&policy(spec)], &Sample::default()), expected, "{spec}");
        let dry = read(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p, annotations: {{ istio.io/dry-run: \"true\" }} }}\nspec:\n  {spec}\n"
        ));
        assert!(decide(&[&dry.authz], &Sample::default()), "{spec}");
    }
}

#[test]
fn peer_authentication_is_the_nearest() {
    let peers = |namespace: &str, rest: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: p, namespace: {namespace} }}\nspec: {{ {rest} }}\n"
        )
    };
    let (mesh, namespace) =
        (peers("istio-system", "mtls: { mode: STRICT }"), peers("ns1", "mtls: { mode: PERMISSIVE }"));
    let workload = |mode: &str| {
        peers(
            "ns1",
            &format!(
                "selector: {{ matchLabels: {{ app: b }} }}, mtls: {{ mode: {mode} }}, portLevelMtls: {{ 8080: {{ mode: DISABLE }} }}"
            ),
        )
    };
    assert_eq!(read("").mtls, None);
    assert_eq!(read(&mesh).mtls, Some(Mtls::Strict));
    assert_eq!(read(&format!("{namespace}{mesh}")).mtls, Some(Mtls::Permissive));
    let all = read(&format!("{}{namespace}{mesh}", workload("STRICT")));
    assert_eq!((all.mtls, all.port_mtls.get(&8080)), (Some(Mtls::Strict), Some(&Mtls::Off)));
    assert_eq!(read(&format!("{}{namespace}", workload("UNSET"))).mtls, Some(Mtls::Permissive));
}

#[test]
fn request_authentication_becomes_issuers() {
    let found = read(
        r#"apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: r }
spec:
  jwtRules:
  - issuer: issuer-1@istio.io
    jwksUri: https://issuer.example/keys
    audiences: [a, b]
    timeout: 3s
    fromHeaders: [{ name: x-jwt, prefix: "Bearer " }]
    fromParams: [token]
    fromCookies: [session]
    forwardOriginalToken: true
    outputPayloadToHeader: x-payload
    outputClaimToHeaders: [{ header: x-sub, claim: sub }]
    spaceDelimitedClaims: [teams]
"#,
    );
    let [issuer] = found.jwt.as_slice() else { panic!("{:?}", found.jwt) };
    assert_eq!((&*issuer.issuer, issuer.audiences.len(), issuer.locations.len()), ("issuer-1@istio.io", 2, 3));
    assert!(issuer.forward_original_token && issuer.allow_missing_exp);
    assert_eq!(issuer.output_claim_to_headers.len(), 1);
}

#[test]
fn what_cannot_be_kept_is_refused_by_name_and_place() {
    let resource = |kind: &str, spec: &str| {
        let text =
            format!("apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{ name: p }}\nspec: {{ {spec} }}\n");
        istio(&text, &Workload::new("ns1")).unwrap_err().to_string()
    };
    let authorization = |spec: &str| resource("AuthorizationPolicy", spec);
    let rows = [
        (authorization("action: CUSTOM, rules: [{}]"), "the action `CUSTOM`"),
        (authorization("rules: [{ form: [] }]"), "document 1.spec.rules[0].form: this field is not known"),
        (authorization("rules: [{ from: [{ source: { principal: [a] } }] }]"), ".from[0].source.principal"),
        (authorization("rules: [{ when: [{ key: source.cat, values: [a] }] }]"), "the attribute `source.cat`"),
        (authorization("rules: [{ when: [{ key: experimental.envoy.filters.a, values: [a] }] }]"), "the attribute"),
        (authorization("rules: [{ when: [{ key: source.ip }] }]"), "neither `values` nor `notValues`"),
        (authorization("rules: [{ to: [{ operation: { ports: [\"http\"] } }] }]"), "`http` is not a port"),
        (authorization("rules: [{ from: [{ source: { ipBlocks: [10.0.0.0/40] } }] }]"), ".ipBlocks[0]"),
        (authorization("rules: [{ from: [{ source: { principals: [a*b] } }] }]"), "one end"),
        (authorization("targetRefs: [{ kind: Gateway }], rules: [{}]"), "targetRefs"),
        (resource("PeerAuthentication", "mtls: { mode: SOMETIMES }"), "the mode `SOMETIMES`"),
        (resource("RequestAuthentication", "jwtRules: [{ issuer: a, jwks: \"{}\" }]"), ".jwks"),
        (resource("RequestAuthentication", "jwtRules: [{ jwksUri: \"https://a\" }]"), ".issuer: expected a text"),
    ];
    for (found, expected) in rows {
        assert!(found.contains(expected), "{found} has no {expected}");
    }
    assert!(istio("a: [", &Workload::new("ns1")).unwrap_err().to_string().starts_with("document 1: line 1"));
}

fn rbac(action: &str, permissions: &str, principals: &str) -> Policy {
    envoy_rbac(&format!(
        r#"{{"action": "{action}", "policies": {{"p": {{"permissions": [{permissions}], "principals": [{principals}]}}}}}}"#
    ))
    .unwrap()
}

const ANY: &str = r#"{"any": true}"#;

/// The requests of grpc-go's engine test, with the outcome that it expects.
#[test]
fn grpcs_requests_against_envoys_rbac() {
    let zero = |peer| Sample { principal: None, peer, local: "127.0.0.1:80", ..path("/pkg.S/M") };
    let block = |kind: &str| format!(r#"{{"{kind}": {{"addressPrefix": "0.0.0.0", "prefixLen": 10}}}}"#);
    let exact = |path: &str| format!(r#"{{"urlPath": {{"path": {{"exact": "{path}"}}}}}}"#);
    let server_name = |name: &str| format!(r#"{{"requestedServerName": {{"exact": "{name}"}}}}"#);

    assert!(decide(&[&rbac("ALLOW", ANY, ANY)], &zero("0.0.0.0")));
    assert!(!decide(&[&rbac("ALLOW", &server_name("foo"), ANY)], &zero("0.0.0.0")));
    assert!(decide(&[&rbac("ALLOW", &server_name(""), ANY)], &zero("0.0.0.0")));
    let fan = rbac("ALLOW", &exact("/localhost-fan-page"), ANY);
    assert!(decide(&[&fan], &path("/localhost-fan-page")));
    assert!(!decide(&[&fan], &path("/")));
    let not_secret = rbac("ALLOW", r#"{"notRule": {"urlPath": {"path": {"prefix": "/secret-content"}}}}"#, ANY);
    assert!(decide(&[&not_secret], &path("/regular-content")));
    assert!(!decide(&[&not_secret], &path("/secret-content")));
    for kind in ["directRemoteIp", "remoteIp", "sourceIp"] {
        let policy = rbac("ALLOW", ANY, &block(kind));
        assert!(decide(&[&policy], &zero("0.0.0.0")), "{kind}");
        assert!(!decide(&[&policy], &zero("10.0.0.0")), "{kind}");
    }
    assert!(!decide(&[&rbac("ALLOW", &block("destinationIp"), ANY)], &zero("10.0.0.0")));

    // Envoy's own example: admins do anything, everybody may read products.
    let admin = |name: &str| {
        format!(
            r#"{{"authenticated": {{"principalName": {{"exact": "spiffe://cluster.local/ns/default/sa/{name}"}}}}}}"#
        )
    };
    let example = envoy_rbac(&format!(
        r#"{{"policies": {{
            "service-admin": {{"permissions": [{ANY}], "principals": [{}, {}]}},
            "product-viewer": {{"permissions": [{{"andRules": {{"rules": [
                {{"header": {{"name": ":method", "exactMatch": "GET"}}}},
                {{"urlPath": {{"path": {{"prefix": "/products"}}}}}},
                {{"orRules": {{"rules": [{{"destinationPort": 80}}, {{"destinationPort": 443}}]}}}}
            ]}}}}], "principals": [{ANY}]}}
        }}}}"#,
        admin("admin"),
        admin("superuser")
    ))
    .unwrap();
    let caller = |principal, local, path| Sample { principal, local, path, ..Sample::default() };
    let admin = "spiffe://cluster.local/ns/default/sa/admin";
    assert!(decide(&[&example], &caller(Some(admin), "127.0.0.1:1", "/some/method")));
    assert!(!decide(&[&example], &caller(None, "127.0.0.1:80", "/some/method")));
    assert!(!decide(&[&example], &caller(Some("spiffe://cluster.local/x"), "127.0.0.1:80", "/get-product-list")));
    assert!(decide(&[&example], &caller(None, "127.0.0.1:80", "/products/1")));
    assert!(!decide(&[&example], &caller(None, "127.0.0.1:81", "/products/1")));

    // A filter that allows, then one that denies.
    let (allow, deny) =
        (rbac("ALLOW", ANY, &block("directRemoteIp")), rbac("DENY", &exact("/localhost-fan-page"), ANY));
    for (peer, path, expected) in [
        ("0.0.0.0", "/x", true),
        ("0.0.0.0", "/localhost-fan-page", false),
        ("10.0.0.0", "/x", false),
        ("10.0.0.0", "/localhost-fan-page", false),
    ] {
        assert_eq!(decide(&[&allow, &deny], &Sample { path, ..zero(peer) }), expected, "{peer} {path}");
    }
}

#[test]
fn envoys_headers() {
    let test = |test: &str| rbac("ALLOW", ANY, &format!(r#"{{"header": {{"name": "foo", {test}}}}}"#));
    let with = |values: &[&'static str]| Sample {
        headers: values.iter().map(|value| ("foo", *value)).collect(),
        ..Sample::default()
    };
    // Absent, and with these values.
    let rows: &[(&str, &[&'static str], bool, bool)] = &[
        (r#""exactMatch": "abc""#, &["abc"], false, true),
        (r#""exactMatch": "a,b""#, &["a", "b"], false, true),
        (r#""exactMatch": "a""#, &["a", "b"], false, false),
        (r#""safeRegexMatch": {"regex": "abc"}"#, &["123abc456"], false, false),
        (r#""safeRegexMatch": {"googleRe2": {}, "regex": ".*abc.*"}"#, &["123abc456"], false, true),
        (r#""prefixMatch": "ab""#, &["abc"], false, true),
        (r#""suffixMatch": "bc""#, &["abc"], false, true),
        (r#""containsMatch": "b""#, &["abc"], false, true),
        (r#""stringMatch": {"exact": "ABC", "ignoreCase": true}"#, &["aBc"], false, true),
        (r#""rangeMatch": {"start": "-10", "end": "20"}"#, &["19"], false, true),
        (r#""rangeMatch": {"start": -10, "end": 20}"#, &["20"], false, false),
        (r#""rangeMatch": {"end": 20}"#, &["1.5"], false, false),
        (r#""presentMatch": true"#, &[""], false, true),
        (r#""presentMatch": false"#, &["x"], true, false),
        // Inverted, an absent header still does not match, except where presence is asked for.
        (r#""exactMatch": "abc", "invertMatch": true"#, &["x"], false, true),
        (r#""exactMatch": "abc", "invertMatch": true"#, &["abc"], false, false),
        (r#""presentMatch": true, "invertMatch": true"#, &["x"], true, false),
        (r#""exactMatch": "", "treatMissingHeaderAsEmpty": true"#, &["x"], true, false),
        (r#""exactMatch": "x", "treatMissingHeaderAsEmpty": true, "invertMatch": true"#, &["x"], true, false),
    ];
    for (spec, values, absent, present) in rows {
        assert_eq!(decide(&[&test(spec)], &with(&[])), *absent, "{spec} absent");
        assert_eq!(decide(&[&test(spec)], &with(values)), *present, "{spec} {values:?}");
    }
    let part = |name: &str, value: &str| {
        rbac("ALLOW", ANY, &format!(r#"{{"header": {{"name": "{name}", "exactMatch": "{value}"}}}}"#))
    };
    assert!(decide(&[&part(":path", "/a?b=c")], &path("/a?b=c")));
    assert!(decide(&[&part(":authority", "B.NS1")], &Sample::default()));
    assert!(decide(&[&part("host", "b.ns1")], &Sample::default()));
    assert!(decide(&[&part(":method", "GET")], &Sample::default()));
    assert!(!decide(&[&part(":method", "GET")], &Sample { method: Method::HEAD, ..Sample::default() }));
    // What ends at a hop is never there.
    for name in ["te", "connection", "keep-alive", "upgrade", "trailer", "transfer-encoding", "proxy-authorization"] {
        let sample = Sample { headers: vec![(name, "x")], ..Sample::default() };
        assert!(!decide(&[&part(name, "x")], &sample), "{name}");
    }
}

#[test]
fn envoys_other_permissions_and_principals() {
    let rows = [
        (r#"{"destinationPortRange": {"start": 18080, "end": 18081}}"#, ANY, true),
        (r#"{"destinationPortRange": {"start": 18000, "end": 18080}}"#, ANY, false),
        (r#"{"urlPath": {"path": {"exact": "/ADMIN", "ignoreCase": true}}}"#, ANY, true),
        (r#"{"urlPath": {"path": {"safeRegex": {"regex": "/ad.*"}}}}"#, ANY, true),
        (r#"{"uriTemplate": {"name": "t", "typedConfig": {"@type": "x", "pathTemplate": "/*"}}}"#, ANY, true),
        (r#"{"uri_template": {"typed_config": {"path_template": "/x/**"}}}"#, ANY, false),
        (ANY, r#"{"authenticated": {}}"#, true),
        (ANY, r#"{"authenticated": {"principalName": {"suffix": "/sa/a"}}}"#, true),
        (ANY, r#"{"authenticated": {"principal_name": {"contains": "ns1"}}}"#, true),
        (ANY, r#"{"authenticated": {"principalName": {"safeRegex": {"regex": ".*/ns/ns1/.*"}}}}"#, true),
        (ANY, r#"{"authenticated": {"principalName": {"safeRegex": {"regex": ".*/ns/ns/.*"}}}}"#, false),
        (
            ANY,
            r#"{"authenticated": {"principalName": {"safeRegex": {"regex": "spiffe://.+/ns/ns1/(.+/|)sa/a(/.+)?"}}}}"#,
            true,
        ),
        (ANY, r#"{"authenticated": {"principalName": {"safeRegex": {"regex": "spiffe://[^/]*\\.local/.*"}}}}"#, true),
        (ANY, r#"{"notId": {"authenticated": {"principalName": {"prefix": "spiffe://other/"}}}}"#, true),
        (ANY, r#"{"andIds": {"ids": [{"any": true}, {"notId": {"any": true}}]}}"#, false),
        (ANY, r#"{"orIds": {"ids": [{"notId": {"any": true}}, {"urlPath": {"path": {"exact": "/admin"}}}]}}"#, true),
    ];
    for (permission, principal, expected) in rows {
        let sample = path("/admin");
        assert_eq!(decide(&[&rbac("ALLOW", permission, principal)], &sample), expected, "{permission} {principal}");
        assert_eq!(decide(&[&rbac("DENY", permission, principal)], &sample), !expected, "{permission} {principal}");
        assert!(decide(&[&rbac("LOG", permission, principal)], &sample));
    }
    // Nothing allowed, nothing denied.
    assert!(!decide(&[&envoy_rbac("{}").unwrap()], &Sample::default()));
    assert!(decide(&[&envoy_rbac("action: DENY").unwrap()], &Sample::default()));
}

#[test]
fn what_envoys_form_says_and_ours_cannot_is_refused() {
    let rows = [
        (r#"{"metadata": {"filter": "f"}}"#, ANY),
        (r#"{"sourcedMetadata": {}}"#, ANY),
        (r#"{"notRule": {"sourcedMetadata": {}}}"#, ANY),
        (r#"{"matcher": {}}"#, ANY),
        (r#"{"any": false}"#, ANY),
        (r#"{"any": true, "destinationPort": 80}"#, ANY),
        (r#"{"destinationPort": 70000}"#, ANY),
        (r#"{"destinationIp": {"addressPrefix": "not a correct address", "prefixLen": 10}}"#, ANY),
        (r#"{"header": {"name": ":scheme", "exactMatch": "http"}}"#, ANY),
        (r#"{"header": {"name": "grpc-timeout", "exactMatch": "1S"}}"#, ANY),
        (r#"{"header": {"name": "a", "exactMatch": "b", "prefixMatch": "c"}}"#, ANY),
        (r#"{"urlPath": {"path": {"safeRegex": {"regex": "("}}}}"#, ANY),
        (ANY, r#"{"directRemoteIp": {"addressPrefix": "not a correct address", "prefixLen": 10}}"#),
        (ANY, r#"{"metadata": {"filter": "f"}}"#),
        (ANY, r#"{"filterState": {}}"#),
        (ANY, r#"{"authenticated": {"principalName": {"safeRegex": {"regex": "spiffe://td/ns/cert.manager"}}}}"#),
        (ANY, r#"{"authenticated": {"principalName": {"exact": "a", "ignoreCase": true}}}"#),
        (ANY, r#"{"authenticated": {"principalName": {"exact": ""}}}"#),
        ("", ANY),
        (ANY, ""),
    ];
    for (permission, principal) in rows {
        let text =
            format!(r#"{{"policies": {{"p": {{"permissions": [{permission}], "principals": [{principal}]}}}}}}"#);
        let error = envoy_rbac(&text).unwrap_err().to_string();
        assert!(error.starts_with("rbac.policies.p."), "{error}");
    }
    for text in [
        r#"{"action": "MAYBE"}"#,
        r#"{"policies": {"p": {"permissions": [{"any": true}], "principals": [{"any": true}], "condition": {}}}}"#,
        r#"{"matcher": {}}"#,
    ] {
        assert!(envoy_rbac(text).is_err(), "{text}");
    }
}

/// The rows of gRFC A43 and grpc-go's translator: what is read, and what it decides.
#[test]
fn grpcs_policies() {
    let text = r#"{
        "name": "authz",
        "deny_rules": [{"name": "no-dev", "source": {"principals": ["spiffe://cluster.local/ns/dev/*"]}}],
        "allow_rules": [
            {"name": "paths", "request": {"paths": ["/pkg.S/M", "/pkg.T/*", "*/Health"]}},
            {"name": "header", "request": {"headers": [
                {"key": "Dev-Path", "values": ["/dev/path/*", "other"]}, {"key": "x-set", "values": ["*"]}
            ]}},
            {"name": "admin", "source": {"principals": ["spiffe://cluster.local/ns/ns1/sa/admin"]}, "request": {}},
            {"name": "any-identity", "source": {"principals": ["*"]}, "request": {"paths": ["/who"]}}
        ]
    }"#;
    let policy = grpc_authz(text).unwrap();
    let admin = Some("spiffe://cluster.local/ns/ns1/sa/admin");
    let rows = [
        (path("/pkg.S/M"), true),
        (path("/pkg.S/N"), false),
        (path("/pkg.T/N"), true),
        (path("/grpc.health/Health"), true),
        (Sample { principal: admin, ..path("/x/Y") }, true),
        (Sample { principal: None, ..path("/who") }, false),
        (path("/who"), true),
        (Sample { principal: Some("spiffe://cluster.local/ns/dev/sa/a"), ..path("/pkg.S/M") }, false),
        (Sample { headers: vec![("dev-path", "/dev/path/a"), ("x-set", "1")], ..path("/x/Y") }, true),
        (Sample { headers: vec![("dev-path", "other"), ("x-set", "1")], ..path("/x/Y") }, true),
        (Sample { headers: vec![("dev-path", "/dev/path/a")], ..path("/x/Y") }, false),
        (Sample { headers: vec![("dev-path", "/dev/path/a"), ("x-set", "")], ..path("/x/Y") }, false),
        (Sample { headers: vec![("dev-path", "/prod"), ("x-set", "1")], ..path("/x/Y") }, false),
        (Sample { headers: vec![("dev-path", "other"), ("dev-path", "other"), ("x-set", "1")], ..path("/x/Y") }, false),
    ];
    for (sample, expected) in rows {
        assert_eq!(decide(&[&policy], &sample), expected, "{sample:?}");
    }
    assert_eq!(&*policy.rules[0].name, "authz_no-dev");
    let bad = [
        "",
        "{}",
        "[]",
        r#"{"name": "a"}"#,
        r#"{"name": "", "allow_rules": [{"name": "b"}]}"#,
        r#"{"name": "a", "allow_rules": []}"#,
        r#"{"name": "a", "allow_rules": [{}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": ""}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b"}], "unknown": 1}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b", "source": {"principal": ["x"]}}]}"#,
        r#"{"name": "a", "allow_rules": {"name": "b"}}"#,
        r#"{"name": 7, "allow_rules": [{"name": "b"}]}"#,
        r#"{"name": "a", "name": "b", "allow_rules": [{"name": "b"}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b", "request": {"headers": [{"key": "a"}]}}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b", "request": {"headers": [{"values": ["a"]}]}}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b", "request": {"headers": [{"key": "a", "values": []}]}}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b", "request": {"headers": [{"key": ":method", "values": ["GET"]}]}}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b", "request": {"headers": [{"key": "grpc-timeout", "values": ["1"]}]}}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b", "request": {"headers": [{"key": "Host", "values": ["h"]}]}}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b", "request": {"headers": [{"key": "te", "values": ["h"]}]}}]}"#,
        r#"{"name": "a", "allow_rules": [{"name": "b"}], "audit_logging_options": {"audit_condition": "ON_DENY"}}"#,
    ];
    for text in bad {
        assert!(grpc_authz(text).is_err(), "{text}");
    }
    assert!(
        grpc_authz(
            r#"{"name": "a", "allow_rules": [{"name": "b"}], "audit_logging_options": {"audit_condition": "NONE"}}"#
        )
        .is_ok()
    );
}
