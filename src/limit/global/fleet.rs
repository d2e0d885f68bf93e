//! What limits of this process share with others: the services that count for all, and how many they are.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU32},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::health::{Change, Health, Turn};
use crate::{
    error::BoxError,
    instrument::{self, Registry},
    limit::standing::Standing,
    name::ServiceName,
    rt,
};

/// A question to a rate limit service.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Query {
    /// The domain.
    pub domain: Arc<str>,
    /// Descriptors: pairs of key and value, in order.
    pub descriptors: Vec<Vec<(Arc<str>, String)>>,
}

/// Its answer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Answer {
    /// Whether the request is over a limit.
    pub over_limit: bool,
    /// When to come back, if it is known.
    pub retry_after: Option<Duration>,
    response_headers: HeaderMap,
    request_headers: HeaderMap,
    standing: Option<Standing>,
}

impl Answer {
    /// Within the limits, or over one.
    pub fn new(over_limit: bool) -> Self {
        Self { over_limit, ..Self::default() }
    }

    /// What is left of a limit of `limit` in each `window`, for headers. Of several the one that leaves less is told.
    pub fn status(&mut self, limit: u32, remaining: u32, reset: Duration, window: Duration) {
        let standing = Standing { limit, remaining, reset, window };
        self.standing = Some(self.standing.map_or(standing, |other| other.nearer(standing)));
    }

    /// Adds a header to the response. Headers that frame a message, or are the mesh's own, are left out.
    pub fn response_header(&mut self, name: &str, value: &[u8]) {
        append(&mut self.response_headers, name, value);
    }

    /// Adds a header to the request, as it goes on.
    pub fn request_header(&mut self, name: &str, value: &[u8]) {
        append(&mut self.request_headers, name, value);
    }

    pub(in crate::limit) fn into_parts(self) -> (HeaderMap, HeaderMap, Option<Standing>) {
        (self.response_headers, self.request_headers, self.standing)
    }
}

fn append(headers: &mut HeaderMap, name: &str, value: &[u8]) {
    const FRAMING: [HeaderName; 7] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value))
        && !FRAMING.contains(&name)
        && !name.as_str().starts_with("sinew-")
    {
        headers.append(name, value);
    }
}

/// The future of an answer.
pub type Asking = Pin<Box<dyn Future<Output = Result<Answer, BoxError>> + Send>>;

/// Whoever counts for many processes.
pub trait CountLimits: Send + Sync + 'static {
    /// Asks. Dropping the future gives the question up.
    fn ask(&self, query: Query) -> Asking;
}

/// One that counts, and how asking it went.
pub(in crate::limit) struct Counter {
    pub(super) name: Arc<str>,
    counts: Arc<dyn CountLimits>,
    health: Mutex<Health>,
    series: Series,
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("name", &self.name).field("health", &self.health).finish_non_exhaustive()
    }
}

/// What came of asking.
#[derive(Clone, Debug, Default)]
struct Series {
    ok: instrument::Counter,
    over_limit: instrument::Counter,
    error: instrument::Counter,
    timeout: instrument::Counter,
    skipped: instrument::Counter,
}

impl Counter {
    pub(in crate::limit) fn new(name: &str, counts: Arc<dyn CountLimits>, registry: Option<&Registry>) -> Arc<Self> {
        let counter = |result| {
            let series = registry
                .map(|all| all.counter("sinew_rate_limit_service_total", &[("service", name), ("result", result)]));
            series.unwrap_or_default()
        };
        let series = Series {
            ok: counter("ok"),
            over_limit: counter("over_limit"),
            error: counter("error"),
            timeout: counter("timeout"),
            skipped: counter("skipped"),
        };
        Arc::new(Self { name: name.into(), counts, health: Mutex::default(), series })
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its answer; nothing if there is none in time, or if it is left alone.
    pub(super) async fn ask(&self, query: Query, timeout: Duration) -> Option<Answer> {
        let turn = self.health().turn(rt::now());
        let Some(turn) = turn else {
            self.series.skipped.inc();
            return None;
        };
        let mut open = Open { counter: self, turn: Some(turn) };
        let answer = rt::timeout(timeout, self.counts.ask(query)).await;
        open.turn = None;
        match answer {
            Some(Ok(answer)) => {
                if answer.over_limit { &self.series.over_limit } else { &self.series.ok }.inc();
                let change = self.health().answered();
                self.tell(change, "");
                Some(answer)
            }
            Some(Err(error)) => {
                self.series.error.inc();
                self.failed(turn, &error.to_string());
                None
            }
            None => {
                self.series.timeout.inc();
                self.failed(turn, &format!("no answer within {timeout:?}"));
                None
            }
        }
    }

    fn failed(&self, turn: Turn, why: &str) {
        let change = self.health().failed(turn, rt::now());
        self.tell(change, why);
    }

    fn tell(&self, change: Option<Change>, why: &str) {
        let service = &*self.name;
        match change {
            Some(Change::Failed) => tracing::warn!(service, "the rate limit service does not answer: {why}"),
            Some(Change::LeftAlone) => {
                tracing::warn!(
                    service,
                    "the rate limit service failed 5 times in a row and is left alone for 1 s: {why}"
                );
            }
            Some(Change::Back) => tracing::info!(service, "the rate limit service answers again"),
            None => {}
        }
    }
}

/// A question that was not answered yet.
struct Open<'a> {
    counter: &'a Counter,
    turn: Option<Turn>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            self.counter.health().given_up(turn);
        }
    }
}

type Dial = dyn Fn(&ServiceName) -> Arc<dyn CountLimits> + Send + Sync;

/// What the limits of one mesh share.
pub(crate) struct Fleet {
    /// How many instances of this process's service there are.
    members: Arc<AtomicU32>,
    dial: Box<Dial>,
    registry: Registry,
    counters: Mutex<BTreeMap<ServiceName, Arc<Counter>>>,
}

impl Fleet {
    /// `dial` makes what asks a service.
    pub(crate) fn new(
        registry: &Registry,
        members: Arc<AtomicU32>,
        dial: impl Fn(&ServiceName) -> Arc<dyn CountLimits> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { members, dial: Box::new(dial), registry: registry.clone(), counters: Mutex::default() })
    }

    pub(in crate::limit) fn members(&self) -> &Arc<AtomicU32> {
        &self.members
    }

    /// One for all limits, since a service that fails does so for all of them.
    pub(in crate::limit) fn counter(&self, name: &ServiceName) -> Arc<Counter> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Counter::new(name.as_str(), (self.dial)(name), Some(&self.registry));
        Arc::clone(counters.entry(name.clone()).or_insert_with(make))
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("counters", &self.counters).finish_non_exhaustive()
    }
}
