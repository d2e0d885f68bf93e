//! Rules against requests: tables, and random ones against the reference.

mod attributes;
mod properties;

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
