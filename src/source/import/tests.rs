//! What is read besides rules, and documents that are refused by name and place. What rules decide: `vectors`.

use super::{Istio, Workload, envoy_rbac, grpc_authz, istio};
use crate::model::Mtls;

fn read(yaml: &str) -> Istio {
    istio(yaml, &Workload::new("ns1").label("app", "b")).unwrap()
}

#[test]
fn kinds_of_others_and_empty_documents_are_skipped() {
    let text = r#"apiVersion: v1
kind: Service
metadata: { name: x }
---

---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: p, namespace: ns1 }
spec: { action: DENY, rules: [{}] }
"#;
    assert_eq!(read(text).authz.rules.len(), 1);
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

const ANY: &str = r#"{"any": true}"#;

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

/// gRFC A43: a rule is named by its policy and itself, and only loggers that log nothing can be kept.
#[test]
fn grpcs_policies_name_their_rules() {
    let read = |more: &str| grpc_authz(&format!(r#"{{"name": "authz", "allow_rules": [{{"name": "all"}}]{more}}}"#));
    let policy = read("").unwrap();
    assert!(&*policy.rules[0].name == "authz_all" && policy.exclusive);
    assert!(read(r#", "audit_logging_options": {"audit_condition": "NONE"}"#).is_ok());
    let error = read(r#", "audit_logging_options": {"audit_condition": "ON_DENY"}"#).unwrap_err();
    assert!(error.to_string().contains("audit by decision cannot be kept"), "{error}");
}
