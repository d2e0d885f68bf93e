//! From what discovery and configuration say to a new table.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
};

use super::{
    Cluster, Dialing,
    endpoint::Endpoint,
    home::ByZone,
    level::{Level, Zones},
    table::{Table, View},
};
use crate::{
    balance::{EndpointSet, Member, Whereabouts, rank, weigh},
    enforcement::Mode,
    model::{Address, EndpointId, EndpointSpec, EndpointUpdate, Labels, ServiceSpec, SetKind, TlsMode},
    rt,
    transport::Dial,
};

/// Up to this many endpoints are connected as soon as they are known, so that the first call finds them ready. Larger
/// sets connect as they are picked.
const EAGER: usize = 100;

/// Every endpoint that is known, by id.
#[derive(Default)]
pub(super) struct Members {
    known: bool,
    kind: SetKind,
    by_id: BTreeMap<EndpointId, Entry>,
}

struct Entry {
    spec: EndpointSpec,
    member: Member<Endpoint>,
}

impl Members {
    pub(super) fn close(self) {
        for entry in self.by_id.values() {
            entry.member.pool.close();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&EndpointSpec, &Member<Endpoint>)> {
        self.by_id.values().map(|entry| (&entry.spec, &entry.member))
    }

    pub(super) fn get(&self, id: &EndpointId) -> Option<&Member<Endpoint>> {
        self.by_id.get(id).map(|entry| &entry.member)
    }

    pub(super) fn kind(&self) -> SetKind {
        self.kind
    }

    pub(super) fn known(&self) -> bool {
        self.known
    }

    fn by_zone(&self) -> ByZone {
        let mut zones = ByZone::new();
        for entry in self.by_id.values() {
            *zones.entry(Arc::clone(&entry.spec.locality.zone)).or_default() += 1;
        }
        zones
    }
}

impl Cluster {
    /// Takes what discovery says.
    pub(crate) fn apply(self: &Arc<Self>, update: EndpointUpdate) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        match update {
            EndpointUpdate::Reset { endpoints, kind } => {
                let mut old = std::mem::take(&mut members.by_id);
                if members.known && members.kind != kind {
                    // A virtual IP is pooled differently: everything is made anew, the old connections end gracefully.
                    for (_, entry) in std::mem::take(&mut old) {
                        entry.member.pool.close();
                    }
                }
                members.known = true;
                members.kind = kind;
                for spec in endpoints {
                    let entry = self.entry(spec, kind, &mut old);
                    members.by_id.insert(entry.spec.id.clone(), entry);
                }
                for entry in old.values() {
                    entry.member.pool.close();
                }
            }
            EndpointUpdate::Upsert(endpoints) => {
                members.known = true;
                let kind = members.kind;
                for spec in endpoints {
                    let entry = self.entry(spec, kind, &mut members.by_id);
                    members.by_id.insert(entry.spec.id.clone(), entry);
                }
            }
            EndpointUpdate::Remove(ids) => {
                for id in ids {
                    if let Some(entry) = members.by_id.remove(&id) {
                        entry.member.pool.close();
                    }
                }
            }
            EndpointUpdate::Unknown => {
                members.known = false;
            }
        }
        let eager = members.by_id.len() <= EAGER;
        if eager {
            for entry in members.by_id.values() {
                entry.member.pool.connect();
            }
        }
        drop(members);
        self.publish();
        self.check_endpoints();
    }

    /// The endpoint of a spec: the one there is, if it listens at the same addresses.
    fn entry(self: &Arc<Self>, spec: EndpointSpec, kind: SetKind, old: &mut BTreeMap<EndpointId, Entry>) -> Entry {
        match old.remove(&spec.id) {
            Some(entry) if entry.spec.addresses == spec.addresses => Entry { spec, member: entry.member },
            other => {
                if let Some(replaced) = other {
                    replaced.member.pool.close();
                }
                let member = Member::new(Endpoint::new(self, &spec, kind, None));
                Entry { spec, member }
            }
        }
    }

    /// Takes a changed configuration. Limits move and keep their counts; connections are made anew only if they would
    /// be different.
    /// `dial` is another one if connections are to be made differently.
    pub(crate) fn update(self: &Arc<Self>, spec: &Arc<ServiceSpec>, dial: Option<Arc<dyn Dial>>) {
        let before = self.policy.swap(Arc::clone(spec));
        let limits = &spec.circuit_breakers;
        self.requests.set_max(limits.max_requests);
        self.requests.set_order(limits.queue);
        self.line.set_order(limits.queue);
        self.pending.set_max(limits.max_pending_requests);
        self.streams.set_max(limits.max_streams);
        self.connections.set_max(limits.max_connections);
        self.places_are_limited.store(limits.per_endpoint.max_requests.is_some(), Relaxed);
        if before.circuit_breakers.per_endpoint != limits.per_endpoint {
            for (_, member) in self.members.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                member.limit(limits.per_endpoint);
            }
        }
        let redial = dial.is_some();
        if let Some(dial) = dial {
            self.dial.store(Arc::new(Dialing(dial)));
        }
        if redial || before.protocol != spec.protocol || before.timeouts.connect != spec.timeouts.connect {
            let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            let kind = members.kind;
            for entry in members.by_id.values_mut() {
                let places = Some(Arc::clone(&entry.member.places));
                let new = Member::new(Endpoint::new(self, &entry.spec, kind, places));
                let old = std::mem::replace(&mut entry.member, new);
                entry.member.inherit(&old);
                old.pool.close();
                entry.member.pool.connect();
            }
        }
        if spec.outlier_detection.enforcement != Mode::Enforce {
            self.pardon();
        }
        self.publish();
        self.check_endpoints();
    }

    /// Builds the table of this moment and swaps it in.
    pub(super) fn publish(&self) {
        // Held while the table is stored, so that an older one never replaces a newer one.
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = self.policy.load();
        let mut subsets = self.subsets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut selectors: Vec<Option<Labels>> = vec![None; subsets.len()];
        for (name, subset) in subsets.iter_mut() {
            if let Some(selector) = policy.subsets.get(name) {
                subset.selector = Some(selector.clone());
            }
            selectors[subset.id.0 as usize].clone_from(&subset.selector);
        }
        drop(subsets);
        let in_process = |entry: &Entry| entry.spec.addresses.iter().all(|at| matches!(at, Address::Memory(_)));
        let member = policy.tls == TlsMode::Mesh || members.by_id.values().all(in_process);
        self.member.store(member, Relaxed);
        self.vip.store(members.kind == SetKind::Vip, Relaxed);
        let table = self.table(&members, &policy, &selectors);
        table.assess(&self.home);
        let heeds_connections = table.heeds_connections();
        self.table.store(Arc::new(table));
        if heeds_connections {
            // What changed in between was told to the table before.
            self.assess();
        }
        self.watch_set(members.kind, members.by_id.len());
        let peers = self.home.is(&self.name).then(|| members.by_zone());
        drop(members);
        if let Some(peers) = peers {
            self.home.set_peers(peers);
        }
        self.tell_waiting();
    }

    fn table(&self, members: &Members, policy: &ServiceSpec, selectors: &[Option<Labels>]) -> Table {
        let keys = &policy.locality.failover_priority;
        let mut by_priority: BTreeMap<(u32, u32), Vec<&Entry>> = BTreeMap::new();
        self.home.with(|own| {
            for entry in members.by_id.values() {
                let spec = &entry.spec;
                let rank = match keys.is_empty() {
                    true => 0,
                    false => rank(keys, own, Whereabouts { locality: &spec.locality, labels: &spec.labels }),
                };
                by_priority.entry((spec.priority, rank)).or_default().push(entry);
            }
        });
        let (slow_start, now) = (&policy.slow_start, self.watch.since_begun(rt::now()));
        let set = |mut members: Vec<(Member<Endpoint>, u32)>| {
            weigh(&mut members, |member| member.warmth.percent(now, slow_start));
            EndpointSet::new(members, policy.load_balancer, &self.cursor)
        };
        let view = |selector: Option<&Labels>, most: usize| {
            let mut view = View::default();
            for ((priority, rank), entries) in &by_priority {
                let chosen = || {
                    let chosen = |entry: &&&Entry| selector.is_none_or(|selector| selects(selector, &entry.spec));
                    // What has no weight gets no calls, and does not count as somebody who could.
                    entries.iter().filter(chosen).filter(|entry| entry.spec.weight > 0)
                };
                let endpoints = set(chosen().map(|entry| (entry.member.clone(), entry.spec.weight)).collect());
                if endpoints.members().len() == 0 {
                    continue;
                }
                let members = chosen().map(|entry| (&entry.spec.locality.zone, &entry.member, entry.spec.weight));
                let factor = policy.failover.overprovisioning_factor;
                let zones = Zones::of(members, &policy.locality.mode, view.levels.is_empty(), factor, set);
                view.levels.push(Level::new(*priority, *rank, endpoints, zones));
                if view.levels.len() == most {
                    break;
                }
            }
            view
        };
        let view = |selector: Option<&Labels>| {
            let mut all = view(selector, usize::MAX);
            if all.levels.len() > 1 && !policy.failover.is_whole() {
                all.kept = Some(Box::new(view(selector, 1)));
            }
            all
        };
        Table {
            known: members.known,
            failover: policy.failover,
            all: view(None),
            // One that was asked for before it was configured has no selector, and no endpoints.
            subsets: selectors
                .iter()
                .map(|selector| selector.as_ref().map(|labels| view(Some(labels))).unwrap_or_default())
                .collect(),
            ..Table::unknown()
        }
    }
}

fn selects(selector: &Labels, spec: &EndpointSpec) -> bool {
    selector.iter().all(|(key, value)| spec.labels.get(key) == Some(value))
}
