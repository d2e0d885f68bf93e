//! Each warning: a document that has it and no other, where it stands, and the same document cured.

use std::collections::BTreeSet;

use sinew::{config::Loader, model::LintCode};

struct Case {
    code: LintCode,
    /// `line:column`; empty for what stands nowhere.
    place: &'static str,
    path: &'static str,
    document: &'static str,
    /// What in it is wrong, and what stands there when it is not.
    cure: (&'static str, &'static str),
}

const CASES: &[Case] = &[
    Case {
        code: LintCode::NoEndpoints,
        place: "1:31",
        path: "services.a.endpoints[0].static",
        document: "services: { a: { endpoints: [ { static: [] } ] } }",
        cure: ("[]", "[\"127.0.0.1:1\"]"),
    },
    Case {
        code: LintCode::NoWeight,
        place: "1:29",
        path: "services.a.endpoints[0].static",
        document: "services: { a: { endpoints: { static: [{ address: \"127.0.0.1:1\", weight: 0 }] } } }",
        cure: ("weight: 0", "weight: 1"),
    },
    Case {
        code: LintCode::EmptySubset,
        place: "4:16",
        path: "services.a.subsets.v2",
        document: "services:\n  a:\n    endpoints: { dns: \"a:1\", labels: { version: v1 } }\n    subsets: { v2: { version: v2 } }\n",
        cure: ("labels: { version: v1 }", "labels: { version: v2 }"),
    },
    Case {
        code: LintCode::MoreEndpointsThanConnections,
        place: "4:42",
        path: "services.a.circuit_breakers.max_connections",
        document: "services:\n  a:\n    endpoints: { static: [\"127.0.0.1:1\", \"127.0.0.1:2\"] }\n    circuit_breakers: { max_connections: 1 }\n",
        cure: ("max_connections: 1", "max_connections: 2"),
    },
    Case {
        code: LintCode::UnreachableRoute,
        place: "7:7",
        path: "services.a.routes[1]",
        document: "services:\n  a:\n    endpoints: { custom: x }\n    subsets: { v1: { version: v1 } }\n    routes:\n    - { match: { path: { prefix: /a } }, to: v1 }\n    - { match: { path: { prefix: /a }, fraction: 5% }, to: v1 }\n",
        cure: ("{ match: { path: { prefix: /a } }, to: v1 }", "{ match: { path: { prefix: /b } }, to: v1 }"),
    },
    Case {
        code: LintCode::WeightsOffHundred,
        place: "5:26",
        path: "services.a.routes[0].split",
        document: "services:\n  a:\n    endpoints: { custom: x }\n    subsets: { v1: { version: v1 }, v2: { version: v2 } }\n    routes: [ { split: { v1: 1, v2: 1 } } ]\n",
        cure: ("v1: 1, v2: 1 }", "v1: 50, v2: 50 }"),
    },
    Case {
        code: LintCode::NoFraction,
        place: "5:15",
        path: "services.a.routes[0].match.fraction",
        document: "services:\n  a:\n    endpoints: { custom: x }\n    subsets: { v1: { version: v1 } }\n    routes: [ { match: { fraction: 0% }, to: v1 } ]\n",
        cure: ("0%", "1%"),
    },
    Case {
        code: LintCode::GuessedVip,
        place: "1:56",
        path: "services.a.protocol",
        document: "services: { a: { endpoints: { dns: \"a:80\" }, protocol: http2 } }",
        cure: ("\"a:80\"", "\"a:80\", kind: vip"),
    },
    Case {
        code: LintCode::UnboundedDeadline,
        place: "2:30",
        path: "services.a.timeouts.response",
        document: "services:\n  a: { timeouts: { response: off }, endpoints: { custom: x } }\n",
        cure: ("response: off", "response: off, request: 1m"),
    },
    Case {
        code: LintCode::AttemptAsLongAsCall,
        place: "2:42",
        path: "services.a.timeouts.per_try",
        document: "services:\n  a: { timeouts: { request: 1s, per_try: 1s }, endpoints: { custom: x } }\n",
        cure: ("per_try: 1s", "per_try: 300ms"),
    },
    Case {
        code: LintCode::AttemptsDoNotFit,
        place: "2:47",
        path: "services.a.retry.per_try_timeout",
        document: "services:\n  a: { timeout: 1s, retry: { per_try_timeout: 400ms }, endpoints: { custom: x } }\n",
        cure: ("400ms", "300ms"),
    },
    Case {
        code: LintCode::WaitAsLongAsCall,
        place: "2:47",
        path: "services.a.timeouts.connect_wait",
        document: "services:\n  a: { timeouts: { request: 1s, connect_wait: 2s }, endpoints: { custom: x } }\n",
        cure: ("connect_wait: 2s", "connect_wait: 500ms"),
    },
    Case {
        code: LintCode::RetryNotIdempotent,
        place: "2:37",
        path: "services.a.retry.require_idempotent",
        document: "services:\n  a: { retry: { require_idempotent: false }, endpoints: { custom: x } }\n",
        cure: ("false", "true"),
    },
    Case {
        code: LintCode::HedgeNotIdempotent,
        place: "2:50",
        path: "services.a.hedge.require_idempotent",
        document: "services:\n  a: { hedge: { delay: 50ms, require_idempotent: false }, endpoints: { custom: x } }\n",
        cure: ("false", "true"),
    },
    Case {
        code: LintCode::ConditionWithoutList,
        place: "2:41",
        path: "services.a.retry.retriable_status_codes",
        document: "services:\n  a: { retry: { retriable_status_codes: [409] }, endpoints: { custom: x } }\n",
        cure: ("retry: {", "retry: { retry_on: [retriable-status-codes],"),
    },
    Case {
        code: LintCode::RetriesBeyondAllowance,
        place: "2:30",
        path: "services.a.retry.num_retries",
        document: "services:\n  a: { retry: { num_retries: 4 }, endpoints: { custom: x } }\n",
        cure: ("num_retries: 4", "num_retries: 4, tree_allowance: 4"),
    },
    Case {
        code: LintCode::HedgeWithoutPeer,
        place: "2:24",
        path: "services.a.hedge.mode",
        document: "services:\n  a: { hedge: { delay: 50ms }, endpoints: { static: [\"127.0.0.1:1\"] } }\n",
        cure: ("[\"127.0.0.1:1\"]", "[\"127.0.0.1:1\", \"127.0.0.1:2\"]"),
    },
    Case {
        code: LintCode::RetryReserves,
        place: "3:27",
        path: "services.a.retry.retry_on",
        document: "services:\n  app: { endpoints: { static: [\"10.0.0.1:1\", \"10.0.0.1:2\", \"10.0.0.1:3\", \"10.0.0.1:4\", \"10.0.0.1:5\", \"10.0.0.1:6\", \"10.0.0.1:7\", \"10.0.0.1:8\", \"10.0.0.1:9\", \"10.0.0.1:10\", \"10.0.0.1:11\"] } }\n  a: { retry: { retry_on: [5xx] }, endpoints: { static: [\"10.0.0.1:99\"] } }\n",
        cure: ("[5xx]", "[5xx], percentage: 50%"),
    },
    Case {
        code: LintCode::NeverEjects,
        place: "2:51",
        path: "services.a.outlier_detection.max_ejection_percent",
        document: "services:\n  a: { outlier_detection: { max_ejection_percent: 0 }, endpoints: { custom: x } }\n",
        cure: ("percent: 0", "percent: 10"),
    },
    Case {
        code: LintCode::DetectorOff,
        place: "2:56",
        path: "services.a.outlier_detection.success_rate_stdev_factor",
        document: "services:\n  a: { outlier_detection: { success_rate_stdev_factor: 1500 }, endpoints: { custom: x } }\n",
        cure: ("1500", "1500, enforcing_success_rate: 100"),
    },
    Case {
        code: LintCode::ChecksOnlyReport,
        place: "2:23",
        path: "services.a.health_checks",
        document: "services:\n  a: { health_checks: { tcp: {} }, endpoints: { static: [\"127.0.0.1:1\"] } }\n",
        cure: ("[\"127.0.0.1:1\"]", "[\"127.0.0.1:1\", \"127.0.0.1:2\"]"),
    },
    Case {
        code: LintCode::ZoneUnknown,
        place: "2:32",
        path: "services.a.locality",
        document: "services:\n  a: { locality: { zone_aware: { force_local_zone: {} } }, endpoints: { custom: x } }\n",
        cure: ("services:", "mesh: { zone: z }\nservices:"),
    },
    Case {
        code: LintCode::ZoneWithoutWeight,
        place: "2:30",
        path: "services.a.locality.weighted",
        document: "services:\n  a: { locality: { weighted: { x: 1 } }, endpoints: { static: [{ address: \"127.0.0.1:1\", zone: z }] } }\n",
        cure: ("x: 1", "z: 1"),
    },
    Case {
        code: LintCode::FailoverKeyUnknown,
        place: "2:39",
        path: "services.a.locality.failover_priority",
        document: "services:\n  a: { locality: { failover_priority: [zone] }, endpoints: { custom: x } }\n",
        cure: ("services:", "mesh: { zone: z }\nservices:"),
    },
    Case {
        code: LintCode::AnyAudience,
        place: "1:28",
        path: "inbound.authn.jwt[0]",
        document: "inbound: { authn: { jwt: [ { issuer: i, jwks: '{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}' } ] } }\n",
        cure: ("issuer: i,", "issuer: i, audiences: a,"),
    },
    Case {
        code: LintCode::ForwardsNothing,
        place: "1:42",
        path: "inbound.authn.forward_client_cert",
        document: "inbound: { authn: { forward_client_cert: append_forward } }\n",
        cure: ("append_forward", "append_forward, forward_client_cert_from: \"spiffe://a.example/b\""),
    },
    Case {
        code: LintCode::AllowsNobody,
        place: "1:28",
        path: "inbound.authz.allow",
        document: "inbound: { authz: { allow: [] } }\n",
        cure: ("[]", "[{}]"),
    },
    Case {
        code: LintCode::RuleWithoutIdentity,
        place: "1:30",
        path: "inbound.authz.allow[0]",
        document: "inbound: { authz: { allow: [ { from: \"spiffe://a.example/b\" } ] } }\n",
        cure: ("from: \"spiffe://a.example/b\"", "methods: GET"),
    },
    Case {
        code: LintCode::PlaintextEdge,
        place: "1:20",
        path: "listeners.edge",
        document: "listeners: { edge: { listen: \"127.0.0.1:0\" } }\ninbound: { authz: { allow: [{}] } }\n",
        cure: ("\"127.0.0.1:0\"", "\"127.0.0.1:0\", trusted_proxies: 10.0.0.0/8"),
    },
    Case {
        code: LintCode::OpenEdge,
        place: "1:20",
        path: "listeners.edge",
        document: "listeners: { edge: { listen: \"127.0.0.1:0\", trusted_proxies: 10.0.0.0/8 } }\n",
        cure: ("listeners:", "inbound: { authz: { allow: [{}] } }\nlisteners:"),
    },
    Case {
        code: LintCode::NoOpsListener,
        place: "",
        path: "listeners.ops",
        document: "mesh: { service: under-kubernetes }\n",
        cure: ("mesh:", "listeners: { ops: { listen: \"0.0.0.0:9901\" } }\nmesh:"),
    },
];

fn lints(document: &str) -> Vec<sinew::model::Lint> {
    let loader = Loader::new();
    let loader = if document.contains("kubernetes") { loader.kubernetes() } else { loader };
    match loader.load_str("sinew.yaml", document) {
        Ok(snapshot) => snapshot.lints.to_vec(),
        Err(report) => panic!("{document}\n{report}"),
    }
}

#[test]
fn every_warning_has_a_document_that_has_it_and_one_where_it_is_cured() {
    let mut wrong = Vec::new();
    for case in CASES {
        let found = lints(case.document);
        let told: Vec<_> = found.iter().map(|lint| (lint.code, lint.path.as_str())).collect();
        if told != [(case.code, case.path)] {
            wrong.push(format!("{:?}: {found:#?}", case.code));
            continue;
        }
        let place = found[0].place.as_ref().map(|place| format!("{}:{}", place.line, place.column));
        if place.as_deref().unwrap_or_default() != case.place {
            wrong.push(format!("{:?}: at {place:?}", case.code));
        }
        let text = found[0].to_string();
        assert!(text.contains(&format!("({}) [{}]", case.code.cure(), case.code)), "{text}");
        assert!(case.document.contains(case.cure.0), "{:?}", case.code);
        let cured = lints(&case.document.replacen(case.cure.0, case.cure.1, 1));
        if !cured.is_empty() {
            wrong.push(format!("{:?} is not cured: {cured:#?}", case.code));
        }
    }
    let tried: BTreeSet<_> = CASES.iter().map(|case| case.code).collect();
    wrong.extend(LintCode::ALL.iter().filter(|code| !tried.contains(code)).map(|code| format!("{code:?} has no case")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_said_in_the_defaults_warns_where_it_takes_effect_and_not_of_every_small_service() {
    let quiet = lints(
        "defaults: { outlier_detection: { interval: 5s } }\nservices: { a: { endpoints: { static: [\"127.0.0.1:1\"] } } }",
    );
    assert!(quiet.is_empty(), "{quiet:#?}");
    let never = lints(
        "defaults: { outlier_detection: { max_ejection_percent: 0 } }\nservices: { a: {}, b: { outlier_detection: off } }",
    );
    assert_eq!(never.len(), 1, "{never:#?}");
    assert_eq!(
        (never[0].code, never[0].path.as_str()),
        (LintCode::NeverEjects, "services.a.outlier_detection.max_ejection_percent")
    );
    let all_off = "services: { a: { outlier_detection: { consecutive_gateway_failure: off, consecutive_local_origin_failure: off, windowed_success_rate: off } } }";
    assert_eq!(lints(all_off)[0].code, LintCode::NeverEjects);
    let alone = "services: { a: { endpoints: { static: [\"127.0.0.1:1\"] }, outlier_detection: { interval: 5s } } }";
    assert_eq!(lints(alone)[0].code, LintCode::NeverEjects);
    let bounded = "services: { a: { endpoints: { custom: x }, subsets: { v: { a: b } }, timeouts: { response: off }, routes: [ { to: v, timeout: 1s } ] } }";
    assert!(lints(bounded).is_empty(), "{:#?}", lints(bounded));
    assert!(lints("services: { a: { endpoints: { custom: x } } }").is_empty(), "defaults are not warned of");
}

#[test]
fn reserves_of_retries_are_told_of_where_they_are_many_for_each_endpoint_and_what_failed_is_sent_again() {
    let document = |retry: &str, members: u16, endpoints: u16| {
        let list = |from: u16, n: u16| {
            (from..from + n).map(|port| format!("\"10.0.0.1:{port}\"")).collect::<Vec<_>>().join(", ")
        };
        format!(
            "services: {{ app: {{ endpoints: {{ static: [{}] }} }}, a: {{ {retry} endpoints: {{ static: [{}] }} }} }}",
            list(1, members),
            list(1_000, endpoints)
        )
    };
    let codes = |document: &str| lints(document).iter().map(|lint| lint.code).collect::<Vec<_>>();
    let told = lints(&document("retry: { retry_on: [unavailable] },", 21, 2));
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].message, "21 processes have 10 retries each in reserve: 105 at once for each endpoint");
    assert!(codes(&document("retry: { retry_on: [unavailable] },", 20, 2)).is_empty());
    assert!(codes(&document("", 21, 2)).is_empty(), "what was not processed is sent again whatever there is");
    assert!(codes(&document("retry: { retry_on: [refused-stream] },", 21, 2)).is_empty());
    assert!(codes(&document("retry: { retry_on: [5xx], num_retries: 0 },", 21, 2)).is_empty());
    // How many there are is not known.
    let elsewhere = "services: { app: { endpoints: { custom: x } }, a: { retry: { retry_on: [5xx] }, endpoints: { static: [\"10.0.0.1:1\"] } } }";
    assert!(codes(elsewhere).is_empty());
}

#[tokio::test]
async fn a_mesh_shows_its_warnings_in_its_status_whoever_said_what() {
    let mesh = sinew::Mesh::builder("a")
        .config_str("services: { b: { endpoints: { static: [] } } }")
        .service("c", |service| service.endpoints(["127.0.0.1:1"]).subset("v9", [("version", "v9")]))
        .build()
        .await
        .unwrap();
    let lints = mesh.status().lints;
    assert!(
        lints.iter().any(|lint| lint.contains("services.b.endpoints[0].static") && lint.ends_with("[SINEW-W001]")),
        "{lints:?}"
    );
    assert!(
        lints.iter().any(|lint| lint.starts_with("services.c.subsets.v9: ") && lint.ends_with("[SINEW-W003]")),
        "{lints:?}"
    );
}
