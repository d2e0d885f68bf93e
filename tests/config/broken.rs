//! Broken documents and the exact text each is refused with. `UPDATE_GOLDEN=1` writes the texts anew; read them.

use std::{fs, path::PathBuf};

use sinew::config::Loader;

fn golden(name: &str, actual: &str) -> Option<String> {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests", "config", "golden", &format!("{name}.txt")].iter().collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, actual).unwrap();
        return None;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    (expected != actual).then(|| format!("{name}: expected\n{expected}\nfound\n{actual}"))
}

/// Puts `body` under `services.reviews`, indented.
fn service(body: &str) -> String {
    let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
    format!("services:\n  reviews:\n{body}")
}

/// Puts `body` into the only route of a service with subsets `v1` and `v2`.
/// A document with this authority.
fn ca(body: &str) -> String {
    format!("mesh: {{trust_domain: a.example}}\nidentity: {{source: {{ca: {{{body}}}}}}}\n")
}

fn route(body: &str) -> String {
    let body: String = body.lines().map(|line| format!("  {line}\n")).collect();
    service(&format!(
        "endpoints: {{file: e.yaml}}\nsubsets: {{v1: {{version: v1}}, v2: {{version: v2}}}}\nroutes:\n-\n{body}"
    ))
}

fn bomb() -> String {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    text
}

fn documents() -> Vec<(&'static str, Vec<u8>)> {
    let text: Vec<(&str, String)> = vec![
        // The text itself.
        ("empty", String::new()),
        ("only_comments", "# nothing\n".into()),
        ("tab_indentation", "services:\n\treviews:\n\t\tprotocol: auto\n".into()),
        ("second_document", "version: 1\n---\nversion: 1\n".into()),
        ("duplicate_key", "services:\n  reviews: {}\n  reviews: {}\n".into()),
        ("duplicate_key_top", "version: 1\nmesh: {}\nversion: 1\n".into()),
        ("alias_bomb", bomb()),
        ("alias_undefined", "version: *one\n".into()),
        ("alias_in_itself", "services: &s\n  reviews: *s\n".into()),
        ("nesting_brackets", "[".repeat(10_000)),
        ("nesting_maps", (0..100).map(|n| format!("{:n$}a:\n", "")).collect()),
        ("merge_key", "services:\n  a: &a {protocol: auto}\n  b:\n    <<: *a\n".into()),
        ("tag", "version: !!int 1\n".into()),
        ("key_is_a_map", "{a: b}: c\n".into()),
        ("unclosed_brace", "services: {reviews: {}\n".into()),
        ("unclosed_quote", "mesh: {version: \"v1}\n".into()),
        ("missing_colon", "version 1\nmesh: {}\n".into()),
        ("wrong_indentation", "mesh:\n  service: a\n namespace: b\n".into()),
        ("document_is_a_list", "- version: 1\n".into()),
        ("document_is_a_word", "hello\n".into()),
        ("too_many_values", format!("a: [{}]\n", "1, ".repeat(10_001))),
        // Top level.
        ("unknown_top", "service:\n  reviews: {}\n".into()),
        ("unknown_unlike_any", "telemetry: {}\n".into()),
        ("version_unknown", "version: 2\n".into()),
        ("version_quoted", "version: \"1\"\n".into()),
        ("identity_control_plane", "identity: {source: control_plane}\n".into()),
        ("identity_two_sources", "identity: {source: {files: {cert: a, bundle: b}, workload_api: unix:/a}}\n".into()),
        ("identity_half", "identity: {source: {files: {cert: a}}}\n".into()),
        ("identity_address", "identity: {source: {workload_api: /run/agent.sock}}\n".into()),
        ("identity_without_domain", "identity: {source: {workload_api: unix:/run/agent.sock}}\n".into()),
        ("ca_two", ca("istio: {}, custom: vault")),
        ("ca_none", ca("lifetime: 1h")),
        ("ca_lifetime", ca("custom: vault, lifetime: 10ms")),
        ("ca_istio_address", ca("istio: {address: \"https://istiod:15012\"}")),
        ("ca_istio_name", ca("istio: {server_name: \"a b\"}")),
        ("ca_istio_cluster", ca("istio: {cluster_id: \"a b\"}")),
        ("ca_step_half", ca("step: {address: \"ca:9000\"}")),
        ("ca_step_two_roots", ca(&format!("step: {{address: \"ca:9000\", token: t, root: r, fingerprint: \"{}\"}}", "0a".repeat(32)))),
        ("ca_step_fingerprint", ca("step: {address: \"ca:9000\", token: t, fingerprint: 0a0b}")),
        ("edge_without_listen", "listeners: {edge: {tls: {cert: a, key: b}}}\n".into()),
        ("edge_half", "listeners: {edge: {listen: \"0.0.0.0:443\", tls: {cert: a}}}\n".into()),
        ("edge_proxies", "listeners: {edge: {listen: \"0.0.0.0:443\", trusted_proxies: [balancer]}}\n".into()),
        (
            "edge_proxy_protocol",
            "listeners: {edge: {listen: \"0.0.0.0:443\", trusted_proxies: 10.0.0.0/8, proxy_protocol: optional}}\n".into(),
        ),
        ("edge_proxy_nobody", "listeners: {edge: {listen: \"0.0.0.0:443\", proxy_protocol: required}}\n".into()),
        (
            "listener_limits",
            "listeners: {mesh: {limits: {max_connections: 0, initial_stream_window_size: 1KiB, idle_timeout: 10ms, streams: 5}}}\n"
                .into(),
        ),
        ("mesh_proxy_nobody", "listeners: {mesh: {proxy_protocol: required}}\n".into()),
        ("mtls_without_identity", "mtls: strict\n".into()),
        ("mtls_unknown", "mtls: of\n".into()),
        ("listener_mesh_without_identity", "listeners: {mesh: {mtls: strict}}\n".into()),
        ("listen_without_port", "listeners: {ops: {listen: 0.0.0.0}}\n".into()),
        ("listen_missing", "listeners: {ops: {}}\n".into()),
        ("mesh_service_name", "mesh: {service: \"product page\"}\n".into()),
        ("mesh_is_text", "mesh: productpage\n".into()),
        ("drain_unitless", "drain: {deadline: 25}\n".into()),
        ("path_normalization_unknown", "inbound: {path_normalization: merge_slash}\n".into()),
        ("authn_issuer_missing", "inbound: {authn: {jwt: [{audiences: a}]}}\n".into()),
        ("authn_issuer_twice", "inbound: {authn: {jwt: [{issuer: a, audiences: b}, {issuer: a, audiences: c}]}}\n".into()),
        ("authn_jwks_http", "inbound: {authn: {jwt: [{issuer: a, jwks_uri: \"http://a/keys\"}]}}\n".into()),
        ("authn_jwks_broken", "inbound: {authn: {jwt: [{issuer: a, jwks: \"{}\"}]}}\n".into()),
        ("authn_jwks_two", "inbound: {authn: {jwt: [{issuer: a, jwks_file: k.json, jwks_uri: \"https://a/\"}]}}\n".into()),
        ("authn_skew", "inbound: {authn: {jwt: [{issuer: a, clock_skew: 10m}]}}\n".into()),
        ("authn_svid_audience", "inbound: {authn: {jwt: [{trust_domain: td, jwks_file: b.json}]}}\n".into()),
        ("authn_svid_bundle", "inbound: {authn: {jwt: [{trust_domain: td, audiences: a}]}}\n".into()),
        ("authn_key", "inbound: {authn: {api_keys: {keys: {alice: secret}}}}\n".into()),
        ("authn_hops", "inbound: {authn: {client_address: {trusted_hops: 0}}}\n".into()),
        ("authn_cert", "inbound: {authn: {forward_client_cert: forward}}\n".into()),
        ("authz_request_principal", "inbound: {authz: {allow: [{from: {request_principals: \"a*b/c\"}}]}}\n".into()),
        ("authz_claim", "inbound: {authz: {allow: [{claims: {org..tenant: a}}]}}\n".into()),
        ("authz_condition", "inbound: {authz: {deny: [{condition: \"request.path ==\"}]}}\n".into()),
        ("authz_condition_unknown", "inbound: {authz: {deny: [{condition: \"requests.path == '/a'\"}]}}\n".into()),
        ("authz_condition_nested", "inbound: {authz: {deny: [{condition: \"[1].all(x, [1].all(y, x == y))\"}]}}\n".into()),
        ("authz_misspelt", "inbound: {authz: {alow: []}}\n".into()),
        ("authz_custom_nobody", "inbound: {authz: {custom: [{name: a}]}}\n".into()),
        ("authz_custom_unknown", "inbound: {authz: {custom: [{ext_authz: {service: nobody}}]}}\n".into()),
        ("authz_custom_service", "inbound: {authz: {custom: [{ext_authz: {timeout: 1s}}]}}\n".into()),
        ("authz_custom_prefix", "inbound: {authz: {custom: [{ext_authz: {service: s, path_prefix: a/}}]}}\n".into()),
        ("authz_list", "inbound: {authz: {allow: {from: a}}}\n".into()),
        ("authz_principal", "inbound: {authz: {allow: [{from: td.example/ns/a/sa/b}]}}\n".into()),
        ("authz_star", "inbound: {authz: {allow: [{from: \"spiffe://td/ns/*/sa/b\"}]}}\n".into()),
        ("authz_method", "inbound: {authz: {allow: [{methods: get}]}}\n".into()),
        ("authz_path", "inbound: {authz: {deny: [{paths: [admin]}]}}\n".into()),
        ("authz_template", "inbound: {authz: {deny: [{paths: [\"/a/x{*}\"]}]}}\n".into()),
        ("authz_path_never", "inbound: {authz: {deny: [{paths: [\"/a%20b\"]}]}}\n".into()),
        ("authz_net", "inbound: {authz: {allow: [{from: {ip_blocks: 10.0.0.0/33}}]}}\n".into()),
        ("authz_account", "inbound: {authz: {allow: [{from: {service_accounts: web}}]}}\n".into()),
        ("authz_host", "inbound: {authz: {allow: [{hosts: \"a b\"}]}}\n".into()),
        ("authz_port", "inbound: {authz: {allow: [{ports: [70000]}]}}\n".into()),
        ("authz_empty", "inbound: {authz: {allow: [{paths: []}]}}\n".into()),
        ("authz_to_and_inline", "inbound: {authz: {allow: [{to: [{methods: GET}], paths: /a}]}}\n".into()),
        ("authz_grpc", "inbound: {authz: {allow: [{grpc: {}}]}}\n".into()),
        ("authz_shadow_and_share", "inbound: {authz: {deny: [{shadow: true, enforced: 10%}]}}\n".into()),
        ("authz_header", "inbound: {authz: {deny: [{headers: {\":path\": /a}}]}}\n".into()),
        ("authz_header_empty", "inbound: {authz: {deny: [{headers: {x-role: {}}}]}}\n".into()),
        ("audit_log_file", "inbound: {audit_log: {keep_files: 3}}\n".into()),
        ("audit_log_small", "inbound: {audit_log: {file: a.log, rotate_bytes: 1000}}\n".into()),
        ("audit_log_word", "inbound: {audit_log: a.log}\n".into()),
        ("audit_log_required", "inbound: {audit_log: {file: a.log, required: true}}\n".into()),
        ("authz_name_twice", "inbound: {authz: {allow: [{name: a}], deny: [{name: a}]}}\n".into()),
        ("variable_unset", "mesh: {version: \"${RELEASE}\"}\n".into()),
        ("variable_unclosed", "mesh: {version: \"${RELEASE\"}\n".into()),
        ("variable_name", "mesh: {version: \"${my release}\"}\n".into()),
        ("variable_value", "defaults: {timeout: \"${TIMEOUT}\"}\n".into()),
        // Durations and numbers.
        ("timeout_unitless", "defaults:\n  timeout: 3\n".into()),
        ("timeout_fraction", "defaults: {timeout: 1.5s}\n".into()),
        ("timeout_enforcement", "defaults: {timeouts: {enforcement: shade}}\n".into()),
        ("timeout_percentage", "defaults: {timeouts: {percentage: 30}}\n".into()),
        ("timeout_unit", "defaults: {timeout: 3sec}\n".into()),
        ("timeout_zero", "defaults: {timeout: 0s}\n".into()),
        ("timeout_negative", "defaults: {timeout: -3s}\n".into()),
        ("timeout_order", "defaults: {timeout: 30s1m}\n".into()),
        ("timeout_long", "defaults: {timeout: 9000h}\n".into()),
        ("timeout_null", "defaults:\n  timeout:\n".into()),
        ("timeout_list", "defaults: {timeout: [3s]}\n".into()),
        ("timeout_twice", "defaults:\n  timeout: 3s\n  timeouts: {request: 4s}\n".into()),
        ("per_try_above_request", service("timeouts:\n  request: 1s\n  per_try: 2s")),
        ("limit_negative", service("circuit_breakers: {max_requests: -1}")),
        ("limit_zero_connections", service("circuit_breakers: {max_connections: 0}")),
        ("limit_per_endpoint", service("circuit_breakers: {per_endpoint: {max_requests: 0}}")),
        ("limit_text", service("circuit_breakers: {max_requests: many}")),
        ("limit_misspelt", service("circuit_breakers: {max_request: 1}")),
        ("outlier_word", service("outlier_detection: on")),
        ("outlier_misspelt", service("outlier_detection: {consecutive_gateway_failures: 5}")),
        ("outlier_zero", service("outlier_detection: {consecutive_5xx: 0}")),
        ("outlier_percent", service("outlier_detection: {max_ejection_percent: 150}")),
        ("outlier_interval", service("outlier_detection: {interval: 10ms}")),
        ("outlier_times", service("outlier_detection: {base_ejection_time: 1m, max_ejection_time: 30s}")),
        ("outlier_base", service("outlier_detection: {base_ejection_time: 10m}")),
        ("outlier_recovery", service("outlier_detection: {recovery: never}")),
        ("choice_count", service("load_balancer: {least_request: {choice_count: 1}}")),
        ("balancer_misspelt", service("load_balancer: least_requests")),
        ("balancer_unknown", service("load_balancer: {fastest: {}}")),
        ("balancer_two", service("load_balancer: {random: {}, round_robin: {}}")),
        ("balancer_failover", service("load_balancer: {failover: hard}")),
        ("balancer_factor", service("load_balancer: {overprovisioning_factor: 90}")),
        ("slow_start_word", service("load_balancer: {slow_start: slow}")),
        ("slow_start_window", service("load_balancer: {slow_start: {window: 2h}}")),
        ("slow_start_floor", service("load_balancer: {slow_start: {min_weight_percent: 0}}")),
        ("slow_start_aggression", service("load_balancer: {slow_start: {aggression: 0}}")),
        ("balancer_panic", service("load_balancer: {random: {}, healthy_panic_threshold: 50%}")),
        (
            "balancer_no_panic_to_fail_on",
            service("load_balancer:\n  healthy_panic_threshold: 0\n  fail_traffic_on_panic: true"),
        ),
        ("locality_word", service("locality: zone-aware")),
        ("locality_two", service("locality: {zone_aware: {}, weighted: {a: 1}}")),
        ("locality_zone", service("locality: {zone_aware: {min_size: 1}}")),
        ("locality_force", service("locality: {zone_aware: {force_local_zone: {min_size: 0}}}")),
        ("locality_weight", service("locality: {weighted: {a: -1}}")),
        ("locality_label", service("locality: {failover_priority: [\"region=\"]}")),
        ("mesh_zone_list", "mesh: {zone: [a, b]}\n".into()),
        ("check_nothing", service("health_checks: {interval: 3s}")),
        ("check_two", service("health_checks: [{http: {path: /a}, tcp: {}}]")),
        ("check_path", service("health_checks: {http: {path: readyz}}")),
        ("check_no_path", service("health_checks: {http: {host: a}}")),
        ("check_method", service("health_checks: {http: {path: /a, method: CONNECT}}")),
        ("check_status", service("health_checks: {http: {path: /a, expected_statuses: [200, 2yy]}}")),
        ("check_payload", service("health_checks: {tcp: {send: \"hex:0g\"}}")),
        ("check_interval", service("health_checks: {tcp: {}, interval: 1ms}")),
        ("check_threshold", service("health_checks: {tcp: {}, unhealthy_threshold: 0}")),
        ("check_port", service("health_checks: {tcp: {}, alt_port: 70000}")),
        ("check_grpc_http1", service("protocol: http1\nhealth_checks: {grpc: {}}")),
        // Services.
        ("service_name", "services:\n  reviews/v1: {}\n".into()),
        ("service_misspelt_field", service("endpoint: []")),
        ("retry_number", service("retry: 2")),
        ("retry_many", service("retry: {num_retries: 11}")),
        ("retry_condition", service("retry: {retry_on: [5xx, gateway_error]}")),
        ("retry_condition_later", service("retry: {retry_on: envoy-ratelimited}")),
        ("retry_unknown", service("retry: {attempts: 3}")),
        ("retry_status", service("retry: {retriable_status_codes: [9]}")),
        ("retry_header", service("retry: {retriable_headers: {\"a b\": x}}")),
        ("retry_back_off", service("retry: {retry_back_off: {base_interval: 1s, max_interval: 100ms}}")),
        ("retry_jitter", service("retry: {retry_back_off: {jitter: some}}")),
        ("retry_buffer", service("retry: {max_request_buffer_bytes: 9000000}")),
        ("retry_per_try", service("timeouts: {request: 1s}\nretry: {per_try_timeout: 2s}")),
        ("retry_per_try_of_route", route("to: v1\ntimeout: 1s\nretry: {per_try_timeout: 2s}")),
        ("hedge_two_settings", service("hedge: {delay: 10ms, percentile: 95}")),
        ("hedge_mode_without_setting", service("hedge: {mode: fixed}")),
        ("hedge_setting_of_another_mode", service("hedge: {mode: per_try_timeout, delay: 10ms}")),
        ("hedge_percentile", service("hedge: {percentile: 100}")),
        ("hedge_load", service("hedge: {delay: 10ms, max_extra_load_percent: 100}")),
        ("hedge_without_per_try", service("hedge: {mode: per_try_timeout}")),
        ("hedge_and_retries", service("retry: {num_retries: 8}\nhedge: {delay: 10ms, max_hedged_attempts: 4}")),
        ("tls_mesh_without_identity", service("tls: mesh")),
        ("tls_private_half", service("tls: {private: {ca: ca.pem, cert: a}}")),
        ("tls_private_name", service("tls: {private: {ca: ca.pem, server_name: \"a b\"}}")),
        ("tls_private_empty", service("tls: {private: {}}")),
        ("tls_public_without_name", service("tls: public")),
        ("tls_istio", service("tls: istio")),
        ("jwt_svid_without_api", service("endpoints: 127.0.0.1:1\njwt_svid: {audience: reviews}")),
        ("jwt_svid_in_the_clear", service("endpoints: 10.0.0.1:80\njwt_svid: {audience: reviews, workload_api: \"unix:/a.sock\"}")),
        ("jwt_svid_no_audience", service("endpoints: 127.0.0.1:1\njwt_svid: {workload_api: \"unix:/a.sock\"}")),
        ("jwt_svid_api", service("endpoints: 127.0.0.1:1\njwt_svid: {audience: a, workload_api: \"http://a\"}")),
        ("identities_without_mesh", service("identities: [\"spiffe://a.example/b\"]")),
        ("protocol_unknown", service("protocol: h2")),
        ("endpoints_address_twice", service("endpoints: [127.0.0.1:9080, {static: [127.0.0.1:9081]}, 127.0.0.1:9080]")),
        ("endpoints_kubernetes", service("endpoints: kubernetes")),
        ("endpoints_word", service("endpoints: consul")),
        ("endpoints_two_sources", service("endpoints: {dns: \"a:1\", static: [\"127.0.0.1:1\"]}")),
        ("endpoints_no_source", service("endpoints: {zone: a}")),
        ("static_name", service("endpoints: {static: [\"reviews:9080\"]}")),
        ("static_duplicate", service("endpoints:\n- static: [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n- static: [\"127.0.0.1:1\"]")),
        ("static_no_address", service("endpoints: {static: [{weight: 2}]}")),
        ("static_weight", service("endpoints: {static: [{address: \"127.0.0.1:1\", weight: 1.5}]}")),
        ("dns_without_port", service("endpoints: {dns: reviews.prod}")),
        ("dns_address", service("endpoints: {dns: \"10.0.0.1:80\"}")),
        ("dns_url", service("endpoints: {dns: \"http://reviews:80/\"}")),
        ("dns_port", service("endpoints: {dns: \"reviews:99999\"}")),
        ("kind_unknown", service("endpoints: {dns: \"reviews:80\", kind: virtual}")),
        ("host_pattern", service("hosts: [\"a*.example\"]")),
        ("host_of_two_services", "services:\n  a: {hosts: [x.example]}\n  b: {hosts: [X.example]}\n".into()),
        ("subset_labels_list", service("subsets: {v1: [version]}")),
        // Routes.
        ("routes_map", service("routes: {a: b}")),
        ("route_unknown_subset", route("to: v11")),
        ("route_no_subsets", service("routes: [{to: canary}]")),
        ("split_unknown_subset", route("split: {v1: 50, v3: 50}")),
        ("split_all_zero", route("split: {v1: 0, v2: 0}")),
        ("split_negative", route("split: {v1: -5, v2: 105}")),
        ("split_nan", route("split: {v1: .nan, v2: 1}")),
        ("route_two_actions", route("to: v1\nsplit: {v1: 1, v2: 1}")),
        ("route_name_twice", service("routes:\n- {name: a, match: {path: {exact: /a}}}\n- {name: a}")),
        ("route_twice", service("routes:\n- {name: a}\n- {name: b}")),
        ("path_two", route("match: {path: {exact: /a, prefix: /b}}")),
        ("path_relative", route("match: {path: {prefix: reviews}}")),
        ("path_regex", route("match: {path: {regex: \"/a(\"}}")),
        ("path_text", route("match: {path: /reviews}")),
        ("path_template", route("match: {path: {template: \"/users/{}\"}}")),
        ("header_regex", route("match: {headers: {end-user: {regex: \"[\"}}}")),
        ("header_name", route("match: {headers: {\"end user\": jason}}")),
        ("header_pseudo", route("match: {headers: {\":path\": /}}")),
        ("method_lower", route("match: {method: get}")),
        ("fraction_bare", route("match: {fraction: 10}")),
        ("fraction_above", route("match: {fraction: 101%}")),
        ("grpc_empty", route("match: {grpc: {}}")),
        ("grpc_and_path", route("match: {grpc: {service: a.B}, path: {exact: /a}}")),
        ("mirror_subset", route("mirror: {to: v9}")),
        ("mirror_percent", route("mirror: {to: v2, percent: 5}")),
        ("mirror_unknown", route("mirror: {to: v2, percentage: 5%}")),
        ("mirror_suffix", route("mirror: {to: v2, host_suffix: \"a b\"}")),
        ("mirror_body", route("mirror: {to: v2, max_body_bytes: 10000000}")),
        ("mirror_none", route("mirror: {to: v2, max_concurrent: 0}")),
        ("fault_nothing", route("fault: {mode: shadow}")),
        ("fault_delay_two", route("fault: {delay: {fixed_delay: 1s, header_delay: {}}}")),
        ("fault_delay_long", route("fault: {delay: {fixed_delay: 2h}}")),
        ("fault_range", route("fault: {delay: {range: {min: 3s, max: 2s}}}")),
        ("fault_percentage", route("fault: {abort: {http_status: 503, percentage: 20}}")),
        ("fault_status", route("fault: {abort: {http_status: 99}}")),
        ("fault_no_status", route("fault: {abort: {percentage: 10%}}")),
        ("fault_grpc_status", route("fault: {abort: {grpc_status: 17}}")),
        ("fault_reset_false", route("fault: {abort: {reset: false}}")),
        ("fault_mode", route("fault: {abort: {reset: true}, mode: shadwo}")),
        ("load_shed_nothing", "inbound: {load_shed: {max_lag: off}}\n".into()),
        ("load_shed_lag", "inbound: {load_shed: {max_lag: 100us}}\n".into()),
        ("load_shed_zero", "inbound: {load_shed: {max_in_flight: 0}}\n".into()),
        ("adaptive_algorithm", "inbound: {adaptive_concurrency: {algorithm: gradient}}\n".into()),
        ("adaptive_bounds", "inbound: {adaptive_concurrency: {min_limit: 50, max_limit: 10}}\n".into()),
        ("adaptive_initial", "inbound: {adaptive_concurrency: {initial_limit: 5000}}\n".into()),
        ("adaptive_tolerance", "inbound: {adaptive_concurrency: {tolerance: 0.5}}\n".into()),
        ("adaptive_smoothing", "inbound: {adaptive_concurrency: {smoothing: much}}\n".into()),
        ("adaptive_of_calls", service("adaptive_concurrency: {}")),
        ("throttle_multiplier", service("throttle: {multiplier: 0}")),
        ("throttle_window", service("throttle: {window: 1h}")),
        ("throttle_rejection", service("throttle: {max_rejection: 0.8}")),
        ("breaker_window", service("circuit_breakers: {breaker: {window: 1h}}")),
        ("breaker_window_calls", service("circuit_breakers: {breaker: {window: {calls: 10}}}")),
        ("breaker_never", service("circuit_breakers: {breaker: {failure_rate_threshold: 0%}}")),
        ("breaker_waits", service("circuit_breakers: {breaker: {wait_in_open: 10s, max_wait_in_open: 5s}}")),
        ("breaker_unknown", service("circuit_breakers: {breaker: {failure_rate: 50%}}")),
        ("rate_limit_nothing", service("rate_limit: {headers: draft03}")),
        ("rate_limit_no_interval", service("rate_limit: {token_bucket: {max_tokens: 10}}")),
        ("rate_limit_interval_unitless", service("rate_limit: {token_bucket: {max_tokens: 10, fill_interval: 1}}")),
        ("rate_limit_interval_long", service("rate_limit: {token_bucket: {max_tokens: 10, fill_interval: 48h}}")),
        ("rate_limit_never_full", service("rate_limit: {token_bucket: {max_tokens: 10000000, fill_interval: 1h}}")),
        ("rate_limit_tokens_zero", service("rate_limit: {token_bucket: {max_tokens: 0, fill_interval: 1s}}")),
        ("rate_limit_quota_window", service("rate_limit: {quota: {requests: 10, window: 100ms}}")),
        ("rate_limit_quota_half", service("rate_limit: {quota: {requests: 10}}")),
        ("rate_limit_key_word", service("rate_limit: {quota: {requests: 1, window: 1h}, key: pth}")),
        ("rate_limit_key_of_served", service("rate_limit: {quota: {requests: 1, window: 1h}, key: [path, identity]}")),
        ("rate_limit_key_claim", service("rate_limit: {quota: {requests: 1, window: 1h}, key: {claim: sub}}")),
        ("rate_limit_key_header", service("rate_limit: {quota: {requests: 1, window: 1h}, key: {header: \"a b\"}}")),
        ("rate_limit_key_custom", service("rate_limit: {quota: {requests: 1, window: 1h}, key: {custom: tenant}}")),
        ("rate_limit_descriptor_empty", service("rate_limit: {descriptors: [{entries: [], quota: {requests: 1, window: 1h}}]}")),
        (
            "rate_limit_entry",
            service("rate_limit: {descriptors: [{entries: [{value: gold}], quota: {requests: 1, window: 1h}}]}"),
        ),
        ("rate_limit_headers", service("rate_limit: {quota: {requests: 1, window: 1h}, headers: draft3}")),
        ("rate_limit_global_nothing", service("rate_limit: {global: {domain: d}}")),
        (
            "rate_limit_global_service",
            service("rate_limit: {global: {service: aa, domain: d, descriptors: [{entries: [{key: path}]}]}}"),
        ),
        (
            "rate_limit_global_inbound",
            "inbound: {rate_limit: {global: {service: rls, domain: d, descriptors: [{entries: [{key: path}]}]}}}\n".into(),
        ),
        (
            "rate_limit_global_entry",
            service("rate_limit: {global: {service: a, domain: d, descriptors: [{entries: [{value: x}]}, {entries: []}]}}"),
        ),
        (
            "rate_limit_global_both",
            service(
                "rate_limit: {global: {service: a, domain: d, descriptors: [{entries: [{generic_key: x}]}], \
                 failure_mode_deny: true, fallback: {quota: {requests: 1, window: 1h}}}}",
            ),
        ),
        (
            "rate_limit_global_timeout",
            service(
                "rate_limit: {global: {service: a, domain: d, descriptors: [{entries: [{key: path}]}], timeout: 1m}}",
            ),
        ),
        ("rate_limit_share", service("rate_limit: {quota: {requests: 1, window: 1h}, share_with: cluster}")),
        ("rate_limit_unknown", "inbound: {rate_limit: {tokens: 10}}\n".into()),
        ("redirect_status", route("redirect: {host: a.example, status: 200}")),
        ("redirect_nothing", route("redirect: {status: 301}")),
        ("rewrite_prefix", route("rewrite: {path: {prefix: /b}}")),
        ("direct_status", route("direct_response: {status: 99}")),
        ("direct_body", route(&format!("direct_response: {{status: 200, body: {}}}", "x".repeat(5000)))),
        ("direct_no_status", route("direct_response: {body: hello}")),
        ("headers_host", route("request_headers: {set: {host: a}}")),
        ("headers_ours", route("response_headers: {remove: [sinew-error]}")),
        ("headers_value", route("request_headers: {add: {x-a: \"a\\nb\"}}")),
        // Several at once, unreadable and contradictory ones together.
        (
            "several",
            "mtls: on\nservices:\n  reviews:\n    timeouts: {request: 3, per_tri: 1s}\n  ratings:\n    routes:\n    - to: v1\n\
             \x20 details:\n    endpoints: {static: [details]}\n"
                .into(),
        ),
        ("very_many", format!("services:\n{}", (0..60).map(|n| format!("  s{n}: {{x: 1}}\n")).collect::<String>())),
    ];
    let mut documents: Vec<(&str, Vec<u8>)> = text.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    documents.push(("invalid_utf8", b"version: 1\nmesh: {version: \"v\xff\"}\n".to_vec()));
    documents.push(("too_large", vec![b'#'; (1 << 20) + 1]));
    documents
}

#[test]
fn each_broken_document_is_refused_with_place_path_and_cure() {
    let loader = Loader::new().env(|name| (name == "TIMEOUT").then(|| "3".to_owned()));
    let mut differences = Vec::new();
    let documents = documents();
    assert!(documents.len() >= 60);
    for (name, bytes) in documents {
        let report = match loader.load_bytes("sinew.yaml", &bytes) {
            Ok(_) => panic!("{name} was taken"),
            Err(report) => report,
        };
        for diagnostic in report.diagnostics() {
            assert!(diagnostic.place.is_some(), "{name}: no place: {report}");
            assert!(
                diagnostic.help.is_some()
                    || diagnostic.message.contains(": ")
                    || diagnostic.message.starts_with("expected"),
                "{name}: no cure: {report}"
            );
        }
        differences.extend(golden(name, &report.to_string()));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn no_text_is_too_strange_to_be_refused_in_order() {
    use proptest::prelude::*;
    let loader = Loader::new().env(|_| None);
    proptest!(ProptestConfig::with_cases(512), |(text in "[a-z:{}\\[\\]&*!|>'\"#%@, \n\t-]{0,80}")| {
        if let Err(report) = loader.load_str("x", &text) {
            prop_assert!(!report.diagnostics().is_empty());
            let _ = report.to_string();
        }
    });
}
