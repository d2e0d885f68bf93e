//! Where this process is, and where the other instances of its service are: what zones and priorities are judged from.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;

use super::{Cluster, check::Checks};
use crate::{
    balance::Whereabouts,
    model::{Labels, MeshSpec},
    name::{Locality, ServiceName},
    transport::Dial,
};

/// Instances of a service by zone.
pub(super) type ByZone = BTreeMap<Arc<str>, usize>;

/// Shared by the clusters of a mesh.
pub(crate) struct Home {
    place: ArcSwap<Place>,
    /// What discovery says of the service that this process is an instance of, if it is asked.
    peers: ArcSwap<ByZone>,
    /// How many they are; the last that was known, and 1 before that.
    members: Arc<AtomicU32>,
    clusters: Mutex<Vec<Weak<Cluster>>>,
    checks: Arc<Checks>,
    /// Makes connections without TLS.
    plain: Arc<dyn Dial>,
}

#[derive(Default)]
struct Place {
    service: Option<ServiceName>,
    locality: Locality,
    labels: Arc<Labels>,
}

impl Home {
    /// Nowhere yet. `plain` makes connections without TLS.
    pub(crate) fn new(plain: Arc<dyn Dial>) -> Arc<Self> {
        Arc::new(Self {
            place: ArcSwap::default(),
            peers: ArcSwap::default(),
            members: Arc::new(AtomicU32::new(1)),
            clusters: Mutex::default(),
            checks: Arc::default(),
            plain,
        })
    }

    pub(super) fn plain(&self) -> &Arc<dyn Dial> {
        &self.plain
    }

    /// Takes what the configuration says of this process. True if it says something else than before.
    pub(crate) fn set(&self, mesh: &MeshSpec) -> bool {
        let before = self.place.load();
        let same = before.service.as_ref() == Some(&mesh.service)
            && before.locality == mesh.locality
            && before.labels == mesh.labels;
        if !same {
            self.place.store(Arc::new(Place {
                service: Some(mesh.service.clone()),
                locality: mesh.locality.clone(),
                labels: Arc::clone(&mesh.labels),
            }));
        }
        !same
    }

    /// Another cluster wants to know when something changes.
    pub(super) fn join(&self, cluster: Weak<Cluster>) {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.retain(|cluster| cluster.strong_count() > 0);
        clusters.push(cluster);
    }

    /// Who asks endpoints how they are.
    pub(super) fn checks(&self) -> &Arc<Checks> {
        &self.checks
    }

    /// Whether that is the service this process is an instance of.
    pub(super) fn is(&self, service: &ServiceName) -> bool {
        self.place.load().service.as_ref() == Some(service)
    }

    pub(super) fn zone(&self) -> Arc<str> {
        Arc::clone(&self.place.load().locality.zone)
    }

    /// How many instances of the own service are in a zone; 0 if nobody knows.
    pub(super) fn peers(&self, zone: &str) -> usize {
        self.peers.load().get(zone).copied().unwrap_or_default()
    }

    /// How many instances of the own service share what is divided among them.
    pub(crate) fn members(&self) -> &Arc<AtomicU32> {
        &self.members
    }

    /// Takes what discovery says of the own service.
    pub(super) fn set_peers(&self, peers: ByZone) {
        if **self.peers.load() == peers {
            return;
        }
        if let Ok(members @ 1..) = u32::try_from(peers.values().sum::<usize>()) {
            self.members.store(members, Relaxed);
        }
        self.peers.store(Arc::new(peers));
        let clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for cluster in clusters.iter().filter_map(Weak::upgrade) {
            cluster.assess();
        }
    }

    /// Reads where this process is.
    pub(super) fn with<T>(&self, read: impl FnOnce(Whereabouts<'_>) -> T) -> T {
        let place = self.place.load();
        read(Whereabouts { locality: &place.locality, labels: &place.labels })
    }
}
