//! Rules as they are written: validated plain data.

use std::{fmt, sync::Arc};

use http::{HeaderName, Method};

use super::{cel::Cel, expr::Expr, external::ExtAuthz, path::PathText, text::Text};
use crate::{
    enforcement::Percent,
    matching::{IpBlock, PatternError},
    name::SpiffeId,
};

/// A list of rules that belong together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Policy {
    /// In order; the first of those that decide names the decision.
    pub rules: Vec<Rule>,
    /// Whether what no rule allows is denied even if no rule allows anything: `allow: []`.
    pub exclusive: bool,
}

impl Policy {
    /// A policy of these rules.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { rules: rules.into_iter().collect(), exclusive: false }
    }
}

/// What happens to a request that a rule matches.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Action {
    /// It is allowed, unless a rule denies it.
    Allow,
    /// It is denied.
    Deny,
    /// It is written to the audit log, whatever else becomes of it.
    Audit,
    /// It is denied unless an authorization service allows it, and every other rule does.
    Custom,
}

/// All of it has to hold: any of `from`, any of `to`, and each of `when`. Empty lists always hold.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Rule {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Who asks.
    pub from: Vec<Source>,
    /// For what.
    pub to: Vec<Operation>,
    /// Further conditions.
    pub when: Vec<When>,
    /// A further condition in CEL, looked at last.
    pub condition: Option<Cel>,
    /// Who is asked about it; for [`Action::Custom`] only, and without it such a rule denies.
    pub ext_authz: Option<ExtAuthz>,
    /// What only imported rules say.
    pub(crate) and: Vec<Expr>,
    /// Held to the letter of the system it was imported from: `GET` is not `HEAD`, repeated headers are joined.
    pub(crate) exact: bool,
    /// The share of requests for which it counts; for the others it is in shadow: evaluated and counted only. Default all.
    pub enforced: Percent,
}

impl Rule {
    /// A rule without conditions: it matches every request.
    pub fn new(name: impl Into<Arc<str>>, action: Action) -> Self {
        Self {
            name: name.into(),
            action,
            from: Vec::new(),
            to: Vec::new(),
            when: Vec::new(),
            condition: None,
            ext_authz: None,
            and: Vec::new(),
            exact: false,
            enforced: Percent::ALL,
        }
    }

    /// Whether it says what only imported rules say.
    pub(crate) fn is_imported(&self) -> bool {
        self.exact || !self.and.is_empty()
    }

    /// A rule that allows.
    pub fn allow(name: impl Into<Arc<str>>) -> Self {
        Self::new(name, Action::Allow)
    }

    /// A rule that denies.
    pub fn deny(name: impl Into<Arc<str>>) -> Self {
        Self::new(name, Action::Deny)
    }

    /// A rule that asks somebody else.
    pub fn custom(name: impl Into<Arc<str>>, ext_authz: ExtAuthz) -> Self {
        Self { ext_authz: Some(ext_authz), ..Self::new(name, Action::Custom) }
    }

    /// Adds a kind of caller.
    #[must_use]
    pub fn from(mut self, source: Source) -> Self {
        self.from.push(source);
        self
    }

    /// Adds a kind of operation.
    #[must_use]
    pub fn to(mut self, operation: Operation) -> Self {
        self.to.push(operation);
        self
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when.push(when);
        self
    }

    /// Sets the condition.
    #[must_use]
    pub fn condition(mut self, condition: Cel) -> Self {
        self.condition = Some(condition);
        self
    }

    /// Evaluated and counted, without effect on any request.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.enforced = Percent::NONE;
        self
    }
}

/// A kind of caller. All that is given has to hold; of each list, one entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Source {
    /// SPIFFE IDs.
    pub principals: Vec<Text>,
    /// None of these.
    pub not_principals: Vec<Text>,
    /// Namespaces, from IDs such as `spiffe://td/ns/prod/sa/web`.
    pub namespaces: Vec<Text>,
    /// None of these.
    pub not_namespaces: Vec<Text>,
    /// Trust domains.
    pub trust_domains: Vec<Text>,
    /// None of these.
    pub not_trust_domains: Vec<Text>,
    /// Service accounts by namespace and name.
    pub service_accounts: Vec<(Arc<str>, Arc<str>)>,
    /// None of these.
    pub not_service_accounts: Vec<(Arc<str>, Arc<str>)>,
    /// Issuer and subject of the verified token.
    pub request_principals: Vec<RequestPrincipal>,
    /// None of these.
    pub not_request_principals: Vec<RequestPrincipal>,
    /// Names of API keys.
    pub api_keys: Vec<Text>,
    /// None of these.
    pub not_api_keys: Vec<Text>,
    /// Networks of the peer's address.
    pub ip_blocks: Vec<IpBlock>,
    /// None of these.
    pub not_ip_blocks: Vec<IpBlock>,
    /// Networks of the client's address, which trusted proxies vouch for; the peer's without them.
    pub remote_ip_blocks: Vec<IpBlock>,
    /// None of these.
    pub not_remote_ip_blocks: Vec<IpBlock>,
}

impl Source {
    /// Callers with one of these SPIFFE IDs; `spiffe://td/ns/prod/*` is all that begin so, `*` everyone with an identity.
    ///
    /// # Errors
    /// If a text is no SPIFFE ID or the beginning or end of one.
    pub fn principals<T: AsRef<str>>(principals: impl IntoIterator<Item = T>) -> Result<Self, PatternError> {
        let principals = principals.into_iter().map(|text| principal(text.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { principals, ..Self::default() })
    }
}

/// Issuer and subject of a token, written `issuer/subject` with a `*` at either end, as Istio does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestPrincipal {
    text: Arc<str>,
    issuer: Text,
    subject: Text,
}

impl RequestPrincipal {
    /// Parses `https://issuer.example/alice`, `https://issuer.example/*`, `*/alice`, `*` for any verified token.
    ///
    /// # Errors
    /// If a `*` stands anywhere but at an end.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        // Issuers have slashes, subjects should not.
        let whole = Text::new(pattern)?;
        let (issuer, subject) = match (pattern.rsplit_once('/'), &whole) {
            (_, Text::Present) => (Text::Present, Text::Present),
            (Some(("*", subject)), _) => (Text::Present, Text::exact(subject)),
            (Some((issuer, "*")), _) => (Text::exact(issuer), Text::Present),
            (Some((issuer, subject)), Text::Suffix(_)) => (Text::Suffix(issuer[1..].into()), Text::exact(subject)),
            (Some((issuer, subject)), Text::Prefix(_)) => {
                (Text::exact(issuer), Text::Prefix(subject[..subject.len() - 1].into()))
            }
            (Some((issuer, subject)), _) => (Text::exact(issuer), Text::exact(subject)),
            (None, Text::Suffix(subject)) => (Text::Present, Text::Suffix(subject.clone())),
            (None, Text::Prefix(issuer)) => (Text::Prefix(issuer.clone()), Text::Present),
            (None, _) => (whole, Text::exact("")),
        };
        Ok(Self { text: pattern.into(), issuer, subject })
    }

    pub(super) fn matches(&self, issuer: &str, subject: &str) -> bool {
        self.issuer.matches(issuer) && self.subject.matches(subject)
    }
}

impl fmt::Display for RequestPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A pattern for SPIFFE IDs.
pub(crate) fn principal(pattern: &str) -> Result<Text, PatternError> {
    let text = Text::new(pattern)?;
    let begins = |prefix: &str| {
        let scheme = "spiffe://";
        prefix.starts_with(scheme) || scheme.starts_with(prefix)
    };
    match &text {
        Text::Exact(id) => SpiffeId::new(id).map_err(|error| PatternError::new(pattern, error.why())).map(|_| text),
        Text::Prefix(prefix) if !begins(prefix) => {
            Err(PatternError::new(pattern, "an identity begins with `spiffe://`"))
        }
        _ => Ok(text),
    }
}

/// A kind of operation. All that is given has to hold; of each list, one entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Operation {
    /// Hosts, in any case.
    pub hosts: Vec<HostText>,
    /// None of these.
    pub not_hosts: Vec<HostText>,
    /// Networks of the address that the connection arrived at.
    pub destination_ip_blocks: Vec<IpBlock>,
    /// None of these.
    pub not_destination_ip_blocks: Vec<IpBlock>,
    /// Ports that the connection arrived at.
    pub ports: Vec<u16>,
    /// None of these.
    pub not_ports: Vec<u16>,
    /// Methods. To deny `GET` denies `HEAD` as well.
    pub methods: Vec<Method>,
    /// None of these.
    pub not_methods: Vec<Method>,
    /// Canonical paths, without query.
    pub paths: Vec<PathText>,
    /// None of these.
    pub not_paths: Vec<PathText>,
    /// gRPC methods, by path whatever the content type.
    pub grpc: Vec<GrpcMethod>,
}

/// A pattern for hosts: `example.com`, `*.example.com`, `example.*`, `example.com:8080`. Without a port any port matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostText {
    text: Text,
    port: Option<u16>,
}

impl HostText {
    /// Parses a pattern.
    ///
    /// # Errors
    /// As [`Text::new`], and if a character cannot be in a host.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let (host, port) = match pattern.rsplit_once(':') {
            // The colons of an IPv6 address stand in brackets.
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse().map_err(|_| PatternError::new(pattern, "its port is not 0 to 65535"))?;
                (host, Some(port))
            }
            _ => (pattern, None),
        };
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*' | b'[' | b']' | b':');
        if !host.bytes().all(valid) {
            return Err(PatternError::new(pattern, "only letters, digits, `-`, `_`, `.`, `*` and a port may appear"));
        }
        Ok(Self { text: Text::new(host)?.lower(), port })
    }

    pub(super) fn text(&self) -> &Text {
        &self.text
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }
}

impl fmt::Display for HostText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.text),
            None => self.text.fmt(f),
        }
    }
}

/// A gRPC service, one of its methods, or a method of any service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GrpcMethod {
    /// Full name, `package.Service`.
    pub service: Option<Arc<str>>,
    /// Name of the method.
    pub method: Option<Arc<str>>,
}

impl GrpcMethod {
    /// A service, or one of its methods.
    pub fn new(service: Option<Arc<str>>, method: Option<Arc<str>>) -> Self {
        Self { service, method }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return false;
        };
        let same = |name: &Option<Arc<str>>, text: &str| name.as_ref().is_none_or(|name| **name == *text);
        !method.contains('/') && same(&self.service, service) && same(&self.method, method)
    }
}

/// A condition on one attribute: one of `values`, and none of `not_values`.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct When {
    /// Which.
    pub key: WhenKey,
    /// One of these, unless empty.
    pub values: Vec<Text>,
    /// None of these.
    pub not_values: Vec<Text>,
}

impl When {
    /// One of these values.
    pub fn new(key: WhenKey, values: impl IntoIterator<Item = Text>) -> Self {
        Self { key, values: values.into_iter().collect(), not_values: Vec::new() }
    }
}

/// An attribute that [`When`] asks for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum WhenKey {
    /// A header. A request that has it more than once, or not as text, is refused with E055.
    Header(HeaderName),
    /// The name that the client asked for in its TLS handshake.
    ServerName,
    /// A claim of the verified token, and claims inside of it: a text, a number or a truth value, or a list that holds one.
    Claim(Vec<Arc<str>>),
    /// The audiences of the verified token.
    Audience,
    /// To whom the verified token was given: `azp`.
    Presenter,
}
