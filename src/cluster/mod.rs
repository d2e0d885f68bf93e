//! Where endpoints, limits, balancing and connections meet.
//!
//! A cluster is one backend: its endpoints as discovery knows them, a connection pool for each, and the limits that hold
//! for all of them. What calls read is a table, published whole in one swap; a call picks from the table of that moment
//! and owns what it picked, so endpoints come and go without a call noticing. Endpoint state is kept by id: a change of
//! weight, label or policy keeps connections and load, only a change of address makes a new endpoint.
//!
//! # Readiness
//! Only endpoints with a usable connection are picked. An idle one that is considered begins to connect and is picked
//! from then on, so no call waits behind a connection while another endpoint is ready, and a new endpoint is neither
//! flooded nor starved. When none is ready a call waits, bounded in time (`connect_wait`) and number
//! (`max_pending_requests`); when all have failed it fails at once with the last cause.

mod asked;
mod check;
mod dispatch;
mod endpoint;
mod health;
mod home;
mod level;
mod line;
mod lines;
mod mirror;
mod observe;
mod outlier;
mod place;
mod slow_start;
mod status;
mod table;
mod update;
mod wait;
mod watch;

pub use self::check::CheckStatus;
pub use self::status::{ClusterStatus, EndpointStatus, PriorityStatus};
pub(crate) use self::{
    asked::{Asked, Note, Went},
    dispatch::{DispatchContext, DispatchFuture},
    home::Home,
    observe::Observe,
};

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;

use self::{
    asked::{connections, went_to},
    check::{Boards, CheckSeries},
    line::Line,
    observe::AttemptSeries,
    outlier::OutlierSeries,
    table::Table,
    update::Members,
    watch::Watch,
};
use crate::{
    balance::Cursor,
    breaker::Limit,
    discover::Refresh,
    instrument::{Counter, Registry},
    model::{Labels, ServiceSpec},
    name::{ServiceName, SubsetName},
    retry::Budget,
    rt::{self, Instant, TaskSet},
    transport::{ConnectionLimit, Dial},
};

/// What is in flight for so long is a stream: watchers would use up the limit that protects against too many calls.
const LONG_LIVED: Duration = Duration::from_secs(30);

/// A subset of one cluster. Never reused for another name while the cluster lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SubsetId(u32);

/// A subset and the labels it was last configured with: calls that began before it was taken out of the configuration
/// still go where it said.
#[derive(Debug)]
struct Subset {
    id: SubsetId,
    selector: Option<Labels>,
}

/// How connections are made.
struct Dialing(Arc<dyn Dial>);

/// One backend.
pub(crate) struct Cluster {
    name: ServiceName,
    policy: ArcSwap<ServiceSpec>,
    table: ArcSwap<Table>,
    members: Mutex<Members>,
    subsets: Mutex<BTreeMap<SubsetName, Subset>>,
    cursor: Cursor,
    requests: Arc<Limit>,
    /// Counts calls that no limit holds for.
    unlimited: Arc<Limit>,
    pending: Arc<Limit>,
    streams: Arc<Limit>,
    connections: Arc<ConnectionLimit>,
    /// Whether calls to one endpoint are limited.
    places_are_limited: AtomicBool,
    /// Calls that wait until they can be sent.
    line: Line,
    /// Woken when an endpoint changes its state, a table is published, or a stream ends while somebody waits.
    changed: Notify,
    waiting: Arc<AtomicU32>,
    /// Endpoints that are connecting.
    connecting: Arc<AtomicU32>,
    refresh: ArcSwapOption<Arc<dyn Refresh>>,
    attempts: AttemptSeries,
    outliers: OutlierSeries,
    /// Calls that failover would have sent elsewhere.
    failovers_in_shadow: Counter,
    boards: Boards,
    check_series: CheckSeries,
    watch: Watch,
    /// What retries and hedges of all routes draw on.
    pub(crate) retries: Arc<Budget>,
    /// Whether its endpoints are of this process's mesh.
    member: AtomicBool,
    /// Whether one endpoint stands for many.
    vip: AtomicBool,
    /// Swapped when connections are to be made differently.
    dial: ArcSwap<Dialing>,
    tasks: TaskSet,
    registry: Registry,
    home: Arc<Home>,
    /// What follows from the state of the endpoints will be counted soon.
    assessing: AtomicBool,
    /// A table with the shares of new endpoints will be built soon.
    reweighing: AtomicBool,
    /// How many priorities the gauges know.
    reported: AtomicUsize,
    this: Weak<Self>,
}

impl Cluster {
    /// After so long a call is a stream for the limits.
    pub(crate) const LONG_LIVED: Duration = LONG_LIVED;

    /// An answer is late when it takes so many times the median.
    pub(crate) const LATE: u32 = watch::TIMES_MEDIAN;

    pub(crate) fn new(
        spec: &Arc<ServiceSpec>,
        home: &Arc<Home>,
        dial: Arc<dyn Dial>,
        tasks: TaskSet,
        registry: &Registry,
    ) -> Arc<Self> {
        let limits = &spec.circuit_breakers;
        let cluster = Arc::new_cyclic(|this| Self {
            name: spec.name.clone(),
            table: ArcSwap::from_pointee(Table::unknown()),
            members: Mutex::default(),
            subsets: Mutex::default(),
            cursor: Cursor::new(),
            requests: Limit::new(limits.max_requests),
            unlimited: Limit::new(u32::MAX),
            pending: Limit::new(limits.max_pending_requests),
            streams: Limit::new(limits.max_streams),
            connections: ConnectionLimit::new(limits.max_connections),
            places_are_limited: AtomicBool::new(limits.per_endpoint.max_requests.is_some()),
            line: Line::default(),
            changed: Notify::new(),
            waiting: Arc::default(),
            connecting: Arc::default(),
            refresh: ArcSwapOption::empty(),
            attempts: AttemptSeries::new(registry, spec.name.as_str()),
            outliers: OutlierSeries::new(registry, spec.name.as_str()),
            failovers_in_shadow: registry.counter("sinew_failovers_shadow_total", &[("service", spec.name.as_str())]),
            boards: Boards::default(),
            check_series: CheckSeries::new(registry, spec.name.as_str()),
            watch: Watch::default(),
            retries: Budget::new(rt::now()),
            member: AtomicBool::new(false),
            vip: AtomicBool::new(false),
            policy: ArcSwap::new(Arc::clone(spec)),
            dial: ArcSwap::from_pointee(Dialing(dial)),
            tasks,
            registry: registry.clone(),
            home: Arc::clone(home),
            assessing: AtomicBool::new(false),
            reweighing: AtomicBool::new(false),
            reported: AtomicUsize::new(0),
            this: Weak::clone(this),
        });
        cluster.requests.set_order(limits.queue);
        cluster.line.set_order(limits.queue);
        home.join(Arc::downgrade(&cluster));
        cluster
    }

    /// The id of a subset, given out at first use.
    pub(crate) fn subset(&self, name: &SubsetName) -> SubsetId {
        let mut subsets = self.subsets.lock().unwrap_or_else(PoisonError::into_inner);
        let next = SubsetId(u32::try_from(subsets.len()).unwrap_or(u32::MAX));
        let id = subsets.entry(name.clone()).or_insert(Subset { id: next, selector: None }).id;
        drop(subsets);
        if id == next {
            self.publish();
        }
        id
    }

    /// This process is said to be somewhere else.
    pub(crate) fn moved(&self) {
        self.publish();
    }

    /// Whether what its endpoints say of retries and shedding counts as the mesh's word, and whether they are told of the
    /// tree's allowance: peers that prove to be of this trust domain, and endpoints in this process. The other end judges
    /// by the same rule, in [`Peer::may_set_context`](crate::peer::Peer::may_set_context).
    pub(crate) fn is_of_the_mesh(&self) -> bool {
        self.member.load(Relaxed)
    }

    /// Whether a call could be sent to somebody who is not among these.
    pub(crate) fn has_other(&self, subset: Option<SubsetId>, tried: &[Went]) -> bool {
        let table = self.table.load();
        let other = table.pick(table.seen(subset), false, |endpoint| went_to(tried, &endpoint.id));
        other.is_some_and(|other| {
            let connections = connections(tried);
            connections.is_empty() || other.picked.pool.has_other(&connections)
        })
    }

    /// Whether calls wait: for a connection, or for one of the calls in flight to end.
    pub(crate) fn has_queue(&self) -> bool {
        self.pending.used() > 0 || self.requests.is_awaited()
    }

    /// Whether its one endpoint stands for many, each behind connections of its own.
    pub(crate) fn is_vip(&self) -> bool {
        self.vip.load(Relaxed)
    }

    /// How to ask discovery for a fresh look when connections fail.
    pub(crate) fn set_refresh(&self, refresh: Option<Arc<dyn Refresh>>) {
        self.refresh.store(refresh.map(Arc::new));
    }

    /// Counts what has been in flight for [`LONG_LIVED`] by `max_streams` instead of `max_requests`. To be called every
    /// few seconds; calls pay nothing for it.
    pub(crate) fn sweep(&self, now: Instant) {
        self.requests.move_old(now, LONG_LIVED, &self.streams);
        if self.places_are_limited() {
            self.sweep_places(now);
        }
    }

    /// Replaces every connection, since they would be made with another certificate now: make before break.
    pub(crate) fn renew(&self) {
        for (_, member) in self.members.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            member.pool.renew_all();
        }
    }

    /// Something changed that calls may wait for.
    fn tell_waiting(&self) {
        self.line.changed();
        self.changed.notify_waiters();
    }

    /// Ends background work. Calls in flight run on.
    pub(crate) fn close(&self) {
        let members = std::mem::take(&mut *self.members.lock().unwrap_or_else(PoisonError::into_inner));
        members.close();
        self.boards.clear();
        if self.home.is(&self.name) {
            self.home.set_peers(Default::default());
        }
        self.table.store(Arc::new(Table::closed()));
        self.tell_waiting();
    }
}

#[cfg(test)]
mod tests;
