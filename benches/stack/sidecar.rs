//! The same calls through two Envoys, as in a mesh of sidecars: plain to the first, mutual TLS between them, plain from the
//! second to the server.
//!
//! The Envoys have one worker each, no access log, no tracing and no request ids: what is left is what it takes to forward.

use std::{error::Error, fs, io, net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use super::{
    case::Runtime,
    echo,
    peer::{self, Running},
    side::{Counted, Rig, Round, Side},
};

/// The callers, and the Envoys between them and the server.
pub(crate) struct Sidecars {
    callers: Box<dyn Side>,
    envoys: Vec<Running>,
    _directory: tempfile::TempDir,
}

impl Sidecars {
    /// `None` if there is no Envoy, after having said so.
    pub(crate) fn start(runtime: Runtime, payload: Bytes, callers: usize) -> Option<Self> {
        let program = peer::peer("envoy")?;
        let directory = tempfile::tempdir().expect("a directory");
        let (near, far) = (peer::port(), peer::port());
        certificates(directory.path()).expect("certificates");
        let mut envoys = Vec::new();
        let through = |server: SocketAddr| {
            for (name, configuration) in [("far", far_side(far, server.port())), ("near", near_side(near, far))] {
                let file = directory.path().join(format!("{name}.yaml"));
                let configuration = configuration.replace("$DIRECTORY", &directory.path().display().to_string());
                fs::write(&file, configuration).expect("a file of ours");
                let file = file.display().to_string();
                let args = ["-c", &file, "--log-level", "error", "--use-dynamic-base-id", "--concurrency", "1"];
                envoys.push(Running::start(&program, &args));
            }
            listening([near, far])
        };
        let callers = Rig::boxed(runtime, payload, echo::http2_through(callers, through));
        Some(Self { callers, envoys, _directory: directory })
    }

    /// The time that the Envoys spent on a processor.
    fn cpu(&self) -> Duration {
        self.envoys.iter().map(|envoy| cpu_of(envoy.id()).expect("it runs")).sum()
    }
}

impl Side for Sidecars {
    fn round(&mut self, span: Duration) -> Round {
        let before = self.cpu();
        let mut round = self.callers.round(span);
        round.cpu_us_per_call += (self.cpu() - before).as_secs_f64() * 1e6 / round.calls as f64;
        round
    }

    fn count(&mut self, calls: usize) -> Counted {
        self.callers.count(calls)
    }
}

/// The first of them is where calls go.
async fn listening(ports: [u16; 2]) -> Result<SocketAddr, Box<dyn Error + Send + Sync>> {
    for port in ports {
        let connected = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), connected).await?;
    }
    Ok(([127, 0, 0, 1], ports[0]).into())
}

/// Of all threads of a process.
fn cpu_of(process: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may have ended meanwhile.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(Duration::from_nanos(nanos))
}

fn certificates(directory: &Path) -> Result<(), Box<dyn Error>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.push(DnType::OrganizationName, "bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(directory.join("root.pem"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([])?;
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    fs::write(directory.join("cert.pem"), params.signed_by(&key, &issuer)?.pem())?;
    fs::write(directory.join("key.pem"), key.serialize_pem())?;
    Ok(())
}

const TLS: &str = r#"common_tls_context:
            alpn_protocols: [h2]
            tls_params: { tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }
            tls_certificates: [{ certificate_chain: { filename: $DIRECTORY/cert.pem }, private_key: { filename: $DIRECTORY/key.pem } }]
            validation_context: { trusted_ca: { filename: $DIRECTORY/root.pem } }"#;

/// Plain from the caller, mutual TLS to the other.
fn near_side(port: u16, far: u16) -> String {
    let upstream = format!(
        r#"
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          {TLS}"#
    );
    configuration(port, "", far, &upstream)
}

/// Mutual TLS from the other, plain to the server.
fn far_side(port: u16, server: u16) -> String {
    let downstream = format!(
        r#"transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          {TLS}
      "#
    );
    configuration(port, &downstream, server, "")
}

fn configuration(port: u16, downstream: &str, to: u16, upstream: &str) -> String {
    format!(
        r#"static_resources:
  listeners:
  - name: here
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - {downstream}filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: here
          codec_type: HTTP2
          generate_request_id: false
          route_config:
            virtual_hosts:
            - {{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: there }} }}] }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
    - name: there
      type: STATIC
      load_assignment:
        cluster_name: there
        endpoints:
        - lb_endpoints:
          - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {to} }} }} }}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {{ http2_protocol_options: {{}} }}{upstream}
"#
    )
}
