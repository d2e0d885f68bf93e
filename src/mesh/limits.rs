//! The services that count for limits, called as one of the mesh's own.

use std::sync::{Arc, atomic::AtomicU32};

use crate::{
    adapter,
    client::{Client, OwnSeam, Services},
    instrument::Registry,
    limit::{CountLimits, Fleet},
    name::ServiceName,
};

/// Calls are bare: they know connections, endpoints and identity, and no policy that would ask again.
pub(super) fn fleet(registry: &Registry, services: &Services, members: &Arc<AtomicU32>) -> Arc<Fleet> {
    let services = services.clone();
    Fleet::new(registry, Arc::clone(members), move |name: &ServiceName| -> Arc<dyn CountLimits> {
        let client = match services.get(name.as_str()) {
            Ok(handle) => Client::new(OwnSeam::new(&handle)),
            Err(error) => Client::refusing(name.as_str(), error),
        };
        adapter::counting(client)
    })
}
