//! `AuthorizationPolicy`, `RequestAuthentication` and `PeerAuthentication`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderName, Method};

use super::{
    ImportError,
    tree::{At, Fields},
};
use crate::{
    authn::{JwtIssuer, JwtKeys, JwtLocation, KeyOrigin, KeySet},
    authz::{Action, Expr, HostText, Operation, PathText, Policy, RequestPrincipal, Rule, Source, Text, When, WhenKey},
    matching::IpBlock,
    model::Mtls,
};

type Result<T> = std::result::Result<T, ImportError>;

/// For which workload resources are read: its namespace and labels say which of them hold.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its labels, which selectors look at.
    pub labels: BTreeMap<String, String>,
    /// The namespace whose resources hold for the whole mesh. Default `istio-system`.
    pub root_namespace: String,
    /// What `cluster.local` stands for in principals. Default itself.
    pub trust_domain: String,
}

impl Workload {
    /// A workload in a namespace.
    pub fn new(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            labels: BTreeMap::new(),
            root_namespace: "istio-system".into(),
            trust_domain: "cluster.local".into(),
        }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }
}

/// What resources of Istio say about one workload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Istio {
    /// Of every `AuthorizationPolicy`.
    pub authz: Policy,
    /// Of every `RequestAuthentication`.
    pub jwt: Vec<JwtIssuer>,
    /// Of the nearest `PeerAuthentication`; `None` if there is none, which for Istio means `PERMISSIVE`.
    pub mtls: Option<Mtls>,
    /// By port, where one differs.
    pub port_mtls: BTreeMap<u16, Mtls>,
}

/// Reads documents of YAML, separated by `---`. Resources that hold for other workloads are checked and left out; other
/// kinds are skipped.
///
/// # Errors
/// If a document is no YAML, or a resource has a field whose meaning cannot be kept.
pub fn istio(text: &str, workload: &Workload) -> Result<Istio> {
    let mut found = Istio::default();
    let mut peers: Vec<(u8, Peers)> = Vec::new();
    for (number, document) in documents(text).enumerate() {
        let path = format!("document {}", number + 1);
        if document.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        let value = crate::source::file::yaml(document).map_err(|error| ImportError::new(&path, error))?;
        let mut fields = At::new(path, value).fields()?;
        let api = fields.take(&["apiVersion"]).text()?;
        let kind = fields.take(&["kind"]).text()?;
        if !api.starts_with("security.istio.io/") {
            continue;
        }
        let mut metadata = fields.take(&["metadata"]).fields()?;
        let name = metadata.take(&["name"]).text()?;
        let namespace = match metadata.take_some(&["namespace"]) {
            Some(namespace) => namespace.text()?,
            None => workload.namespace.clone(),
        };
        let annotations = metadata.take(&["annotations"]);
        let mut spec = fields.take(&["spec"]).fields()?;
        let selector = selector(&mut spec)?;
        let holds = (namespace == workload.namespace || namespace == workload.root_namespace)
            && selector.iter().flatten().all(|(name, value)| workload.labels.get(name) == Some(value));
        let resource = Resource { name: format!("{namespace}/{name}"), namespace: &namespace, workload };
        match kind.as_str() {
            "AuthorizationPolicy" => {
                let (rules, exclusive) = resource.authorization(spec, dry_run(annotations)?)?;
                if holds {
                    found.authz.rules.extend(rules);
                    found.authz.exclusive |= exclusive;
                }
            }
            "RequestAuthentication" => {
                let issuers = request_authentication(spec)?;
                if holds {
                    found.jwt.extend(issuers);
                }
            }
            "PeerAuthentication" => {
                let rank = match (&selector, namespace == workload.root_namespace) {
                    (Some(_), _) => 2,
                    (None, false) => 1,
                    (None, true) => 0,
                };
                let read = peer_authentication(spec)?;
                if holds {
                    peers.push((rank, read));
                }
            }
            _ => {}
        }
    }
    // The nearest that says something wins; one that is unset inherits.
    peers.sort_by_key(|(rank, _)| *rank);
    for (rank, peer) in peers {
        found.mtls = peer.mode.or(found.mtls);
        if rank == 2 {
            found.port_mtls.extend(peer.ports);
        }
    }
    Ok(found)
}

fn documents(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if line.trim_end() == "---" && at > 0 {
                let (document, after) = text.split_at(at);
                rest = Some(&after[line.len()..]);
                return Some(document);
            }
            at += line.len();
        }
        rest = None;
        Some(text.strip_prefix("---").unwrap_or(text))
    })
}

/// The labels that a workload has to have; `None` for all workloads.
fn selector(spec: &mut Fields) -> Result<Option<BTreeMap<String, String>>> {
    let Some(selector) = spec.take_some(&["selector"]) else { return Ok(None) };
    let mut selector = selector.fields()?;
    let labels = selector.take(&["matchLabels"]).fields()?;
    selector.end()?;
    labels.rest().into_iter().map(|(name, value)| Ok((name, value.text()?))).collect::<Result<_>>().map(Some)
}

fn dry_run(annotations: At) -> Result<bool> {
    match annotations.fields()?.take_some(&["istio.io/dry-run"]) {
        Some(value) => value.boolean(),
        None => Ok(false),
    }
}

struct Resource<'w> {
    name: String,
    namespace: &'w str,
    workload: &'w Workload,
}

impl Resource<'_> {
    /// The rules, and whether it is one that allows nothing.
    fn authorization(&self, mut spec: Fields, shadow: bool) -> Result<(Vec<Rule>, bool)> {
        let action = match spec.take_some(&["action"]).map(At::text).transpose()?.as_deref() {
            None | Some("ALLOW") => Action::Allow,
            Some("DENY") => Action::Deny,
            Some("AUDIT") => Action::Audit,
            Some(other) => return spec.fail(format!("the action `{other}` is not known here")),
        };
        let mut rules = Vec::new();
        for (index, rule) in spec.take(&["rules"]).items()?.into_iter().enumerate() {
            let mut read = self.rule(rule, format!("{}[{index}]", self.name), action.clone())?;
            if shadow {
                read = read.shadow();
            }
            rules.push(read);
        }
        let empty = rules.is_empty() && action == Action::Allow;
        if empty && shadow {
            // In shadow nothing is allowed: a rule that never holds.
            let nobody = Source { principals: vec![Text::exact("")], ..Source::default() };
            rules.push(Rule::allow(self.name.as_str()).from(nobody).shadow());
        }
        spec.end()?;
        Ok((rules, empty && !shadow))
    }

    fn rule(&self, at: At, name: String, action: Action) -> Result<Rule> {
        let mut fields = at.fields()?;
        let mut rule = Rule::new(name, action);
        for from in fields.take(&["from"]).items()? {
            let mut from = from.fields()?;
            rule.from.push(self.source(from.take(&["source"]).fields()?)?);
            from.end()?;
        }
        for to in fields.take(&["to"]).items()? {
            let mut to = to.fields()?;
            rule.to.push(operation(to.take(&["operation"]).fields()?)?);
            to.end()?;
        }
        for when in fields.take(&["when"]).items()? {
            let expr = self.when(when.fields()?)?;
            rule.and.push(expr);
        }
        fields.end()?;
        Ok(rule)
    }

    fn source(&self, mut fields: Fields) -> Result<Source> {
        let mut texts = |name: &str| fields.take(&[name]).each(Text::new);
        let (namespaces, not_namespaces) = (texts("namespaces")?, texts("notNamespaces")?);
        let (trust_domains, not_trust_domains) = (texts("trustDomains")?, texts("notTrustDomains")?);
        let mut principals = |name: &str| fields.take(&[name]).each(|text| self.principal(text));
        let (principals_, not_principals) = (principals("principals")?, principals("notPrincipals")?);
        let mut accounts = |name: &str| fields.take(&[name]).each(|text| self.account(text));
        let (service_accounts, not_service_accounts) = (accounts("serviceAccounts")?, accounts("notServiceAccounts")?);
        let mut callers = |name: &str| fields.take(&[name]).each(RequestPrincipal::new);
        let (request_principals, not_request_principals) =
            (callers("requestPrincipals")?, callers("notRequestPrincipals")?);
        let mut blocks = |name: &str| fields.take(&[name]).each(str::parse::<IpBlock>);
        let source = Source {
            principals: principals_,
            not_principals,
            namespaces,
            not_namespaces,
            trust_domains,
            not_trust_domains,
            service_accounts,
            not_service_accounts,
            request_principals,
            not_request_principals,
            ip_blocks: blocks("ipBlocks")?,
            not_ip_blocks: blocks("notIpBlocks")?,
            remote_ip_blocks: blocks("remoteIpBlocks")?,
            not_remote_ip_blocks: blocks("notRemoteIpBlocks")?,
            ..Source::default()
        };
        fields.end()?;
        Ok(source)
    }

    /// Istio writes identities without their scheme, and `cluster.local` for the mesh's own trust domain.
    fn principal(&self, text: &str) -> std::result::Result<Text, String> {
        let parsed = Text::new(text).map_err(|error| error.to_string())?;
        let own = |text: &str| match text.strip_prefix("cluster.local/") {
            Some(rest) => format!("spiffe://{}/{rest}", self.workload.trust_domain),
            None => format!("spiffe://{text}"),
        };
        Ok(match parsed {
            Text::Exact(text) => Text::Exact(own(&text).into()),
            Text::Prefix(text) => Text::Prefix(own(&text).into()),
            other => other,
        })
    }

    fn account(&self, text: &str) -> std::result::Result<(Arc<str>, Arc<str>), String> {
        let (namespace, name) = text.split_once('/').unwrap_or((self.namespace, text));
        if namespace.is_empty() || name.is_empty() || text.contains('*') {
            return Err(format!("`{text}` is not a service account"));
        }
        Ok((namespace.into(), name.into()))
    }

    /// Conditions on what sources and operations have fields for become those.
    fn when(&self, mut fields: Fields) -> Result<Expr> {
        let key = fields.take(&["key"]).text()?;
        let (values, not_values) = (fields.take(&["values"]), fields.take(&["notValues"]));
        if values.value.is_null() && not_values.value.is_null() {
            return fields.fail("neither `values` nor `notValues` stands here");
        }
        let both = |name: &str, other: &str| {
            let map = [(name.to_owned(), values.value.clone()), (other.to_owned(), not_values.value.clone())];
            At::new(fields.path.clone(), serde_json::Value::Object(map.into_iter().collect())).fields()
        };
        let source = |name: &str, other: &str| self.source(both(name, other)?).map(Expr::Source);
        let expr = match key.as_str() {
            "source.ip" => source("ipBlocks", "notIpBlocks")?,
            "remote.ip" => source("remoteIpBlocks", "notRemoteIpBlocks")?,
            "source.namespace" => source("namespaces", "notNamespaces")?,
            "source.principal" => source("principals", "notPrincipals")?,
            "source.trustDomain" => source("trustDomains", "notTrustDomains")?,
            "source.serviceAccount" => source("serviceAccounts", "notServiceAccounts")?,
            "request.auth.principal" => source("requestPrincipals", "notRequestPrincipals")?,
            "destination.port" => Expr::Operation(operation(both("ports", "notPorts")?)?),
            "destination.ip" => Expr::Operation(Operation {
                destination_ip_blocks: values.clone().each(str::parse::<IpBlock>)?,
                not_destination_ip_blocks: not_values.clone().each(str::parse::<IpBlock>)?,
                ..Operation::default()
            }),
            other => {
                let key = when_key(other).ok_or_else(|| {
                    ImportError::new(
                        format!("{}.key", fields.path),
                        format!("the attribute `{other}` is not known here"),
                    )
                })?;
                Expr::When(When {
                    key,
                    values: values.clone().each(Text::new)?,
                    not_values: not_values.clone().each(Text::new)?,
                })
            }
        };
        fields.end()?;
        Ok(expr)
    }
}

fn when_key(key: &str) -> Option<WhenKey> {
    match key {
        "request.auth.audiences" => return Some(WhenKey::Audience),
        "request.auth.presenter" => return Some(WhenKey::Presenter),
        "connection.sni" => return Some(WhenKey::ServerName),
        _ => {}
    }
    let inner = |prefix: &str| key.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']');
    if let Some(name) = inner("request.headers") {
        return HeaderName::try_from(name).ok().map(WhenKey::Header);
    }
    let path: Vec<Arc<str>> = inner("request.auth.claims")?.split("][").map(Arc::from).collect();
    path.iter().all(|name| !name.is_empty() && !name.contains(['[', ']'])).then_some(WhenKey::Claim(path))
}

fn operation(mut fields: Fields) -> Result<Operation> {
    let path = |text: &str| {
        // Braces are special only as templates.
        let template = text.contains("{*}") || text.contains("{**}");
        if template { PathText::new(text) } else { Text::new(text).map(PathText::Text) }
    };
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) => Ok(port),
        Err(_) => Err(format!("`{text}` is not a port")),
    };
    let method = |text: &str| match Method::from_bytes(text.as_bytes()) {
        Ok(method) if !text.contains('*') => Ok(method),
        _ => Err(format!("`{text}` is not one method")),
    };
    let mut operation = Operation {
        hosts: fields.take(&["hosts"]).each(HostText::new)?,
        not_hosts: fields.take(&["notHosts"]).each(HostText::new)?,
        ports: fields.take(&["ports"]).each(port)?,
        not_ports: fields.take(&["notPorts"]).each(port)?,
        not_methods: fields.take(&["notMethods"]).each(method)?,
        paths: fields.take(&["paths"]).each(path)?,
        not_paths: fields.take(&["notPaths"]).each(path)?,
        ..Operation::default()
    };
    let methods = fields.take(&["methods"]);
    let any = matches!(&methods.value, serde_json::Value::Array(items) if items.iter().any(|item| item == "*"));
    if any {
        // Any method: a request, whatever it is.
        if operation.paths.is_empty() {
            operation.paths.push(PathText::Text(Text::Present));
        }
    } else {
        operation.methods = methods.each(method)?;
    }
    fields.end()?;
    Ok(operation)
}

fn request_authentication(mut spec: Fields) -> Result<Vec<JwtIssuer>> {
    let rules = spec.take(&["jwtRules"]).items()?;
    spec.end()?;
    rules.into_iter().map(|rule| jwt_rule(rule.fields()?)).collect()
}

fn jwt_rule(mut fields: Fields) -> Result<JwtIssuer> {
    let issuer = fields.take(&["issuer"]).text()?;
    let audiences = fields.take(&["audiences"]).texts()?;
    let timeout = match fields.take_some(&["timeout"]) {
        Some(at) => {
            let path = at.path.clone();
            let text = at.text()?;
            crate::source::duration::parse(&text).map_err(|(message, _)| ImportError::new(path, message))?
        }
        None => Duration::from_secs(5),
    };
    let uri = fields.take_some(&["jwksUri", "jwks_uri"]).map(At::text).transpose()?;
    let keys = match fields.take_some(&["jwks"]) {
        Some(at) => {
            let path = at.path.clone();
            let text = at.text()?;
            KeySet::read(text.as_bytes(), KeyOrigin::Local).map_err(|refused| ImportError::new(path, refused))?;
            JwtKeys::Inline(text.into())
        }
        None => JwtKeys::Remote {
            uri: uri.map(Arc::from),
            timeout,
            cache_duration: Duration::from_secs(300),
            networks: Vec::new(),
        },
    };
    let mut policy = JwtIssuer::new(issuer, keys);
    policy.audiences = audiences.into_iter().map(Arc::from).collect();
    // As Istio has it.
    policy.allow_missing_exp = true;
    let header = |at: At| {
        let path = at.path.clone();
        HeaderName::try_from(at.text()?).map_err(|_| ImportError::new(path, "that is not a header name"))
    };
    for from in fields.take(&["fromHeaders"]).items()? {
        let mut from = from.fields()?;
        let name = header(from.take(&["name"]))?;
        let prefix = from.take_some(&["prefix"]).map(At::text).transpose()?.unwrap_or_default();
        policy.locations.push(JwtLocation::Header { name, prefix: prefix.into() });
        from.end()?;
    }
    let texts = |at: At| -> Result<Vec<Arc<str>>> { Ok(at.texts()?.into_iter().map(Arc::from).collect()) };
    policy.locations.extend(texts(fields.take(&["fromParams"]))?.into_iter().map(JwtLocation::Param));
    policy.locations.extend(texts(fields.take(&["fromCookies"]))?.into_iter().map(JwtLocation::Cookie));
    if let Some(forward) = fields.take_some(&["forwardOriginalToken"]) {
        policy.forward_original_token = forward.boolean()?;
    }
    policy.output_payload_to_header = fields.take_some(&["outputPayloadToHeader"]).map(header).transpose()?;
    for output in fields.take(&["outputClaimToHeaders"]).items()? {
        let mut output = output.fields()?;
        let (name, claim) = (header(output.take(&["header"]))?, output.take(&["claim"]).text()?);
        policy.output_claim_to_headers.push((name, claim.into()));
        output.end()?;
    }
    policy.space_delimited_claims = texts(fields.take(&["spaceDelimitedClaims"]))?.into();
    fields.end()?;
    Ok(policy)
}

struct Peers {
    mode: Option<Mtls>,
    ports: BTreeMap<u16, Mtls>,
}

fn peer_authentication(mut spec: Fields) -> Result<Peers> {
    let mode = |at: At| -> Result<Option<Mtls>> {
        let mut fields = at.fields()?;
        let at = fields.take(&["mode"]);
        fields.end()?;
        match &at.value {
            serde_json::Value::Null => Ok(None),
            serde_json::Value::String(text) => match text.as_str() {
                "UNSET" => Ok(None),
                "DISABLE" => Ok(Some(Mtls::Off)),
                "PERMISSIVE" => Ok(Some(Mtls::Permissive)),
                "STRICT" => Ok(Some(Mtls::Strict)),
                other => at.fail(format!("the mode `{other}` is not known")),
            },
            _ => at.fail("expected a text"),
        }
    };
    let peers = Peers {
        mode: mode(spec.take(&["mtls"]))?,
        ports: {
            let mut ports = BTreeMap::new();
            for (port, at) in spec.take(&["portLevelMtls"]).fields()?.rest() {
                let path = at.path.clone();
                let port = port.parse().map_err(|_| ImportError::new(path, "that is not a port"))?;
                ports.extend(mode(at)?.map(|mode| (port, mode)));
            }
            ports
        },
    };
    spec.end()?;
    Ok(peers)
}
