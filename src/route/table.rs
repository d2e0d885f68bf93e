//! Finding the route of a request.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri, header::HOST};
use percent_encoding::percent_decode_str;

use super::{Route, RouteMatch, WeightedTarget};
use crate::rt::Rng;

/// The rules of one service, in evaluation order.
///
/// Rules are tried one after the other: with the few that services have, an index costs more than it saves.
#[derive(Clone, Debug)]
pub struct RouteTable {
    routes: Arc<[Arc<Route>]>,
}

impl RouteTable {
    /// A table of rules that are in evaluation order already.
    pub fn new(routes: &[Arc<Route>]) -> Self {
        Self { routes: routes.into() }
    }

    /// The index of the first rule that matches. A rule with a `fraction` matches that share of what it describes.
    pub fn find(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<usize> {
        self.routes.iter().position(|route| matches(&route.matches, method, uri, headers))
    }
}

fn matches(rule: &RouteMatch, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    rule.method.as_ref().is_none_or(|wanted| wanted == method)
        && rule.path.as_ref().is_none_or(|pattern| pattern.matches(uri.path()))
        && (rule.hosts.is_empty() || {
            let host = uri.authority().map(|authority| authority.as_str());
            let host = host.or_else(|| headers.get(HOST).and_then(|host| host.to_str().ok()));
            host.is_some_and(|host| rule.hosts.iter().any(|pattern| pattern.matches(host)))
        })
        && rule.grpc.as_ref().is_none_or(|grpc| {
            let mut parts = uri.path().strip_prefix('/').unwrap_or_default().splitn(2, '/');
            let (service, name) = (parts.next().unwrap_or_default(), parts.next());
            name.is_some_and(|name| {
                grpc.service.as_ref().is_none_or(|wanted| wanted == service)
                    && grpc.method.as_ref().is_none_or(|wanted| wanted == name)
            })
        })
        && rule.headers.iter().all(|(name, wanted)| {
            let mut values = headers.get_all(name).iter().peekable();
            if values.peek().is_none() {
                return wanted.matches(None);
            }
            values.any(|value| value.to_str().is_ok_and(|value| wanted.matches(Some(value))))
        })
        && (rule.query.is_empty() || query_matches(rule, uri.query().unwrap_or_default()))
        && rule.fraction.is_none_or(|millionths| Rng::local().below(1_000_000) < millionths)
}

fn query_matches(rule: &RouteMatch, query: &str) -> bool {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect();
    rule.query.iter().all(|(name, wanted)| {
        // The first of repeated parameters counts (Gateway API).
        wanted.matches(pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()))
    })
}

/// The index of a target, by weight. The last one if all weights are 0, which validation refuses.
pub fn choose(targets: &[WeightedTarget]) -> usize {
    let total: u64 = targets.iter().map(|target| u64::from(target.weight)).sum();
    let Some(mut ticket) = Rng::local_u64().checked_rem(total) else { return targets.len().saturating_sub(1) };
    for (index, target) in targets.iter().enumerate() {
        match ticket.checked_sub(u64::from(target.weight)) {
            Some(rest) => ticket = rest,
            None => return index,
        }
    }
    targets.len().saturating_sub(1)
}
