//! How the server stack asks services of the mesh, and what makes of a configuration who may ask for what.

use std::sync::{Arc, Weak};

use http::Request;

use super::control::Inner;
use crate::{
    body::Body,
    client::{Client, ServiceSeam},
    error::{Code, Error},
    model::Snapshot,
    name::ServiceName,
    server::{Access, Ask, Asked},
};

/// A service by its name. It does not keep the mesh alive that asks by it.
struct Service {
    mesh: Weak<Inner>,
    name: ServiceName,
}

impl Ask for Service {
    fn ask(&self, request: Request<Body>) -> Asked {
        let Some(inner) = self.mesh.upgrade() else {
            let ended = Error::new(Code::LocalDraining, "the mesh has ended");
            return Box::pin(std::future::ready(Err(ended)));
        };
        match inner.services.get(self.name.as_str()) {
            Ok(handle) => {
                let client = Client::new(ServiceSeam { handle, join: inner.join(), bare: false });
                Box::pin(client.send(request))
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl Inner {
    pub(super) fn access(&self, snapshot: &Snapshot) -> Access {
        let log = snapshot.inbound.audit_log.as_ref();
        let audit = self.audit.set(log, snapshot.mesh.service.as_str(), &self.registry, &self.readiness);
        Access::new(snapshot, &self.registry, audit, |name| {
            Arc::new(Service { mesh: Weak::clone(&self.this), name: name.clone() })
        })
    }
}
