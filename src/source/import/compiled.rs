//! A policy of Istio, and the filters that Istio compiles it to: read by two importers, they decide the same.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Workload, envoy_rbac, istio, vectors::Asked};
use crate::{
    authz::{Action, Authorizer, Baseline, Policy},
    instrument::Registry,
};

/// How many requests meet each pair.
const REQUESTS: usize = 10_000;

/// All texts that a policy compares with.
fn texts(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            for text in [text.replace(['{', '}'], ""), text.trim_start_matches("not-").to_owned()] {
                found.extend([text.replace('*', ""), text.replace('*', "x"), text.replace('*', "x/y")]);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}

/// Requests, or connections, made of what the policy is about.
fn requests(spec: &Value, connection: bool) -> Vec<Asked> {
    let mut found = BTreeSet::new();
    spec.as_array().unwrap().iter().for_each(|policy| texts(&policy["spec"]["rules"], &mut found));
    let texts: Vec<String> = found.into_iter().chain(["other".to_owned()]).collect();
    // Rules name what is no SPIFFE ID; where they name trust domains, an identity has a path besides, as each has.
    let whole = !spec.to_string().contains("rustDomains");
    let mut state = 7u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % n as u64) as usize
    };
    let mut requests = Vec::new();
    while requests.len() < REQUESTS {
        let mut asked = Asked::default();
        asked.connection = connection;
        for _ in 0..=below(6) {
            let text = &texts[below(texts.len())];
            match below(9) {
                0 if whole || text.contains('/') => asked.principal = Some(format!("spiffe://{text}")),
                0 => asked.principal = Some(format!("spiffe://{text}/x")),
                1 => asked.principal = Some(format!("spiffe://cluster.local/ns/{text}/sa/{text}")),
                2 => asked.principal = Some(format!("spiffe://{text}/ns/foo/sa/x")),
                3 => asked.principal = None,
                4 | 5 if text.starts_with('/') => asked.path.clone_from(text),
                4 | 5 => asked.path = format!("/{text}"),
                6 if http::Method::from_bytes(text.as_bytes()).is_ok() => asked.method.clone_from(text),
                7 => asked.local.set_port(text.parse().unwrap_or(8080)),
                8 => asked.peer = text.parse().unwrap_or([1, 2, 3, 4].into()),
                _ => {}
            }
        }
        requests.push(asked);
    }
    requests
}

/// What it says to each request: whether it is allowed, whether it would be if every rule were enforced, and whether it is
/// written down.
fn decide(policies: &[&Policy], requests: &[Asked]) -> Vec<(bool, bool, bool)> {
    let http = Authorizer::new(policies, &Registry::default());
    let connections = Authorizer::of_connections(policies);
    let decided = requests.iter().map(|asked| {
        let authorizer = if asked.connection { &connections } else { &http };
        asked.view(|view| {
            let decision = authorizer.decide(view, &Baseline::Everyone);
            let shadow = decision.shadow.map_or(decision.allowed, |(allowed, _)| allowed);
            (decision.allowed, shadow, decision.audit.is_some())
        })
    });
    decided.collect()
}

fn filters(pair: &Value) -> Vec<Policy> {
    let mut policies = Vec::new();
    for filter in pair["filters"].as_array().unwrap() {
        // What the filter enforces, and what it only tries: the rules of both, in one policy.
        let read = |key: &str| filter.get(key).map(|rules| envoy_rbac(&rules.to_string()).unwrap());
        let (rules, shadow) = (read("rules"), read("shadowRules"));
        let mut policy = rules.unwrap_or_default();
        policy.rules.extend(shadow.into_iter().flat_map(|policy| policy.rules).map(|rule| rule.shadow()));
        policies.push(policy);
    }
    policies
}

#[test]
fn istios_policies_decide_as_what_istio_compiles_them_to() {
    let document: Value = serde_json::from_str(include_str!("../../../tests/vectors/istio-compiled.json")).unwrap();
    let pairs = document["pairs"].as_array().unwrap();
    let mut compared = 0;
    for pair in pairs {
        let name = pair["name"].as_str().unwrap();
        let documents: Vec<String> =
            pair["policies"].as_array().unwrap().iter().map(|policy| policy.to_string()).collect();
        let workload = Workload::new("foo").label("app", "httpbin").label("version", "v1");
        let own = istio(&documents.join("\n---\n"), &workload).unwrap().authz;
        let theirs = filters(pair);
        let theirs: Vec<&Policy> = theirs.iter().collect();
        let requests = requests(&pair["policies"], name.starts_with("tcp/"));
        let (ours, theirs) = (decide(&[&own], &requests), decide(&theirs, &requests));
        for ((asked, own), other) in requests.iter().zip(&ours).zip(&theirs) {
            // Stricter than Istio: to deny GET denies HEAD.
            assert_eq!(own, other, "{name}: {asked:?}\n{own:?} by the policy, {other:?} by the filters");
        }
        let count = |test: fn(&&(bool, bool, bool)) -> bool| ours.iter().filter(test).count();
        let (allowed, tried, audited) = (count(|d| d.0), count(|d| d.1), count(|d| d.2));
        println!("{name}: {allowed} of {REQUESTS} allowed, {tried} with what is tried, {audited} written down");
        assert!(own.rules.iter().all(|rule| rule.action != Action::Custom));
        compared += requests.len();
    }
    assert_eq!((pairs.len(), compared), (13, 13 * REQUESTS));
}
