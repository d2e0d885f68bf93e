//! Rules against requests: tables, and random ones against the reference.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::json;

use super::{
    Action, Authorizer, Baseline, HostText, Known, Operation, PathText, Policy, RequestPrincipal, Rule, Source, Text,
    When, WhenKey, Why, reference,
};
use crate::{
    caller::Token,
    canon::{Authority, HttpView, View},
    enforcement::Percent,
    instrument::Registry,
    matching::IpBlock,
};

const WEB: &str = "spiffe://td.example/ns/prod/sa/web";

/// A request that owns what a view borrows.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    principal: Option<String>,
    peer: Option<IpAddr>,
    client: Option<IpAddr>,
    port: u16,
    server_name: Option<String>,
    host: Option<String>,
    method: Method,
    path: String,
    pub(super) headers: HeaderMap,
    draw: u32,
    http: bool,
    token: Option<Arc<Token>>,
    api_key: Option<&'static str>,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            principal: Some(WEB.into()),
            peer: Some([10, 0, 0, 1].into()),
            client: Some([10, 0, 0, 1].into()),
            port: 9080,
            server_name: None,
            host: Some("reviews".into()),
            method: Method::GET,
            path: "/reviews/0".into(),
            headers: HeaderMap::new(),
            draw: 0,
            http: true,
            token: None,
            api_key: None,
        }
    }
}

impl Sample {
    fn path(path: &str) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    pub(super) fn view(&self) -> View<'_> {
        View {
            principal: self.principal.as_deref(),
            in_process: false,
            peer: self.peer,
            client: self.client,
            token: self.token.as_deref(),
            api_key: self.api_key,
            local: Some(SocketAddr::from(([127, 0, 0, 1], self.port))),
            server_name: self.server_name.as_deref(),
            http: self.http.then(|| HttpView {
                authority: self.host.as_deref().map(|host| Authority::parse(host, None).unwrap()),
                method: &self.method,
                path: Some(&self.path),
                target: Some(&self.path),
                headers: &self.headers,
            }),
            draw: self.draw,
        }
    }
}

pub(super) fn compiled(policies: &[&Policy]) -> Authorizer {
    Authorizer::new(policies, &Registry::default())
}

fn text(text: &str) -> Text {
    Text::new(text).unwrap()
}

fn paths(paths: &[&str]) -> Operation {
    Operation { paths: paths.iter().map(|path| PathText::new(path).unwrap()).collect(), ..Operation::default() }
}

fn methods(methods: &[Method]) -> Operation {
    Operation { methods: methods.to_vec(), ..Operation::default() }
}

fn decide(rules: &[Rule], sample: &Sample) -> bool {
    compiled(&[&Policy::new(rules.to_vec())]).decide(&sample.view(), &Baseline::Everyone).allowed
}

#[test]
fn deny_comes_before_allow_and_what_none_allows_is_denied() {
    let allow = Rule::allow("allow").to(paths(&["/allow*"]));
    let deny = Rule::deny("deny").to(paths(&["/allow/admin"]));
    let policy = Policy::new([allow.clone(), deny.clone()]);
    let authorizer = compiled(&[&policy]);
    let sample = |path| Sample::path(path);
    let decide = |sample: &Sample| {
        let view = sample.view();
        let decision = authorizer.decide(&view, &Baseline::Everyone);
        (
            decision.allowed,
            match decision.why {
                Why::Rule(rule) => rule.name.to_string(),
                Why::NoRule(_) => "no rule".into(),
                Why::Baseline(_) => "baseline".into(),
            },
        )
    };
    assert_eq!(decide(&sample("/allow")), (true, "allow".into()));
    assert_eq!(decide(&sample("/allow/admin")), (false, "deny".into()));
    assert_eq!(decide(&sample("/other")), (false, "no rule".into()));
}

#[test]
fn without_rules_that_allow_the_baseline_decides() {
    let members = |plaintext| Baseline::Members { trust_domain: "td.example".into(), plaintext };
    let sample = |principal: Option<&str>| Sample { principal: principal.map(Into::into), ..Sample::default() };
    let rows = [
        (Baseline::Everyone, None, true),
        (Baseline::Nobody, Some(WEB), false),
        (members(false), Some(WEB), true),
        (members(false), Some("spiffe://other/ns/prod/sa/web"), false),
        (members(false), Some("spiffe://td.example.evil/ns/prod/sa/web"), false),
        (members(false), None, false),
        (members(true), None, true),
        (members(true), Some("spiffe://other/x"), false),
    ];
    for (baseline, principal, expected) in rows {
        let deny = Policy::new([Rule::deny("d").to(paths(&["/admin"]))]);
        let authorizer = compiled(&[&deny]);
        assert_eq!(
            authorizer.decide(&sample(principal).view(), &baseline).allowed,
            expected,
            "{baseline:?} {principal:?}"
        );
    }
}

/// Each of the four may be there in one of three forms, and who is asked may allow or deny: the outcome follows from the order
/// alone.
#[test]
fn the_order_of_actions_is_a_truth_table() {
    let forms = |action: Action| {
        let matching = Rule::new("matching", action.clone());
        let other = Rule::new("other", action).to(paths(&["/elsewhere"]));
        [vec![], vec![other.clone()], vec![other, matching]]
    };
    for (d, deny) in forms(Action::Deny).into_iter().enumerate() {
        for (a, allow) in forms(Action::Allow).into_iter().enumerate() {
            for (u, audit) in forms(Action::Audit).into_iter().enumerate() {
                for (c, custom) in forms(Action::Custom).into_iter().enumerate() {
                    let rules: Vec<Rule> = [custom, audit.clone(), allow.clone(), deny.clone()].concat();
                    let policy = Policy::new(rules);
                    let authorizer = compiled(&[&policy]);
                    let sample = Sample::default();
                    let view = sample.view();
                    let decision = authorizer.decide(&view, &Baseline::Everyone);
                    assert_eq!(decision.allowed, d != 2 && a != 1, "deny {d}, allow {a}, audit {u}, custom {c}");
                    assert_eq!(decision.audit.is_some(), u == 2);
                    let mut asked = 0;
                    authorizer.asked_by(&view, |_| asked += 1);
                    assert_eq!(asked, usize::from(c == 2));
                    for allows in [true, false] {
                        let admitted = decision.allowed && (asked == 0 || allows);
                        assert_eq!(admitted, d != 2 && a != 1 && (c != 2 || allows));
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_listed_means_nobody() {
    let policy = Policy { exclusive: true, ..Policy::default() };
    assert!(!compiled(&[&policy]).decide(&Sample::default().view(), &Baseline::Everyone).allowed);
}

#[test]
fn every_policy_has_to_allow_on_its_own() {
    let one = Policy::new([Rule::allow("one").to(paths(&["/a*"]))]);
    let two = Policy::new([Rule::allow("two").to(paths(&["*b"]))]);
    let silent = Policy::new([Rule::deny("three").to(paths(&["/c"]))]);
    let authorizer = compiled(&[&one, &two, &silent]);
    for (path, expected) in [("/ab", true), ("/a", false), ("/b", false), ("/c", false)] {
        assert_eq!(authorizer.decide(&Sample::path(path).view(), &Baseline::Everyone).allowed, expected, "{path}");
    }
}

#[test]
fn a_shadow_rule_changes_no_answer_and_tells_what_it_would() {
    let deny = Rule::deny("deny").to(paths(&["/admin"])).shadow();
    let policy = Policy::new([deny]);
    let authorizer = compiled(&[&policy]);
    let sample = Sample::path("/admin");
    let view = sample.view();
    let decision = authorizer.decide(&view, &Baseline::Everyone);
    assert!(decision.allowed);
    assert!(matches!(decision.shadow, Some((false, Why::Rule(rule))) if &*rule.name == "deny"));
    assert!(authorizer.decide(&Sample::default().view(), &Baseline::Everyone).shadow.is_none());
    // The first rule that allows, in shadow: what it does not cover would be denied.
    let policy = Policy::new([Rule::allow("allow").to(paths(&["/a"])).shadow()]);
    let authorizer = compiled(&[&policy]);
    let sample = Sample::path("/b");
    let view = sample.view();
    let decision = authorizer.decide(&view, &Baseline::Everyone);
    assert!(decision.allowed && matches!(decision.shadow, Some((false, Why::NoRule(_)))));
}

/// Counted by rule, whatever its action, and nothing else.
#[test]
fn rules_in_shadow_change_nothing_and_are_counted() {
    let registry = Registry::default();
    let shadow = |action: Action, name: &str| Rule::new(name, action).shadow();
    let rules = [
        shadow(Action::Deny, "deny"),
        shadow(Action::Allow, "allow").to(paths(&["/other"])),
        shadow(Action::Audit, "audit"),
        shadow(Action::Custom, "custom"),
    ];
    let policy = Policy::new(rules);
    let authorizer = Authorizer::new(&[&policy], &registry);
    let sample = Sample::default();
    let view = sample.view();
    for baseline in [Baseline::Everyone, Baseline::Nobody] {
        let decision = authorizer.decide(&view, &baseline);
        assert_eq!(decision.allowed, baseline == Baseline::Everyone);
        assert!(decision.audit.is_none());
    }
    authorizer.asked_by(&view, |_| panic!("nobody is asked"));
    let count = |name, decision, rule| registry.counter(name, &[("decision", decision), ("rule", rule)]).get();
    // Where nobody is admitted anyway, to deny would be nothing else.
    for (rule, expected) in [("deny", 1), ("allow", 0), ("audit", 2), ("custom", 1)] {
        assert_eq!(count("sinew_authz_shadow_total", rule, rule), expected, "{rule}");
        assert_eq!(count("sinew_authz_decisions_total", rule, rule), 0, "{rule}");
    }
}

#[test]
fn a_tunnel_is_denied_where_there_are_rules() {
    let tunnel = Sample { method: Method::CONNECT, ..Sample::default() };
    assert!(compiled(&[]).decide(&tunnel.view(), &Baseline::Everyone).allowed);
    for rule in [Rule::allow("all"), Rule::deny("d").to(paths(&["/x"])), Rule::new("u", Action::Audit)] {
        let policy = Policy::new([rule]);
        let authorizer = compiled(&[&policy]);
        assert!(!authorizer.decide(&tunnel.view(), &Baseline::Everyone).allowed, "{policy:?}");
        assert!(authorizer.possible(&tunnel.view(), Known::Exchange(&[]), &Baseline::Everyone).is_err());
    }
}

/// Every attribute, absent, empty, matching and another one, where a rule names a value and where it excludes it, for each
/// action: what is absent or another matches nothing, so it satisfies exclusions only.
#[test]
fn each_attribute_in_each_state_for_each_action() {
    let source = |not: bool, set: fn(&mut Source, &mut Source)| {
        let (mut names, mut excludes) = (Source::default(), Source::default());
        set(&mut names, &mut excludes);
        let source = if not { excludes } else { names };
        Rule::allow("r").from(source)
    };
    let when = |not: bool, key: WhenKey| {
        let mut when = When::new(key, []);
        *(if not { &mut when.not_values } else { &mut when.values }) = vec![text("a")];
        Rule::allow("r").when(when)
    };
    let header = || WhenKey::Header(HeaderName::from_static("x-a"));
    let account = |ns: &str, sa: &str| Some(format!("spiffe://td/ns/{ns}/sa/{sa}"));
    let with_header = |value: &'static str| {
        let mut sample = Sample::default();
        sample.headers.insert("x-a", HeaderValue::from_static(value));
        sample
    };
    let id = |principal: Option<String>| Sample { principal, ..Sample::default() };
    let token = |claims: serde_json::Value| {
        let claims = claims.as_object().unwrap().clone();
        Sample { token: Some(Arc::new(Token::new("https://i".into(), claims, Arc::default()))), ..Sample::default() }
    };
    let name = |server_name: Option<&str>| Sample { server_name: server_name.map(Into::into), ..Sample::default() };
    let key = |api_key| Sample { api_key, ..Sample::default() };
    // The rule, given whether it excludes; a request that matches; those that do not, the absent first.
    let rows: Vec<(&str, Box<dyn Fn(bool) -> Rule>, Sample, Vec<Sample>)> = vec![
        (
            "principal",
            Box::new(move |not| {
                source(not, |names, excludes| {
                    names.principals = vec![text(WEB)];
                    excludes.not_principals = vec![text(WEB)];
                })
            }),
            id(Some(WEB.into())),
            vec![id(None), id(account("prod", "we")), id(Some(format!("{WEB}/x")))],
        ),
        (
            "namespace",
            Box::new(move |not| {
                source(not, |names, excludes| {
                    names.namespaces = vec![text("a")];
                    excludes.not_namespaces = vec![text("a")];
                })
            }),
            id(account("a", "x")),
            vec![id(None), id(Some("spiffe://td/x".into())), id(account("ab", "a"))],
        ),
        (
            "trust domain",
            Box::new(move |not| {
                source(not, |names, excludes| {
                    names.trust_domains = vec![text("td")];
                    excludes.not_trust_domains = vec![text("td")];
                })
            }),
            id(account("a", "x")),
            vec![id(None), id(Some("spiffe://td.evil/x".into()))],
        ),
        (
            "service account",
            Box::new(move |not| {
                source(not, |names, excludes| {
                    names.service_accounts = vec![("a".into(), "b".into())];
                    excludes.not_service_accounts = vec![("a".into(), "b".into())];
                })
            }),
            id(account("a", "b")),
            vec![id(None), id(account("b", "a")), id(Some("spiffe://td/sa/b".into()))],
        ),
        (
            "API key",
            Box::new(move |not| {
                source(not, |names, excludes| {
                    names.api_keys = vec![text("a")];
                    excludes.not_api_keys = vec![text("a")];
                })
            }),
            key(Some("a")),
            vec![key(None), key(Some("")), key(Some("ab"))],
        ),
        (
            "request principal",
            Box::new(move |not| {
                source(not, |names, excludes| {
                    let any = || vec![RequestPrincipal::new("https://i/a").unwrap()];
                    (names.request_principals, excludes.not_request_principals) = (any(), any());
                })
            }),
            token(json!({"sub": "a"})),
            vec![token(json!({})), token(json!({"sub": ""})), token(json!({"sub": "ab"})), Sample::default()],
        ),
        (
            "header",
            Box::new(move |not| when(not, header())),
            with_header("a"),
            vec![Sample::default(), with_header(""), with_header("A"), with_header("a,a")],
        ),
        (
            "claim",
            Box::new(move |not| when(not, WhenKey::Claim(vec!["c".into()]))),
            token(json!({"c": ["b", "a"]})),
            vec![Sample::default(), token(json!({})), token(json!({"c": ""})), token(json!({"c": ["b", {"a": "a"}]}))],
        ),
        (
            "audience",
            Box::new(move |not| when(not, WhenKey::Audience)),
            token(json!({"aud": ["b", "a"]})),
            vec![Sample::default(), token(json!({"aud": []})), token(json!({"aud": ["", "b"]}))],
        ),
        (
            "presenter",
            Box::new(move |not| when(not, WhenKey::Presenter)),
            token(json!({"azp": "a"})),
            vec![Sample::default(), token(json!({"azp": ""})), token(json!({"azp": "b"}))],
        ),
        (
            "server name",
            Box::new(move |not| when(not, WhenKey::ServerName)),
            name(Some("a")),
            vec![name(None), name(Some("")), name(Some("ab"))],
        ),
    ];
    for (attribute, rule, matching, others) in rows {
        let samples = std::iter::once((true, matching)).chain(others.into_iter().map(|sample| (false, sample)));
        for (matches, sample) in samples {
            for not in [false, true] {
                let holds = matches != not;
                let view = sample.view();
                let judged = |action: Action| {
                    let policy = Policy::new([Rule { action, ..rule(not) }]);
                    let authorizer = compiled(&[&policy]);
                    let decision = authorizer.decide(&view, &Baseline::Everyone);
                    let mut asked = false;
                    authorizer.asked_by(&view, |_| asked = true);
                    (decision.allowed, decision.audit.is_some(), asked)
                };
                let what = format!("{attribute}, excluded {not}: {sample:?}");
                assert_eq!(judged(Action::Allow), (holds, false, false), "{what}");
                assert_eq!(judged(Action::Deny), (!holds, false, false), "{what}");
                assert_eq!(judged(Action::Audit), (true, holds, false), "{what}");
                assert_eq!(judged(Action::Custom), (true, false, holds), "{what}");
            }
        }
    }
}

#[test]
fn a_share_of_requests_is_held_to_a_rule() {
    let rule = Rule { enforced: Percent::of_millionths(250_000), ..Rule::deny("d") };
    let authorizer = compiled(&[&Policy::new([rule])]);
    assert!(authorizer.draws());
    for (draw, allowed) in [(0, false), (249_999, false), (250_000, true), (999_999, true)] {
        assert_eq!(
            authorizer.decide(&Sample { draw, ..Sample::default() }.view(), &Baseline::Everyone).allowed,
            allowed,
            "{draw}"
        );
    }
}

#[test]
fn to_deny_get_denies_head_and_to_allow_get_does_not_allow_it() {
    let head = Sample { method: Method::HEAD, ..Sample::default() };
    assert!(!decide(&[Rule::deny("d").to(methods(&[Method::GET]))], &head));
    assert!(!decide(&[Rule::allow("a").to(methods(&[Method::GET]))], &head));
    assert!(decide(&[Rule::deny("d").to(methods(&[Method::POST]))], &head));
}

/// What an attribute is, against a rule that names it and a rule that excludes it, for each action.
#[test]
fn absent_attributes_satisfy_exclusions_only() {
    let source = |not: bool| {
        let texts = vec![text("prod")];
        let mut source = Source::default();
        *(if not { &mut source.not_namespaces } else { &mut source.namespaces }) = texts;
        source
    };
    let header = |not: bool| {
        let mut when = When::new(WhenKey::Header(HeaderName::from_static("x-role")), []);
        *(if not { &mut when.not_values } else { &mut when.values }) = vec![text("user")];
        when
    };
    let principal = |id: &str| Sample { principal: Some(id.into()), ..Sample::default() };
    let role = |role: &'static str| {
        let mut sample = Sample::default();
        sample.headers.insert("x-role", HeaderValue::from_static(role));
        sample
    };
    let absent = Sample { principal: None, ..Sample::default() };
    // Whether the rule holds, where it names the value and where it excludes it.
    let rows: Vec<(Rule, Rule, Sample, bool, bool)> = vec![
        (Rule::deny("d").from(source(false)), Rule::deny("d").from(source(true)), absent.clone(), false, true),
        (Rule::deny("d").from(source(false)), Rule::deny("d").from(source(true)), principal(WEB), true, false),
        (
            Rule::deny("d").from(source(false)),
            Rule::deny("d").from(source(true)),
            principal("spiffe://td.example/x"),
            false,
            true,
        ),
        (Rule::deny("d").when(header(false)), Rule::deny("d").when(header(true)), Sample::default(), false, true),
        (Rule::deny("d").when(header(false)), Rule::deny("d").when(header(true)), role(""), false, true),
        (Rule::deny("d").when(header(false)), Rule::deny("d").when(header(true)), role("user"), true, false),
        (Rule::deny("d").when(header(false)), Rule::deny("d").when(header(true)), role("user,admin"), false, true),
    ];
    for (names, excludes, sample, holds, holds_not) in rows {
        for (rule, holds) in [(names, holds), (excludes, holds_not)] {
            assert_eq!(!decide(std::slice::from_ref(&rule), &sample), holds, "{rule:?} {sample:?}");
            let allow = Rule { action: Action::Allow, ..rule };
            assert_eq!(decide(std::slice::from_ref(&allow), &sample), holds, "{allow:?} {sample:?}");
        }
    }
}

/// Less is known of a connection: then what denies holds wider, and what allows narrower.
#[test]
fn on_a_connection_rules_about_http_deny_more_and_allow_less() {
    let connection = Sample { http: false, ..Sample::default() };
    let from = || Source::principals([WEB]).unwrap();
    let header = When::new(WhenKey::Header(HeaderName::from_static("x-role")), [text("a")]);
    let rows = [
        (Rule::deny("d").from(from()), false),
        (Rule::deny("d").from(from()).to(paths(&["/admin"])), false),
        (Rule::deny("d").to(methods(&[Method::GET])), false),
        (Rule::deny("d").when(header.clone()), false),
        (Rule::deny("d").to(Operation { ports: vec![1], ..paths(&["/admin"]) }), true),
        (Rule::deny("d").from(Source::principals(["spiffe://other/x"]).unwrap()).to(paths(&["/admin"])), true),
        (Rule::allow("a").from(from()), true),
        (Rule::allow("a").from(from()).to(paths(&["/a"])), false),
        (Rule::allow("a").to(Operation { ports: vec![9080], ..Operation::default() }), true),
        (Rule::allow("a").to(paths(&["/a"])).to(Operation { ports: vec![9080], ..Operation::default() }), true),
        (Rule::allow("a").from(from()).when(header), false),
    ];
    for (rule, allowed) in rows {
        let policy = Policy::new([rule.clone()]);
        let authorizer = Authorizer::of_connections(&[&policy]);
        assert_eq!(authorizer.decide(&connection.view(), &Baseline::Everyone).allowed, allowed, "{rule:?}");
    }
}

/// Names with a meaning in other languages mean themselves: CVE-2026-39350 and its kind.
#[test]
fn identities_are_never_patterns() {
    let policy = |id: &str| [Rule::allow("a").from(Source::principals([id]).unwrap())];
    let sample = |id: &str| Sample { principal: Some(id.into()), ..Sample::default() };
    let dotted = "spiffe://td.example/ns/default/sa/cert-manager.io";
    assert!(decide(&policy(dotted), &sample(dotted)));
    assert!(!decide(&policy(dotted), &sample("spiffe://td.example/ns/default/sa/cert-manager-io")));
    for (rule, other) in [("a.b", "axb"), ("a[b", "ab"), ("a[bc]", "ab"), ("a+", "aa"), ("(a)", "a"), ("^a$", "a")] {
        let namespaces =
            |name: &str| [Rule::allow("a").from(Source { namespaces: vec![text(name)], ..Source::default() })];
        let id = |name: &str| sample(&format!("spiffe://td.example/ns/{name}/sa/x"));
        assert!(decide(&namespaces(rule), &id(rule)), "{rule}");
        assert!(!decide(&namespaces(rule), &id(other)), "{rule} {other}");
    }
    for bad in ["td.example/ns/a/sa/b", "http://td/x", "spiffe", "ns/*"] {
        assert!(Source::principals([bad]).is_err(), "{bad}");
    }
    for good in ["*", "spiffe://td/*", "spiffe*", "*/sa/web"] {
        assert!(Source::principals([good]).is_ok(), "{good}");
    }
}

#[test]
fn hosts_match_without_case_and_with_any_port() {
    let rule = |host: &str| {
        let hosts = vec![HostText::new(host).unwrap()];
        [Rule::allow("a").to(Operation { hosts, ..Operation::default() })]
    };
    let sample = |host: &str| Sample { host: Some(host.into()), ..Sample::default() };
    for (pattern, host, expected) in [
        ("Httpbin.Foo", "httpbin.foo", true),
        ("httpbin.foo", "HTTPBIN.FOO.:8080", true),
        ("httpbin.foo:8080", "httpbin.foo:8080", true),
        ("httpbin.foo:8080", "httpbin.foo", false),
        ("httpbin.foo:80", "httpbin.foo:80", true),
        ("*.foo", "a.foo", true),
        ("*.foo", "foo", false),
        ("httpbin.*", "httpbin.foo:1", true),
        ("[::1]", "[::1]:9080", true),
        ("[::1]:1", "[::1]:9080", false),
    ] {
        assert_eq!(decide(&rule(pattern), &sample(host)), expected, "{pattern} {host}");
    }
    assert!(!decide(&rule("*"), &Sample { host: None, ..Sample::default() }));
}

#[test]
fn addresses_in_either_family_are_the_same_address() {
    let rule =
        |net: &str| [Rule::allow("a").from(Source { ip_blocks: vec![net.parse().unwrap()], ..Source::default() })];
    for (net, address, expected) in [
        ("10.0.0.0/8", "::ffff:10.1.2.3", true),
        ("::ffff:10.0.0.0/104", "10.1.2.3", true),
        ("10.0.0.0/8", "11.0.0.0", false),
        ("::/0", "10.0.0.1", false),
        ("2001:db8::/32", "2001:db8::7", true),
    ] {
        let peer = address.parse::<IpAddr>().unwrap().to_canonical();
        assert_eq!(decide(&rule(net), &Sample { peer: Some(peer), ..Sample::default() }), expected, "{net} {address}");
    }
}

/// One rule each for a thousand services, tenants or networks: only those that could match are asked.
#[test]
fn of_a_thousand_rules_those_that_could_match_are_asked() {
    let shapes: [fn(u32) -> Rule; 7] = [
        |n| Rule::allow("a").from(Source::principals([format!("spiffe://td.example/ns/n/sa/s{n}")]).unwrap()),
        |n| Rule::allow("a").from(Source::principals([WEB]).unwrap()).to(paths(&[&format!("/t/{n}")])),
        |n| Rule::allow("a").from(Source::principals([WEB]).unwrap()).to(paths(&[&format!("/t/{n}/*")])),
        |n| Rule::allow("a").to(paths(&[&format!("/t/{n}/{{*}}/x")])),
        |n| Rule::allow("a").from(Source { namespaces: vec![text(&format!("n{n}"))], ..Source::default() }),
        |n| {
            let net = format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap();
            Rule::allow("a").from(Source { ip_blocks: vec![net], ..Source::default() }).to(methods(&[Method::GET]))
        },
        |n| {
            let hosts = vec![HostText::new(&format!("h{n}.example")).unwrap()];
            Rule::allow("a").to(Operation { hosts, ..Operation::default() })
        },
    ];
    for (shape, rule) in shapes.into_iter().enumerate() {
        let policy = Policy::new((0..1000).map(rule));
        let authorizer = compiled(&[&policy]);
        let sample = Sample {
            principal: Some(if shape == 0 {
                "spiffe://td.example/ns/n/sa/s500".into()
            } else if shape == 4 {
                "spiffe://td.example/ns/n500/sa/web".into()
            } else {
                WEB.into()
            }),
            peer: Some([10, 1, 244, 7].into()),
            host: Some("h500.example".into()),
            path: if shape == 1 { "/t/500".into() } else { "/t/500/a/x".into() },
            ..Sample::default()
        };
        assert!(authorizer.decide(&sample.view(), &Baseline::Everyone).allowed, "shape {shape}");
        assert!(authorizer.asked(&sample.view()) <= 2, "shape {shape}: {}", authorizer.asked(&sample.view()));
    }
}

mod properties {
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;

    /// Few words, so that rules and requests meet.
    const PRINCIPALS: &[&str] = &[
        WEB,
        "spiffe://td.example/ns/prod/sa/api",
        "spiffe://td.example/ns/dev/sa/web",
        "spiffe://other.example/ns/prod/sa/web",
        "spiffe://td.example/odd",
    ];
    const PATHS: &[&str] =
        &["/", "/a", "/a/b", "/a/b/c", "/admin", "/a.b", "/pkg.S/M", "/pkg.S/N", "/a//b", "/x/y/z/b"];
    const HOSTS: &[&str] = &["a.example", "b.example", "b.example:8080", "a.b.example", "reviews"];
    const ROLES: &[&str] = &["", "user", "admin", "user,admin", "a", "7"];

    fn text(values: &'static [&'static str]) -> impl Strategy<Value = Text> {
        (select(values), any::<prop::sample::Index>(), 0..5u8).prop_map(|(value, at, form)| {
            let at = at.index(value.len() + 1);
            match form {
                0 | 1 => Text::exact(value),
                2 => Text::Prefix(value[..at].into()),
                3 => Text::Suffix(value[at..].into()),
                _ => Text::Present,
            }
        })
    }

    fn texts(values: &'static [&'static str]) -> impl Strategy<Value = Vec<Text>> {
        sometimes(text(values))
    }

    fn sometimes<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
        prop_oneof![3 => vec(one, 0..3), 1 => Just(()).prop_map(|()| Vec::new())]
    }

    fn net() -> impl Strategy<Value = IpBlock> {
        (0..4u8, 0..4u8, select(vec![0u8, 8, 16, 31, 32]))
            .prop_map(|(a, b, len)| IpBlock::of(ipnet::IpNet::new(IpAddr::from([10, a, 0, b]), len).unwrap().trunc()))
    }

    fn source() -> impl Strategy<Value = Source> {
        let account = (select(vec!["prod", "dev"]), select(vec!["web", "api"]))
            .prop_map(|(ns, sa)| (Arc::from(ns), Arc::from(sa)));
        (
            texts(PRINCIPALS),
            texts(PRINCIPALS),
            texts(&["prod", "dev"]),
            texts(&["prod", "dev"]),
            texts(&["td.example", "other.example"]),
            sometimes(account.clone()),
            sometimes(account),
            (sometimes(net()), sometimes(net()), sometimes(net())),
            sometimes(request_principal()),
            sometimes(request_principal()),
            texts(&["alice", "bob"]),
        )
            .prop_map(
                |(
                    principals,
                    not_principals,
                    namespaces,
                    not_namespaces,
                    trust_domains,
                    accounts,
                    not,
                    (ip, not_ip, remote),
                    request,
                    not_request,
                    keys,
                )| Source {
                    principals,
                    not_principals,
                    namespaces,
                    not_namespaces,
                    trust_domains,
                    service_accounts: accounts,
                    not_service_accounts: not,
                    ip_blocks: ip,
                    not_ip_blocks: not_ip,
                    remote_ip_blocks: remote,
                    request_principals: request,
                    not_request_principals: not_request,
                    api_keys: keys,
                    ..Source::default()
                },
            )
    }

    fn path() -> impl Strategy<Value = PathText> {
        prop_oneof![
            3 => text(PATHS).prop_map(PathText::Text),
            1 => select(vec!["/a/{*}", "/a/{**}", "/{*}/b", "/{**}/b", "/{*}", "/a/{**}/c", "/{id}/{*rest}"])
                .prop_map(|text| PathText::new(text).unwrap()),
        ]
    }

    fn method() -> impl Strategy<Value = Method> {
        select(vec![Method::GET, Method::HEAD, Method::POST])
    }

    fn host() -> impl Strategy<Value = HostText> {
        select(vec!["a.example", "B.example", "b.example:8080", "*.example", "a.*", "*"])
            .prop_map(|text| HostText::new(text).unwrap())
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let grpc =
            (option::of(select(vec!["pkg.S"])), option::of(select(vec!["M", "N"]))).prop_map(|(service, method)| {
                super::super::GrpcMethod::new(service.map(Into::into), method.map(Into::into))
            });
        (
            sometimes(host()),
            sometimes(host()),
            sometimes(select(vec![80u16, 9080])),
            sometimes(select(vec![80u16, 9080])),
            sometimes(method()),
            sometimes(method()),
            sometimes(path()),
            sometimes(path()),
            sometimes(grpc),
        )
            .prop_map(|(hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths, grpc)| {
                Operation {
                    hosts,
                    not_hosts,
                    ports,
                    not_ports,
                    methods,
                    not_methods,
                    paths,
                    not_paths,
                    grpc,
                    ..Operation::default()
                }
            })
    }

    fn token() -> impl Strategy<Value = Arc<Token>> {
        let claims = select(vec![
            json!({"sub": "alice", "aud": "a", "role": "user"}),
            json!({"sub": "bob", "aud": ["a", "b"], "azp": "user", "role": ["user", "admin", 7]}),
            json!({"aud": [], "role": {"inner": "user"}, "n": 7, "on": true}),
            json!({"sub": "", "role": ""}),
        ]);
        let issuers = select(vec!["https://i", "https://i/sub"]);
        (claims, issuers).prop_map(|(claims, issuer)| {
            Arc::new(Token::new(issuer.into(), claims.as_object().unwrap().clone(), Arc::default()))
        })
    }

    fn request_principal() -> impl Strategy<Value = RequestPrincipal> {
        select(vec!["*", "https://i/alice", "https://i/*", "*/alice", "https://i/sub/bob", "https://i/sub/*", "*/bob"])
            .prop_map(|text| RequestPrincipal::new(text).unwrap())
    }

    fn when() -> impl Strategy<Value = When> {
        let key = select(vec![
            WhenKey::Header(HeaderName::from_static("x-role")),
            WhenKey::ServerName,
            WhenKey::Audience,
            WhenKey::Presenter,
            WhenKey::Claim(vec!["role".into()]),
            WhenKey::Claim(vec!["role".into(), "inner".into()]),
            WhenKey::Claim(vec!["n".into()]),
        ]);
        (key, texts(ROLES), texts(ROLES)).prop_map(|(key, values, not_values)| When { key, values, not_values })
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let action = select(vec![Action::Allow, Action::Allow, Action::Deny, Action::Audit]);
        let enforced =
            select(vec![Percent::ALL, Percent::ALL, Percent::ALL, Percent::of_millionths(500_000), Percent::NONE]);
        (action, vec(source(), 0..3), vec(operation(), 0..3), vec(when(), 0..2), enforced)
            .prop_map(|(action, from, to, when, enforced)| Rule { from, to, when, enforced, ..Rule::new("r", action) })
    }

    fn policy() -> impl Strategy<Value = Policy> {
        (vec(rule(), 0..6), prop::bool::weighted(0.1)).prop_map(|(rules, exclusive)| Policy { rules, exclusive })
    }

    fn request() -> impl Strategy<Value = Sample> {
        (
            option::weighted(0.8, select(PRINCIPALS)),
            (0..4u8, 0..4u8, 0..4u8, 0..4u8),
            select(vec![80u16, 9080]),
            option::weighted(0.8, select(HOSTS)),
            method(),
            select(PATHS),
            option::of(select(ROLES)),
            option::of(select(ROLES)),
            (
                0..1_000_000u32,
                prop::bool::weighted(0.85),
                option::of(token()),
                option::of(select(vec!["alice", "bob"])),
            ),
        )
            .prop_map(
                |(principal, (a, b, c, d), port, host, method, path, role, name, (draw, http, token, key))| {
                    let mut headers = HeaderMap::new();
                    if let Some(role) = role {
                        headers.insert("x-role", HeaderValue::from_static(role));
                    }
                    Sample {
                        principal: principal.map(Into::into),
                        peer: Some([10, a, 0, b].into()),
                        client: Some([10, c, 0, d].into()),
                        port,
                        server_name: name.map(Into::into),
                        host: host.map(Into::into),
                        method,
                        path: path.into(),
                        headers,
                        draw,
                        http,
                        token: token.filter(|_| http),
                        api_key: key.filter(|_| http),
                    }
                },
            )
    }

    /// How many requests meet each policy.
    const REQUESTS: usize = 40;

    fn cases() -> ProptestConfig {
        // `SINEW_AUTHZ_PAIRS=1000000` for a long run.
        let pairs = std::env::var("SINEW_AUTHZ_PAIRS").ok().and_then(|pairs| pairs.parse().ok()).unwrap_or(20_000u32);
        ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(pairs / REQUESTS as u32) }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]
        #[test]
        fn what_is_over_for_certain_is_denied_whatever_else_turns_out(
            policies in vec(policy(), 1..3), requests in vec(request(), REQUESTS)
        ) {
            let policies: Vec<&Policy> = policies.iter().collect();
            let authorizer = compiled(&policies);
            let baseline = Baseline::Members { trust_domain: "td.example".into(), plaintext: false };
            for request in requests.into_iter().filter(|request| request.http) {
                let view = request.view();
                let allowed = authorizer.decide(&view, &baseline).allowed;
                let before = View { http: None, token: None, api_key: None, ..view.clone() };
                let unknown = View { principal: None, server_name: None, ..before.clone() };
                for (view, known) in [(&before, Known::Connection), (&unknown, Known::Addresses)] {
                    let possible = authorizer.possible(view, known, &baseline).is_ok();
                    prop_assert!(possible || !allowed, "{:?} {:?}", known, request);
                }
                prop_assert!(authorizer.refuses(&unknown).is_none() || !allowed, "{:?}", request);
                // All headers that rules name were kept: nothing is unknown.
                let known = Known::Exchange(authorizer.kept_headers());
                prop_assert_eq!(authorizer.possible(&view, known, &baseline).is_ok(), allowed, "{:?}", request);
                // None was: only more may be possible.
                let possible = authorizer.possible(&view, Known::Exchange(&[]), &baseline).is_ok();
                prop_assert!(possible || !allowed, "{:?}", request);
            }
        }
    }

    proptest! {
        #![proptest_config(cases())]
        #[test]
        fn decisions_are_those_of_the_reference(
            policies in vec(policy(), 1..3), requests in vec(request(), REQUESTS)
        ) {
            let policies: Vec<&Policy> = policies.iter().collect();
            let http = compiled(&policies);
            let connections = Authorizer::of_connections(&policies);
            for request in requests {
                let view = request.view();
                let authorizer = if request.http { &http } else { &connections };
                let decision = authorizer.decide(&view, &Baseline::Nobody);
                let expected = reference::allows(&policies, &view, false).unwrap_or(false);
                prop_assert_eq!(decision.allowed, expected, "{:?}", request);
                let shadow = reference::allows(&policies, &view, true).unwrap_or(false);
                prop_assert_eq!(decision.shadow.map_or(decision.allowed, |(allowed, _)| allowed), shadow, "{:?}", request);
            }
        }
    }
}

#[test]
fn request_principals_are_issuer_and_subject_as_istio_splits_them() {
    let matches =
        |pattern: &str, issuer: &str, subject: &str| RequestPrincipal::new(pattern).unwrap().matches(issuer, subject);
    let rows = [
        ("*", "https://i", "a", true),
        ("*", "https://i", "", false),
        ("https://i/a", "https://i", "a", true),
        ("https://i/a", "https://i", "ab", false),
        ("https://i/a", "https:", "i/a", false),
        ("https://i/*", "https://i", "a", true),
        ("https://i/*", "https://i", "", false),
        ("https://i/*", "https://i.evil", "a", false),
        ("https://i/a*", "https://i", "ab", true),
        ("*/a", "anything", "a", true),
        ("*/a", "", "a", false),
        ("*.example/a", "https://i.example", "a", true),
        ("*.example/a", "https://i.other", "a", false),
        ("*-admin", "https://i", "x-admin", true),
        ("https*", "https://i", "a", true),
        ("https://i", "https:", "i", false),
    ];
    for (pattern, issuer, subject, expected) in rows {
        assert_eq!(matches(pattern, issuer, subject), expected, "{pattern} {issuer} {subject}");
    }
    assert!(RequestPrincipal::new("a*b/c").is_err() && RequestPrincipal::new("").is_err());
}
