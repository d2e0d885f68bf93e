//! The order in which routes are tried, and which of them can never be reached.
//!
//! The more specific rule wins wherever it stands, so that a file can be sorted for its readers: exact path, template
//! with more literal segments, longest prefix, regex, none; then method, number of headers, number of query
//! parameters, then the order of the document. A gRPC match is a path: both names are an exact one, a service is a
//! prefix, a method alone is a pattern. The price is that a rule's rank is not visible from its line; `sinew config
//! show` prints the order.

use std::cmp::Reverse;

use crate::{
    matching::PathPattern,
    route::{Route, RouteMatch},
};

/// Ascending is the order of evaluation; equal ranks keep the order of the document.
pub(crate) fn rank(route: &Route) -> impl Ord + use<> {
    let matches = &route.matches;
    let path = match (&matches.path, &matches.grpc) {
        (Some(PathPattern::Exact(_)), _) => (0, Reverse(0)),
        (Some(PathPattern::Template(template)), _) => (1, Reverse(template.literal_segments())),
        (Some(PathPattern::Prefix(prefix)), _) => (2, Reverse(prefix.len())),
        (Some(PathPattern::Regex(_)), _) => (3, Reverse(0)),
        (None, Some(grpc)) => match (&grpc.service, &grpc.method) {
            (Some(_), Some(_)) => (0, Reverse(0)),
            (Some(service), None) => (2, Reverse(service.len() + 1)),
            (None, _) => (3, Reverse(0)),
        },
        (None, None) => (4, Reverse(0)),
    };
    (path, Reverse(matches.method.is_some()), Reverse(matches.headers.len()), Reverse(matches.query.len()))
}

/// Whether every request that `later` matches is taken by `earlier`. Errs on the side of no.
pub(crate) fn shadows(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    let subset = |a: &[_], b: &[_]| a.iter().all(|condition| b.contains(condition));
    earlier.fraction.is_none()
        && (earlier.hosts.is_empty()
            || (!later.hosts.is_empty() && later.hosts.iter().all(|h| earlier.hosts.contains(h))))
        && path_covers(earlier, later)
        && (earlier.method.is_none() || earlier.method == later.method)
        && subset(&earlier.headers, &later.headers)
        && earlier.query.iter().all(|condition| later.query.contains(condition))
}

fn path_covers(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    if earlier.path.is_none() && earlier.grpc.is_none() {
        return true;
    }
    if earlier.path == later.path && earlier.grpc == later.grpc {
        return true;
    }
    match (&earlier.path, &later.path) {
        (Some(prefix @ PathPattern::Prefix(_)), Some(PathPattern::Exact(path) | PathPattern::Prefix(path))) => {
            prefix.matches(path)
        }
        _ => false,
    }
}
