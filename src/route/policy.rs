//! Routing rules as validated data.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::{
    matching::{HostPattern, PathPattern, StringMatch},
    name::{RouteName, SubsetName},
};

/// One rule of a service: what it matches and what it does.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Route {
    /// Unique within the service; shown in status, metrics and errors.
    pub name: RouteName,
    /// All of it must hold.
    pub matches: RouteMatch,
    /// What happens to the request.
    pub action: RouteAction,
    /// Changes to path and host before the request is sent.
    pub rewrite: Rewrite,
    /// Changes to the request's headers.
    pub request_headers: HeaderChanges,
    /// Changes to the response's headers.
    pub response_headers: HeaderChanges,
    /// The whole call's timeout in place of the service's.
    pub timeout: Option<Duration>,
}

impl Route {
    /// A rule without conditions or changes.
    pub fn new(name: RouteName, action: RouteAction) -> Self {
        Self {
            name,
            matches: RouteMatch::default(),
            action,
            rewrite: Rewrite::default(),
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
            timeout: None,
        }
    }
}

/// The conditions of a route. Empty parts hold for every request.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct RouteMatch {
    /// Any of these hosts.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: Option<PathPattern>,
    /// The method.
    pub method: Option<Method>,
    /// All of these headers.
    pub headers: Vec<(HeaderName, StringMatch)>,
    /// All of these query parameters.
    pub query: Vec<(String, StringMatch)>,
    /// gRPC service and method.
    pub grpc: Option<GrpcMatch>,
    /// Holds for this share of requests, in millionths; the rest falls through to the next rule.
    pub fraction: Option<u32>,
}

/// A gRPC call by its names. Applies to requests whose path is `/service/method`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GrpcMatch {
    /// The full service name, `package.Service`.
    pub service: Option<String>,
    /// The method name.
    pub method: Option<String>,
}

/// What a route does with a request.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum RouteAction {
    /// Send to one of these, chosen once per call by weight. A weight of 0 gets nothing.
    Forward(Vec<WeightedTarget>),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with this.
    Direct(DirectResponse),
}

/// A destination of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WeightedTarget {
    /// Relative to the other targets' weights.
    pub weight: u32,
    /// A subset of the service, or all of it.
    pub subset: Option<SubsetName>,
}

impl WeightedTarget {
    /// A destination with its weight.
    pub fn new(subset: Option<SubsetName>, weight: u32) -> Self {
        Self { weight, subset }
    }
}

/// Changes to path and host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Rewrite {
    /// The new path.
    pub path: Option<PathRewrite>,
    /// The new authority.
    pub host: Option<HeaderValue>,
}

/// How a path changes. The query is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PathRewrite {
    /// Replace the whole path.
    Full(String),
    /// Replace what `path: {prefix: ..}` matched.
    Prefix(String),
}

/// Changes to headers, in the order of the Gateway API: set, add, remove.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct HeaderChanges {
    /// Replaces all values.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appends a value.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes all values.
    pub remove: Vec<HeaderName>,
}

impl HeaderChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// A redirect (Gateway API `requestRedirect`). Absent parts are those of the request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// The host.
    pub host: Option<Arc<str>>,
    /// The port; dropped where it is the scheme's own.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308. Default 302.
    pub status: StatusCode,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND }
    }
}

/// An answer given by the route itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// At most 4 KiB.
    pub body: bytes::Bytes,
}

impl DirectResponse {
    /// An answer with this status and body.
    pub fn new(status: StatusCode, body: impl Into<bytes::Bytes>) -> Self {
        Self { status, body: body.into() }
    }
}
