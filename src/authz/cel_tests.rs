//! Conditions in CEL: what they see, what they cost, and what is refused.

use super::{
    Action, Cel, Policy, Rule,
    tests::{Sample, compiled},
};
use crate::authz::Baseline;

fn holds(source: &str, sample: &Sample) -> Option<bool> {
    Cel::new(source).unwrap_or_else(|error| panic!("{error}")).holds(&sample.view())
}

#[test]
fn conditions_see_the_request_as_rules_do() {
    let mut sample = Sample::default();
    sample.headers.insert("x-role", "admin".parse().unwrap());
    let rows = [
        ("request.method == 'GET'", Some(true)),
        ("request.path.startsWith('/reviews/')", Some(true)),
        ("request.host == 'reviews'", Some(true)),
        ("request.headers['x-role'] == 'admin'", Some(true)),
        ("'x-role' in request.headers && request.headers['x-role'] in ['admin', 'editor']", Some(true)),
        ("'x-other' in request.headers", Some(false)),
        ("source.namespace == 'prod' && source.service_account == 'web'", Some(true)),
        ("source.trust_domain == 'td.example'", Some(true)),
        ("source.principal == 'spiffe://td.example/ns/prod/sa/web'", Some(true)),
        ("source.address == '10.0.0.1'", Some(true)),
        ("destination.port == 9080", Some(true)),
        ("connection.mtls", Some(true)),
        ("has(token.subject)", Some(false)),
        ("api_key == null", Some(true)),
        ("['a', 'b'].exists(x, x == 'b')", Some(true)),
        ("request.path.matches('^/reviews/[0-9]+$')", Some(true)),
        ("request.path.matches('views')", Some(true)),
        ("request.path.matches('^views')", Some(false)),
        // What cannot be told.
        ("request.headers['x-other'] == 'a'", None),
        ("token.subject == 'alice'", None),
        ("request.path", None),
        ("1 / 0 == 1", None),
        ("request.path + 1 == 'a'", None),
    ];
    for (source, expected) in rows {
        assert_eq!(holds(source, &sample), expected, "{source}");
    }
}

#[test]
fn what_is_too_large_or_unknown_is_refused_before_it_costs_anything() {
    let sum = |terms: usize| vec!["1"; terms].join("+") + " > 0";
    let nested = |depth: usize| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    let nots = |depth: usize| format!("{}true", "!".repeat(depth));
    let bad = [
        String::new(),
        "request.path ==".into(),
        sum(4000),
        sum(300),
        nested(500),
        "[".repeat(1000),
        "requests.path == 'a'".into(),
        "x".into(),
        "[1].all(x, y == 1)".into(),
        "[1].all(x, [1].all(y, x == y))".into(),
        "[[1]].map(x, x.map(y, y)) == [[1]]".into(),
        "request.path.matches(request.host)".into(),
        "request.path.matches('(')".into(),
        "request.path.matches('(\\\\w{100}){100}')".into(),
        format!("request.path == '{}'", "a".repeat(1024)),
    ];
    for source in bad {
        let Err(error) = Cel::new(&source) else { panic!("{source:.60}") };
        assert!(error.to_string().len() < 2000, "{error}");
    }
    assert!(Cel::new(&sum(100)).is_ok());
    // Two negations are none, and the parser drops them: a line of them is no tree.
    assert!(Cel::new(&nots(1000)).is_ok());
}

#[test]
fn headers_that_a_condition_names_stand_once() {
    let named = |source: &str| {
        let policy = Policy::new([Rule::deny("d").condition(Cel::new(source).unwrap())]);
        compiled(&[&policy]).headers().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(named("request.headers['x-role'] == 'guest'"), ["x-role"]);
    assert_eq!(named("'X-Role' in request.headers || request.headers.via == 'a'"), ["via", "x-role"]);
    assert!(named("request.headers.exists(name, name == 'x-role')").is_empty());
}

#[test]
fn a_condition_that_fails_denies() {
    let fails = || Cel::new("request.headers['x-absent'] == 'a'").unwrap();
    let sample = Sample::default();
    let decide = |rule: Rule| {
        let policy = Policy::new([rule]);
        compiled(&[&policy]).decide(&sample.view(), &Baseline::Everyone).allowed
    };
    assert!(!decide(Rule::deny("d").condition(fails())));
    assert!(!decide(Rule::allow("a").condition(fails())));
    // And it is written down, and asked about.
    let policy = Policy::new([Action::Audit, Action::Custom].map(|action| Rule::new("r", action).condition(fails())));
    let authorizer = compiled(&[&policy]);
    assert!(authorizer.decide(&sample.view(), &Baseline::Everyone).audit.is_some());
    let mut asked = false;
    authorizer.asked_by(&sample.view(), |_| asked = true);
    assert!(asked);
    assert!(decide(Rule::allow("a").condition(Cel::new("request.method == 'GET'").unwrap())));
    assert!(decide(Rule::deny("d").condition(Cel::new("request.method == 'POST'").unwrap())));
}
