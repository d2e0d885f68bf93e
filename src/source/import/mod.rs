//! Policies of other systems, read as ours: Istio's, Envoy's RBAC filter, gRPC's authorization policies (gRFC A43).
//!
//! All or nothing: a field that is not known, or one whose meaning cannot be kept, fails the whole import by name and
//! place, because a policy without one of its conditions is another policy. What is imported is given to
//! [`Builder::authz`](crate::Builder::authz), [`Builder::authn`](crate::Builder::authn) or, to be held besides everything
//! else, [`Builder::pin_authz`](crate::Builder::pin_authz).

mod envoy;
mod grpc;
mod istio;
mod tree;

#[cfg(test)]
mod compiled;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use self::{
    envoy::envoy_rbac,
    grpc::grpc_authz,
    istio::{Istio, Workload, istio},
};

use std::fmt;

/// Why a policy was not imported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImportError {
    path: String,
    message: String,
}

impl ImportError {
    fn new(path: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { path: path.into(), message: message.to_string() }
    }

    /// Where, as a path into the document.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for ImportError {}
