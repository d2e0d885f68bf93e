//! Where configuration comes from: builder and file, one store, one snapshot.
//!
//! Each source translates its wire form into a partial document; the store lays them over each other. Nothing outside
//! this room knows where a value came from, except as data (`model::Provenance`).

mod authn;
mod authz;
pub(crate) mod builder;
mod check;
mod document;
pub(crate) mod duration;
mod failover;
#[cfg(feature = "file")]
pub(crate) mod file;
mod floor;
mod health;
#[cfg(feature = "file")]
pub(crate) mod import;
mod limits;
mod order;
mod outlier;
mod resolve;
mod retry;
mod security;
mod store;
mod switches;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    floor::lowered,
    store::{Rejection, Store, Update},
};

use std::sync::Arc;

use crate::name::RouteName;

#[cfg(feature = "file")]
use self::file::suggest::or_list as suggest_or_list;

/// What is known, where suggesting the likeliest needs the feature `file`.
#[cfg(not(feature = "file"))]
fn suggest_or_list(_word: &str, known: &[&str], what: &str, none: &str) -> String {
    if known.is_empty() { none.to_owned() } else { format!("{what}: {}", known.join(", ")) }
}

/// Keys of the document that a policy of the user's own cannot have as its name.
pub(crate) const RESERVED: &[&str] = &[
    "adaptive_concurrency",
    "authn",
    "authz",
    "circuit_breakers",
    "direct_response",
    "endpoints",
    "fault",
    "health_checks",
    "hedge",
    "hosts",
    "identities",
    "jwt_svid",
    "load_balancer",
    "load_shed",
    "locality",
    "match",
    "mirror",
    "name",
    "outlier_detection",
    "protocol",
    "rate_limit",
    "redirect",
    "request_headers",
    "response_headers",
    "retry",
    "rewrite",
    "routes",
    "split",
    "subsets",
    "throttle",
    "timeout",
    "timeouts",
    "tls",
    "to",
];

/// Whether a policy may be registered under this name.
///
/// # Errors
/// If it is a key of the document already, or not snake_case.
pub(crate) fn check_policy_name(name: &str) -> Result<(), String> {
    if RESERVED.contains(&name) {
        return Err(format!("`{name}` is a key of the configuration already: choose another name for the policy"));
    }
    let snake = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !snake {
        return Err(format!("`{}` is not the name of a policy: write it in snake_case", name.escape_debug()));
    }
    Ok(())
}

/// The name of a route that has none: by its place, from 1.
fn unnamed_route(index: usize) -> RouteName {
    match RouteName::new(format!("route-{}", index + 1)) {
        Ok(name) => name,
        Err(_) => unreachable!("letters, a hyphen and digits are a name"),
    }
}

/// Splits `NAME:PORT`; the port may be absent where SRV records give it.
///
/// # Errors
/// What is wrong, and the cure.
pub(crate) fn dns_name(text: &str) -> Result<(Arc<str>, Option<u16>), (String, String)> {
    let quoted = text.escape_debug();
    if text.parse::<std::net::IpAddr>().is_ok() || text.parse::<std::net::SocketAddr>().is_ok() {
        return Err((format!("`{quoted}` is an address, not a name"), format!("write `static: [\"{text}\"]`")));
    }
    if text.contains("://") {
        return Err((format!("`{quoted}` is a URL, not a name"), "write `NAME:PORT` without scheme and path".into()));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => match port.parse::<u16>() {
            Ok(port) if port > 0 => (name, Some(port)),
            _ => return Err((format!("`{quoted}` has no usable port"), "the port is 1 to 65535: `NAME:PORT`".into())),
        },
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.len() > 253 || !bare.split('.').all(label) {
        return Err((format!("`{quoted}` is not a DNS name"), "write `NAME:PORT`, such as `reviews.prod:9080`".into()));
    }
    if port.is_none() && !name.starts_with('_') {
        return Err((
            format!("`{quoted}` has no port"),
            format!("write `{text}:PORT`, or ask for SRV records: `_grpc._tcp.{text}`"),
        ));
    }
    Ok((name.into(), port))
}
