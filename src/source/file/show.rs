//! The configuration in effect, as a document of its own: what is printed loads again and means the same.
//!
//! Defaults are printed too, since "what is it really" is the question, and every value says in a comment where it
//! comes from.

mod route;

use std::{fmt::Write, path::Path};

use http::HeaderName;

use super::{authority, limits, listener, overload, traffic};
use crate::{
    authn::Authn,
    authz::{Action, Policy as AuthzPolicy},
    balance::{BalancePolicy, LocalityMode, LocalityPolicy},
    matching::StringMatch,
    model::{
        Address, EndpointSource, EndpointSpec, IdentitySource, InboundSpec, Labels, PolicySet, Protocol, ProxySpec,
        RouteOptions, ServiceSpec, SetKind, Snapshot, SourceKind, TlsMode,
    },
    name::Locality,
    retry::RetrySpec,
    source::duration::format as duration,
};

/// Column at which the comments begin, if the line leaves room.
const COMMENT: usize = 56;

/// The whole configuration in effect as YAML, with the origin of each value as a comment. Routes are in the order in
/// which they are tried.
pub fn show(snapshot: &Snapshot) -> String {
    let mut out = Printer { out: String::new(), snapshot };
    out.line(0, "version: 1", None);
    let mesh = &snapshot.mesh;
    out.line(0, "mesh:", None);
    out.value(2, "service", mesh.service.as_str(), "mesh.service");
    if let Some(version) = &mesh.version {
        out.value(2, "version", &quoted(version), "mesh.version");
    }
    out.value(2, "namespace", &mesh.namespace, "mesh.namespace");
    if let Some(domain) = &mesh.trust_domain {
        out.value(2, "trust_domain", domain, "mesh.trust_domain");
    }
    if !mesh.locality.zone.is_empty() {
        out.value(2, "zone", &quoted(&mesh.locality.zone), "mesh.zone");
    }
    if !mesh.locality.region.is_empty() {
        out.value(2, "region", &quoted(&mesh.locality.region), "mesh.region");
    }
    if !mesh.labels.is_empty() {
        out.value(2, "labels", &labels(&mesh.labels), "mesh.labels");
    }
    out.security();
    out.line(0, "drain:", None);
    out.value(2, "lame_duck", &duration(snapshot.drain.lame_duck), "drain.lame_duck");
    out.value(2, "deadline", &duration(snapshot.drain.deadline), "drain.deadline");
    if !snapshot.services.is_empty() {
        out.line(0, "services:", None);
        for (name, service) in &snapshot.services {
            out.line(2, &format!("{name}:"), Some(&format!("services.{name}")));
            out.service(service);
        }
    }
    out.line(0, "inbound:", None);
    let level = snapshot.inbound.path_normalization.as_str();
    out.value(2, "path_normalization", level, "inbound.path_normalization");
    out.authn(&snapshot.inbound.authn);
    out.authz(&snapshot.inbound);
    if let Some(log) = &snapshot.inbound.audit_log {
        match super::audit::shown(log) {
            Some(shown) => out.value(2, "audit_log", &shown, "inbound.audit_log"),
            None => out.line(2, "# audit_log: a sink of code's own", Some("inbound.audit_log")),
        }
        if log.is_required() {
            out.line(2, "# audit_log is required, by code", None);
        }
    }
    if let Some(shed) = &snapshot.inbound.load_shed {
        out.value(2, "load_shed", &overload::shown_shed(shed), "inbound.load_shed");
    }
    if let Some(adaptive) = &snapshot.inbound.adaptive_concurrency {
        let shown = overload::shown_adaptive(adaptive);
        out.value(2, "adaptive_concurrency", &shown, "inbound.adaptive_concurrency");
    }
    if let Some(limit) = &snapshot.inbound.rate_limit {
        out.value(2, "rate_limit", &limits::shown(limit), "inbound.rate_limit");
    }
    out.policies(2, &snapshot.inbound.policies, "inbound");
    out.out
}

struct Printer<'s> {
    out: String,
    snapshot: &'s Snapshot,
}

impl Printer<'_> {
    /// One line; `path` asks for the comment with its origin.
    fn line(&mut self, indent: usize, text: &str, path: Option<&str>) {
        let line = format!("{:indent$}{text}", "");
        match path {
            None => self.out.push_str(&line),
            Some(path) => {
                let _ = write!(self.out, "{line:<COMMENT$}  # {}", self.snapshot.provenance.of(path));
            }
        }
        self.out.push('\n');
    }

    fn value(&mut self, indent: usize, key: &str, value: &str, path: &str) {
        self.line(indent, &format!("{key}: {value}"), Some(path));
    }

    fn security(&mut self) {
        let snapshot = self.snapshot;
        let file = |path: &Path| quoted(&path.to_string_lossy());
        if let Some(source) = &snapshot.identity {
            self.line(0, "identity:", None);
            let source = match source {
                IdentitySource::Dev => "dev".to_owned(),
                IdentitySource::WorkloadApi(address) => format!("{{workload_api: {}}}", quoted(address)),
                IdentitySource::Files(files) => {
                    let mut parts = vec![
                        ("cert".to_owned(), file(&files.cert)),
                        ("key".to_owned(), file(&files.key)),
                        ("bundle".to_owned(), file(&files.bundle)),
                    ];
                    parts.extend(files.crl.as_ref().map(|crl| ("crl".to_owned(), file(crl))));
                    format!("{{files: {}}}", map(&parts))
                }
                IdentitySource::Ca(spec) => format!("{{ca: {}}}", map(&authority::shown(spec))),
            };
            self.value(2, "source", &source, "identity.source");
        }
        self.value(0, "mtls", snapshot.mtls.as_str(), "mtls");
        let listeners = &snapshot.listeners;
        let mesh_proxies = (listeners.mesh_proxies != ProxySpec::default()).then_some(&listeners.mesh_proxies);
        let mesh_limits = listener::shown(&listeners.mesh_limits);
        let mesh = listeners.mesh.is_some() || mesh_proxies.is_some() || !mesh_limits.is_empty();
        if listeners.ops.is_none() && !mesh && listeners.edge.is_none() {
            return;
        }
        self.line(0, "listeners:", None);
        if mesh {
            self.line(2, "mesh:", None);
        }
        if let Some(mode) = listeners.mesh {
            self.value(4, "mtls", mode.as_str(), "listeners.mesh.mtls");
        }
        if let Some(proxies) = mesh_proxies {
            self.proxies(proxies);
        }
        if !mesh_limits.is_empty() {
            self.value(4, "limits", &map(&mesh_limits), "listeners.mesh.limits");
        }
        if let Some(edge) = &listeners.edge {
            self.line(2, "edge:", Some("listeners.edge"));
            self.line(4, &format!("listen: {}", quoted(&edge.listen.to_string())), None);
            if let Some((cert, key)) = &edge.tls {
                self.line(4, &format!("tls: {{cert: {}, key: {}}}", file(cert), file(key)), None);
            }
            self.proxies(&edge.proxies);
            let limits = listener::shown(&edge.limits);
            if !limits.is_empty() {
                self.line(4, &format!("limits: {}", map(&limits)), None);
            }
        }
        if let Some(listen) = listeners.ops {
            self.line(2, "ops:", None);
            self.value(4, "listen", &quoted(&listen.to_string()), "listeners.ops.listen");
        }
    }

    fn proxies(&mut self, proxies: &ProxySpec) {
        if !proxies.trusted_proxies.is_empty() {
            let nets: Vec<_> = proxies.trusted_proxies.iter().map(|net| quoted(&net.to_string())).collect();
            self.line(4, &format!("trusted_proxies: [{}]", nets.join(", ")), None);
        }
        if proxies.proxy_protocol {
            self.line(4, "proxy_protocol: required", None);
        }
    }

    fn service(&mut self, service: &ServiceSpec) {
        let path = format!("services.{}", service.name);
        if !service.endpoints.is_empty() {
            self.line(4, "endpoints:", Some(&format!("{path}.endpoints")));
            for (index, source) in service.endpoints.iter().enumerate() {
                self.line(6, &format!("- {}", endpoint_source(source)), Some(&format!("{path}.endpoints[{index}]")));
            }
        }
        if !service.hosts.is_empty() {
            let hosts: Vec<String> = service.hosts.iter().map(|host| quoted(&host.to_string())).collect();
            self.value(4, "hosts", &format!("[{}]", hosts.join(", ")), &format!("{path}.hosts"));
        }
        let protocol = match service.protocol {
            Protocol::Auto => "auto",
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
        };
        self.value(4, "protocol", protocol, &format!("{path}.protocol"));
        let tls = match &service.tls {
            TlsMode::Private(private) => {
                let file = |path: &Path| quoted(&path.to_string_lossy());
                let mut parts = vec![("ca".to_owned(), file(&private.ca))];
                parts.extend(private.server_name.as_ref().map(|name| ("server_name".to_owned(), quoted(name))));
                if let Some((cert, key)) = &private.client {
                    parts.extend([("cert".to_owned(), file(cert)), ("key".to_owned(), file(key))]);
                }
                format!("{{private: {}}}", map(&parts))
            }
            other => other.as_str().to_owned(),
        };
        self.value(4, "tls", &tls, &format!("{path}.tls"));
        if !service.identities.is_empty() {
            let ids: Vec<_> = service.identities.iter().map(|id| quoted(id.as_str())).collect();
            self.value(4, "identities", &format!("[{}]", ids.join(", ")), &format!("{path}.identities"));
        }
        if let Some(token) = &service.jwt_svid {
            let workload = token.workload_api.as_deref().unwrap_or_default();
            let parts =
                [("audience".to_owned(), quoted(&token.audience)), ("workload_api".to_owned(), quoted(workload))];
            self.value(4, "jwt_svid", &map(&parts), &format!("{path}.jwt_svid"));
        }
        self.balancing(service, &path);
        if !service.subsets.is_empty() {
            self.line(4, "subsets:", None);
            for (name, set) in &service.subsets {
                self.value(6, name.as_str(), &labels(set), &format!("{path}.subsets.{name}"));
            }
        }
        let limits = &service.circuit_breakers;
        self.line(4, "circuit_breakers:", None);
        for (key, value) in [
            ("max_connections", limits.max_connections),
            ("max_pending_requests", limits.max_pending_requests),
            ("max_requests", limits.max_requests),
            ("max_streams", limits.max_streams),
        ] {
            self.value(6, key, &value.to_string(), &format!("{path}.circuit_breakers.{key}"));
        }
        self.value(6, "queue", limits.queue.as_str(), &format!("{path}.circuit_breakers.queue"));
        let each = limits.per_endpoint;
        let each = [("max_requests", each.max_requests), ("max_connections", each.max_connections)];
        let each: Vec<_> = each.into_iter().filter_map(|(key, limit)| Some((key, limit?))).collect();
        if !each.is_empty() {
            self.line(6, "per_endpoint:", None);
        }
        for (key, limit) in each {
            self.value(8, key, &limit.to_string(), &format!("{path}.circuit_breakers.per_endpoint.{key}"));
        }
        if let Some(breaker) = &service.breaker {
            self.value(6, "breaker", &super::breaker::shown(breaker), &format!("{path}.circuit_breakers.breaker"));
        }
        self.line(4, "outlier_detection:", None);
        for (key, value) in crate::source::outlier::written(&service.outlier_detection) {
            self.value(6, key, &value, &format!("{path}.outlier_detection.{key}"));
        }
        self.retries(4, &service.retries, &path);
        let checks = &service.health_checks;
        if checks.is_empty() {
            self.value(4, "health_checks", "[]", &format!("{path}.health_checks"));
        } else {
            self.line(4, "health_checks:", Some(&format!("{path}.health_checks")));
        }
        for check in checks {
            self.line(6, &format!("- {}", super::health::shown(check)), None);
        }
        let timeouts = &service.timeouts;
        self.line(4, "timeouts:", None);
        for (key, value) in [
            ("request", timeouts.request),
            ("per_try", timeouts.per_try),
            ("response", timeouts.response),
            ("connect", Some(timeouts.connect)),
            ("connect_wait", Some(timeouts.connect_wait)),
            ("limit_wait", Some(timeouts.limit_wait)),
            ("per_try_idle", timeouts.per_try_idle),
            ("stream_idle", timeouts.stream_idle),
            ("upgrade_idle", timeouts.upgrade_idle),
            ("max_stream_duration", timeouts.max_stream_duration),
            ("grpc_timeout_header_max", timeouts.grpc_timeout_header_max),
            ("grpc_timeout_header_offset", Some(timeouts.grpc_timeout_header_offset)),
        ] {
            let value = value.map_or_else(|| "off".to_owned(), duration);
            self.value(6, key, &value, &format!("{path}.timeouts.{key}"));
        }
        let honor = timeouts.honor_inbound_deadline.to_string();
        self.value(6, "honor_inbound_deadline", &honor, &format!("{path}.timeouts.honor_inbound_deadline"));
        self.value(6, "enforcement", timeouts.enforcement.as_str(), &format!("{path}.timeouts.enforcement"));
        self.value(6, "percentage", &timeouts.percentage.to_string(), &format!("{path}.timeouts.percentage"));
        if let Some(throttle) = &service.throttle {
            self.value(4, "throttle", &overload::shown_throttle(throttle), &format!("{path}.throttle"));
        }
        if let Some(limit) = &service.rate_limit {
            self.value(4, "rate_limit", &limits::shown(limit), &format!("{path}.rate_limit"));
        }
        self.policies(4, &service.policies, &path);
        if !service.routes.is_empty() {
            self.line(4, "routes:", Some(&format!("{path}.routes")));
            for (index, route) in service.routes.iter().enumerate() {
                let path = format!("{path}.routes[{index}]");
                self.route(route, &path);
                if let Some(options) = service.route_options.get(index) {
                    self.options(options, &path);
                }
                if let Some(policies) = service.route_policies.get(index) {
                    self.policies(8, policies, &path);
                }
            }
        }
    }

    fn authn(&mut self, authn: &Authn) {
        let lines = super::authn::show(authn);
        if !lines.is_empty() {
            self.line(2, "authn:", None);
        }
        for (key, value) in lines {
            self.value(4, key, &value, &format!("inbound.authn.{key}"));
        }
    }

    fn authz(&mut self, inbound: &InboundSpec) {
        let lists =
            [("allow", Action::Allow), ("deny", Action::Deny), ("audit", Action::Audit), ("custom", Action::Custom)];
        if inbound.authz != AuthzPolicy::default() {
            self.line(2, "authz:", None);
        }
        for (key, action) in &lists {
            let path = format!("inbound.authz.{key}");
            if *action == Action::Allow && inbound.authz.exclusive {
                self.value(4, key, "[]", &path);
            } else if inbound.authz.rules.iter().any(|rule| rule.action == *action) {
                self.line(4, &format!("{key}:"), Some(&path));
                let listed = inbound.authz.rules.iter().filter(|rule| rule.action == *action);
                for (index, rule) in listed.enumerate() {
                    let line = format!("- {}", super::authz::show(rule));
                    // Imported by code: what else holds is not in our words, so the line would allow more than it says.
                    let line =
                        if rule.is_imported() { format!("# imported, cannot be written here: {line}") } else { line };
                    self.line(6, &line, Some(&format!("{path}[{index}]")));
                }
            }
        }
        // Code's own, which no document can say: a document that is printed and loaded is held to it again.
        for rule in &inbound.pinned_authz.rules {
            let action = lists.iter().find(|(_, action)| *action == rule.action).map_or("", |(key, _)| key);
            self.line(2, &format!("# pinned, {action}: {}", super::authz::show(rule)), None);
        }
    }

    fn balancing(&mut self, service: &ServiceSpec, path: &str) {
        self.line(4, "load_balancer:", None);
        let settings = match service.load_balancer {
            BalancePolicy::LeastRequest { choice_count } => format!("{{choice_count: {choice_count}}}"),
            _ => "{}".to_owned(),
        };
        self.value(6, service.load_balancer.as_str(), &settings, &format!("{path}.load_balancer"));
        let failover = &service.failover;
        self.line(6, "failover:", None);
        for (key, value) in [
            ("how", failover.failover.as_str().to_owned()),
            ("enforcement", failover.enforcement.as_str().to_owned()),
            ("percentage", failover.percentage.to_string()),
        ] {
            self.value(8, key, &value, &format!("{path}.load_balancer.failover.{key}"));
        }
        for (key, value) in [
            ("overprovisioning_factor", failover.overprovisioning_factor.to_string()),
            ("healthy_panic_threshold", failover.healthy_panic_threshold.to_string()),
            ("fail_traffic_on_panic", failover.fail_traffic_on_panic.to_string()),
        ] {
            self.value(6, key, &value, &format!("{path}.load_balancer.{key}"));
        }
        let slow = &service.slow_start;
        let at = |key| format!("{path}.load_balancer.slow_start.{key}");
        match slow.is_on() {
            false => self.value(6, "slow_start", "off", &at("window")),
            true => {
                self.line(6, "slow_start:", None);
                self.value(8, "window", &duration(slow.window), &at("window"));
                self.value(8, "aggression", &format!("{:?}", slow.aggression), &at("aggression"));
                let percent = slow.min_weight_percent.to_string();
                self.value(8, "min_weight_percent", &percent, &at("min_weight_percent"));
            }
        }
        let path = format!("{path}.locality");
        let LocalityPolicy { mode, failover_priority: keys, .. } = &service.locality;
        if *mode == LocalityMode::Off && keys.is_empty() {
            return self.value(4, "locality", "off", &path);
        }
        self.line(4, "locality:", None);
        match mode {
            LocalityMode::ZoneAware(zones) => {
                let mut parts = vec![
                    ("routing_enabled".to_owned(), zones.routing_enabled.to_string()),
                    ("min_cluster_size".to_owned(), zones.min_cluster_size.to_string()),
                ];
                let force = zones.force_local_zone;
                parts.extend(force.map(|size| ("force_local_zone".to_owned(), format!("{{min_size: {size}}}"))));
                self.value(6, "zone_aware", &map(&parts), &path);
            }
            LocalityMode::Weighted(weights) => {
                let weights: Vec<_> = weights.iter().map(|(zone, weight)| (key(zone), weight.to_string())).collect();
                self.value(6, "weighted", &map(&weights), &path);
            }
            _ => {}
        }
        if !keys.is_empty() {
            let keys: Vec<String> = keys.iter().map(|key| quoted(&key.to_string())).collect();
            self.value(6, "failover_priority", &format!("[{}]", keys.join(", ")), &format!("{path}.failover_priority"));
        }
    }

    fn policies(&mut self, indent: usize, policies: &PolicySet, path: &str) {
        for (name, policy) in policies.iter() {
            // JSON is YAML.
            self.value(indent, name, &policy.value.to_string(), &format!("{path}.{name}"));
        }
    }

    fn options(&mut self, options: &RouteOptions, path: &str) {
        for (key, value) in traffic::shown(options) {
            self.value(8, key, &value, &format!("{path}.{key}"));
        }
        if let Some(retries) = &options.retries {
            self.retries(8, retries, path);
        }
    }

    fn retries(&mut self, indent: usize, spec: &RetrySpec, path: &str) {
        let headers = |headers: &Vec<(HeaderName, StringMatch)>| {
            let pair = |(name, value): &(HeaderName, StringMatch)| (key(name.as_str()), string_match(value));
            map(&headers.iter().map(pair).collect::<Vec<_>>())
        };
        for (group, lines) in crate::source::retry::written(spec, headers) {
            self.line(indent, &format!("{group}:"), None);
            for line in lines {
                let indent = indent + if line.deep { 4 } else { 2 };
                match line.value.as_str() {
                    "" => self.line(indent, &format!("{}:", line.key), None),
                    value => self.value(indent, line.key, value, &format!("{path}.{group}.{}", line.origin)),
                }
            }
        }
    }
}

/// A text in double quotes: JSON's escapes are YAML's, and `${` must not become a variable when it is read again.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace("${", "$${")).to_string()
}

pub(super) fn map(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// Keys are not interpolated, so only their quotes matter.
fn key(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn labels(labels: &Labels) -> String {
    map(&labels.iter().map(|(name, value)| (key(name), quoted(value))).collect::<Vec<_>>())
}

fn endpoint_source(source: &EndpointSource) -> String {
    let mut parts = vec![match &source.source {
        SourceKind::Static(specs) => {
            let specs: Vec<String> = specs.iter().flat_map(endpoint).collect();
            ("static".to_owned(), format!("[{}]", specs.join(", ")))
        }
        SourceKind::Dns { name, port } => {
            ("dns".to_owned(), quoted(&port.map_or_else(|| name.to_string(), |port| format!("{name}:{port}"))))
        }
        SourceKind::File(path) => ("file".to_owned(), quoted(&path.display().to_string())),
        SourceKind::Custom(name) => ("custom".to_owned(), quoted(name)),
    }];
    if !source.labels.is_empty() {
        parts.push(("labels".into(), labels(&source.labels)));
    }
    parts.extend(locality(&source.locality));
    parts.extend(source.weight.map(|weight| ("weight".to_owned(), weight.to_string())));
    parts.extend(source.priority.map(|priority| ("priority".to_owned(), priority.to_string())));
    let kind = source.kind.map(|kind| match kind {
        SetKind::Replicas => "replicas",
        SetKind::Vip => "vip",
    });
    parts.extend(kind.map(|kind| ("kind".to_owned(), kind.to_owned())));
    map(&parts)
}

fn endpoint(spec: &EndpointSpec) -> Option<String> {
    let address: &Address = spec.addresses.first()?;
    let mut parts = vec![("address".to_owned(), quoted(&address.to_string()))];
    if !spec.labels.is_empty() {
        parts.push(("labels".into(), labels(&spec.labels)));
    }
    parts.extend(locality(&spec.locality));
    if spec.weight != 1 {
        parts.push(("weight".into(), spec.weight.to_string()));
    }
    if spec.priority != 0 {
        parts.push(("priority".into(), spec.priority.to_string()));
    }
    Some(if parts.len() == 1 { parts.remove(0).1 } else { map(&parts) })
}

fn locality(locality: &Locality) -> impl Iterator<Item = (String, String)> {
    let written = [("zone", &locality.zone), ("region", &locality.region)].into_iter();
    written.filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.to_owned(), quoted(value)))
}

fn string_match(condition: &StringMatch) -> String {
    match condition {
        StringMatch::Exact(text) => quoted(text),
        StringMatch::Prefix(text) => format!("{{prefix: {}}}", quoted(text)),
        StringMatch::Regex(pattern) => format!("{{regex: {}}}", quoted(pattern.as_str())),
        StringMatch::Present(present) => format!("{{present: {present}}}"),
    }
}
