//! Changing what a request asks for.

use http::{
    HeaderValue, Request, Response, Uri,
    header::{HOST, LOCATION},
    uri::{Authority, PathAndQuery},
};

use super::{PathRewrite, Redirect, Rewrite};
use crate::error::{Code, Error};

/// Applies a rewrite; `prefix` is what the route's prefix match matched.
pub(crate) fn apply_rewrite<B>(rewrite: &Rewrite, prefix: Option<&str>, request: &mut Request<B>) -> Result<(), Error> {
    let mut parts = request.uri().clone().into_parts();
    if let Some(path) = &rewrite.path {
        let new = path_and_query(path, prefix, request.uri());
        parts.path_and_query = Some(PathAndQuery::try_from(new).map_err(|error| invalid("path", error))?);
    }
    if let Some(host) = &rewrite.host {
        let authority = Authority::try_from(host.as_bytes()).map_err(|error| invalid("host", error))?;
        request.headers_mut().remove(HOST);
        parts.scheme.get_or_insert(http::uri::Scheme::HTTP);
        parts.authority = Some(authority);
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(PathAndQuery::from_static("/"));
        }
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| invalid("URI", error))?;
    Ok(())
}

fn invalid(what: &str, error: impl Into<crate::error::BoxError>) -> Error {
    Error::new(Code::BadRequest, format!("the route's rewrite makes no valid {what}")).with_source(error)
}

/// `ReplaceFullPath` and `ReplacePrefixMatch` of the Gateway API; the query is kept.
fn path_and_query(rewrite: &PathRewrite, prefix: Option<&str>, uri: &Uri) -> String {
    let mut path = match rewrite {
        PathRewrite::Full(path) => path.clone(),
        PathRewrite::Prefix(new) => {
            let rest = uri.path().strip_prefix(prefix.unwrap_or_default()).unwrap_or_else(|| uri.path());
            let rest = rest.trim_start_matches('/');
            let new = new.trim_end_matches('/');
            match (new.is_empty(), rest.is_empty()) {
                (true, _) => format!("/{rest}"),
                (false, true) if uri.path().ends_with('/') && uri.path().len() > prefix.map_or(0, str::len) => {
                    format!("{new}/")
                }
                (false, true) => new.to_owned(),
                (false, false) => format!("{new}/{rest}"),
            }
        }
    };
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// The redirect's response. Parts the redirect leaves open are those of the request.
pub(crate) fn redirect_response(
    redirect: &Redirect,
    prefix: Option<&str>,
    uri: &Uri,
    host: Option<&str>,
) -> Result<Response<()>, Error> {
    let scheme = redirect.scheme.as_deref().or_else(|| uri.scheme_str()).unwrap_or("http");
    let (own_host, own_port) = match host.map(|host| (crate::matching::host_of(host), host)) {
        Some((name, whole)) => (name, whole.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')?.parse().ok())),
        None => ("", None),
    };
    let name = redirect.host.as_deref().unwrap_or(own_host);
    let default = if scheme == "https" { 443 } else { 80 };
    // A redirect to another scheme goes to that scheme's own port unless it names one.
    let port: Option<u16> = redirect.port.or(if redirect.scheme.is_some() { None } else { own_port });
    let port = port.filter(|port| *port != default).map(|port| format!(":{port}")).unwrap_or_default();
    let path = match &redirect.path {
        Some(rewrite) => path_and_query(rewrite, prefix, uri),
        None => uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
    };
    let location = if name.is_empty() { path } else { format!("{scheme}://{name}{port}{path}") };
    let mut response = Response::new(());
    *response.status_mut() = redirect.status;
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::try_from(location).map_err(|error| invalid("location", error))?);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_tables_it() {
        for (path, prefix, new, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar?a=b", "/foo", "/xyz", "/xyz/bar?a=b"),
        ] {
            let got = path_and_query(&PathRewrite::Prefix(new.into()), Some(prefix), &path.parse().unwrap());
            assert_eq!(got, expected, "{path} {prefix} {new}");
        }
    }

    #[test]
    fn a_redirect_drops_its_schemes_own_port() {
        let redirect = |redirect: Redirect, uri: &str, host: &str| {
            let response = redirect_response(&redirect, None, &uri.parse().unwrap(), Some(host)).unwrap();
            response.headers()[LOCATION].to_str().unwrap().to_owned()
        };
        let https = Redirect { scheme: Some("https".into()), ..Redirect::default() };
        assert_eq!(redirect(https.clone(), "/a?b", "example.com:8080"), "https://example.com/a?b");
        let port = Redirect { port: Some(443), ..https };
        assert_eq!(redirect(port, "/a", "example.com"), "https://example.com/a");
        assert_eq!(redirect(Redirect::default(), "/a", "example.com:8080"), "http://example.com:8080/a");
    }
}
