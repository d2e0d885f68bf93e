//! The counted vectors of authorization and of canonical paths: `tests/vectors/authorization.json`.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use serde::Deserialize;
use serde_json::Value;

use super::{Workload, envoy_rbac, grpc_authz, istio};
use crate::{
    authz::{Authorizer, Baseline, Policy},
    caller::Token,
    canon::{Authority, HttpView, PathNormalization, View, canonicalize},
    instrument::Registry,
};

/// The fewest there may be, as the data says by itself how many there are.
const AT_LEAST: usize = 860;
const NUMBER: usize = 1563;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "about")]
    _about: String,
    suites: Vec<Suite>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Suite {
    name: String,
    source: String,
    licence: String,
    count: usize,
    /// What of the source is not here, and why.
    #[serde(default)]
    exceptions: Vec<String>,
    cases: Vec<Value>,
}

/// A request, or a connection. What is not said is the same for all.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    pub(super) connection: bool,
    pub(super) principal: Option<String>,
    pub(super) peer: IpAddr,
    pub(super) local: SocketAddr,
    server_name: Option<String>,
    host: String,
    pub(super) method: String,
    pub(super) path: String,
    /// In place of `path`: with all that may follow it.
    target: Option<String>,
    /// How the path is made canonical before.
    level: Option<String>,
    headers: Vec<(String, String)>,
    token: Option<Value>,
    allowed: bool,
    /// In place of `allowed`: it has no one meaning.
    refused: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            connection: false,
            principal: Some("spiffe://cluster.local/ns/ns1/sa/a".into()),
            peer: [10, 0, 0, 1].into(),
            local: ([10, 9, 9, 9], 18080).into(),
            server_name: None,
            host: "b.ns1".into(),
            method: "GET".into(),
            path: "/".into(),
            target: None,
            level: None,
            headers: Vec::new(),
            token: None,
            allowed: false,
            refused: false,
        }
    }
}

fn read(policy: &Value) -> Result<Policy, String> {
    let (kind, text) = policy.as_object().unwrap().iter().next().unwrap();
    let text = text.as_str().unwrap();
    let said = |error: super::ImportError| error.to_string();
    match kind.as_str() {
        "istio" => istio(text, &Workload::new("ns1").label("app", "b")).map(|read| read.authz).map_err(said),
        "envoy" => envoy_rbac(text).map_err(said),
        "grpc" => grpc_authz(text).map_err(said),
        other => panic!("{other} is no kind of policy"),
    }
}

fn level(name: &str) -> PathNormalization {
    *PathNormalization::ALL.iter().find(|level| level.as_str() == name).unwrap()
}

impl Asked {
    /// What rules see of it.
    pub(super) fn view<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let target = self.target.as_deref().unwrap_or(&self.path);
        self.view_of(target.split('?').next().unwrap(), &self.header_map(), look)
    }

    fn header_map(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn view_of<T>(&self, path: &str, headers: &HeaderMap, look: impl FnOnce(&View<'_>) -> T) -> T {
        let token = self.token.as_ref().map(|claims| {
            let claims = claims.as_object().unwrap().clone();
            Token::new(claims["iss"].as_str().unwrap().into(), claims, ["custom_scope".into(), "teams".into()].into())
        });
        let method = Method::from_bytes(self.method.as_bytes()).unwrap();
        let peer = self.peer.to_canonical();
        look(&View {
            principal: self.principal.as_deref(),
            in_process: false,
            peer: Some(peer),
            client: Some(peer),
            token: token.as_ref(),
            api_key: None,
            local: Some(self.local),
            server_name: self.server_name.as_deref(),
            http: (!self.connection).then(|| HttpView {
                authority: Some(Authority::parse(&self.host, Some("http")).unwrap()),
                method: &method,
                path: Some(path),
                target: Some(self.target.as_deref().unwrap_or(&self.path)),
                headers,
            }),
            draw: 0,
        })
    }
}

/// What is decided; `None` for a request that has no one meaning.
fn decide(policies: &[&Policy], asked: &Asked) -> Option<bool> {
    let headers = asked.header_map();
    let target = asked.target.as_deref().unwrap_or(&asked.path);
    let path = match &asked.level {
        None => target.split('?').next().unwrap().to_owned(),
        Some(name) => canonical("GET", target, &[], level(name)).ok()?,
    };
    let authorizer = if asked.connection {
        Authorizer::of_connections(policies)
    } else {
        Authorizer::new(policies, &Registry::default())
    };
    // As in front of the rules.
    if authorizer.headers().iter().any(|name| headers.get_all(name).iter().count() > 1) {
        return None;
    }
    Some(asked.view_of(&path, &headers, |view| authorizer.decide(view, &Baseline::Everyone).allowed))
}

/// The path that rules see, or the part that has no one meaning.
fn canonical(
    method: &str,
    target: &str,
    headers: &[(String, String)],
    level: PathNormalization,
) -> Result<String, &'static str> {
    let mut builder = Request::builder().method(method).uri(target);
    if !headers.iter().any(|(name, _)| name == "host") {
        builder = builder.header("host", "h");
    }
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    let mut request = builder.body(()).map_err(|_| "syntax")?;
    let grpc = headers.iter().any(|(name, value)| name == "content-type" && value.starts_with("application/grpc"));
    let canonical = canonicalize(&mut request, grpc, level).map_err(|ambiguous| ambiguous.part)?;
    Ok(canonical.path(request.uri()).to_owned())
}

/// What each vector of a case came to, if not what is expected.
fn run(case: &Value) -> Vec<Result<(), String>> {
    if let Some(policies) = case.get("policies") {
        let policies: Vec<Policy> = policies.as_array().unwrap().iter().map(|policy| read(policy).unwrap()).collect();
        let policies: Vec<&Policy> = policies.iter().collect();
        let requests = case["requests"].as_array().unwrap().iter();
        return requests
            .map(|asked| {
                let asked: Asked = serde_json::from_value(asked.clone()).unwrap();
                let expected = (!asked.refused).then_some(asked.allowed);
                let found = decide(&policies, &asked);
                if found == expected { Ok(()) } else { Err(format!("{found:?}: {asked:?} under {}", case["policies"])) }
            })
            .collect();
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (holds, found) = if let Some(head) = case.get("head") {
        let headers: Vec<(String, String)> = serde_json::from_value(head["headers"].clone()).unwrap();
        let (method, target) = (text(&head["method"]).unwrap(), text(&head["target"]).unwrap());
        let found = canonical(&method, &target, &headers, PathNormalization::Strict);
        let parts = case["refused"].as_array().unwrap();
        (found.as_ref().is_err_and(|part| parts.iter().any(|expected| expected == part)), format!("{found:?}"))
    } else if let Some(path) = case.get("path").and_then(Value::as_str) {
        let found = canonical("GET", path, &[], level(case["level"].as_str().unwrap())).ok();
        (found == text(&case["seen"]), format!("{found:?}"))
    } else {
        let found = read(&case["refused"]);
        (found.is_err(), format!("{found:?}"))
    };
    vec![if holds { Ok(()) } else { Err(format!("{found}: {case}")) }]
}

#[test]
fn every_vector_has_the_outcome_that_its_source_expects() {
    let document: Document = serde_json::from_str(include_str!("../../../tests/vectors/authorization.json")).unwrap();
    let (mut number, mut failed) = (0, Vec::new());
    for suite in &document.suites {
        let found: Vec<_> = suite.cases.iter().flat_map(run).collect();
        println!("{:>5} {} ({}, {})", found.len(), suite.name, suite.source, suite.licence);
        suite.exceptions.iter().for_each(|exception| println!("      without {exception}"));
        assert_eq!(found.len(), suite.count, "{}", suite.name);
        number += found.len();
        failed.extend(found.into_iter().filter_map(Result::err).map(|why| format!("{}: {why}", suite.name)));
    }
    assert!(failed.is_empty(), "{} of {number}:\n{}", failed.len(), failed.join("\n"));
    assert_eq!(number, NUMBER);
    const { assert!(NUMBER >= AT_LEAST) };
}
