//! The same decisions, made the slow and obvious way: rule after rule, list after list, straight from what is written.

use std::net::IpAddr;

use crate::matching::IpBlock;
use http::Method;

use super::{Action, Expr, HostText, Operation, Policy, RequestPrincipal, Rule, Source, Text, When, WhenKey};
use crate::canon::View;

/// Whether the policies allow it; `None` if no rule was there to decide.
pub(super) fn allows(policies: &[&Policy], view: &View<'_>, all: bool) -> Option<bool> {
    let counts = |rule: &&Rule| all || view.draw < rule.enforced.millionths();
    for policy in policies {
        if policy.rules.iter().filter(counts).any(|rule| rule.action == Action::Deny && holds(rule, view)) {
            return Some(false);
        }
    }
    let mut allowed = None;
    for policy in policies {
        let rules: Vec<&Rule> =
            policy.rules.iter().filter(|rule| rule.action == Action::Allow).filter(counts).collect();
        if rules.is_empty() && !policy.exclusive {
            continue;
        }
        if !rules.iter().any(|rule| holds(rule, view)) {
            return Some(false);
        }
        allowed = Some(true);
    }
    allowed
}

fn holds(rule: &Rule, view: &View<'_>) -> bool {
    let denies = rule.action != Action::Allow;
    (rule.from.is_empty() || rule.from.iter().any(|source| source_holds(source, view, denies)))
        && (rule.to.is_empty() || rule.to.iter().any(|operation| operation_holds(operation, view, denies)))
        && rule.when.iter().all(|when| when_holds(when, view, denies))
        && rule.condition.as_ref().is_none_or(|cel| view.http.is_none() && denies || cel.holds(view).unwrap_or(denies))
        && rule.and.iter().all(|expr| expr_holds(expr, view, denies))
}

/// Imported rules, as far as requests go.
fn expr_holds(expr: &Expr, view: &View<'_>, denies: bool) -> bool {
    match expr {
        Expr::All(all) => all.iter().all(|expr| expr_holds(expr, view, denies)),
        Expr::Any(any) => any.iter().any(|expr| expr_holds(expr, view, denies)),
        Expr::Not(not) => !expr_holds(not, view, denies),
        Expr::Source(source) => source_holds(source, view, denies),
        Expr::Operation(operation) => operation_holds(operation, view, denies),
        Expr::When(when) => when_holds(when, view, denies),
        Expr::Identity(texts) => text(texts, &[], view.principal),
        Expr::Ports(from, to) => view.local.is_some_and(|local| (u32::from(*from)..*to).contains(&local.port().into())),
        Expr::ServerName(text) => text.matches(view.server_name.unwrap_or_default()),
        Expr::Header(_) | Expr::PathFolded(_) => unreachable!("compared with the system they come from instead"),
    }
}

fn text(set: &[Text], not: &[Text], value: Option<&str>) -> bool {
    let any = |set: &[Text]| value.is_some_and(|value| set.iter().any(|text| text.matches(value)));
    (set.is_empty() || any(set)) && !any(not)
}

fn nets(set: &[IpBlock], not: &[IpBlock], address: Option<IpAddr>) -> bool {
    let any = |set: &[IpBlock]| address.is_some_and(|address| set.iter().any(|block| block.net().contains(&address)));
    (set.is_empty() || any(set)) && !any(not)
}

fn parts(view: &View<'_>) -> (Option<String>, Option<String>, Option<String>) {
    let Some(id) = view.principal else { return (None, None, None) };
    let mut segments = id.trim_start_matches("spiffe://").split('/').map(str::to_owned);
    let domain = segments.next();
    let pairs: Vec<String> = segments.collect();
    let find = |key: &str| pairs.chunks(2).find(|pair| pair.len() == 2 && pair[0] == key).map(|pair| pair[1].clone());
    (domain, find("ns"), find("sa"))
}

fn source_holds(source: &Source, view: &View<'_>, denies: bool) -> bool {
    // A connection has no token: what denies ignores it, what allows does not hold.
    let about_requests = !source.request_principals.is_empty()
        || !source.not_request_principals.is_empty()
        || !source.api_keys.is_empty()
        || !source.not_api_keys.is_empty();
    if view.http.is_none() && about_requests && !denies {
        return false;
    }
    let principal = |set: &[RequestPrincipal]| {
        view.token.is_some_and(|token| {
            let whole = format!("{}/{}", token.issuer(), token.subject().unwrap_or_default());
            set.iter().any(|principal| match principal.to_string().as_str() {
                "*" => token.subject().is_some_and(|subject| !subject.is_empty()),
                pattern => match (pattern.strip_prefix("*/"), pattern.strip_suffix("/*")) {
                    (Some(subject), _) => token.subject() == Some(subject),
                    (_, Some(issuer)) => token.issuer() == issuer && token.subject().is_some_and(|sub| !sub.is_empty()),
                    _ => whole == pattern,
                },
            })
        })
    };
    let request = view.http.is_none()
        || (source.request_principals.is_empty() || principal(&source.request_principals))
            && !principal(&source.not_request_principals)
            && text(&source.api_keys, &source.not_api_keys, view.api_key);
    let (domain, namespace, account) = parts(view);
    let accounts = |set: &[(std::sync::Arc<str>, std::sync::Arc<str>)]| {
        set.iter().any(|(ns, sa)| namespace.as_deref() == Some(ns) && account.as_deref() == Some(sa))
    };
    request
        && text(&source.principals, &source.not_principals, view.principal)
        && text(&source.namespaces, &source.not_namespaces, namespace.as_deref())
        && text(&source.trust_domains, &source.not_trust_domains, domain.as_deref())
        && (source.service_accounts.is_empty() || accounts(&source.service_accounts))
        && !accounts(&source.not_service_accounts)
        && nets(&source.ip_blocks, &source.not_ip_blocks, view.peer)
        && nets(&source.remote_ip_blocks, &source.not_remote_ip_blocks, view.client)
}

fn operation_holds(operation: &Operation, view: &View<'_>, denies: bool) -> bool {
    let http = view.http.as_ref();
    // Without HTTP: what denies ignores these, what allows does not hold.
    let about_http = !operation.hosts.is_empty()
        || !operation.not_hosts.is_empty()
        || !operation.methods.is_empty()
        || !operation.not_methods.is_empty()
        || !operation.paths.is_empty()
        || !operation.not_paths.is_empty()
        || !operation.grpc.is_empty();
    let port = view.local.map(|local| local.port());
    let local = view.local.map(|local| local.ip());
    if !nets(&operation.destination_ip_blocks, &operation.not_destination_ip_blocks, local) {
        return false;
    }
    let any_port = |set: &[u16]| port.is_some_and(|port| set.contains(&port));
    if !(operation.ports.is_empty() || any_port(&operation.ports)) || any_port(&operation.not_ports) {
        return false;
    }
    let Some(http) = http else { return denies || !about_http };
    let host = |set: &[HostText]| {
        http.authority.as_ref().is_some_and(|own| {
            set.iter().any(|host| {
                let port = host.port().is_none_or(|port| own.port.map_or(port == 80 || port == 443, |own| own == port));
                host.text().matches(&own.host) && port
            })
        })
    };
    let method = |set: &[Method], heads: bool| {
        set.contains(http.method) || heads && *http.method == Method::HEAD && set.contains(&Method::GET)
    };
    let path = |set: &[super::PathText]| http.path.is_some_and(|path| set.iter().any(|text| text.matches(path)));
    (operation.hosts.is_empty() || host(&operation.hosts))
        && !host(&operation.not_hosts)
        && (operation.methods.is_empty() || method(&operation.methods, denies))
        && !method(&operation.not_methods, false)
        && (operation.paths.is_empty() || path(&operation.paths))
        && !path(&operation.not_paths)
        && (operation.grpc.is_empty()
            || operation.grpc.iter().any(|grpc| {
                let parts: Vec<&str> = http.path.unwrap_or_default().split('/').collect();
                parts.len() == 3
                    && parts[0].is_empty()
                    && grpc.service.as_deref().is_none_or(|name| name == parts[1])
                    && grpc.method.as_deref().is_none_or(|name| name == parts[2])
            }))
}

fn when_holds(when: &When, view: &View<'_>, denies: bool) -> bool {
    match &when.key {
        WhenKey::ServerName => text(&when.values, &when.not_values, view.server_name),
        WhenKey::Header(_) | WhenKey::Claim(_) | WhenKey::Audience | WhenKey::Presenter if view.http.is_none() => {
            denies || when.values.is_empty() && when.not_values.is_empty()
        }
        WhenKey::Claim(path) => {
            let mut value = view.token.and_then(|token| token.claims::<serde_json::Value>());
            for name in path {
                value = value.and_then(|value| value.get(&**name).cloned());
            }
            let values: Vec<String> = match value {
                Some(serde_json::Value::String(text)) => vec![text],
                Some(serde_json::Value::Array(list)) => {
                    list.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect()
                }
                Some(serde_json::Value::Object(_) | serde_json::Value::Null) | None => vec![],
                Some(other) => vec![other.to_string()],
            };
            list(when, &values)
        }
        WhenKey::Audience => {
            let values: Vec<String> =
                view.token.map(|token| token.audiences().map(str::to_owned).collect()).unwrap_or_default();
            list(when, &values)
        }
        WhenKey::Presenter => text(&when.values, &when.not_values, view.token.and_then(|token| token.presenter())),
        WhenKey::Header(name) => {
            let value =
                view.http.as_ref().and_then(|http| http.headers.get(name)).and_then(|value| value.to_str().ok());
            text(&when.values, &when.not_values, value)
        }
    }
}

/// One of several values.
fn list(when: &When, values: &[String]) -> bool {
    let any = |set: &[Text]| values.iter().any(|value| set.iter().any(|text| text.matches(value)));
    (when.values.is_empty() || any(&when.values)) && !any(&when.not_values)
}
