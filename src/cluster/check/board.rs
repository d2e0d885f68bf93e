//! What a cluster makes of the checks of its endpoints.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;

use super::checker::{Listen, Report, Subscription, Target};
use crate::{
    cluster::{Cluster, endpoint::Endpoint},
    enforcement::Mode,
    health::{Finding, Flag, HealthCheck, Status},
    instrument::{Counter, Registry},
    model::{EndpointId, SetKind},
    rt::{Instant, Rng},
};

/// One check of an endpoint, as [`Mesh::status`](crate::Mesh::status) shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CheckStatus {
    /// `http`, `grpc` or `tcp`.
    pub kind: &'static str,
    /// `unknown`, `healthy` or `unhealthy`.
    pub status: &'static str,
    /// What was wrong at the last check; empty if nothing was, or nobody has looked yet.
    pub last: String,
}

/// Counters of checks.
pub(in crate::cluster) struct CheckSeries {
    /// By kind, then by finding.
    counters: Vec<Vec<Counter>>,
}

const KINDS: [&str; 3] = ["http", "grpc", "tcp"];

impl CheckSeries {
    pub(in crate::cluster) fn new(registry: &Registry, service: &str) -> Self {
        let counter = |kind: &str, finding: Finding| {
            let labels = [("service", service), ("kind", kind), ("result", finding.as_str())];
            registry.counter("sinew_health_checks_total", &labels)
        };
        let of = |kind: &str| Finding::ALL.iter().map(|finding| counter(kind, *finding)).collect();
        Self { counters: KINDS.iter().map(|kind| of(kind)).collect() }
    }

    fn count(&self, kind: &str, finding: Finding) {
        let index = KINDS.iter().position(|known| *known == kind);
        if let Some(counter) = index.and_then(|index| self.counters.get(index)?.get(finding as usize)) {
            counter.inc();
        }
    }
}

/// The endpoints under checks.
#[derive(Default)]
pub(in crate::cluster) struct Boards {
    by_id: Mutex<BTreeMap<EndpointId, Board>>,
    /// Whether there are checks at all.
    any: AtomicBool,
    traffic: Mutex<Traffic>,
}

/// Attempts when last looked, and since when there are no more.
#[derive(Default)]
struct Traffic {
    attempts: u64,
    last: Option<Instant>,
}

/// One endpoint.
struct Board {
    rows: Vec<Row>,
    /// It is not used: it joined others, and nobody has seen it well yet.
    new: bool,
}

struct Row {
    subscription: Subscription,
    status: Status,
    last: Arc<str>,
    /// It is unhealthy, and by `percentage` calls do not heed it.
    let_be: bool,
    /// The status was not followed: of one endpoint, of a virtual IP, or of the last one that is usable.
    spared: bool,
}

impl Boards {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Board>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::cluster) fn are_any(&self) -> bool {
        self.any.load(Relaxed)
    }

    pub(in crate::cluster) fn status(&self, id: &str) -> Vec<CheckStatus> {
        let boards = self.lock();
        let row = |row: &Row| CheckStatus {
            kind: row.subscription.target().check.kind.as_str(),
            status: row.status.as_str(),
            last: row.last.to_string(),
        };
        boards.get(id).map(|board| board.rows.iter().map(row).collect()).unwrap_or_default()
    }

    pub(in crate::cluster) fn clear(&self) {
        // Subscriptions end without the lock: they take others.
        let boards = std::mem::take(&mut *self.lock());
        drop(boards);
    }
}

/// One row of a board, to be filled in.
struct Place {
    cluster: Weak<Cluster>,
    id: EndpointId,
    row: usize,
}

impl Listen for Place {
    fn told(&self, report: &Report) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.checked(&self.id, self.row, report);
        }
    }

    fn has_traffic(&self, now: Instant, within: Duration) -> bool {
        self.cluster.upgrade().is_some_and(|cluster| cluster.has_traffic(now, within))
    }
}

impl Cluster {
    /// Has the endpoints checked that are there now, as the configuration says now. What is known of an endpoint stays
    /// with its id.
    pub(in crate::cluster) fn check_endpoints(&self) {
        let policy = self.policy.load();
        let mut boards = self.boards.lock();
        if policy.health_checks.is_empty() && boards.is_empty() {
            return;
        }
        self.boards.any.store(!policy.health_checks.is_empty(), Relaxed);
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let dial = Arc::clone(&self.dial.load().0);
        let dial = |check: &HealthCheck| if check.plaintext { self.home.plain() } else { &dial };
        let mut before = std::mem::take(&mut *boards);
        // Until somebody has seen an endpoint well, nobody is new.
        let joins = before.values().any(|board| board.rows.iter().any(|row| row.status == Status::Healthy));
        let mut over = Vec::new();
        for (spec, member) in members.iter() {
            let old = before.remove(&spec.id);
            if policy.health_checks.is_empty() {
                self.mark(member, Flag::HC_FAILED, false);
                over.extend(old);
                continue;
            }
            let unchanged = |board: &Board| {
                board.rows.len() == policy.health_checks.len()
                    && board.rows.iter().zip(&policy.health_checks).all(|(row, check)| {
                        let target = row.subscription.target();
                        target.check == *check
                            && target.addresses == spec.addresses
                            && target.protocol == policy.protocol
                            && Arc::ptr_eq(&target.dial, dial(check))
                    })
            };
            let board = match old {
                Some(board) if unchanged(&board) => board,
                old => {
                    let failed = member.availability.has(Flag::HC_FAILED);
                    let known = if failed { Status::Unhealthy } else { Status::Unknown };
                    let row = |(row, check): (usize, &HealthCheck)| {
                        let target = Target {
                            addresses: Arc::clone(&spec.addresses),
                            check: check.clone(),
                            protocol: policy.protocol,
                            host: self.name.as_str().into(),
                            dial: Arc::clone(dial(check)),
                        };
                        let place = Place { cluster: self.this.clone(), id: spec.id.clone(), row };
                        let checks = self.home.checks();
                        let (subscription, status) = checks.subscribe(target, known, &self.tasks, Arc::new(place));
                        Row { subscription, status, last: "".into(), let_be: false, spared: false }
                    };
                    let rows = policy.health_checks.iter().enumerate().map(row).collect();
                    let waits = policy
                        .health_checks
                        .iter()
                        .any(|check| check.ignore_new_hosts_until_first_hc && check.enforcement == Mode::Enforce);
                    let new = waits && joins && old.is_none();
                    over.extend(old);
                    Board { rows, new }
                }
            };
            boards.insert(spec.id.clone(), board);
        }
        over.extend(before.into_values());
        drop(members);
        let ids: Vec<EndpointId> = boards.keys().cloned().collect();
        for id in ids {
            self.follow_checks(&mut boards, &id);
        }
        drop(boards);
        drop(over);
    }

    /// Takes what a check found.
    fn checked(&self, id: &EndpointId, row: usize, report: &Report) {
        let mut boards = self.boards.lock();
        let Some(found) = boards.get_mut(id).and_then(|board| board.rows.get_mut(row)) else { return };
        let kind = found.subscription.target().check.kind.as_str();
        self.check_series.count(kind, report.finding);
        let (service, endpoint) = (self.name.as_str(), id.as_str());
        found.last = Arc::clone(&report.why);
        if found.status != report.status {
            found.status = report.status;
            let share = found.subscription.target().check.percentage;
            found.let_be = report.status == Status::Unhealthy && !share.hit(&mut Rng::local());
            match report.status {
                Status::Unhealthy => {
                    let spared = if found.let_be { ", and used all the same: `percentage`" } else { "" };
                    tracing::warn!(service, endpoint, check = kind, "unhealthy: {}{spared}", report.why);
                }
                status => tracing::info!(service, endpoint, check = kind, "{}", status.as_str()),
            }
        }
        let speaks = found.subscription.target().check.enforcement == Mode::Enforce;
        if report.finding == Finding::Passed && speaks {
            self.connects_again(id);
        }
        self.follow_checks(&mut boards, id);
    }

    /// Makes of what the checks of an endpoint say what calls see.
    fn follow_checks(&self, boards: &mut BTreeMap<EndpointId, Board>, id: &EndpointId) {
        let Some(board) = boards.get_mut(id) else { return };
        board.new &= board.rows.iter().any(|row| row.status == Status::Unknown);
        let speaks = |row: &Row| row.subscription.target().check.enforcement == Mode::Enforce && !row.let_be;
        let failed = board.new || board.rows.iter().any(|row| row.status == Status::Unhealthy && speaks(row));
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(member) = members.get(id) else { return };
        let spared = failed && !member.availability.has(Flag::HC_FAILED) && {
            let usable = |other: &Endpoint| !std::ptr::eq(other, &**member) && other.is_usable();
            members.kind() == SetKind::Vip || !members.iter().any(|(_, other)| usable(other))
        };
        for row in &mut board.rows {
            if spared && !row.spared && row.status == Status::Unhealthy {
                let (service, endpoint) = (self.name.as_str(), id.as_str());
                tracing::warn!(service, endpoint, "it is used all the same: there is no other that is usable");
            }
            row.spared = spared;
        }
        if !spared {
            self.mark(member, Flag::HC_FAILED, failed);
        }
    }

    /// A check got through to an endpoint: an ejection says nothing any more that was earned by failing to connect. One
    /// that was earned by answers, or by none, is for a call to lift.
    fn connects_again(&self, id: &EndpointId) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(member) = members.get(id) else { return };
        if member.availability.has(Flag::EJECTED) && member.vitals.failed_to_connect() {
            self.readmit(member);
        }
    }

    /// The answer to a call says that its endpoint wants no more of them.
    #[cold]
    pub(in crate::cluster) fn failed_by_its_word(&self, endpoint: &Endpoint) {
        let boards = self.boards.lock();
        let Some(board) = boards.get(&*endpoint.id) else { return };
        let checkers: Vec<_> = board.rows.iter().map(|row| row.subscription.checker()).collect();
        // Who is told takes it again.
        drop(boards);
        for checker in checkers {
            checker.failed("it said so in answer to a call");
        }
    }

    /// Whether calls were made within the last `within`.
    fn has_traffic(&self, now: Instant, within: Duration) -> bool {
        let mut traffic = self.boards.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let attempts = self.attempts.total();
        if traffic.attempts != attempts || self.requests.used() > 0 {
            traffic.attempts = attempts;
            traffic.last = Some(now);
        }
        traffic.last.is_some_and(|last| now.saturating_duration_since(last) < within)
    }
}
