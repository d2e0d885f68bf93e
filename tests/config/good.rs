//! Documents that are taken, and what they mean.

use std::time::Duration;

use sinew::{
    PathNormalization,
    balance::{BalancePolicy, Failover, LocalityMode, SlowStartPolicy},
    config::{Loader, show},
    enforcement::Mode,
    health::CheckKind,
    limit::{KeySource, RateLimitPolicy},
    model::{Origin, Protocol, ServiceSpec, Snapshot, SourceKind},
    retry::{HedgeMode, RetrySpec},
    route::RouteAction,
};

const FULL: &str = r#"
version: 1
mesh: { service: productpage, version: v1, trust_domain: bookinfo.example }
mtls: off
listeners: { ops: { listen: "0.0.0.0:9901" } }
drain: { lame_duck: 1s, deadline: 1m30s }
defaults:
  timeout: 3s
  circuit_breakers: { max_requests: 10 }
  rate_limit: { token_bucket: { max_tokens: 7, fill_interval: 1s } }
services:
  reviews:
    endpoints:
    - { dns: "reviews-v1.prod:9080", labels: { version: v1 } }
    - { static: ["127.0.0.1:9080", { address: "127.0.0.1:9081", weight: 3, zone: b }], labels: { version: v2 }, zone: a }
    hosts: [reviews.example, "*.reviews.example"]
    protocol: http2
    load_balancer: { least_request: { choice_count: 3 } }
    subsets: { v1: { version: v1 }, v2: { version: v2 } }
    timeouts:
      per_try: 500ms
      response: off
      per_try_idle: 400ms
      stream_idle: 1m
      upgrade_idle: off
      max_stream_duration: 1h
      grpc_timeout_header_max: 10s
      grpc_timeout_header_offset: 10ms
      honor_inbound_deadline: false
    routes:
    - { split: { v1: 90, v2: 10 } }
    - { name: jason, match: { headers: { end-user: jason } }, to: v2, timeout: 750ms }
    - { name: old, match: { path: { prefix: /old } }, redirect: { path: { prefix: /new }, status: 308 } }
    - { name: health, match: { path: { exact: /health }, method: GET }, direct_response: { status: 200, body: "ok $${x}" } }
    - name: canary
      match: { fraction: 0.5%, path: { regex: "/v[0-9]+" }, query: { debug: { present: true } } }
      to: v2
      rewrite: { path: { full: "/" }, host: canary.example }
      request_headers: { set: { x-canary: 1 }, remove: [cookie] }
      rate_limit: { quota: { requests: 100, window: 1h }, key: path, percentage: 50%, mode: shadow }
      fault:
        delay: { exponential: { mean: 250ms }, percentage: 20% }
        abort: { grpc_status: 14, percentage: 0.5% }
        response_rate_limit: { header_limit: { min: 4 } }
        max_active_faults: 10
        expires_after: off
        mode: shadow
      mirror: { to: v1, percent: 12.5%, timeout: 2s, max_concurrent: 7, host_suffix: "", forward_credentials: true }
      retry: { num_retries: 1, retriable_headers: { x-again: { exact: yes } }, retry_on: [retriable-headers] }
      hedge: { percentile: 99.5, max_hedged_attempts: 2, max_extra_load_percent: 10 }
  ratings:
    endpoints: { custom: registry }
    circuit_breakers: { breaker: { failure_rate_threshold: 60%, window: { calls: 200 }, max_wait_in_open: 2m, percentage: 50%, mode: shadow } }
    rate_limit: { mode: off }
    throttle: { multiplier: 1.1, window: 30s, max_rejection: 90% }
    retry:
      retry_on: [5xx, unavailable, retriable-status-codes]
      retriable_status_codes: [429, 409]
      retriable_request_headers: { x-retry: { present: true } }
      require_idempotent: false
      per_try_timeout: 1s
      retry_back_off: { base_interval: 100ms, jitter: equal }
      rate_limited_retry_back_off: { max_interval: 5s }
      max_request_buffer_bytes: 1024
      peek_trailers: false
      min_remaining: 20ms
      tree_allowance: 1
      enforcement: shadow
      percentage: 12.5%
    hedge: { delay: 50ms, enforcement: shadow, percentage: 10% }
  batch: { retry: off, hedge: off, endpoints: { custom: registry } }
inbound:
  path_normalization: merge_slashes
  authn:
    jwt:
    - issuer: https://issuer.example
      audiences: [reviews, ratings]
      jwks_networks: [10.0.0.0/8]
      from_headers: [{ name: x-jwt, prefix: "Bearer " }]
      from_params: token
      from_cookies: [session]
      output_claim_to_headers: { x-user: sub }
      output_payload_to_header: x-payload
      require_expiration: false
      allow_eddsa: true
    - { issuer: local, audiences: a, jwks: '{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}', forward_original_token: true, clock_skew: 1m }
    - { trust_domain: bookinfo.example, audiences: reviews, jwks_file: bundle.json }
    - { trust_domain: other.example, audiences: reviews, workload_api: "unix:/run/agent.sock" }
    api_keys: { header: x-key, keys: { alice: "sha256:26594ba2c73ebc172047f2305663bc2c5e6ff60a88182eef43e353f48fc95b94" } }
    client_address: { header: forwarded, trusted_hops: 2, trusted_proxies: [10.0.0.0/8] }
    forward_client_cert: append_forward
    forward_client_cert_from: spiffe://bookinfo.example/ns/edge/sa/gateway
  authz:
    allow:
    - { name: web, from: ["spiffe://bookinfo.example/ns/default/sa/web", "spiffe://bookinfo.example/ns/ops/*"], methods: [GET], paths: ["/reviews/*"] }
    - from:
      - { namespaces: [prod], not_principals: ["*/sa/guest"], trust_domains: bookinfo.example, not_ip_blocks: 10.1.0.0/16, request_principals: "https://issuer.example/*", api_keys: alice }
      - { service_accounts: default/web, remote_ip_blocks: [10.0.0.0/8, "2001:db8::1"] }
      to:
      - { hosts: ["*.example", "a.example:8080"], ports: 9080, not_methods: [DELETE], not_paths: ["/a/{*}", "/b/{**}"] }
      - grpc: [{ service: pkg.Service, method: Get }, { method: List }]
      headers: { x-role: [user, "admin*"], x-tenant: { not_values: ["*"] } }
      claims: { org.tenant: [a, "b*"], banned: { not_values: "true" } }
      audiences: reviews
      condition: request.path.startsWith('/a') && !has(source.principal)
      presenters: [web]
      server_name: reviews
    - { name: rest, enforced: 12.5% }
    deny: [{ name: no-admin, paths: /admin, shadow: true }]
    audit: [{}]
    custom: [{ name: ask, paths: "/api/*", ext_authz: { service: batch, protocol: http, timeout: 300ms, path_prefix: /check, headers: x-tenant, upstream_headers: [x-user, x-id], max_request_bytes: 1024 } }]
  audit_log: { file: /var/log/web/audit.log, key_file: /etc/web/audit.key, rotate_bytes: 1000000, keep_files: 3, denied: false, queue: 100 }
  load_shed: { max_in_flight: 500, max_lag: 25ms, percentage: 50%, mode: shadow }
  adaptive_concurrency: { algorithm: vegas, initial_limit: 10, min_limit: 2, max_limit: 300, percentile: 50, tolerance: 2.5 }
  rate_limit:
    token_bucket: { max_tokens: 100, tokens_per_fill: 10, fill_interval: 1s }
    key: [identity, { header: x-tenant }, { claim: org.tenant }]
    descriptors:
    - { entries: [{ header: x-plan, value: gold }, { key: path }], token_bucket: { max_tokens: 5, fill_interval: 20ms } }
    always_consume_default_token_bucket: false
    max_dynamic_keys: 500
    headers: structured
    share_with: local_cluster
    global:
      service: batch
      domain: shop
      descriptors:
      - entries: [{ generic_key: checkout }, { header: x-tenant, value: gold, descriptor_key: tenant }, { key: identity }]
      timeout: 50ms
      fallback: { quota: { requests: 7, window: 1m } }
"#;

fn load(text: &str) -> Snapshot {
    Loader::new().env(|name| (name == "PORT").then(|| "9080".into())).load_str("sinew.yaml", text).unwrap()
}

#[test]
fn a_shared_secret_is_not_shown() {
    let secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
    let snapshot = load(&format!(
        "inbound: {{ authn: {{ jwt: [{{ issuer: a, audiences: b, jwks: '{{\"kty\": \"oct\", \"k\": \"{secret}\"}}' }}] }} }}"
    ));
    assert!(show(&snapshot).contains("hidden: a shared secret"));
    assert!(!show(&snapshot).contains(secret) && !format!("{snapshot:?}").contains(secret));
}

#[test]
fn every_part_reaches_the_snapshot() {
    let snapshot = load(FULL);
    assert_eq!(snapshot.mesh.service.as_str(), "productpage");
    assert_eq!(snapshot.listeners.ops, Some("0.0.0.0:9901".parse().unwrap()));
    assert_eq!(snapshot.drain.deadline, Duration::from_secs(90));
    assert_eq!(snapshot.inbound.path_normalization, PathNormalization::MergeSlashes);
    let reviews = &snapshot.services["reviews"];
    assert_eq!(reviews.protocol, Protocol::Http2);
    assert_eq!(reviews.load_balancer, BalancePolicy::LeastRequest { choice_count: 3 });
    assert_eq!(reviews.timeouts.request, Some(Duration::from_secs(3)));
    assert_eq!(reviews.timeouts.per_try, Some(Duration::from_millis(500)));
    assert_eq!(reviews.timeouts.response, None);
    assert_eq!(reviews.circuit_breakers.max_requests, 10);
    assert_eq!(reviews.circuit_breakers.max_streams, 100_000);
    let SourceKind::Static(endpoints) = &reviews.endpoints[1].source else { panic!("not static") };
    assert_eq!((endpoints[0].weight, &*endpoints[0].locality.zone), (1, "a"));
    assert_eq!((endpoints[1].weight, &*endpoints[1].locality.zone), (3, "b"));
    assert_eq!(&*endpoints[1].labels["version"], "v2");
    assert!(snapshot.services["ratings"].routes.is_empty());
    let authz = &snapshot.inbound.authz;
    assert_eq!(authz.rules.len(), 6);
    let asked = authz.rules[5].ext_authz.as_ref().unwrap();
    assert_eq!((asked.service.as_str(), asked.max_request_bytes, asked.upstream_headers.len()), ("batch", 1024, 2));
    assert_eq!((authz.rules[1].from.len(), authz.rules[1].to.len(), authz.rules[1].when.len()), (2, 2, 7));
    assert_eq!(authz.rules[0].from[0].principals.len(), 2);
    assert_eq!(&*authz.rules[1].name, "allow[1]");
    // Without `identity` these two can never match.
    let lints: Vec<&str> = snapshot.lints.iter().map(|lint| lint.path.as_str()).collect();
    assert_eq!(
        lints,
        ["services.ratings.retry.require_idempotent", "inbound.authz.allow[0]", "inbound.authz.allow[1]"]
    );
}

#[test]
fn routes_come_in_order_of_precedence() {
    let snapshot = load(FULL);
    let names: Vec<&str> = snapshot.services["reviews"].routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["health", "old", "canary", "jason", "route-1"]);
    let RouteAction::Direct(direct) = &snapshot.services["reviews"].routes[0].action else { panic!("not direct") };
    assert_eq!(&direct.body[..], b"ok ${x}");
}

#[test]
fn a_route_has_its_faults_whatever_its_place() {
    let snapshot = load(FULL);
    let reviews = &snapshot.services["reviews"];
    let canary = reviews.routes.iter().position(|route| route.name.as_str() == "canary").unwrap();
    for (index, options) in reviews.route_options.iter().enumerate() {
        assert_eq!(options.fault.is_some(), index == canary);
    }
    let fault = reviews.route_options[canary].fault.as_ref().unwrap();
    assert_eq!(fault.abort.unwrap().percentage.millionths(), 5_000);
    assert_eq!((fault.expires_after, fault.mode), (None, Mode::Shadow));
}

#[test]
fn the_nearest_rate_limit_holds() {
    let snapshot = load(FULL);
    let reviews = &snapshot.services["reviews"];
    let tokens = |limit: &RateLimitPolicy| limit.allowance.token_bucket.map(|bucket| bucket.max_tokens());
    assert_eq!(reviews.rate_limit.as_ref().and_then(tokens), Some(7));
    let canary = reviews.routes.iter().position(|route| route.name.as_str() == "canary").unwrap();
    let own = reviews.route_options[canary].rate_limit.as_ref().unwrap();
    assert_eq!(
        (own.allowance.quota.map(|quota| quota.requests()), own.key.as_slice()),
        (Some(100), &[KeySource::Path][..])
    );
    assert_eq!(snapshot.services["ratings"].rate_limit.as_ref().map(|limit| limit.mode), Some(Mode::Off));
    let inbound = snapshot.inbound.rate_limit.as_ref().unwrap();
    assert_eq!((inbound.key.len(), inbound.descriptors[0].entries[1].value.clone()), (3, None));
    assert!(matches!(snapshot.provenance.of("services.reviews.rate_limit"), Origin::File(place) if place.line == 10));
}

#[test]
fn a_route_takes_over_what_it_does_not_say_of_retries() {
    let snapshot = load(FULL);
    let ratings = &snapshot.services["ratings"].retries;
    assert_eq!(ratings.policy.retry_on.iter().count(), 3);
    assert_eq!(ratings.policy.back_off.base_interval, Duration::from_millis(100));
    assert_eq!(ratings.policy.back_off.max_interval, Duration::from_secs(1));
    assert_eq!(ratings.hedge.mode, HedgeMode::Fixed(Duration::from_millis(50)));
    assert_eq!(snapshot.services["batch"].retries.policy.num_retries, 0);
    let reviews = &snapshot.services["reviews"];
    assert_eq!(reviews.retries, RetrySpec::default());
    let canary = reviews.routes.iter().position(|route| route.name.as_str() == "canary").unwrap();
    for (index, options) in reviews.route_options.iter().enumerate() {
        assert_eq!(options.retries.is_some(), index == canary);
    }
    let retries = reviews.route_options[canary].retries.as_ref().unwrap();
    assert_eq!((retries.policy.num_retries, retries.policy.tree_allowance), (1, 2));
    assert_eq!((retries.hedge.mode, retries.hedge.max_hedged_attempts), (HedgeMode::Percentile(99.5), 2));
    let own = format!("services.reviews.routes[{canary}].retry");
    assert!(matches!(snapshot.provenance.of(&format!("{own}.num_retries")), Origin::File(_)));
    assert_eq!(snapshot.provenance.of(&format!("{own}.tree_allowance")), &Origin::Default);
}

#[test]
fn each_value_knows_where_it_comes_from() {
    let snapshot = load(FULL);
    let line = |path: &str| match snapshot.provenance.of(path) {
        Origin::File(place) => place.line,
        other => panic!("{path}: {other}"),
    };
    assert_eq!(line("services.reviews.timeouts.request"), 8);
    assert_eq!(line("services.reviews.timeouts.per_try"), 21);
    assert_eq!(line("services.ratings.circuit_breakers.max_requests"), 9);
    assert_eq!(snapshot.provenance.of("services.reviews.timeouts.connect"), &Origin::Default);
    assert_eq!(snapshot.provenance.of("mesh.namespace"), &Origin::Default);
}

#[test]
fn what_is_shown_loads_again_and_means_the_same() {
    let first = load(FULL);
    let shown = show(&first);
    let second = load(&shown);
    assert_eq!(first.mesh, second.mesh);
    assert_eq!(first.drain, second.drain);
    assert_eq!(first.listeners, second.listeners);
    assert_eq!(first.inbound, second.inbound, "{shown}");
    assert_eq!(first.services, second.services, "{shown}");
}

#[test]
fn limits_of_listeners_reach_the_snapshot_and_are_shown() {
    let text = r#"
listeners:
  mesh:
    limits:
      max_connections: 1
      max_connections_per_source: 2
      max_connections_per_identity: 3
      max_handshakes: 4
      max_handshakes_per_source: 5
      handshake_timeout: 6s
      request_headers_timeout: 7s
      max_request_headers_bytes: 8000
      max_headers_count: 9
      max_request_bytes: 10
      idle_timeout: 11s
      max_connection_duration: 12m
      max_concurrent_streams: 13
      max_pending_resets: 14
      max_local_resets: 15
      max_control_frames: 16
      initial_stream_window_size: 17000
      initial_connection_window_size: 180000
      min_body_rate: 19
      send_stall_timeout: 20s
      stream_idle_timeout: 21s
  edge: { listen: "127.0.0.1:8443", limits: { max_request_bytes: 0, max_request_headers_bytes: 1048576 } }
"#;
    let snapshot = load(text);
    let (mesh, edge) = (&snapshot.listeners.mesh_limits, &snapshot.listeners.edge.as_ref().unwrap().limits);
    let counts = (mesh.max_connections, mesh.max_local_resets, mesh.initial_connection_window_size, mesh.min_body_rate);
    assert_eq!(counts, (Some(1), Some(15), Some(180_000), Some(19)));
    let times = (mesh.handshake_timeout, mesh.max_connection_duration, mesh.stream_idle_timeout);
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(times, (seconds(6), seconds(720), seconds(21)));
    assert_eq!((edge.max_request_bytes, edge.max_connections), (Some(0), None));
    let shown = show(&snapshot);
    assert_eq!(load(&shown).listeners, snapshot.listeners, "{shown}");
}

#[test]
fn authorities_reach_the_snapshot_and_are_shown() {
    for (text, shown) in [
        (
            "istio: {}",
            "istio: {address: \"istiod.istio-system.svc:15012\", root: \"/var/run/secrets/istio/root-cert.pem\", token: \
             \"/var/run/secrets/tokens/istio-token\", cluster_id: \"Kubernetes\"}",
        ),
        (
            "istio: {address: \"127.0.0.1:1\", server_name: istiod, root: r, token: t, cluster_id: c}, lifetime: 1h",
            "istio: {address: \"127.0.0.1:1\", server_name: \"istiod\", root: \"r\", token: \"t\", cluster_id: \"c\"}, \
             lifetime: 1h",
        ),
        (
            "step: {address: \"ca.example:9000\", root: r, token: t}",
            "step: {address: \"ca.example:9000\", root: \"r\", token: \"t\"}",
        ),
        ("custom: vault", "custom: \"vault\""),
    ] {
        let load = |ca: &str| {
            load(&format!("mesh: {{service: a, trust_domain: b}}\nidentity: {{source: {{ca: {{{ca}}}}}}}\n"))
        };
        let snapshot = load(text);
        let printed = show(&snapshot);
        assert!(printed.contains(&format!("source: {{ca: {{{shown}}}}}")), "{printed}");
        assert_eq!(load(shown).identity, snapshot.identity);
        assert_eq!(snapshot.mtls, sinew::model::Mtls::Strict);
    }
    let digits = "0aff".repeat(16);
    let colons =
        digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>().join(":");
    let step = |hash: &str| {
        let text = "mesh: {service: a, trust_domain: b}\nidentity: {source: {ca: {step: {address: \"a:1\", token: t, \
                    fingerprint: \"HASH\"}}}}\n";
        load(&text.replace("HASH", hash)).identity
    };
    assert!(step(&digits).is_some() && step(&digits) == step(&colons.to_uppercase()));
}

#[test]
fn an_address_alone_is_a_fixed_list_of_one() {
    let short = load(
        "services: { a: { endpoints: 127.0.0.1:80 }, b: { endpoints: [127.0.0.1:80, \"memory:b\", { dns: b.prod:80 }] } }",
    );
    let long = load(
        "services: { a: { endpoints: { static: [127.0.0.1:80] } }, \
         b: { endpoints: [{ static: [127.0.0.1:80] }, { static: [memory:b] }, { dns: b.prod:80 }] } }",
    );
    assert_eq!(short.services, long.services);
    assert_eq!(load(&show(&short)).services, long.services);
}

#[test]
fn variables_stand_in_values_only() {
    let snapshot = load("services: { a: { endpoints: { dns: \"${HOST:-a.prod}:${PORT}\" } } }");
    assert_eq!(snapshot.services["a"].endpoints[0].source, SourceKind::Dns { name: "a.prod".into(), port: Some(9080) });
}

#[test]
fn an_alias_stands_for_a_whole_value() {
    let snapshot = load("services:\n  a: { timeouts: &t { request: 2s } }\n  b: { timeouts: *t }\n");
    assert_eq!(snapshot.services["b"].timeouts.request, Some(Duration::from_secs(2)));
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let snapshot = load(
        "services:\n  a:\n    endpoints: { static: [] }\n    subsets: { v1: { version: v1 }, v2: {} }\n    routes:\n    \
         - { split: { v1: 1, v2: 1 } }\n    - { match: { path: { prefix: /a } }, to: v1 }\n    - { name: dead, match: { \
         path: { prefix: /a }, fraction: 0% }, to: v2 }\n",
    );
    let lints: Vec<String> = snapshot.lints.iter().map(ToString::to_string).collect();
    let has = |text: &str| assert!(lints.iter().any(|lint| lint.contains(text)), "{text}: {lints:#?}");
    has("sinew.yaml:3:16: services.a.endpoints[0].static: the list of endpoints is empty");
    has("the weights add up to 2, not 100");
    has("services.a.routes[2]: this route is never reached: route `route-2` comes first");
    has("a fraction of 0% matches no request");
}

#[test]
fn outlier_detection_is_on_and_a_word_or_a_map_changes_it() {
    use sinew::{
        enforcement::Mode,
        health::{OutlierPolicy, Recovery},
    };

    let text = "defaults: { outlier_detection: { interval: 5s } }\nservices:\n  a: {}\n  b: { outlier_detection: shadow }\n  \
                c:\n    outlier_detection:\n      consecutive_5xx: 7\n      consecutive_gateway_failure: off\n      \
                recovery: time\n      success_rate_stdev_factor: 1500\n";
    let snapshot = load(text);
    let of = |name: &str| snapshot.services[name].outlier_detection;
    let mut expected = OutlierPolicy::default();
    expected.interval = Duration::from_secs(5);
    assert_eq!(of("a"), expected);
    assert_eq!((of("b").enforcement, of("b").interval), (Mode::Shadow, Duration::from_secs(5)));
    assert_eq!((of("c").consecutive_5xx, of("c").consecutive_gateway_failure), (Some(7), None));
    assert_eq!(of("c").recovery, Recovery::Time);
    let lints: Vec<String> = snapshot.lints.iter().map(ToString::to_string).collect();
    assert_eq!(lints.len(), 1, "{lints:?}");
    assert!(lints[0].contains("c.outlier_detection.success_rate_stdev_factor: this has no effect"), "{lints:?}");
    assert_eq!(snapshot.provenance.of("services.b.outlier_detection.enforcement").to_string(), "sinew.yaml:4:27");
    let again = load(&show(&snapshot));
    assert_eq!(snapshot.services, again.services);
    assert!(again.lints.is_empty(), "{:?}", again.lints);
}

#[test]
fn a_subset_that_no_endpoint_can_have_is_a_warning() {
    let text = "services: { a: { endpoints: { dns: \"a:1\", labels: { version: v1 } }, subsets: { v1: { version: v1 }, v2: \
                { version: v2 } } } }";
    let snapshot = load(text);
    assert_eq!(snapshot.lints.len(), 1);
    assert_eq!(snapshot.lints[0].path, "services.a.subsets.v2");
}

const ZONES: &str = r#"
mesh: { service: front, zone: a, region: eu, labels: { rack: r1 } }
defaults:
  load_balancer: { overprovisioning_factor: 200, slow_start: { window: 1m, aggression: 1.5 } }
  locality: { failover_priority: [region, rack, "network=n1"] }
services:
  front:
    endpoints: { static: [{ address: "127.0.0.1:1", zone: a, region: eu }, "127.0.0.1:2"], zone: b, region: eu }
    load_balancer: { round_robin: {}, failover: switch, healthy_panic_threshold: 30, fail_traffic_on_panic: true }
    locality: { zone_aware: { routing_enabled: 50, min_cluster_size: 3, force_local_zone: {} } }
  back:
    endpoints: { custom: registry }
    load_balancer: { random: {}, slow_start: { min_weight_percent: 20 } }
    locality: { weighted: { a: 3, "eu west": 0 } }
  side:
    endpoints: { custom: registry }
    load_balancer: { slow_start: off }
    locality: off
"#;

#[test]
fn zones_and_priorities_reach_the_snapshot_and_are_shown() {
    let snapshot = load(ZONES);
    let (front, back, side) = (&snapshot.services["front"], &snapshot.services["back"], &snapshot.services["side"]);
    assert_eq!((&*snapshot.mesh.locality.zone, &*snapshot.mesh.locality.region), ("a", "eu"));
    assert_eq!((front.load_balancer, back.load_balancer), (BalancePolicy::RoundRobin, BalancePolicy::Random));
    assert_eq!((front.failover.failover, back.failover.failover), (Failover::Switch, Failover::Spill));
    assert_eq!((front.failover.overprovisioning_factor, back.failover.healthy_panic_threshold), (200, 50));
    let slow = |spec: &ServiceSpec| {
        let SlowStartPolicy { window, aggression, min_weight_percent, .. } = spec.slow_start;
        (window.as_secs(), aggression, min_weight_percent)
    };
    assert_eq!((slow(front), slow(back), slow(side)), ((60, 1.5, 10), (60, 1.5, 20), (0, 1.0, 10)));
    let LocalityMode::ZoneAware(zones) = &front.locality.mode else { panic!("{:?}", front.locality) };
    assert_eq!((zones.routing_enabled, zones.min_cluster_size, zones.force_local_zone), (50, 3, Some(1)));
    let keys: Vec<_> = back.locality.failover_priority.iter().map(ToString::to_string).collect();
    assert_eq!(keys, ["region", "rack", "network=n1"]);
    assert!(side.locality.mode == LocalityMode::Off && side.locality.failover_priority.is_empty());
    let SourceKind::Static(endpoints) = &front.endpoints[0].source else { panic!("not static") };
    let zones: Vec<_> = endpoints.iter().map(|spec| (&*spec.locality.region, &*spec.locality.zone)).collect();
    assert_eq!(zones, [("eu", "a"), ("eu", "b")]);
    assert!(snapshot.lints.is_empty(), "{:?}", snapshot.lints);
    let shown = show(&snapshot);
    let second = load(&shown);
    assert_eq!((&snapshot.mesh, &snapshot.services), (&second.mesh, &second.services), "{shown}");
}

#[test]
fn a_way_to_fail_over_says_that_it_is_on_and_a_map_says_what_it_says() {
    let snapshot = load(
        "defaults: {load_balancer: {failover: off}}\n\
         services:\n\
         \x20 word: {endpoints: 10.0.0.1:80, load_balancer: {failover: switch}}\n\
         \x20 map: {endpoints: 10.0.0.1:80, load_balancer: {failover: {how: switch, percentage: 10%}}}\n\
         \x20 none: {endpoints: 10.0.0.1:80}\n",
    );
    let of = |name: &str| snapshot.services[name].failover;
    assert_eq!((of("word").failover, of("word").enforcement), (Failover::Switch, Mode::Enforce));
    assert_eq!((of("map").failover, of("map").enforcement), (Failover::Switch, Mode::Off));
    assert_eq!(of("map").percentage.to_string(), "10%");
    assert_eq!((of("none").failover, of("none").enforcement), (Failover::Spill, Mode::Off));
}

#[test]
fn what_is_said_of_zones_and_cannot_come_true_is_a_lint() {
    let lints = |text: &str| load(text).lints.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let nowhere = lints("services: {a: {endpoints: {custom: x}, locality: zone_aware}}");
    assert!(nowhere.contains("set `mesh.zone`"), "{nowhere}");
    let alone = lints("mesh: {service: own, zone: a}\nservices: {a: {endpoints: {custom: x}, locality: zone_aware}}");
    assert!(alone.contains("how many instances of `own`"), "{alone}");
    let weightless = lints(
        "services: {a: {endpoints: {static: [{address: \"127.0.0.1:1\", zone: z}]}, locality: {weighted: {a: 1}}}}",
    );
    assert!(weightless.contains("zone `z` has no weight"), "{weightless}");
    let unsaid = lints("services: {a: {endpoints: {custom: x}, locality: {failover_priority: [zone, rack, a=b]}}}");
    assert!(unsaid.contains("set mesh.zone") && unsaid.contains("set mesh.labels.rack"), "{unsaid}");
    assert_eq!(unsaid.lines().count(), 2, "{unsaid}");
}

const CHECKS: &str = r#"
defaults:
  health_checks: { grpc: { service: all }, alt_port: 9901, tls: off, unhealthy_interval: 1s, initial_jitter: 0s }
services:
  a:
    endpoints: { custom: registry }
    health_checks:
    - http: { path: "/readyz?full=1", host: a.example, method: HEAD, expected_statuses: [200, 300-399], retriable_statuses: 5xx }
      timeout: 500ms
      interval: 10s
      unhealthy_threshold: 2
      healthy_threshold: 1
      interval_jitter: 1s
      interval_jitter_percent: 0
      no_traffic_interval: 30s
      unhealthy_edge_interval: 100ms
      healthy_edge_interval: 200ms
      reuse_connection: false
      ignore_new_hosts_until_first_hc: true
    - tcp: { send: "PING\r\n", receive: ["+PONG", "hex:0d0a"] }
  b:
    endpoints: { custom: registry }
  c:
    endpoints: { custom: registry }
    health_checks: []
"#;

#[test]
fn health_checks_reach_the_snapshot_and_are_shown() {
    let snapshot = load(CHECKS);
    let kinds = |service: &str| {
        let checks = &snapshot.services[service].health_checks;
        checks.iter().map(|check| check.kind.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((kinds("a"), kinds("b"), kinds("c")), (vec!["http", "tcp"], vec!["grpc"], vec![]));
    let [http, tcp] = snapshot.services["a"].health_checks.as_slice() else { panic!("not two") };
    assert_eq!((http.timeout, http.interval), (Duration::from_millis(500), Duration::from_secs(10)));
    assert_eq!((http.unhealthy_threshold, http.healthy_threshold, http.reuse_connection), (2, 1, false));
    let CheckKind::Http(asked) = &http.kind else { panic!("not http") };
    assert!(asked.expected_statuses.iter().any(|range| range.contains(301)));
    let CheckKind::Tcp(said) = &tcp.kind else { panic!("not tcp") };
    assert_eq!((said.send.as_bytes(), said.receive[1].as_bytes()), (&b"PING\r\n"[..], &b"\r\n"[..]));
    let grpc = &snapshot.services["b"].health_checks[0];
    assert_eq!((grpc.alt_port, grpc.plaintext, grpc.initial_jitter), (Some(9901), true, Some(Duration::ZERO)));
    let shown = show(&snapshot);
    assert_eq!(snapshot.services, load(&shown).services, "{shown}");
    let alone = load("services: {a: {endpoints: {static: [\"127.0.0.1:1\"]}, health_checks: {tcp: {}}}}");
    assert!(alone.lints[0].to_string().contains("only report"), "{:?}", alone.lints);
}
