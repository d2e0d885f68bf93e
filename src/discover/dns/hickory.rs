//! Asks real servers, by one hickory resolver per server: several servers in one resolver lose the answer of the
//! healthy one when another fails, so the fallback is ours.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::{
    Resolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    lookup::Lookup as Answers,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};
use tokio::sync::Semaphore;

use super::{
    engine::Target,
    query::{BoxFuture, Found, Kind, Lookup, Reply},
};
use crate::{discover::DnsSettings, rt};

/// Queries in flight of one process at most: thousands of services begin at the same time.
const MAX_QUERIES: usize = 64;

/// Name servers in order.
pub(super) struct Servers {
    servers: Vec<(SocketAddr, Result<Resolver<TokioRuntimeProvider>, Arc<str>>)>,
    timeout: Duration,
    attempts: usize,
    permits: Semaphore,
}

impl Servers {
    pub(super) fn new(settings: &DnsSettings) -> Self {
        Self {
            servers: settings.servers.iter().map(|addr| (*addr, resolver(*addr, settings.timeout))).collect(),
            timeout: settings.timeout,
            attempts: settings.attempts.max(1),
            permits: Semaphore::new(MAX_QUERIES),
        }
    }

    async fn ask(&self, name: &str, kind: Kind) -> Reply {
        let query = match Name::from_ascii(name) {
            Ok(query) => query,
            Err(error) => return Reply::Failed(format!("`{name}` is not a DNS name: {error}").into()),
        };
        if self.servers.is_empty() {
            return Reply::Failed("no name server is configured and /etc/resolv.conf names none".into());
        }
        let mut failures: Vec<String> = Vec::new();
        for attempt in 0..self.attempts {
            for (addr, resolver) in &self.servers {
                let failure = match resolver {
                    Ok(resolver) => {
                        // A closed semaphore cannot be: it is never closed.
                        let _permit = self.permits.acquire().await.ok();
                        match rt::timeout(self.timeout, resolver.lookup(query.clone(), record_type(kind))).await {
                            Some(result) => match judge(result, kind) {
                                Ok(reply) => return reply,
                                Err(failure) => failure,
                            },
                            None => format!("no answer in {:?}", self.timeout),
                        }
                    }
                    Err(why) => why.to_string(),
                };
                if attempt == 0 {
                    failures.push(format!("{failure} from {addr}"));
                }
            }
        }
        Reply::Failed(failures.join(", ").into())
    }
}

impl Lookup for Servers {
    fn lookup<'a>(&'a self, name: &'a str, kind: Kind) -> BoxFuture<'a, Reply> {
        Box::pin(self.ask(name, kind))
    }
}

fn resolver(addr: SocketAddr, timeout: Duration) -> Result<Resolver<TokioRuntimeProvider>, Arc<str>> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = addr.port();
        connection
    });
    let server = NameServerConfig::new(addr.ip(), true, connections.into());
    let mut options = ResolverOpts::default();
    options.cache_size = 0;
    options.attempts = 0;
    options.timeout = timeout;
    options.ndots = 0;
    Resolver::builder_with_config(
        ResolverConfig::from_parts(None, Vec::new(), vec![server]),
        TokioRuntimeProvider::default(),
    )
    .with_options(options)
    .build()
    .map_err(|error| error.to_string().into())
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Srv => RecordType::SRV,
    }
}

/// A reply that settles the question, or why the next server is asked.
fn judge(result: Result<Answers, NetError>, kind: Kind) -> Result<Reply, String> {
    match result {
        Ok(answers) => Ok(found(&answers, kind)),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => Ok(nothing("NXDOMAIN", none.negative_ttl)),
            ResponseCode::NoError => Ok(nothing("NODATA", none.negative_ttl)),
            other => Err(rcode(other)),
        },
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(rcode(code)),
        Err(NetError::Timeout) => Err("no answer in time".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn rcode(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::Refused => "REFUSED".into(),
        other => other.to_string(),
    }
}

fn nothing(rcode: &'static str, ttl: Option<u32>) -> Reply {
    Reply::Nothing { rcode, ttl: ttl.map(|ttl| Duration::from_secs(ttl.into())) }
}

fn found(answers: &Answers, kind: Kind) -> Reply {
    let mut found = Found::default();
    for record in answers.answers() {
        match (&record.data, kind) {
            (RData::A(ip), Kind::A) => found.ips.push(ip.0.into()),
            (RData::AAAA(ip), Kind::Aaaa) => found.ips.push(ip.0.into()),
            (RData::SRV(srv), Kind::Srv) => found.targets.push(Target {
                priority: srv.priority,
                host: host(&srv.target),
                port: srv.port,
                weight: srv.weight,
            }),
            _ => {}
        }
    }
    if found.ips.is_empty() && found.targets.is_empty() {
        return nothing("NODATA", None);
    }
    // Of aliases too: the chain is as short-lived as its shortest link.
    let ttl = answers.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    found.ttl = Duration::from_secs(ttl.into());
    for record in answers.additionals() {
        let ip = match &record.data {
            RData::A(ip) => ip.0.into(),
            RData::AAAA(ip) => ip.0.into(),
            _ => continue,
        };
        let ttl = Duration::from_secs(record.ttl.into());
        found.glue.entry(host(&record.name)).or_default().push((ip, ttl));
    }
    Reply::Found(found)
}

/// Lower case, with the final dot: targets and glue meet by this.
fn host(name: &Name) -> Arc<str> {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if !text.ends_with('.') {
        text.push('.');
    }
    text.into()
}
