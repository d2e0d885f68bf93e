//! One rule, compiled: a tree of conditions over the view.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderName, Method};

use super::{
    path::PathSet,
    policy::{Action, GrpcMethod, HostText, Operation, Rule, Source, When, WhenKey},
    prefix::NetMap,
    text::{Text, TextSet},
};
use crate::canon::{HttpView, Principal, View};
use crate::matching::IpBlock;

/// A condition. What is absent satisfies none of them, so it satisfies `Not` of each.
#[derive(Debug)]
pub(super) enum Condition {
    All(Box<[Condition]>),
    Any(Box<[Condition]>),
    Not(Box<Condition>),
    Principal(TextSet),
    Namespace(TextSet),
    TrustDomain(TextSet),
    ServiceAccount(Box<[(Arc<str>, Arc<str>)]>),
    Peer(NetMap<()>),
    Client(NetMap<()>),
    Port(Box<[u16]>),
    Host(HostSet),
    Method(Box<[Method]>),
    Path(PathSet),
    Grpc(Box<[GrpcMethod]>),
    Header(HeaderName, TextSet),
    ServerName(TextSet),
}

impl Condition {
    pub(super) fn holds(&self, view: &View<'_>) -> bool {
        let principal = || view.principal.map(Principal);
        let http = |test: &dyn Fn(&HttpView<'_>) -> bool| view.http.as_ref().is_some_and(test);
        match self {
            Self::All(all) => all.iter().all(|condition| condition.holds(view)),
            Self::Any(any) => any.iter().any(|condition| condition.holds(view)),
            Self::Not(not) => !not.holds(view),
            Self::Principal(set) => view.principal.is_some_and(|id| set.matches(id)),
            Self::Namespace(set) => principal().and_then(Principal::namespace).is_some_and(|name| set.matches(name)),
            Self::TrustDomain(set) => principal().is_some_and(|id| set.matches(id.trust_domain())),
            Self::ServiceAccount(accounts) => {
                let Some(id) = principal() else { return false };
                let (Some(namespace), Some(name)) = (id.namespace(), id.service_account()) else { return false };
                accounts.iter().any(|account| *account.0 == *namespace && *account.1 == *name)
            }
            Self::Peer(nets) => holds_address(nets, view.peer),
            Self::Client(nets) => holds_address(nets, view.client),
            Self::Port(ports) => view.local.is_some_and(|local| ports.contains(&local.port())),
            Self::Host(hosts) => http(&|http| hosts.matches(http)),
            Self::Method(methods) => http(&|http| methods.contains(http.method)),
            Self::Path(paths) => http(&|http| http.path.is_some_and(|path| paths.matches(path))),
            Self::Grpc(methods) => {
                http(&|http| http.path.is_some_and(|path| methods.iter().any(|method| method.matches(path))))
            }
            Self::Header(name, set) => http(&|http| {
                let value = http.headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
                value.is_some_and(|value| set.matches(value))
            }),
            Self::ServerName(set) => view.server_name.is_some_and(|name| set.matches(name)),
        }
    }
}

fn holds_address(nets: &NetMap<()>, address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| nets.walk(address).next().is_some())
}

/// Hosts of which one has to match.
#[derive(Debug)]
pub(super) struct HostSet {
    any_port: TextSet,
    with_port: Box<[HostText]>,
}

impl HostSet {
    fn new(hosts: &[HostText]) -> Self {
        Self {
            any_port: TextSet::new(hosts.iter().filter(|host| host.port().is_none()).map(HostText::text)),
            with_port: hosts.iter().filter(|host| host.port().is_some()).cloned().collect(),
        }
    }

    fn matches(&self, http: &HttpView<'_>) -> bool {
        let Some(authority) = &http.authority else { return false };
        // The scheme's own port was dropped.
        let port = |host: &HostText| match authority.port {
            Some(port) => host.port() == Some(port),
            None => matches!(host.port(), Some(80 | 443)),
        };
        let exact = |host: &HostText| host.text().matches(&authority.host) && port(host);
        self.any_port.matches(&authority.host) || self.with_port.iter().any(exact)
    }
}

/// What a condition is compiled for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layer {
    /// A request.
    Http,
    /// A connection, of which only addresses, identity and server name are known.
    Connection,
}

/// A rule without its name. An alternative that can never hold is `Any` of nothing.
pub(super) fn compile(rule: &Rule, layer: Layer) -> Condition {
    let compiler = Compiler { denies: rule.action != Action::Allow, layer };
    compiler.rule(rule).unwrap_or_else(|| Condition::Any(Box::default()))
}

fn any(alternatives: impl Iterator<Item = Option<Condition>>) -> Condition {
    let mut alternatives: Vec<Condition> = alternatives.flatten().collect();
    match alternatives.len() {
        1 => alternatives.remove(0),
        _ => Condition::Any(alternatives.into()),
    }
}

struct Compiler {
    /// Less is known of a connection: then a rule that denies, or audits, holds more often, and one that allows never.
    denies: bool,
    layer: Layer,
}

impl Compiler {
    fn rule(&self, rule: &Rule) -> Option<Condition> {
        let mut all = Vec::new();
        if !rule.from.is_empty() {
            all.push(any(rule.from.iter().map(|source| Some(self.source(source)))));
        }
        if !rule.to.is_empty() {
            all.push(any(rule.to.iter().map(|operation| self.operation(operation))));
        }
        for when in &rule.when {
            all.push(self.when(when)?);
        }
        Some(Condition::All(all.into()))
    }

    fn source(&self, source: &Source) -> Condition {
        let mut all = Vec::new();
        let texts = |all: &mut Vec<_>, values: &[Text], not: &[Text], make: fn(TextSet) -> Condition| {
            both(all, values, not, |texts| make(TextSet::new(texts)));
        };
        texts(&mut all, &source.principals, &source.not_principals, Condition::Principal);
        texts(&mut all, &source.namespaces, &source.not_namespaces, Condition::Namespace);
        texts(&mut all, &source.trust_domains, &source.not_trust_domains, Condition::TrustDomain);
        both(&mut all, &source.service_accounts, &source.not_service_accounts, |accounts| {
            Condition::ServiceAccount(accounts.into())
        });
        let nets = |blocks: &[IpBlock]| {
            let mut nets: Vec<_> = blocks.iter().map(|block| super::prefix::canonical(block.net())).collect();
            nets.sort();
            nets.dedup();
            NetMap::new(nets.into_iter().map(|net| (net, ())))
        };
        both(&mut all, &source.ip_blocks, &source.not_ip_blocks, |blocks| Condition::Peer(nets(blocks)));
        both(&mut all, &source.remote_ip_blocks, &source.not_remote_ip_blocks, |blocks| {
            Condition::Client(nets(blocks))
        });
        Condition::All(all.into())
    }

    /// Something about HTTP that a connection does not have: `None` if the rule cannot hold for it.
    fn http(&self, all: &mut Vec<Condition>, add: impl FnOnce(&mut Vec<Condition>)) -> Option<()> {
        let mut added = Vec::new();
        add(&mut added);
        if self.layer == Layer::Connection && !added.is_empty() {
            return self.denies.then_some(());
        }
        all.append(&mut added);
        Some(())
    }

    fn operation(&self, operation: &Operation) -> Option<Condition> {
        let mut all = Vec::new();
        both(&mut all, &operation.ports, &operation.not_ports, |ports| Condition::Port(ports.into()));
        self.http(&mut all, |all| {
            both(all, &operation.hosts, &operation.not_hosts, |hosts| Condition::Host(HostSet::new(hosts)));
            if !operation.methods.is_empty() {
                let mut methods = operation.methods.clone();
                // What answers GET answers HEAD.
                if self.denies && methods.contains(&Method::GET) {
                    methods.push(Method::HEAD);
                }
                all.push(Condition::Method(methods.into()));
            }
            both(all, &[], &operation.not_methods, |methods| Condition::Method(methods.into()));
            both(all, &operation.paths, &operation.not_paths, |paths| Condition::Path(PathSet::new(paths)));
            both(all, &operation.grpc, &[], |methods| Condition::Grpc(methods.into()));
        })?;
        Some(Condition::All(all.into()))
    }

    fn when(&self, when: &When) -> Option<Condition> {
        let mut all = Vec::new();
        match &when.key {
            WhenKey::ServerName => {
                both(&mut all, &when.values, &when.not_values, |texts| Condition::ServerName(TextSet::new(texts)));
            }
            WhenKey::Header(name) => self.http(&mut all, |all| {
                both(all, &when.values, &when.not_values, |texts| Condition::Header(name.clone(), TextSet::new(texts)));
            })?,
        }
        Some(Condition::All(all.into()))
    }
}

/// One of `values` and none of `not`, each unless empty.
fn both<T>(all: &mut Vec<Condition>, values: &[T], not: &[T], make: impl Fn(&[T]) -> Condition) {
    if !values.is_empty() {
        all.push(make(values));
    }
    if !not.is_empty() {
        all.push(Condition::Not(Box::new(make(not))));
    }
}
