//! What asks somebody else: the service that decides, and what it is told.

use std::time::Duration;

use http::HeaderName;

use crate::{matching::PatternError, name::ServiceName};

/// An authorization service that is asked about what a rule matches, by Envoy's `ext_authz` protocol.
///
/// It is a service of this mesh (`services`), so it is found, balanced, retried and secured as others are. What it does
/// not answer in time is denied, unless code says otherwise.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct ExtAuthz {
    /// The service of this mesh that is asked.
    pub service: ServiceName,
    /// How. Default gRPC: `envoy.service.auth.v3.Authorization/Check`.
    pub protocol: ExtAuthzProtocol,
    /// How long it may take, all retries included. Default 200 ms, Envoy's.
    pub timeout: Duration,
    /// HTTP only: stands before the path of the request. Default empty.
    pub path_prefix: String,
    /// The headers it is told of. Default: by gRPC all, by HTTP `authorization` only.
    pub headers: Vec<HeaderName>,
    /// HTTP only: the headers of its answer that the application sees, in place of those of the request. Default none.
    pub upstream_headers: Vec<HeaderName>,
    /// The most of the body it is told, in bytes, at most 1 MiB; a request with more is refused with E056. Default 0: nothing, and the body is
    /// not waited for.
    pub max_request_bytes: usize,
    open: bool,
}

/// The protocol of an authorization service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum ExtAuthzProtocol {
    /// `envoy.service.auth.v3.Authorization/Check`. Needs the feature `tonic`.
    #[default]
    Grpc,
    /// The request again, without its body: 200 allows.
    Http,
}

/// The most of a body that may be asked for.
pub(crate) const MAX_BODY: u32 = 1024 * 1024;

impl ExtAuthz {
    /// Asks this service by gRPC.
    ///
    /// # Errors
    /// If the name is none.
    pub fn new(service: &str) -> Result<Self, PatternError> {
        let name = ServiceName::new(service).map_err(|error| PatternError::new(service, error.to_string()))?;
        Ok(Self::of(name))
    }

    pub(crate) fn of(service: ServiceName) -> Self {
        Self {
            service,
            protocol: ExtAuthzProtocol::Grpc,
            timeout: Duration::from_millis(200),
            path_prefix: String::new(),
            headers: Vec::new(),
            upstream_headers: Vec::new(),
            max_request_bytes: 0,
            open: false,
        }
    }

    /// Envoy's `failure_mode_allow`: what cannot be asked is allowed, with the header `x-envoy-auth-failure-mode-allowed:
    /// true`. Whoever can keep the service from answering is then authorized, so no file can say it. Default `false`.
    #[must_use]
    pub fn failure_mode_allow(mut self, open: bool) -> Self {
        self.open = open;
        self
    }

    pub(crate) fn fails_open(&self) -> bool {
        self.open
    }
}
