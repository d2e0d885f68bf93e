//! What is known about a name, as a function of answers and time.
//!
//! DNS answers are hints: servers fail, rotate subsets and forget names during their own restarts. The rule is *last
//! good*: only a positive answer takes an address away, and only after it has been absent for a while.
//!
//! * A family (A, AAAA) that fails keeps its addresses. NODATA takes a family's addresses away only while the other
//!   family answers positively: then the name lives and the family was withdrawn.
//! * An absent address goes at `last seen + max(TTL, 30 s)`, where *last seen* is when the query was sent whose answer
//!   had it. It was withdrawn no earlier than that, so it stops within max(TTL, 30 s) of its withdrawal; and a TTL of
//!   30 s or more takes it away with the first answer that lacks it.
//! * The whole set becomes empty only by an SRV answer whose only target is `.` (RFC 2782: decidedly not available).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    discover::DnsSettings,
    model::{Address, EndpointSpec, SetKind},
    rt::Instant,
};

/// Failures are asked again after this.
pub(super) const TTL_FLOOR: Duration = DnsSettings::TTL_FLOOR;
/// Longer TTLs count as this.
pub(super) const TTL_CAP: Duration = Duration::from_secs(3600);
/// A negative answer is believed at most this long: a service that is being created should not wait for a zone's SOA.
pub(super) const NEGATIVE_CAP: Duration = Duration::from_secs(60);
pub(super) const ABSENT_HOLD: Duration = DnsSettings::ABSENT_HOLD;

/// One SRV record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Target {
    pub(super) priority: u16,
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// What came back for one name and record type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer<T> {
    /// Records; empty only for the SRV target `.`.
    Found { records: Vec<T>, ttl: Duration },
    /// NXDOMAIN or NODATA.
    Nothing { rcode: &'static str, ttl: Option<Duration> },
    /// No server answered usably.
    Failed(Arc<str>),
}

/// Both families of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HostAnswer {
    pub(super) v4: Answer<IpAddr>,
    pub(super) v6: Answer<IpAddr>,
}

/// Everything that one round of queries brought.
#[derive(Clone, Debug)]
pub(super) struct Round {
    /// For SRV.
    pub(super) targets: Option<Answer<Target>>,
    /// By host; the plain name is `""`.
    pub(super) hosts: Vec<(Arc<str>, HostAnswer)>,
}

/// What to publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct View {
    pub(super) endpoints: Vec<EndpointSpec>,
    pub(super) kind: SetKind,
}

/// Last good records of one name and type.
#[derive(Debug)]
struct LastGood<T> {
    entries: Vec<Entry<T>>,
    state: State,
}

#[derive(Debug)]
struct Entry<T> {
    record: T,
    present: bool,
    /// When it goes, once absent.
    until: Instant,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Unasked,
    Good,
    Nothing(&'static str),
    Failed(Arc<str>),
}

impl<T: PartialEq> LastGood<T> {
    fn new() -> Self {
        Self { entries: Vec::new(), state: State::Unasked }
    }

    /// Takes an answer to a query sent at `sent`; returns when to ask again.
    fn apply(&mut self, sent: Instant, answer: Answer<T>) -> Duration {
        match answer {
            Answer::Found { records, ttl } => {
                let ttl = ttl.clamp(TTL_FLOOR, TTL_CAP);
                self.withdraw();
                for record in records {
                    let entry = Entry { record, present: true, until: sent + ttl.max(ABSENT_HOLD) };
                    match self.entries.iter_mut().find(|known| known.record == entry.record) {
                        Some(known) => *known = entry,
                        None => self.entries.push(entry),
                    }
                }
                self.state = State::Good;
                ttl
            }
            Answer::Nothing { rcode, ttl } => {
                self.state = State::Nothing(rcode);
                ttl.unwrap_or(TTL_FLOOR).clamp(TTL_FLOOR, NEGATIVE_CAP)
            }
            Answer::Failed(why) => {
                self.state = State::Failed(why);
                TTL_FLOOR
            }
        }
    }

    fn withdraw(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.present = false);
    }

    fn expire(&mut self, now: Instant) {
        self.entries.retain(|entry| entry.present || now < entry.until);
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.entries.iter().filter(|entry| !entry.present).map(|entry| entry.until).min()
    }
}

#[derive(Debug)]
struct Host {
    v4: LastGood<IpAddr>,
    v6: LastGood<IpAddr>,
}

impl Host {
    fn apply(&mut self, sent: Instant, answer: HostAnswer) -> Duration {
        let v4 = self.v4.apply(sent, answer.v4);
        let v6 = self.v6.apply(sent, answer.v6);
        match (&self.v4.state, &self.v6.state) {
            // The name lives, so the other family's NODATA is final; and what lives decides when to ask again.
            (State::Good, State::Nothing(_)) => {
                self.v6.withdraw();
                v4
            }
            (State::Nothing(_), State::Good) => {
                self.v4.withdraw();
                v6
            }
            _ => v4.min(v6),
        }
    }

    /// Addresses that the latest answers had, preferred first, and those that wait for their end.
    fn addresses(&self) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let all = || self.v6.entries.iter().chain(&self.v4.entries);
        let pick = |present: bool| all().filter(|entry| entry.present == present).map(|entry| entry.record).collect();
        (pick(true), pick(false))
    }

    fn problem(&self) -> Option<String> {
        match (&self.v4.state, &self.v6.state) {
            (State::Good, State::Good | State::Nothing(_)) | (State::Nothing(_), State::Good) => None,
            (v4, v6) if v4 == v6 => Some(describe("A and AAAA", v4)),
            (v4, v6) => Some(format!("{}, {}", describe("A", v4), describe("AAAA", v6))),
        }
    }
}

fn describe(what: &str, state: &State) -> String {
    match state {
        State::Unasked => format!("{what}: not asked"),
        State::Good => format!("{what}: ok"),
        State::Nothing(rcode) => format!("{what}: {rcode}"),
        State::Failed(why) => format!("{what}: {why}"),
    }
}

/// All that is known about one DNS source.
#[derive(Debug)]
pub(super) struct Engine {
    /// The port of a plain name; `None` for SRV.
    port: Option<u16>,
    targets: LastGood<Target>,
    hosts: BTreeMap<Arc<str>, Host>,
    due: Instant,
    last: Option<View>,
}

impl Engine {
    /// A plain name with its port, or an SRV name.
    pub(super) fn new(port: Option<u16>, now: Instant) -> Self {
        Self { port, targets: LastGood::new(), hosts: BTreeMap::new(), due: now, last: None }
    }

    /// Takes the answers of a round that was begun at `sent`.
    pub(super) fn apply(&mut self, sent: Instant, round: Round) {
        let mut wait = TTL_CAP;
        if let Some(targets) = round.targets {
            wait = wait.min(self.targets.apply(sent, targets));
        }
        for (name, answer) in round.hosts {
            let host = self.hosts.entry(name).or_insert_with(|| Host { v4: LastGood::new(), v6: LastGood::new() });
            wait = wait.min(host.apply(sent, answer));
        }
        self.due = sent + wait;
        // Remembered even if nobody looks before it expires.
        self.view(sent);
    }

    /// When the next round is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// When [`view`](Engine::view) changes without an answer.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let hosts = self.hosts.values().flat_map(|host| [host.v4.next_expiry(), host.v6.next_expiry()]);
        hosts.chain([self.targets.next_expiry()]).flatten().min()
    }

    /// Hosts of the SRV targets that are known, to be looked up while the SRV record itself cannot be had.
    pub(super) fn hosts(&self) -> BTreeSet<Arc<str>> {
        self.targets.entries.iter().filter(|entry| entry.present).map(|entry| entry.record.host.clone()).collect()
    }

    /// The set at `now`; `None` while nothing has ever been known.
    pub(super) fn view(&mut self, now: Instant) -> Option<View> {
        self.targets.expire(now);
        for host in self.hosts.values_mut() {
            host.v4.expire(now);
            host.v6.expire(now);
        }
        let view = match self.port {
            Some(port) => self.plain(port),
            None => {
                let targets = &self.targets.entries;
                self.hosts.retain(|name, _| targets.iter().any(|entry| entry.record.host == *name));
                self.srv()
            }
        };
        let withdrawn = self.targets.state == State::Good && self.targets.entries.is_empty();
        if !view.endpoints.is_empty() || withdrawn {
            self.last = Some(view);
        }
        self.last.clone()
    }

    fn plain(&self, port: u16) -> View {
        let (present, absent) = self.hosts.get("").map(Host::addresses).unwrap_or_default();
        let pair = present.iter().filter(|ip| ip.is_ipv4()).count() <= 1
            && present.iter().filter(|ip| ip.is_ipv6()).count() <= 1;
        let kind = if pair && !present.is_empty() { SetKind::Vip } else { SetKind::Replicas };
        let mut endpoints = match kind {
            SetKind::Vip => vec![endpoint(&present, port)],
            _ => present.iter().map(|ip| endpoint(&[*ip], port)).collect(),
        };
        endpoints.extend(absent.iter().map(|ip| endpoint(&[*ip], port)));
        View { endpoints, kind }
    }

    fn srv(&self) -> View {
        let mut endpoints: Vec<EndpointSpec> = Vec::new();
        let mut seen = BTreeSet::new();
        // A target whose priority or weight changed is briefly here twice: the present one comes first and wins.
        let (present, absent): (Vec<_>, Vec<_>) = self.targets.entries.iter().partition(|entry| entry.present);
        for Entry { record, .. } in present.into_iter().chain(absent) {
            let (mut ips, gone) = self.hosts.get(&record.host).map(Host::addresses).unwrap_or_default();
            ips.extend(gone);
            for ip in ips {
                if seen.insert((ip, record.port)) {
                    // Weight 0 is a small share in SRV (RFC 2782), and out of balancing here.
                    let weight = u32::from(record.weight).max(1);
                    endpoints.push(endpoint(&[ip], record.port).weight(weight).priority(record.priority.into()));
                }
            }
        }
        View { endpoints, kind: SetKind::Replicas }
    }

    /// What is wrong now, worded alike as long as it stays the same.
    pub(super) fn problem(&self) -> Option<String> {
        let targets = match &self.targets.state {
            State::Unasked | State::Good => None,
            state => Some(describe("SRV", state)),
        };
        let hosts = self.hosts.iter().filter_map(|(name, host)| {
            let problem = host.problem()?;
            Some(if name.is_empty() { problem } else { format!("{name} {problem}") })
        });
        let all: Vec<_> = targets.into_iter().chain(hosts).take(4).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// One endpoint at these addresses. Its id is the IPv4 address where there is one, so that it survives the coming and
/// going of the other family.
fn endpoint(ips: &[IpAddr], port: u16) -> EndpointSpec {
    let addresses: Vec<Address> = ips.iter().map(|ip| SocketAddr::new(*ip, port).into()).collect();
    let first = ips.iter().find(|ip| ip.is_ipv4()).or(ips.first());
    let id = first.map(|ip| SocketAddr::new(*ip, port)).unwrap_or(SocketAddr::from(([0, 0, 0, 0], port)));
    let mut spec = EndpointSpec::new(id);
    spec.addresses = addresses.into();
    spec
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
