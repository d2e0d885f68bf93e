//! What a cluster looks like from outside.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, atomic::Ordering::Relaxed},
};

use serde::Serialize;

use super::{Cluster, check::CheckStatus, level::Level};
use crate::{balance::FEWEST, enforcement::Mode, health::Flag, model::SetKind, rt, transport::Readiness};

/// A backend, as [`Mesh::status`](crate::Mesh::status) shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// Whether discovery has spoken yet.
    pub known: bool,
    /// `replicas` or `vip`.
    pub kind: &'static str,
    /// Calls in flight, and the limit on them.
    pub requests: (u32, u32),
    /// Calls that wait for a connection, and the limit on them.
    pub pending: (u32, u32),
    /// Long-lived streams, and the limit on them.
    pub streams: (u32, u32),
    /// What each priority takes, first choice first.
    pub priorities: Vec<PriorityStatus>,
    /// Every endpoint.
    pub endpoints: Vec<EndpointStatus>,
}

/// A priority, as [`Mesh::status`](crate::Mesh::status) shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PriorityStatus {
    /// As configured.
    pub priority: u32,
    /// In how many keys of `locality.failover_priority` its endpoints do not agree with this process.
    pub rank: u32,
    /// Its endpoints, without those of weight 0.
    pub endpoints: usize,
    /// How many of them are usable: nothing speaks against them, and their connections do not fail.
    pub usable: usize,
    /// Of all calls, in per cent. Where failover acts for a share of them only, of that share.
    pub load: u32,
    /// Of its calls by zone, in per cent, where zones are told apart; the rest goes to any.
    pub zones: BTreeMap<String, f64>,
    /// Whether endpoints are used although they are ejected or failed their health checks, because too few are left.
    pub panic: bool,
    /// Whether calls to it fail because too few are left.
    pub refusing: bool,
}

/// An endpoint, as [`Mesh::status`](crate::Mesh::status) shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// Its id: by default its address.
    pub id: String,
    /// `idle`, `connecting`, `ready` or `transient_failure`.
    pub state: &'static str,
    /// What is known about its health: `ejected`, `health_check_failed`, `draining`, `probation`. Empty for a good one.
    pub health: Vec<&'static str>,
    /// The same for people: since when, for how long, and why.
    pub health_account: Option<String>,
    /// The average of its last fifty calls or so: 1 if all went well, or if there were none for long.
    pub success_rate: f64,
    /// What active health checks say of it.
    pub health_checks: Vec<CheckStatus>,
    /// Attempts in flight.
    pub in_flight: u32,
    /// Calls that have a place there, and how many there are: `circuit_breakers.per_endpoint.max_requests`, if it is set.
    pub places: Option<(u32, u32)>,
    /// Relative share of traffic.
    pub weight: u32,
    /// What it has of that, in per cent, while it is new: `load_balancer.slow_start`.
    pub slow_start_percent: Option<u32>,
    /// 0 is used first.
    pub priority: u32,
    /// Its zone; empty if nobody says.
    pub zone: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Why the last connection failed, if none is there now.
    pub last_error: Option<String>,
}

impl Cluster {
    pub(crate) fn status(&self) -> ClusterStatus {
        let (now, slow_start) = (rt::now(), self.policy.load().slow_start);
        let limited = self.places_are_limited();
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, slowly) = (self.watch.since_begun(now), members.iter().count() >= FEWEST);
        let mut endpoints: Vec<EndpointStatus> = members
            .iter()
            .map(|(spec, member)| EndpointStatus {
                id: spec.id.to_string(),
                state: state(member.pool.readiness()),
                health: member.availability.names().collect(),
                health_account: member.account(now),
                success_rate: member.success_rate(self.watch.since_begun(now)),
                health_checks: Vec::new(),
                in_flight: member.in_flight(),
                places: limited.then(|| (member.places.used(), member.places.max())),
                weight: spec.weight,
                slow_start_percent: member.warmth.percent(since, &slow_start).filter(|_| slowly),
                priority: spec.priority,
                zone: spec.locality.zone.to_string(),
                labels: spec.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
                last_error: member.pool.last_error().map(|(text, _)| text.to_string()),
            })
            .collect();
        let (known, kind) = (members.known(), members.kind());
        // What checks say is under a lock that is taken before this one.
        drop(members);
        if self.boards.are_any() {
            for endpoint in &mut endpoints {
                endpoint.health_checks = self.boards.status(&endpoint.id);
            }
        }
        ClusterStatus {
            known,
            kind: match kind {
                SetKind::Replicas => "replicas",
                SetKind::Vip => "vip",
            },
            requests: (self.requests.used(), self.requests.max()),
            pending: (self.pending.used(), self.pending.max()),
            streams: (self.streams.used(), self.streams.max()),
            priorities: self.priorities(),
            endpoints,
        }
    }

    fn priorities(&self) -> Vec<PriorityStatus> {
        let table = self.table.load();
        // As it is for most calls.
        let kept = table.all.kept.as_ref().filter(|_| table.failover.enforcement != Mode::Enforce);
        let first = kept.and_then(|kept| kept.levels.first());
        let mut before = 0;
        let status = |(index, level): (usize, &Level)| {
            let level = first.filter(|_| index == 0).unwrap_or(level);
            let upto = if first.is_some() { 100 } else { level.upto.load(Relaxed) };
            let count = level.tally().count;
            PriorityStatus {
                priority: level.priority,
                rank: level.rank,
                endpoints: count.total,
                usable: count.usable,
                load: upto.saturating_sub(std::mem::replace(&mut before, upto)),
                zones: level.shares().map(|(zone, share)| (zone.to_owned(), share)).collect(),
                panic: level.in_panic(),
                refusing: level.is_refusing(),
            }
        };
        table.all.levels.iter().enumerate().map(status).collect()
    }

    /// Sets the gauges that are counted rather than kept.
    pub(crate) fn report(&self) {
        let mut counts = [0i64; 4];
        let mut doubted: BTreeMap<_, _> = Flag::names().map(|name| (name, 0i64)).collect();
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, member) in members.iter() {
            counts[member.pool.readiness() as usize] += 1;
            for name in member.availability.names() {
                *doubted.entry(name).or_default() += 1;
            }
        }
        drop(members);
        self.report_priorities();
        for (health, count) in doubted {
            let labels = [("service", self.name.as_str()), ("health", health)];
            self.registry.gauge("sinew_endpoints_doubted", &labels).set(count);
        }
        for readiness in [Readiness::Idle, Readiness::Connecting, Readiness::Ready, Readiness::TransientFailure] {
            let labels = [("service", self.name.as_str()), ("state", state(readiness))];
            self.registry.gauge("sinew_endpoints", &labels).set(counts[readiness as usize]);
        }
    }
}

impl Cluster {
    fn report_priorities(&self) {
        let priorities = self.priorities();
        // Those that are gone take nothing from now on.
        let known = self.reported.fetch_max(priorities.len(), Relaxed).max(priorities.len());
        for index in 0..known {
            let (load, panic) = priorities.get(index).map_or((0, false), |priority| (priority.load, priority.panic));
            let number = index.to_string();
            let labels = [("service", self.name.as_str()), ("priority", number.as_str())];
            self.registry.gauge("sinew_priority_load_percent", &labels).set(load.into());
            self.registry.gauge("sinew_priority_in_panic", &labels).set(panic.into());
        }
    }
}

fn state(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Idle => "idle",
        Readiness::Connecting => "connecting",
        Readiness::Ready => "ready",
        Readiness::TransientFailure => "transient_failure",
    }
}
