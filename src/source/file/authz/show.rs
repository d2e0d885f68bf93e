//! Rules, as they are written.

use std::{fmt::Display, sync::Arc};

use http::{HeaderName, Method};

use crate::{
    authz::{ExtAuthz, ExtAuthzProtocol, GrpcMethod, Operation, Rule, Source, When, WhenKey},
    enforcement::Percent,
    source::{duration::format as duration, file::show as written},
};

/// A rule as one line of YAML.
fn shown(policy: &ExtAuthz) -> String {
    let mut parts = vec![format!("service: {}", policy.service)];
    if policy.protocol == ExtAuthzProtocol::Http {
        parts.push("protocol: http".into());
    }
    parts.push(format!("timeout: {}", duration(policy.timeout)));
    if !policy.path_prefix.is_empty() {
        parts.push(format!("path_prefix: {}", quoted(&policy.path_prefix)));
    }
    for (key, names) in [("headers", &policy.headers), ("upstream_headers", &policy.upstream_headers)] {
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
            parts.push(format!("{key}: [{}]", names.join(", ")));
        }
    }
    if policy.max_request_bytes > 0 {
        parts.push(format!("max_request_bytes: {}", policy.max_request_bytes));
    }
    format!("{{{}}}", parts.join(", "))
}

pub(in crate::source::file) fn show(rule: &Rule) -> String {
    let mut parts = vec![("name".to_owned(), quoted(&rule.name))];
    if !rule.from.is_empty() {
        parts.push(("from".into(), list(rule.from.iter().map(show_source))));
    }
    match rule.to.as_slice() {
        [] => {}
        [one] if *one != Operation::default() => parts.extend(operation_parts(one)),
        many => parts.push(("to".into(), list(many.iter().map(|one| map(operation_parts(one)))))),
    }
    let (mut headers, mut claims, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for when in &rule.when {
        let values = || list(when.values.iter().map(quoted));
        match &when.key {
            WhenKey::Header(name) => headers.push((quoted(name.as_str()), show_when(when))),
            WhenKey::Claim(path) => claims.push((quoted(path.join(".")), show_when(when))),
            WhenKey::ServerName => rest.push(("server_name".to_owned(), values())),
            WhenKey::Audience => rest.push(("audiences".to_owned(), values())),
            WhenKey::Presenter => rest.push(("presenters".to_owned(), values())),
        }
    }
    if !headers.is_empty() {
        parts.push(("headers".into(), map(headers)));
    }
    if !claims.is_empty() {
        parts.push(("claims".into(), map(claims)));
    }
    parts.append(&mut rest);
    parts.extend(rule.ext_authz.as_ref().map(|policy| ("ext_authz".to_owned(), shown(policy))));
    parts.extend(rule.condition.as_ref().map(|condition| ("condition".to_owned(), quoted(condition.as_str()))));
    match rule.enforced {
        Percent::ALL => {}
        Percent::NONE => parts.push(("shadow".into(), "true".into())),
        share => parts.push(("enforced".into(), share.to_string())),
    }
    map(parts)
}

fn show_when(when: &When) -> String {
    if when.not_values.is_empty() {
        return list(when.values.iter().map(quoted));
    }
    let mut parts = Vec::new();
    push(&mut parts, "values", when.values.iter().map(quoted));
    push(&mut parts, "not_values", when.not_values.iter().map(quoted));
    map(parts)
}

fn show_source(source: &Source) -> String {
    let mut parts = Vec::new();
    let account = |(namespace, name): &(Arc<str>, Arc<str>)| quoted(format!("{namespace}/{name}"));
    push(&mut parts, "principals", source.principals.iter().map(quoted));
    push(&mut parts, "not_principals", source.not_principals.iter().map(quoted));
    push(&mut parts, "namespaces", source.namespaces.iter().map(quoted));
    push(&mut parts, "not_namespaces", source.not_namespaces.iter().map(quoted));
    push(&mut parts, "trust_domains", source.trust_domains.iter().map(quoted));
    push(&mut parts, "not_trust_domains", source.not_trust_domains.iter().map(quoted));
    push(&mut parts, "service_accounts", source.service_accounts.iter().map(account));
    push(&mut parts, "not_service_accounts", source.not_service_accounts.iter().map(account));
    push(&mut parts, "request_principals", source.request_principals.iter().map(quoted));
    push(&mut parts, "not_request_principals", source.not_request_principals.iter().map(quoted));
    push(&mut parts, "api_keys", source.api_keys.iter().map(quoted));
    push(&mut parts, "not_api_keys", source.not_api_keys.iter().map(quoted));
    push(&mut parts, "ip_blocks", source.ip_blocks.iter().map(quoted));
    push(&mut parts, "not_ip_blocks", source.not_ip_blocks.iter().map(quoted));
    push(&mut parts, "remote_ip_blocks", source.remote_ip_blocks.iter().map(quoted));
    push(&mut parts, "not_remote_ip_blocks", source.not_remote_ip_blocks.iter().map(quoted));
    map(parts)
}

fn operation_parts(operation: &Operation) -> Vec<(String, String)> {
    let mut parts = Vec::new();
    let method = |method: &Method| method.to_string();
    let grpc = |grpc: &GrpcMethod| {
        let mut names = Vec::new();
        names.extend(grpc.service.as_ref().map(|name| ("service".to_owned(), quoted(name))));
        names.extend(grpc.method.as_ref().map(|name| ("method".to_owned(), quoted(name))));
        map(names)
    };
    push(&mut parts, "hosts", operation.hosts.iter().map(quoted));
    push(&mut parts, "not_hosts", operation.not_hosts.iter().map(quoted));
    push(&mut parts, "destination_ip_blocks", operation.destination_ip_blocks.iter().map(quoted));
    push(&mut parts, "not_destination_ip_blocks", operation.not_destination_ip_blocks.iter().map(quoted));
    push(&mut parts, "ports", operation.ports.iter().map(u16::to_string));
    push(&mut parts, "not_ports", operation.not_ports.iter().map(u16::to_string));
    push(&mut parts, "methods", operation.methods.iter().map(method));
    push(&mut parts, "not_methods", operation.not_methods.iter().map(method));
    push(&mut parts, "paths", operation.paths.iter().map(quoted));
    push(&mut parts, "not_paths", operation.not_paths.iter().map(quoted));
    push(&mut parts, "grpc", operation.grpc.iter().map(grpc));
    parts
}

fn push(parts: &mut Vec<(String, String)>, key: &str, values: impl ExactSizeIterator<Item = String>) {
    if values.len() > 0 {
        parts.push((key.to_owned(), list(values)));
    }
}

fn quoted(value: impl Display) -> String {
    written::quoted(&value.to_string())
}

fn list(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

fn map(parts: Vec<(String, String)>) -> String {
    written::map(&parts)
}
