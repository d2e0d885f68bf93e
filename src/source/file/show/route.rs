//! A route, as it is written under `routes`.

use http::HeaderName;

use super::{Printer, key, map, quoted, string_match};
use crate::{
    enforcement::Percent,
    matching::PathPattern,
    route::{HeaderChanges, PathRewrite, Route, RouteAction},
    source::duration::format as duration,
};

impl Printer<'_> {
    pub(super) fn route(&mut self, route: &Route, path: &str) {
        self.line(6, &format!("- name: {}", route.name), Some(path));
        let conditions = conditions(route);
        if !conditions.is_empty() {
            self.line(8, &format!("match: {}", map(&conditions)), None);
        }
        match &route.action {
            RouteAction::Forward(targets) => match targets.as_slice() {
                [target] => {
                    if let Some(subset) = &target.subset {
                        self.line(8, &format!("to: {}", quoted(subset.as_str())), None);
                    }
                }
                targets => {
                    let pair = |target: &crate::route::WeightedTarget| {
                        target.subset.as_ref().map(|subset| (quoted(subset.as_str()), target.weight.to_string()))
                    };
                    let pairs: Vec<_> = targets.iter().filter_map(pair).collect();
                    self.line(8, &format!("split: {}", map(&pairs)), None);
                }
            },
            RouteAction::Redirect(redirect) => {
                let mut parts = Vec::new();
                parts.extend(redirect.scheme.as_ref().map(|scheme| ("scheme".to_owned(), scheme.to_string())));
                parts.extend(redirect.host.as_ref().map(|host| ("host".to_owned(), quoted(host))));
                parts.extend(redirect.port.map(|port| ("port".to_owned(), port.to_string())));
                parts.extend(redirect.path.as_ref().map(|path| ("path".to_owned(), path_rewrite(path))));
                parts.push(("status".to_owned(), redirect.status.as_u16().to_string()));
                self.line(8, &format!("redirect: {}", map(&parts)), None);
            }
            RouteAction::Direct(direct) => {
                let body = quoted(&String::from_utf8_lossy(&direct.body));
                self.line(8, &format!("direct_response: {{status: {}, body: {body}}}", direct.status.as_u16()), None);
            }
        }
        let mut parts = Vec::new();
        parts.extend(route.rewrite.path.as_ref().map(|path| ("path".to_owned(), path_rewrite(path))));
        let host = route.rewrite.host.as_ref();
        parts.extend(host.map(|host| ("host".to_owned(), quoted(&String::from_utf8_lossy(host.as_bytes())))));
        if !parts.is_empty() {
            self.line(8, &format!("rewrite: {}", map(&parts)), None);
        }
        for (key, changes) in
            [("request_headers", &route.request_headers), ("response_headers", &route.response_headers)]
        {
            if !changes.is_empty() {
                self.line(8, &format!("{key}: {}", header_changes(changes)), None);
            }
        }
        if let Some(timeout) = route.timeout {
            self.line(8, &format!("timeout: {}", duration(timeout)), None);
        }
    }
}

fn conditions(route: &Route) -> Vec<(String, String)> {
    let matches = &route.matches;
    let mut parts = Vec::new();
    if !matches.hosts.is_empty() {
        let hosts: Vec<String> = matches.hosts.iter().map(|host| quoted(&host.to_string())).collect();
        parts.push(("hosts".to_owned(), format!("[{}]", hosts.join(", "))));
    }
    let path = matches.path.as_ref().map(|path| match path {
        PathPattern::Exact(path) => format!("{{exact: {}}}", quoted(path)),
        PathPattern::Prefix(path) if path.is_empty() => "{prefix: /}".to_owned(),
        PathPattern::Prefix(path) => format!("{{prefix: {}}}", quoted(path)),
        PathPattern::Regex(pattern) => format!("{{regex: {}}}", quoted(pattern.as_str())),
        PathPattern::Template(template) => format!("{{template: {}}}", quoted(template.as_str())),
    });
    parts.extend(path.map(|path| ("path".to_owned(), path)));
    parts.extend(matches.method.as_ref().map(|method| ("method".to_owned(), method.to_string())));
    if !matches.headers.is_empty() {
        let headers: Vec<_> =
            matches.headers.iter().map(|(name, value)| (key(name.as_str()), string_match(value))).collect();
        parts.push(("headers".into(), map(&headers)));
    }
    if !matches.query.is_empty() {
        let query: Vec<_> = matches.query.iter().map(|(name, value)| (key(name), string_match(value))).collect();
        parts.push(("query".into(), map(&query)));
    }
    if let Some(grpc) = &matches.grpc {
        let mut names = Vec::new();
        names.extend(grpc.service.as_ref().map(|name| ("service".to_owned(), quoted(name))));
        names.extend(grpc.method.as_ref().map(|name| ("method".to_owned(), quoted(name))));
        parts.push(("grpc".into(), map(&names)));
    }
    parts
        .extend(matches.fraction.map(|fraction| ("fraction".to_owned(), Percent::of_millionths(fraction).to_string())));
    parts
}

fn path_rewrite(path: &PathRewrite) -> String {
    match path {
        PathRewrite::Full(path) => format!("{{full: {}}}", quoted(path)),
        PathRewrite::Prefix(path) => format!("{{prefix: {}}}", quoted(path)),
    }
}

fn header_changes(changes: &HeaderChanges) -> String {
    let pairs = |pairs: &[(HeaderName, http::HeaderValue)]| {
        let pair = |(name, value): &(HeaderName, http::HeaderValue)| {
            (key(name.as_str()), quoted(&String::from_utf8_lossy(value.as_bytes())))
        };
        map(&pairs.iter().map(pair).collect::<Vec<_>>())
    };
    let mut parts = Vec::new();
    if !changes.set.is_empty() {
        parts.push(("set".to_owned(), pairs(&changes.set)));
    }
    if !changes.add.is_empty() {
        parts.push(("add".to_owned(), pairs(&changes.add)));
    }
    if !changes.remove.is_empty() {
        let names: Vec<String> = changes.remove.iter().map(|name| key(name.as_str())).collect();
        parts.push(("remove".to_owned(), format!("[{}]", names.join(", "))));
    }
    map(&parts)
}
