//! The whole request.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::HOST,
    uri::{PathAndQuery, Scheme},
};

use super::{Ambiguous, Authority, PathNormalization, normalize::normalize, path};

/// What patterns see of a request where that is not what stands in it. Nothing in the common case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Canonical {
    /// The path, percent-decoded once.
    decoded: Option<Box<str>>,
}

impl Canonical {
    /// The path without its query, as patterns see it.
    pub(crate) fn path<'a>(&'a self, uri: &'a Uri) -> &'a str {
        self.decoded.as_deref().unwrap_or_else(|| uri.path())
    }
}

/// Checks that a request means one thing, and rewrites its path where `level` says so.
///
/// # Errors
/// What is ambiguous about it.
pub(crate) fn canonicalize<B>(
    request: &mut Request<B>,
    grpc: bool,
    level: PathNormalization,
) -> Result<Canonical, Ambiguous> {
    authority(request.uri(), request.headers(), request.version(), request.method())?;
    let uri = request.uri();
    if *request.method() == Method::CONNECT && uri.scheme().is_none() {
        // A tunnel has a host and no path.
        return match uri.authority() {
            Some(_) => Ok(Canonical::default()),
            None => Err(Ambiguous::target("CONNECT names no host")),
        };
    }
    let path = uri.path();
    if path == "*" {
        return match *request.method() {
            Method::OPTIONS => Ok(Canonical::default()),
            _ => Err(Ambiguous::target("`*` is for OPTIONS only")),
        };
    }
    if uri.scheme().is_none() && uri.authority().is_some() || path.is_empty() {
        return Err(Ambiguous::target("it is a host and not a path"));
    }
    if grpc && !path::is_grpc_method(path) {
        return Err(Ambiguous::path("a gRPC call's path is `/package.Service/Method`"));
    }
    match level {
        PathNormalization::Strict => path::strict(path).map(|decoded| Canonical { decoded }),
        level => {
            if let Cow::Owned(path) = normalize(path, level)? {
                rewrite(request.uri_mut(), &path)?;
            }
            Ok(Canonical::default())
        }
    }
}

/// The host that a request is for, if it names one. The request was checked before.
pub(crate) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<Authority<'a>> {
    host_of(uri, headers.get(HOST))
}

/// The same, by the value of the Host header.
pub(crate) fn host_of<'a>(uri: &'a Uri, host: Option<&'a HeaderValue>) -> Option<Authority<'a>> {
    let text = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => host?.to_str().ok()?,
    };
    Authority::parse(text, uri.scheme_str()).ok()
}

/// A WebSocket over HTTP/2 is a CONNECT with a protocol and a path; over HTTP/1.1 it is a GET. Rules see one method.
pub(crate) fn method<'a>(method: &'a Method, uri: &Uri) -> &'a Method {
    let extended = *method == Method::CONNECT && uri.scheme().is_some();
    if extended { &Method::GET } else { method }
}

fn authority(uri: &Uri, headers: &HeaderMap, version: Version, method: &Method) -> Result<(), Ambiguous> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Ambiguous::host("there is more than one Host header"));
    }
    if host.is_none() && version == Version::HTTP_11 {
        return Err(Ambiguous::host("HTTP/1.1 needs a Host header"));
    }
    let scheme = uri.scheme();
    let own = match uri.authority() {
        Some(own) => Some(Authority::parse(own.as_str(), scheme.map(Scheme::as_str))?),
        None => None,
    };
    let Some(host) = host else { return Ok(()) };
    let Ok(host) = host.to_str() else { return Err(Ambiguous::host("it is not ASCII")) };
    match own {
        // The same bytes mean the same.
        Some(_) if uri.authority().is_some_and(|own| own.as_str() == host) => Ok(()),
        Some(own) => {
            let other = Authority::parse(host, scheme.map(Scheme::as_str))?;
            // A tunnel's port is where it leads, which Host need not say.
            if own == other || *method == Method::CONNECT && own.host == other.host {
                return Ok(());
            }
            Err(Ambiguous::host("the target and the Host header name different hosts"))
        }
        None if host.is_empty() => Ok(()),
        None => Authority::parse(host, None).map(|_| ()),
    }
}

fn rewrite(uri: &mut Uri, path: &str) -> Result<(), Ambiguous> {
    let unfit = |_| Ambiguous::path("normalized it is not a path");
    let path_and_query = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path_and_query.map_err(unfit)?);
    *uri = Uri::from_parts(parts).map_err(|_| Ambiguous::path("normalized it is not a path"))?;
    Ok(())
}
