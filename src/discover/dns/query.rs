//! One round of queries: search list, both families, SRV with its targets.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use super::engine::{Answer, HostAnswer, Round, Target};

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// More targets than this are ignored: an answer must not make us ask without bound.
const MAX_TARGETS: usize = 256;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
}

/// Addresses that came with an SRV answer.
pub(super) type Glue = BTreeMap<Arc<str>, Vec<(IpAddr, Duration)>>;

/// Records of any of the kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) ips: Vec<IpAddr>,
    pub(super) targets: Vec<Target>,
    pub(super) glue: Glue,
    pub(super) ttl: Duration,
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Found(Found),
    Nothing { rcode: &'static str, ttl: Option<Duration> },
    Failed(Arc<str>),
}

impl Reply {
    fn map<T>(self, records: impl FnOnce(Found) -> Vec<T>) -> Answer<T> {
        match self {
            Self::Found(found) => Answer::Found { ttl: found.ttl, records: records(found) },
            Self::Nothing { rcode, ttl } => Answer::Nothing { rcode, ttl },
            Self::Failed(why) => Answer::Failed(why),
        }
    }
}

/// Asks name servers for one fully qualified name.
pub(super) trait Lookup: Send + Sync {
    /// Ends within a bound of its own; never panics; dropping it cancels.
    fn lookup<'a>(&'a self, name: &'a str, kind: Kind) -> BoxFuture<'a, Reply>;
}

/// Asks for the first of `candidates` that exists.
///
/// A failure ends the search: going on would answer a short name from a suffix further down, which may be another
/// service.
pub(super) async fn plain(lookup: &dyn Lookup, candidates: &[String]) -> Round {
    let mut answer = None;
    for name in candidates {
        let got = host(lookup, name).await;
        let nothing = matches!((&got.v4, &got.v6), (Answer::Nothing { .. }, Answer::Nothing { .. }));
        answer = Some(got);
        if !nothing {
            break;
        }
    }
    Round { targets: None, hosts: answer.into_iter().map(|answer| ("".into(), answer)).collect() }
}

/// Asks for SRV and for the addresses of its targets; for those in `known` where SRV fails.
pub(super) async fn srv(lookup: &dyn Lookup, candidates: &[String], known: BTreeSet<Arc<str>>) -> Round {
    let mut reply = Reply::Nothing { rcode: "NXDOMAIN", ttl: None };
    for name in candidates {
        reply = lookup.lookup(name, Kind::Srv).await;
        if !matches!(reply, Reply::Nothing { .. }) {
            break;
        }
    }
    let mut glue = Glue::new();
    let mut names = known;
    if let Reply::Found(found) = &mut reply {
        found.targets.truncate(MAX_TARGETS);
        found.targets.retain(|target| !matches!(&*target.host, "" | "."));
        glue = std::mem::take(&mut found.glue);
        names = found.targets.iter().map(|target| target.host.clone()).collect();
    }
    let mut hosts = Vec::new();
    let mut asked = Vec::new();
    for name in names {
        match glue.remove(&name) {
            Some(ips) => hosts.push((name, from_glue(ips))),
            None => asked.push(name),
        }
    }
    let answers = join_all(asked.iter().map(|name| Box::pin(host(lookup, name)) as BoxFuture<'_, _>).collect()).await;
    hosts.extend(asked.iter().cloned().zip(answers));
    Round { targets: Some(reply.map(|found| found.targets)), hosts }
}

async fn host(lookup: &dyn Lookup, name: &str) -> HostAnswer {
    let (v4, v6) = tokio::join!(lookup.lookup(name, Kind::A), lookup.lookup(name, Kind::Aaaa));
    HostAnswer { v4: v4.map(|found| found.ips), v6: v6.map(|found| found.ips) }
}

fn from_glue(ips: Vec<(IpAddr, Duration)>) -> HostAnswer {
    let (v4, v6): (Vec<_>, Vec<_>) = ips.into_iter().partition(|(ip, _)| ip.is_ipv4());
    let answer = |ips: Vec<(IpAddr, Duration)>| match ips.iter().map(|(_, ttl)| *ttl).min() {
        Some(ttl) => Answer::Found { records: ips.into_iter().map(|(ip, _)| ip).collect(), ttl },
        None => Answer::Nothing { rcode: "not in glue", ttl: None },
    };
    HostAnswer { v4: answer(v4), v6: answer(v6) }
}

/// All at once, on this task.
async fn join_all<T>(futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(|cx| {
        for (future, done) in &mut running {
            if let Some(Poll::Ready(value)) = future.as_mut().map(|future| future.as_mut().poll(cx)) {
                *future = None;
                *done = Some(value);
            }
        }
        if running.iter().all(|(future, _)| future.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, done)| done).collect()
}
