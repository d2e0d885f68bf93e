//! Endpoints from DNS.
//!
//! Every platform has it, and it says little: addresses without health, labels or removal events. So it is asked again
//! by TTL (at least 5 s, at most 1 h) and when connections fail (at most once per second), and it is never allowed to
//! take the last good addresses away by failing. `engine` has the rules, `query` one round of questions, `hickory`
//! the servers. One resolved address is taken for a virtual IP in front of many instances.

mod engine;
mod hickory;
mod query;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::Notify;

use self::{
    engine::{Engine, Round, View},
    query::Lookup,
};
use super::{DiscoverError, Discovery, DnsSettings, Refresh, fixed::Once, stream::unfold};
use crate::{
    model::{EndpointSpec, EndpointUpdate, SetKind},
    rt::{self, Instant},
};

/// Between two rounds at least, however often a refresh is asked for.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// A resolver for all names of a mesh.
#[derive(Clone)]
pub(super) struct Dns {
    settings: Arc<DnsSettings>,
    lookup: Arc<dyn Lookup>,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dns").field(&self.settings).finish()
    }
}

impl Dns {
    pub(super) fn new(settings: DnsSettings) -> Self {
        Self { lookup: Arc::new(hickory::Servers::new(&settings)), settings: Arc::new(settings) }
    }

    #[cfg(test)]
    fn with_lookup(settings: DnsSettings, lookup: Arc<dyn Lookup>) -> Self {
        Self { settings: Arc::new(settings), lookup }
    }

    /// Watches a name; SRV if it begins with two labels like `_grpc._tcp`.
    pub(super) fn subscribe(&self, name: &str, port: Option<u16>) -> Discovery {
        let srv = is_srv(name);
        if let (Ok(ip), Some(port)) = (name.trim_matches(['[', ']']).parse::<IpAddr>(), port) {
            let endpoints = vec![EndpointSpec::new(std::net::SocketAddr::new(ip, port))];
            return Discovery::new(Once(Some(Ok(EndpointUpdate::Reset { endpoints, kind: SetKind::Vip }))));
        }
        if !srv && port.is_none() {
            let text =
                format!("`{name}` needs a port, such as `{name}:80`; only SRV names (`_grpc._tcp.{name}`) bring one");
            return Discovery::new(Once(Some(Err(DiscoverError::new(text)))));
        }
        let wake = Arc::new(Wake(Notify::new()));
        let state = Running {
            name: name.into(),
            candidates: self.settings.candidates(name),
            dns: self.clone(),
            engine: Engine::new(if srv { None } else { port }, rt::now()),
            srv,
            wake: wake.clone(),
            asked: None,
            view: None,
            problem: None,
            wanted: false,
        };
        Discovery::new(unfold(state, Running::next)).with_refresh(wake)
    }
}

fn is_srv(name: &str) -> bool {
    let mut labels = name.split('.');
    labels.next().is_some_and(|label| label.starts_with('_'))
        && labels.next().is_some_and(|label| label.starts_with('_'))
}

struct Wake(Notify);

impl Refresh for Wake {
    fn refresh(&self) {
        self.0.notify_one();
    }
}

/// One watched name.
struct Running {
    name: Arc<str>,
    candidates: Vec<String>,
    dns: Dns,
    engine: Engine,
    srv: bool,
    wake: Arc<Wake>,
    /// When the last round began.
    asked: Option<Instant>,
    /// What was published last.
    view: Option<View>,
    problem: Option<String>,
    /// A refresh is asked for and waits for its time.
    wanted: bool,
}

type Item = Result<EndpointUpdate, DiscoverError>;

impl Running {
    async fn next(mut self) -> Option<(Item, Self)> {
        loop {
            let now = rt::now();
            let view = self.engine.view(now);
            if let Some(view) = view.filter(|view| self.view.as_ref() != Some(view)) {
                self.view = Some(view.clone());
                let View { endpoints, kind } = view;
                return Some((Ok(EndpointUpdate::Reset { endpoints, kind }), self));
            }
            let problem = self.engine.problem();
            if problem != self.problem {
                self.problem = problem.clone();
                if let Some(problem) = problem {
                    return Some((Err(self.error(&problem)), self));
                }
            }
            let due = match self.asked {
                Some(asked) if self.wanted => asked + MIN_INTERVAL,
                Some(asked) => self.engine.due().max(asked + MIN_INTERVAL),
                None => now,
            };
            if now >= due {
                self.wanted = false;
                self.asked = Some(now);
                let round = self.ask().await;
                self.engine.apply(now, round);
                continue;
            }
            let until = self.engine.next_expiry().map_or(due, |expiry| expiry.min(due));
            tokio::select! {
                biased;
                () = self.wake.0.notified(), if !self.wanted => self.wanted = true,
                () = rt::sleep_until(until) => {}
            }
        }
    }

    async fn ask(&self) -> Round {
        match self.srv {
            true => query::srv(&*self.dns.lookup, &self.candidates, self.engine.hosts()).await,
            false => query::plain(&*self.dns.lookup, &self.candidates).await,
        }
    }

    fn error(&self, problem: &str) -> DiscoverError {
        let servers = &self.dns.settings.servers;
        let servers = match servers.len() {
            0 => "nobody".into(),
            _ => servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let (state, cure) = match self.view {
            Some(_) => ("the last good addresses stay in use", ""),
            None => ("calls wait until it resolves", ". Check the name, the search list and that the service exists"),
        };
        DiscoverError::new(format!(
            "DNS look-up of `{}` (as {}; servers {servers}) failed: {problem}; {state}{cure}",
            self.name,
            self.candidates.join(", "),
        ))
    }
}

#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
