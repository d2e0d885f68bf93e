//! Each attribute of a request, against what a rule says of it.

use super::*;

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
