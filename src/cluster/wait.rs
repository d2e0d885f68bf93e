//! A call that cannot be sent yet: why, for how long, and what it is told in the end.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use super::{
    Cluster, SubsetId,
    asked::{Went, connections, went_to},
    endpoint::Endpoint,
    line::Word,
    outlier::Probe,
    place::EndpointPlace,
    table::{Census, Choice, Seen, Table},
};
use crate::{
    balance::Picked,
    context::Tag,
    enforcement::Mode,
    error::{Code, Error},
    rt::{self, Instant, Rng},
    transport::{Acquire, PoolEvent, Readiness, Slot, Want, unreachable},
};

/// What a call asks for.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) subset: Option<SubsetId>,
    pub(super) want: Want,
    /// Passed over while there are others: a call that failed at one endpoint goes to another first.
    pub(super) tried: &'a [Went],
    /// Taken if it can be.
    pub(super) prefer: Tag,
    /// Passed over like those that were tried.
    pub(super) avoid: Tag,
    /// Whether it does no harm to send it twice.
    pub(super) repeatable: bool,
    pub(super) deadline: Option<Instant>,
    /// Whether limits on calls hold.
    pub(super) limited: bool,
}

impl Ask<'_> {
    pub(super) fn of(subset: Option<SubsetId>, want: Want) -> Self {
        Self {
            subset,
            want,
            tried: &[],
            prefer: Tag::NONE,
            avoid: Tag::NONE,
            repeatable: false,
            deadline: None,
            limited: false,
        }
    }
}

/// An endpoint and a stream on it.
pub(super) struct Chosen {
    pub(super) picked: Picked<Endpoint>,
    pub(super) slot: Slot,
    /// One of the calls in flight to the endpoint, where those are limited.
    pub(super) place: Option<Box<EndpointPlace>>,
    /// The endpoint is on probation, and this call is to show how it is.
    pub(super) probe: Option<Box<Probe>>,
}

/// Whether a call can be sent now.
pub(super) enum Ready {
    Go(Chosen),
    Wait(Reason),
    Fail(Error),
}

/// What a waiting call waits for.
#[derive(Clone, Debug)]
pub(super) enum Reason {
    /// Discovery has not spoken yet.
    Unknown,
    /// Endpoints are there, none is connected yet.
    Connecting(Census),
    /// Every connection is at its stream limit.
    Full(Census),
}

impl Cluster {
    /// Picks an endpoint and takes a stream on it.
    pub(super) fn try_ready(self: &Arc<Self>, ask: Ask<'_>) -> Ready {
        let table = self.table.load();
        if table.keeps_calls() { self.try_kept(&table, ask) } else { self.try_in(&table, ask, false) }
    }

    /// Where not every call may leave the first priority.
    #[cold]
    fn try_kept(self: &Arc<Self>, table: &Table, ask: Ask<'_>) -> Ready {
        let policy = &table.failover;
        let leaves = policy.enforcement == Mode::Enforce && policy.percentage.hit(&mut Rng::local());
        let ready = self.try_in(table, ask, !leaves);
        let failed = match &ready {
            Ready::Wait(_) => return ready,
            Ready::Go(_) => false,
            Ready::Fail(_) => true,
        };
        if policy.enforcement == Mode::Shadow && table.would_leave(ask.subset, ask.repeatable, failed) {
            self.failovers_in_shadow.inc();
        }
        ready
    }

    fn try_in(self: &Arc<Self>, table: &Table, ask: Ask<'_>, stays: bool) -> Ready {
        let Ask { subset, want, tried, .. } = ask;
        let seen = Seen { subset, stays };
        let limited = ask.limited && self.places_are_limited();
        let taken = |place: Option<Box<EndpointPlace>>| place.map(EndpointPlace::taken);
        let mut refused: Option<Error> = None;
        // Endpoints without a free stream, found out one by one. Empty, hence free of cost, in the common case.
        let mut full: Vec<Arc<str>> = Vec::new();
        // Behind one address another one is reached by another connection.
        let over = connections(tried);
        if ask.prefer != Tag::NONE
            && let Some(Choice { picked, .. }) = table.pick(seen, ask.repeatable, |endpoint| {
                endpoint.tag != ask.prefer || endpoint.tag == ask.avoid || went_to(tried, &endpoint.id)
            })
            && picked.availability.is_clear()
            && let Ok(place) = self.place(&picked, limited)
            && let Acquire::Slot(slot) = picked.pool.acquire(want)
        {
            return Ready::Go(Chosen { picked, slot, place: taken(place), probe: None });
        }
        for (avoid, shun) in [(tried, ask.avoid), (&[][..], Tag::NONE)] {
            while let Some(Choice { picked, panic }) = table.pick(seen, ask.repeatable, |endpoint| {
                went_to(avoid, &endpoint.id)
                    || full.contains(&endpoint.id)
                    || (shun != Tag::NONE && shun == endpoint.tag)
            }) {
                let Ok(place) = self.place(&picked, limited) else {
                    full.push(Arc::clone(&picked.id));
                    continue;
                };
                match picked.pool.acquire_other(want, &over) {
                    Acquire::Slot(slot) if picked.availability.is_clear() => {
                        return Ready::Go(Chosen { picked, slot, place: taken(place), probe: None });
                    }
                    Acquire::Slot(slot) => {
                        let probe = Probe::claim(self, picked.member(), ask.repeatable, ask.deadline);
                        // Not the probe, and in panic nobody asks for one; otherwise another call was faster.
                        if probe.is_some() || panic {
                            return Ready::Go(Chosen { picked, slot, place: taken(place), probe });
                        }
                    }
                    Acquire::Full => {}
                    Acquire::Refused(error) => {
                        refused = Some(error.with_endpoint(Arc::clone(&picked.id)));
                        // Others may have use for it.
                        drop(taken(place));
                    }
                }
                full.push(Arc::clone(&picked.id));
            }
            if tried.is_empty() && ask.avoid == Tag::NONE {
                break;
            }
        }
        if table.closed {
            let message =
                format!("`{}` takes no more calls: the mesh was shut down, or the service removed", self.name);
            return Ready::Fail(Error::new(Code::LocalDraining, message));
        }
        if !table.known {
            return Ready::Wait(Reason::Unknown);
        }
        let (census, last) = table.census(seen);
        let of = |n: usize| format!("{n} of {}", census.total());
        let against = || table.against(seen, rt::now());
        match census {
            Census { ready: 0, connecting: 0, failed: 0, excluded: 1.. } => Ready::Fail(Error::new(
                Code::NoHealthyEndpoint,
                format!("no endpoint of `{}` may be used: {} excluded{}", self.name, of(census.excluded), against()),
            )),
            Census { ready: 0, connecting: 0, failed: 0, .. } => Ready::Fail(Error::new(
                Code::NoHealthyEndpoint,
                match subset {
                    None => format!("`{}` has no endpoints; its sources know none", self.name),
                    Some(id) => format!(
                        "`{}` has no endpoints in subset {}; no endpoint carries its labels",
                        self.name,
                        self.subset_name(id)
                    ),
                },
            )),
            Census { ready: 0, connecting: 0, .. } => Ready::Fail(unreachable(
                last.as_ref().map_or(Code::ConnectFailed, |(code, _)| *code),
                format!(
                    "no endpoint of `{}` can be reached: {} failed, last: {}; connecting goes on in the background{}",
                    self.name,
                    of(census.failed),
                    last.as_ref().map_or("unknown", |(_, text)| text),
                    against()
                ),
            )),
            Census { ready: 0, .. } => Ready::Wait(Reason::Connecting(census)),
            _ => match refused {
                Some(error) => Ready::Fail(error),
                None => Ready::Wait(Reason::Full(census)),
            },
        }
    }

    fn subset_name(&self, id: SubsetId) -> String {
        let subsets = self.subsets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        subsets.iter().find(|(_, known)| known.id == id).map(|(name, _)| name.to_string()).unwrap_or_default()
    }

    /// Waits until the call can be sent, at most `connect_wait` and with at most `max_pending_requests` others.
    pub(super) async fn wait_send(self: Arc<Self>, ask: Ask<'_>, reason: Reason) -> Result<Chosen, Error> {
        let Some(_pending) = self.pending.try_acquire() else {
            return Err(Error::new(
                Code::Overflow,
                format!(
                    "{} calls wait for `{}` already, its `max_pending_requests`; {}",
                    self.pending.max(),
                    self.name,
                    self.why(&reason)
                ),
            ));
        };
        if let Some(error) = self.too_late_to_wait(ask.deadline) {
            return Err(error);
        }
        let limit = self.policy.load().timeouts.connect_wait;
        self.wait_free(ask, limit).await
    }

    /// Why a call that would have to wait need not: it would come back too late whenever it is sent.
    pub(super) fn too_late_to_wait(&self, deadline: Option<Instant>) -> Option<Error> {
        let left = deadline?.saturating_duration_since(rt::now());
        let median = self.watch.latency.read();
        (left < median).then(|| {
            let message = format!(
                "only {left:.0?} are left of the call's time, and half of the calls to `{}` take {median:.0?} or longer: \
                 it does not wait in line for nothing",
                self.name
            );
            Error::new(Code::Overflow, message)
        })
    }

    /// Waits until a request can be sent, at most `limit`, without a place among the calls that wait.
    pub(super) async fn wait_free(self: &Arc<Self>, ask: Ask<'_>, limit: Duration) -> Result<Chosen, Error> {
        let begun = rt::now();
        let end = begun + limit;
        let _waiting = Waiting::new(self);
        let place = self.line.enter(ask, ask.deadline.into_iter().chain([end]).min(), begun);
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // Subscribed before the state is read again, so that no change is lost in between.
            changed.as_mut().enable();
            self.offer_turns();
            let word = place.word();
            let left = end.saturating_duration_since(rt::now());
            match word {
                Some(Word::Go(chosen)) => return Ok(chosen),
                Some(Word::Fail(error)) => return Err(error),
                Some(Word::Late) => return Err(self.sent_away(rt::now().saturating_duration_since(begun))),
                None if left.is_zero() => break,
                None => {}
            }
            let news = async {
                tokio::select! {
                    biased;
                    () = place.told() => {}
                    () = changed => {}
                }
            };
            // What was told in the last moment counts.
            let _ = rt::timeout(left, news).await;
        }
        drop(place);
        match self.try_ready(ask) {
            Ready::Go(chosen) => Ok(chosen),
            Ready::Fail(error) => Err(error),
            Ready::Wait(reason) => Err(self.gave_up(&reason, rt::now().saturating_duration_since(begun))),
        }
    }

    /// Waits until a call could be sent.
    pub(crate) async fn wait_ready(self: Arc<Self>, deadline: Instant) -> Result<(), Error> {
        let started = rt::now();
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let table = self.table.load_full();
            let (census, last) = table.census(table.seen(None));
            if census.ready > 0 {
                return Ok(());
            }
            drop(table);
            if rt::timeout(deadline.saturating_duration_since(rt::now()), changed).await.is_none() {
                let waited = rt::now().saturating_duration_since(started);
                return Err(match self.try_ready(Ask::of(None, Want::Any)) {
                    Ready::Fail(error) => error,
                    Ready::Wait(reason) => self.gave_up(&reason, waited),
                    Ready::Go(_) => return Ok(()),
                }
                .with_source(last.map(|(_, text)| text).unwrap_or_default()));
            }
        }
    }

    fn why(&self, reason: &Reason) -> String {
        match reason {
            Reason::Unknown => "its endpoints are not known yet".into(),
            Reason::Connecting(census) => {
                format!("{} of its {} endpoints are connecting, none is ready", census.connecting, census.total())
            }
            Reason::Full(census) if self.places_are_limited() => format!(
                "its {} ready endpoints are at their `per_endpoint` limits, or their connections at their stream limits",
                census.ready
            ),
            Reason::Full(census) => {
                format!("every connection to its {} ready endpoints is at its stream limit", census.ready)
            }
        }
    }

    fn sent_away(&self, waited: Duration) -> Error {
        let message = format!(
            "waited {waited:?} for a connection to `{}`: more calls come than are served, and its `queue` sends away who has \
             waited for long; add endpoints, or call less at a time",
            self.name
        );
        Error::new(Code::Overflow, message)
    }

    fn gave_up(&self, reason: &Reason, waited: Duration) -> Error {
        let (code, next) = match reason {
            Reason::Unknown => (Code::ConfigNotReady, "look at the status of its endpoint sources"),
            Reason::Connecting(_) => (Code::ConnectTimeout, "look at the addresses and what listens there"),
            Reason::Full(_) if self.places_are_limited() => {
                (Code::Overflow, "add endpoints, or raise `circuit_breakers.per_endpoint`")
            }
            Reason::Full(_) => (Code::Overflow, "add endpoints, or raise the peers' stream limit"),
        };
        Error::new(code, format!("waited {waited:?} for `{}`: {}; {next}", self.name, self.why(reason)))
    }

    /// An endpoint connected, failed, or gave a stream back while somebody waits.
    pub(super) fn endpoint_event(&self, event: PoolEvent) {
        if let PoolEvent::Changed { from, to } = event {
            if to == Readiness::Connecting {
                self.connecting.fetch_add(1, Relaxed);
            } else if from == Readiness::Connecting {
                self.connecting.fetch_sub(1, Relaxed);
            }
            // A connection could not be made: discovery may know better addresses by now.
            if to == Readiness::TransientFailure
                && let Some(refresh) = self.refresh.load().as_deref()
            {
                refresh.refresh();
            }
            let fails = from == Readiness::TransientFailure || to == Readiness::TransientFailure;
            if fails && self.table.load().heeds_connections() {
                self.assess();
            }
        }
        self.tell_waiting();
    }
}

/// Counts waiting calls, so that streams that end know whether to wake anybody.
struct Waiting<'a>(&'a Cluster);

impl<'a> Waiting<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        // Before the state is read: a stream that ends meanwhile is seen there, or its end sees this.
        cluster.waiting.fetch_add(1, SeqCst);
        Self(cluster)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
