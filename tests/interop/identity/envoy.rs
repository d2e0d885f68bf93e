//! Envoy as a server that admits one of our identities.

use super::*;
use crate::peer::{Running, peer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_admits_the_identity_that_it_is_told_and_no_other() {
    let Some(program) = peer("envoy") else { return };
    let world = World::new();
    world.member("envoy", &[]);
    let port = port();
    let (root, cert, key) = (world.path("root.pem"), world.path("envoy.pem"), world.path("envoy.key"));
    let caller = id("caller");
    let configuration = format!(
        r#"static_resources:
  listeners:
  - name: mesh
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{{ certificate_chain: {{ filename: {cert} }}, private_key: {{ filename: {key} }} }}]
            validation_context:
              trusted_ca: {{ filename: {root} }}
              match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: "{caller}" }} }}]
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: mesh
          codec_type: AUTO
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: / }}
                response_headers_to_add:
                - {{ header: {{ key: x-peer, value: "%DOWNSTREAM_PEER_URI_SAN%" }} }}
                - {{ header: {{ key: x-protocol, value: "%PROTOCOL%" }} }}
                direct_response: {{ status: 200, body: {{ inline_string: ok }} }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    );
    let file = world.write("envoy.yaml", &configuration).display().to_string();
    let log = world.path("envoy.log");
    let args =
        ["-c", &file, "--log-path", &log, "--log-level", "warning", "--use-dynamic-base-id", "--concurrency", "1"];
    let envoy = Running::start(&program, &args);
    listens(port, "Envoy", Path::new(&log)).await;
    let service = |protocol| {
        let id = id("envoy").parse().unwrap();
        move |service: sinew::ServiceBuilder| {
            service.endpoints([format!("127.0.0.1:{port}")]).protocol(protocol).identities([id])
        }
    };
    for (protocol, expected) in [
        (sinew::model::Protocol::Http1, "HTTP/1.1"),
        (sinew::model::Protocol::Http2, "HTTP/2"),
        (sinew::model::Protocol::Auto, "HTTP/2"),
    ] {
        let mesh = world.builder("caller", &[]).service("web", service(protocol)).build().await.unwrap();
        let response = mesh.client("web").get("/").send().await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((header("x-peer"), &*header("x-protocol")), (caller.clone(), expected));
        mesh.shutdown(Duration::from_secs(5)).await;
    }
    let other =
        world.builder("other", &[]).service("web", service(sinew::model::Protocol::Auto)).build().await.unwrap();
    let error = other.client("web").get("/").timeout(Duration::from_secs(5)).send().await.unwrap_err();
    assert_eq!(error.code(), sinew::Code::TlsFailed, "{error:?}");
    // And whom we do not expect, Envoy is not.
    let wrong = world.builder("caller", &[]).service("web", |service| {
        service.endpoints([format!("127.0.0.1:{port}")]).identities([id("web").parse().unwrap()])
    });
    let wrong = wrong.build().await.unwrap();
    let error = wrong.client("web").get("/").timeout(Duration::from_secs(5)).send().await.unwrap_err();
    assert!(error.to_string().contains("identity_mismatch"), "{error}");
    drop(envoy);
}
