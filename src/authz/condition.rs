//! One rule, compiled: a tree of conditions over the view.

use std::{borrow::Cow, io::Write, net::IpAddr, sync::Arc};

use http::{HeaderName, Method};
use serde_json::Value;

use super::{
    cel::Cel,
    expr::{Expr, HeaderPart, HeaderTest, ValueTest},
    path::PathSet,
    policy::{Action, GrpcMethod, HostText, Operation, RequestPrincipal, Rule, Source, When, WhenKey},
    prefix::NetMap,
    text::{Text, TextSet},
};
use crate::{
    caller::Token,
    canon::{HttpView, Principal, View},
    matching::IpBlock,
};

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
    Local(NetMap<()>),
    Port(Box<[u16]>),
    Ports(u16, u32),
    /// With `each` one value by itself is enough, besides all of them joined.
    Test {
        test: Box<HeaderTest>,
        each: bool,
    },
    PathFolded(Text),
    ServerNameOrEmpty(Text),
    Host(HostSet),
    Method(Box<[Method]>),
    Path(PathSet),
    Grpc(Box<[GrpcMethod]>),
    Header(HeaderName, TextSet),
    ServerName(TextSet),
    RequestPrincipal(Box<[RequestPrincipal]>),
    ApiKey(TextSet),
    Claim(Box<[Arc<str>]>, TextSet),
    Audience(TextSet),
    Presenter(TextSet),
    /// A condition that cannot be told denies.
    Cel {
        condition: Cel,
        denies: bool,
    },
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
            Self::Local(nets) => holds_address(nets, view.local.map(|local| local.ip())),
            Self::Ports(from, to) => {
                view.local.is_some_and(|local| local.port() >= *from && u32::from(local.port()) < *to)
            }
            Self::Test { test, each } => http(&|http| test_holds(test, http) || *each && value_holds(test, http)),
            Self::ServerNameOrEmpty(text) => text.matches(view.server_name.unwrap_or_default()),
            Self::PathFolded(text) => {
                http(&|http| http.path.is_some_and(|path| text.matches(&path.to_ascii_lowercase())))
            }
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
            Self::RequestPrincipal(any) => view.token.is_some_and(|token| {
                let subject = token.subject().unwrap_or_default();
                any.iter().any(|principal| principal.matches(token.issuer(), subject))
            }),
            Self::ApiKey(set) => view.api_key.is_some_and(|name| set.matches(name)),
            Self::Claim(path, set) => view.token.is_some_and(|token| match (token.nested(path), &**path) {
                (Some(Value::String(text)), [name]) if token.is_spaced(name) => {
                    set.matches(text) || text.split(' ').any(|item| set.matches(item))
                }
                (value, _) => claim_matches(value, set),
            }),
            Self::Audience(set) => view.token.is_some_and(|token| token.audiences().any(|text| set.matches(text))),
            Self::Cel { condition, denies } => condition.holds(view).unwrap_or(*denies),
            Self::Presenter(set) => view.token.and_then(Token::presenter).is_some_and(|text| set.matches(text)),
        }
    }
}

fn holds_address(nets: &NetMap<()>, address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| nets.walk(address).next().is_some())
}

/// What Envoy's RBAC never sees: these end at a hop (gRFC A41).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn test_holds(test: &HeaderTest, http: &HttpView<'_>) -> bool {
    let value: Option<Cow<'_, str>> = match &test.name {
        HeaderPart::Method => Some(http.method.as_str().into()),
        HeaderPart::Authority => http.authority.as_ref().map(|own| match own.port {
            Some(port) => format!("{}:{port}", own.host).into(),
            None => Cow::Borrowed(&*own.host),
        }),
        HeaderPart::Path => http.target.map(Cow::Borrowed),
        HeaderPart::Name(name) if HOP_BY_HOP.contains(&name.as_str()) => None,
        HeaderPart::Name(name) => {
            let mut values = http.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            values.next().map(|first| values.fold(first, |all, next| format!("{all},{next}").into()))
        }
    };
    match (&test.test, value) {
        (ValueTest::Present(present), value) => (value.is_some() == *present) != test.invert,
        (_, None) if !test.missing_is_empty => false,
        (tested, value) => tested.holds(&value.unwrap_or_default()) != test.invert,
    }
}

/// Whether one of several values does by itself.
#[cold]
fn value_holds(test: &HeaderTest, http: &HttpView<'_>) -> bool {
    let HeaderPart::Name(name) = &test.name else { return false };
    let mut values = http.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    !matches!(test.test, ValueTest::Present(_))
        && !HOP_BY_HOP.contains(&name.as_str())
        && values.any(|value| test.test.holds(&value) != test.invert)
}

/// A text, a number, a truth value, or a list that holds one that matches. Writing a number takes no allocation.
fn claim_matches(value: Option<&Value>, set: &TextSet) -> bool {
    match value {
        Some(Value::String(text)) => set.matches(text),
        Some(Value::Bool(true)) => set.matches("true"),
        Some(Value::Bool(false)) => set.matches("false"),
        Some(Value::Number(number)) => {
            let mut text = [0u8; 32];
            let mut left = &mut text[..];
            if write!(left, "{number}").is_err() {
                return false;
            }
            let used = 32 - left.len();
            std::str::from_utf8(&text[..used]).is_ok_and(|text| set.matches(text))
        }
        Some(Value::Array(list)) => list.iter().any(|item| !item.is_array() && claim_matches(Some(item), set)),
        _ => false,
    }
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
    let compiler = Compiler { denies: rule.action != Action::Allow, exact: rule.exact, layer };
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
    /// What is absent is absent, and nothing else follows from it.
    exact: bool,
    layer: Layer,
}

impl Compiler {
    fn rule(&self, rule: &Rule) -> Option<Condition> {
        let mut all = Vec::new();
        if !rule.from.is_empty() {
            all.push(any(rule.from.iter().map(|source| self.source(source))));
        }
        if !rule.to.is_empty() {
            all.push(any(rule.to.iter().map(|operation| self.operation(operation))));
        }
        for when in &rule.when {
            all.push(self.when(when)?);
        }
        for expr in &rule.and {
            all.push(self.expr(expr, self.denies)?);
        }
        if let Some(condition) = &rule.condition {
            let denies = self.denies;
            self.http(&mut all, |all| all.push(Condition::Cel { condition: condition.clone(), denies }))?;
        }
        Some(Condition::All(all.into()))
    }

    /// `denies`: what it leads to if it holds.
    fn expr(&self, expr: &Expr, denies: bool) -> Option<Condition> {
        let all = |exprs: &[Expr]| exprs.iter().map(|expr| self.expr(expr, denies)).collect::<Option<Box<[_]>>>();
        Some(match expr {
            Expr::All(exprs) => Condition::All(all(exprs)?),
            Expr::Any(exprs) => Condition::Any(all(exprs)?),
            Expr::Not(expr) => Condition::Not(Box::new(self.expr(expr, !denies)?)),
            Expr::Source(source) => self.source(source)?,
            Expr::Operation(operation) => self.operation(operation)?,
            Expr::When(when) => self.when(when)?,
            Expr::Identity(texts) => Condition::Principal(TextSet::new(texts)),
            Expr::Header(test) => Condition::Test { test: Box::new(test.clone()), each: test.each && denies },
            Expr::PathFolded(text) => Condition::PathFolded(text.clone()),
            Expr::ServerName(text) => Condition::ServerNameOrEmpty(text.clone()),
            Expr::Ports(from, to) => Condition::Ports(*from, *to),
        })
    }

    fn source(&self, source: &Source) -> Option<Condition> {
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
        both(&mut all, &source.ip_blocks, &source.not_ip_blocks, |blocks| Condition::Peer(nets(blocks)));
        both(&mut all, &source.remote_ip_blocks, &source.not_remote_ip_blocks, |blocks| {
            Condition::Client(nets(blocks))
        });
        self.http(&mut all, |all| {
            both(all, &source.request_principals, &source.not_request_principals, |principals| {
                Condition::RequestPrincipal(principals.into())
            });
            both(all, &source.api_keys, &source.not_api_keys, |keys| Condition::ApiKey(TextSet::new(keys)));
        })?;
        Some(Condition::All(all.into()))
    }

    /// Something about HTTP that a connection does not have: `None` if the rule cannot hold for it.
    fn http(&self, all: &mut Vec<Condition>, add: impl FnOnce(&mut Vec<Condition>)) -> Option<()> {
        let mut added = Vec::new();
        add(&mut added);
        if self.layer == Layer::Connection && !added.is_empty() && !self.exact {
            return self.denies.then_some(());
        }
        all.append(&mut added);
        Some(())
    }

    fn operation(&self, operation: &Operation) -> Option<Condition> {
        let mut all = Vec::new();
        both(&mut all, &operation.destination_ip_blocks, &operation.not_destination_ip_blocks, |blocks| {
            Condition::Local(nets(blocks))
        });
        both(&mut all, &operation.ports, &operation.not_ports, |ports| Condition::Port(ports.into()));
        self.http(&mut all, |all| {
            both(all, &operation.hosts, &operation.not_hosts, |hosts| Condition::Host(HostSet::new(hosts)));
            if !operation.methods.is_empty() {
                let mut methods = operation.methods.clone();
                // What answers GET answers HEAD.
                if self.denies && !self.exact && methods.contains(&Method::GET) {
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
            key => self.http(&mut all, |all| {
                both(all, &when.values, &when.not_values, |texts| {
                    let set = TextSet::new(texts);
                    match key {
                        WhenKey::Header(name) => Condition::Header(name.clone(), set),
                        WhenKey::Claim(path) => Condition::Claim(path.as_slice().into(), set),
                        WhenKey::Audience => Condition::Audience(set),
                        WhenKey::Presenter => Condition::Presenter(set),
                        WhenKey::ServerName => Condition::ServerName(set),
                    }
                });
            })?,
        }
        Some(Condition::All(all.into()))
    }
}

fn nets(blocks: &[IpBlock]) -> NetMap<()> {
    let mut nets: Vec<_> = blocks.iter().map(|block| super::prefix::canonical(block.net())).collect();
    nets.sort();
    nets.dedup();
    NetMap::new(nets.into_iter().map(|net| (net, ())))
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
