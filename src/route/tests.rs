use std::sync::Arc;

use http::{HeaderMap, Method, Request, Uri, header::HeaderName};

use super::{GrpcMatch, Route, RouteAction, RouteMatch, RouteTable, WeightedTarget, choose};
use crate::{
    matching::{HostPattern, PathPattern, StringMatch},
    name::RouteName,
    rt::Rng,
};

fn table(matches: RouteMatch) -> RouteTable {
    let mut route = Route::new(RouteName::new("r").unwrap(), RouteAction::Forward(vec![WeightedTarget::new(None, 1)]));
    route.matches = matches;
    RouteTable::new(&[Arc::new(route)])
}

fn found(matches: &RouteMatch, request: &Request<()>) -> bool {
    table(matches.clone()).find(request.method(), request.uri(), request.headers()).is_some()
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

#[test]
fn an_empty_match_holds_for_everything() {
    assert!(found(&RouteMatch::default(), &get("/anything?x=1")));
}

#[test]
fn hosts_come_from_the_uri_or_the_host_header() {
    let rule = RouteMatch { hosts: vec![HostPattern::new("*.example.com").unwrap()], ..RouteMatch::default() };
    assert!(found(&rule, &get("http://a.example.com:80/")));
    assert!(!found(&rule, &get("http://example.org/")));
    let mut request = get("/");
    assert!(!found(&rule, &request));
    request.headers_mut().insert("host", "b.example.com".parse().unwrap());
    assert!(found(&rule, &request));
}

#[test]
fn every_condition_must_hold() {
    let rule = RouteMatch {
        path: Some(PathPattern::prefix("/a").unwrap()),
        method: Some(Method::POST),
        headers: vec![(HeaderName::from_static("x"), StringMatch::Exact("1".into()))],
        ..RouteMatch::default()
    };
    let request = |method: &str, path: &str, x: &str| {
        Request::builder().method(method).uri(path).header("x", x).body(()).unwrap()
    };
    assert!(found(&rule, &request("POST", "/a/b", "1")));
    assert!(!found(&rule, &request("GET", "/a/b", "1")));
    assert!(!found(&rule, &request("POST", "/b", "1")));
    assert!(!found(&rule, &request("POST", "/a", "2")));
}

#[test]
fn a_header_matches_by_any_of_its_values_and_may_be_asked_to_be_absent() {
    let rule =
        |condition| RouteMatch { headers: vec![(HeaderName::from_static("x"), condition)], ..RouteMatch::default() };
    let mut request = get("/");
    assert!(found(&rule(StringMatch::Present(false)), &request));
    request.headers_mut().append("x", "1".parse().unwrap());
    request.headers_mut().append("x", "2".parse().unwrap());
    assert!(found(&rule(StringMatch::Exact("2".into())), &request));
    assert!(found(&rule(StringMatch::Present(true)), &request));
    assert!(!found(&rule(StringMatch::Present(false)), &request));
    assert!(!found(&rule(StringMatch::Prefix("3".into())), &request));
}

#[test]
fn query_parameters_are_decoded_once_and_the_first_counts() {
    let rule = |name: &str, value: &str| RouteMatch {
        query: vec![(name.into(), StringMatch::Exact(value.into()))],
        ..RouteMatch::default()
    };
    assert!(found(&rule("a b", "c&d"), &get("/?a%20b=c%26d")));
    assert!(found(&rule("a b", "c d"), &get("/?a+b=c+d")));
    assert!(found(&rule("a", "%41"), &get("/?a=%2541")));
    assert!(found(&rule("a", "1"), &get("/?a=1&a=2")));
    assert!(!found(&rule("a", "2"), &get("/?a=1&a=2")));
    assert!(found(&rule("a", ""), &get("/?a")));
    assert!(!found(&rule("a", ""), &get("/")));
}

#[test]
fn grpc_matches_by_the_two_parts_of_the_path() {
    let rule = |service: Option<&str>, method: Option<&str>| RouteMatch {
        grpc: Some(GrpcMatch { service: service.map(Into::into), method: method.map(Into::into) }),
        ..RouteMatch::default()
    };
    let request = get("/pkg.Service/Method");
    assert!(found(&rule(Some("pkg.Service"), None), &request));
    assert!(found(&rule(None, Some("Method")), &request));
    assert!(!found(&rule(Some("pkg.Service"), Some("Other")), &request));
    assert!(!found(&rule(None, None), &get("/one")));
}

#[test]
fn a_fraction_holds_for_its_share() {
    Rng::seed_local(42);
    let table = table(RouteMatch { fraction: Some(250_000), ..RouteMatch::default() });
    let (uri, headers) = (Uri::from_static("/"), HeaderMap::new());
    let hits = (0..10_000).filter(|_| table.find(&Method::GET, &uri, &headers).is_some()).count();
    // Mean 2500, standard deviation 43.
    assert!((2_358..=2_642).contains(&hits), "{hits}");
}

#[test]
fn targets_are_chosen_by_weight_and_never_at_weight_zero() {
    Rng::seed_local(7);
    let targets = [WeightedTarget::new(None, 90), WeightedTarget::new(None, 0), WeightedTarget::new(None, 10)];
    let mut counts = [0u32; 3];
    for _ in 0..10_000 {
        counts[choose(&targets)] += 1;
    }
    assert_eq!(counts[1], 0);
    // 3.29 standard deviations of 30 around 1000: the band of 99.9 %.
    assert!((901..=1_099).contains(&counts[2]), "{counts:?}");
}
