//! Random rules and requests.

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
const PATHS: &[&str] = &["/", "/a", "/a/b", "/a/b/c", "/admin", "/a.b", "/pkg.S/M", "/pkg.S/N", "/a//b", "/x/y/z/b"];
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
    let account =
        (select(vec!["prod", "dev"]), select(vec!["web", "api"])).prop_map(|(ns, sa)| (Arc::from(ns), Arc::from(sa)));
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
    let grpc = (option::of(select(vec!["pkg.S"])), option::of(select(vec!["M", "N"])))
        .prop_map(|(service, method)| super::super::GrpcMethod::new(service.map(Into::into), method.map(Into::into)));
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
        .prop_map(|(hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths, grpc)| Operation {
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
        (0..1_000_000u32, prop::bool::weighted(0.85), option::of(token()), option::of(select(vec!["alice", "bob"]))),
    )
        .prop_map(|(principal, (a, b, c, d), port, host, method, path, role, name, (draw, http, token, key))| {
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
        })
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
