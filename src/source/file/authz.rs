//! The grammar of `inbound.authz`, and its rules printed.

mod show;

use std::{fmt::Display, sync::Arc, time::Duration};

use http::HeaderName;
use serde_json::json;

pub(super) use self::show::show;
use super::{
    cursor::{Cursor, Fields, Wrong},
    node::Kind,
};
use crate::{
    authz::{
        Action, Cel, ExtAuthz, ExtAuthzProtocol, GrpcMethod, HostText, MAX_BODY, Operation, PathText, RequestPrincipal,
        Rule, Source, Text, When, WhenKey,
    },
    enforcement::Percent,
    matching::IpBlock,
    source::document::{PartialAuthz, Set},
};

/// `inbound.authz`.
pub(super) fn authz(at: Cursor<'_, '_, '_>) -> Option<PartialAuthz> {
    at.map("a map with `allow`, `deny`, `audit` or `custom`", |fields| {
        let mut list = |key: &'static str, doc: &str, action: Action| {
            fields.field(key, doc, |at| at.list("a list of rules", |at| rule(at, &action)))
        };
        PartialAuthz {
            allow: list(
                "allow",
                "What is allowed; all else is denied. Default: the listener's own rule, which with an identity admits \
                 peers of the same trust domain.",
                Action::Allow,
            ),
            deny: list("deny", "What is denied, whatever allows it. Default: nothing.", Action::Deny),
            audit: list("audit", "What is written to the log. Default: nothing.", Action::Audit),
            custom: list(
                "custom",
                "What is asked about, once everything else allows it: an authorization service has to allow it too. \
                 Default: nothing.",
                Action::Custom,
            ),
        }
    })
}

fn rule(at: Cursor<'_, '_, '_>, action: &Action) -> Option<Rule> {
    at.map("a rule", |fields| {
        let name = fields.field("name", "Its name in logs and metrics. Default: its place, such as `allow[0]`.", name);
        let from = fields.field(
            "from",
            "Who asks: one of these. A SPIFFE ID, its beginning (`spiffe://td/ns/prod/*`), `*` for everyone with an \
             identity, or a map. Default: anyone.",
            |at| one_or_some(at, "a caller, or a list of callers", source),
        );
        let to = fields.field("to", "Several kinds of operation, instead of the fields here.", |at| {
            one_or_some(at, "a list of operations", |at| at.map("an operation", operation))
        });
        let here = operation(fields);
        let inline: Vec<&'static str> = OPERATION.into_iter().filter(|key| fields.has(key)).collect();
        if let (Some(_), Some(key)) = (&to, inline.first()) {
            let wrong = Wrong::new(format!("`to` and `{key}` exclude each other"), "move it into an entry of `to`");
            fields.report(key, wrong);
        }
        let headers = fields.group("headers", "All of these: a header, and one or several patterns.", |at| {
            at.keyed("a map from header names to patterns", super::routes::header_name, values)
        });
        let claims = fields.group("claims", "All of these: a claim, such as `org.tenant`, and patterns.", |at| {
            at.keyed("a map from claims to patterns", claim, values)
        });
        let audiences = fields.field("audiences", "Audiences of the verified token: one of these.", texts);
        let presenters = fields.field("presenters", "`azp` of the verified token: one of these.", texts);
        let server_name = fields.field("server_name", "The name asked for in the TLS handshake: one of these.", texts);
        let condition = fields.field("condition", "A condition in CEL, at most 1 KiB (feature `cel`).", |at| {
            at.scalar("a condition in CEL", json!({ "type": "string", "maxLength": 1024 }), |text| {
                Cel::new(text).map_err(Wrong::plain)
            })
        });
        let asked = if *action == Action::Custom {
            fields.field("ext_authz", "Who is asked, by Envoy's `ext_authz`.", ext_authz)
        } else {
            None
        };
        let shadow = fields.field("shadow", "Evaluated and counted only. Default `false`.", |at| at.boolean());
        let enforced = fields.field(
            "enforced",
            "The share of requests it counts for; the rest is in shadow. Default 100%.",
            |at| at.percent(),
        );
        fields.at_most_one(&["shadow", "enforced"]);
        let mut rule = Rule::new(name.map_or_else(|| Arc::from(""), |set| set.value), action.clone());
        rule.from = merged(from.into_iter().flat_map(|set| set.value));
        rule.to = match to {
            Some(to) => to.value,
            None if inline.is_empty() => Vec::new(),
            None => vec![here],
        };
        let header = |(name, (values, not_values))| When { key: WhenKey::Header(name), values, not_values };
        rule.when.extend(headers.into_iter().map(|(name, set)| header((name, set.value))));
        let claim = |(path, (values, not_values))| When { key: WhenKey::Claim(path), values, not_values };
        rule.when.extend(claims.into_iter().map(|(path, set)| claim((path, set.value))));
        rule.when.extend(audiences.map(|set| When::new(WhenKey::Audience, set.value)));
        rule.when.extend(presenters.map(|set| When::new(WhenKey::Presenter, set.value)));
        rule.when.extend(server_name.map(|set| When::new(WhenKey::ServerName, set.value)));
        rule.condition = condition.map(|set| set.value);
        rule.ext_authz = asked.map(|set| set.value);
        if let Some(share) = enforced {
            rule.enforced = Percent::of_millionths(share.value);
        }
        if shadow.is_some_and(|set| set.value) {
            rule.enforced = Percent::NONE;
        }
        rule
    })
}

fn ext_authz(at: Cursor<'_, '_, '_>) -> Option<ExtAuthz> {
    at.map("a map that says who is asked", |fields| {
        let service = fields.field("service", "A service of `services`. Needed.", |at| at.parsed("a service"));
        let protocol = fields.field(
            "protocol",
            "`grpc`: `envoy.service.auth.v3.Authorization/Check`, or `http`: 200 allows. Default `grpc`.",
            |at| at.choice("a protocol", &[("grpc", ExtAuthzProtocol::Grpc), ("http", ExtAuthzProtocol::Http)], &[]),
        );
        let timeout = fields.field("timeout", "What is not answered by then is denied. Default `200ms`.", |at| {
            at.duration(Duration::from_millis(1))
        });
        let path_prefix = fields.field("path_prefix", "`http`: stands before the path. Default: nothing.", path_prefix);
        let headers = field(
            fields,
            "headers",
            "The headers it is told of. Default: by `grpc` all, by `http` `authorization`.",
            header,
        );
        let upstream =
            field(fields, "upstream_headers", "`http`: the headers of its answer that the application sees.", header);
        let body = fields.field(
            "max_request_bytes",
            "It is told the body, which may have that many bytes, up to 1048576. Default 0: it is not told.",
            |at| at.integer(0..=MAX_BODY),
        );
        let Some(service) = service else {
            if !fields.has("service") {
                let wrong = Wrong::new("`service` is missing", "name a service of `services`");
                fields.report("service", wrong);
            }
            return None;
        };
        let mut policy = ExtAuthz::of(service.value);
        set(&mut policy.protocol, protocol);
        set(&mut policy.timeout, timeout);
        set(&mut policy.path_prefix, path_prefix);
        policy.headers = headers;
        policy.upstream_headers = upstream;
        policy.max_request_bytes = body.map_or(0, |set| set.value as usize);
        Some(policy)
    })?
}

fn set<T>(slot: &mut T, field: Option<Set<T>>) {
    if let Some(field) = field {
        *slot = field.value;
    }
}

fn header(at: Cursor<'_, '_, '_>) -> Option<HeaderName> {
    at.scalar("a header", json!({ "type": "string" }), super::routes::header_name)
}

fn path_prefix(at: Cursor<'_, '_, '_>) -> Option<String> {
    at.scalar("a path", json!({ "type": "string", "pattern": "^/" }), |text| {
        if text.starts_with('/') && !text.ends_with('/') && !text.contains(['?', '#']) && text.is_ascii() {
            return Ok(text.to_owned());
        }
        Err(Wrong::new("that is no beginning of a path", "write one such as `/check`, without `/` at its end"))
    })
}

/// Principals that stand alone are one caller of several names.
fn merged(sources: impl Iterator<Item = Caller>) -> Vec<Source> {
    let (mut principals, mut all) = (Vec::new(), Vec::new());
    for source in sources {
        match source {
            Caller::Principal(text) => principals.push(text),
            Caller::Source(source) => all.push(*source),
        }
    }
    if !principals.is_empty() {
        all.insert(0, Source { principals, ..Source::default() });
    }
    all
}

fn name(at: Cursor<'_, '_, '_>) -> Option<Arc<str>> {
    at.scalar("a name", json!({ "type": "string", "minLength": 1, "maxLength": 253 }), |text| {
        let plain = |c: char| !c.is_control();
        if text.is_empty() || text.len() > 253 || !text.chars().all(plain) {
            return Err(Wrong::new("that is not a name for a rule", "write 1 to 253 characters"));
        }
        Ok(text.into())
    })
}

enum Caller {
    Principal(Text),
    Source(Box<Source>),
}

fn source(at: Cursor<'_, '_, '_>) -> Option<Caller> {
    at.scalar_or(
        |at| principal(at).map(Caller::Principal),
        |at| {
            at.map("a SPIFFE ID, or a map of conditions", |fields| {
                let texts = |fields: &mut Fields<'_, '_, '_>, key, doc| field(fields, key, doc, text);
                let accounts = |fields: &mut Fields<'_, '_, '_>, key, doc| field(fields, key, doc, service_account);
                let nets = |fields: &mut Fields<'_, '_, '_>, key, doc| field(fields, key, doc, net);
                Caller::Source(Box::new(Source {
                    principals: field(fields, "principals", "SPIFFE IDs: one of these.", principal),
                    not_principals: field(fields, "not_principals", "None of these.", principal),
                    namespaces: texts(fields, "namespaces", "`prod` of `spiffe://td/ns/prod/sa/web`: one of these."),
                    not_namespaces: texts(fields, "not_namespaces", "None of these."),
                    trust_domains: texts(fields, "trust_domains", "One of these."),
                    not_trust_domains: texts(fields, "not_trust_domains", "None of these."),
                    service_accounts: accounts(fields, "service_accounts", "`namespace/name`: one of these."),
                    not_service_accounts: accounts(fields, "not_service_accounts", "None of these."),
                    request_principals: field(
                        fields,
                        "request_principals",
                        "Issuer and subject of a verified token, `https://issuer.example/alice`; `*` for any: one of these.",
                        request_principal,
                    ),
                    not_request_principals: field(
                        fields,
                        "not_request_principals",
                        "None of these.",
                        request_principal,
                    ),
                    api_keys: texts(fields, "api_keys", "Names of API keys: one of these."),
                    not_api_keys: texts(fields, "not_api_keys", "None of these."),
                    ip_blocks: nets(fields, "ip_blocks", "Networks of the peer: one of these."),
                    not_ip_blocks: nets(fields, "not_ip_blocks", "None of these."),
                    remote_ip_blocks: nets(
                        fields,
                        "remote_ip_blocks",
                        "Networks of the client, as trusted proxies say; of the peer without them: one of these.",
                    ),
                    not_remote_ip_blocks: nets(fields, "not_remote_ip_blocks", "None of these."),
                }))
            })
        },
    )
}

/// The fields of an operation.
const OPERATION: [&str; 11] = [
    "destination_ip_blocks",
    "not_destination_ip_blocks",
    "hosts",
    "not_hosts",
    "ports",
    "not_ports",
    "methods",
    "not_methods",
    "paths",
    "not_paths",
    "grpc",
];

fn operation(fields: &mut Fields<'_, '_, '_>) -> Operation {
    let hosts = |fields: &mut Fields<'_, '_, '_>, key, doc| field(fields, key, doc, host);
    let ports = |fields: &mut Fields<'_, '_, '_>, key, doc| field(fields, key, doc, port);
    let methods = |fields: &mut Fields<'_, '_, '_>, key, doc| field(fields, key, doc, super::routes::method);
    let paths = |fields: &mut Fields<'_, '_, '_>, key, doc| field(fields, key, doc, path);
    Operation {
        hosts: hosts(fields, "hosts", "`a.example`, `*.example`, `a.example:8080`: one of these."),
        not_hosts: hosts(fields, "not_hosts", "None of these."),
        destination_ip_blocks: field(
            fields,
            "destination_ip_blocks",
            "Networks of the address that the connection arrived at: one of these.",
            net,
        ),
        not_destination_ip_blocks: field(fields, "not_destination_ip_blocks", "None of these.", net),
        ports: ports(fields, "ports", "Ports of this process, 1 to 65535: one of these."),
        not_ports: ports(fields, "not_ports", "None of these."),
        methods: methods(fields, "methods", "In capitals: one of these. To deny `GET` denies `HEAD` too."),
        not_methods: methods(fields, "not_methods", "None of these."),
        paths: paths(
            fields,
            "paths",
            "`/a`, `/a/*`, `*.png`, or segments such as `/users/{*}/orders` and `/files/{**}`: one of these.",
        ),
        not_paths: paths(fields, "not_paths", "None of these."),
        grpc: field(fields, "grpc", "gRPC methods, by path: one of these.", grpc),
    }
}

fn field<T>(
    fields: &mut Fields<'_, '_, '_>,
    key: &'static str,
    doc: &str,
    read: fn(Cursor<'_, '_, '_>) -> Option<T>,
) -> Vec<T> {
    let values = fields.field(key, doc, |at| one_or_some(at, "a value, or a list of values", read));
    values.map(|set| set.value).unwrap_or_default()
}

/// One value, or a list of at least one: nothing to match reads as "any" to some and as "none" to others.
pub(super) fn one_or_some<T>(
    at: Cursor<'_, '_, '_>,
    what: &str,
    read: fn(Cursor<'_, '_, '_>) -> Option<T>,
) -> Option<Vec<T>> {
    if let Some(node) = at.node
        && matches!(&node.kind, Kind::List(items) if items.is_empty())
    {
        at.reading.report(node.mark, Wrong::new("the list is empty", "remove it for any, or list what may match"));
        return None;
    }
    Some(at.one_or_list(what, read)?.into_iter().map(|set| set.value).collect())
}

fn parsed<T>(
    at: Cursor<'_, '_, '_>,
    what: &str,
    help: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    at.scalar(what, json!({ "type": ["string", "number"] }), |text| {
        parse(text).map_err(|message| if help.is_empty() { Wrong::plain(message) } else { Wrong::new(message, help) })
    })
}

fn said<T, E: Display>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn text(at: Cursor<'_, '_, '_>) -> Option<Text> {
    parsed(at, "a pattern", "write `abc`, `abc*`, `*abc` or `*`", |text| said(Text::new(text)))
}

fn texts(at: Cursor<'_, '_, '_>) -> Option<Vec<Text>> {
    one_or_some(at, "a pattern, or a list of patterns", text)
}

/// Patterns of which one has to match, or a map that says which may not.
fn values(at: Cursor<'_, '_, '_>) -> Option<(Vec<Text>, Vec<Text>)> {
    at.map_or(
        |at| texts(at).map(|texts| (texts, Vec::new())),
        |at| {
            at.map("a pattern, a list of patterns, or a map with `values` and `not_values`", |fields| {
                let values = field(fields, "values", "One of these.", text);
                let not_values = field(fields, "not_values", "None of these.", text);
                if !fields.has("values") && !fields.has("not_values") {
                    let wrong = Wrong::new(
                        "neither `values` nor `not_values` stands here",
                        "add one, such as `values: [\"*\"]`",
                    );
                    fields.report("", wrong);
                }
                (values, not_values)
            })
        },
    )
}

fn principal(at: Cursor<'_, '_, '_>) -> Option<Text> {
    let help = "write a SPIFFE ID, its beginning or end with `*`, or `*` for everyone with an identity";
    parsed(at, "a SPIFFE ID", help, |text| said(crate::authz::principal(text)))
}

fn request_principal(at: Cursor<'_, '_, '_>) -> Option<RequestPrincipal> {
    parsed(at, "a request principal", "write `ISSUER/SUBJECT`, `ISSUER/*`, `*/SUBJECT` or `*`", |text| {
        said(RequestPrincipal::new(text))
    })
}

/// A claim, or claims inside of claims: `org.tenant`.
pub(super) fn claim(key: &str) -> Result<Vec<Arc<str>>, Wrong> {
    let path: Vec<Arc<str>> = key.split('.').map(Arc::from).collect();
    if path.iter().any(|name| name.is_empty()) {
        return Err(Wrong::new(format!("`{}` names no claim", key.escape_debug()), "write `role` or `org.tenant`"));
    }
    Ok(path)
}

fn service_account(at: Cursor<'_, '_, '_>) -> Option<(Arc<str>, Arc<str>)> {
    parsed(at, "a service account", "write `namespace/name`", |text| match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.into(), name.into()))
        }
        _ => Err(format!("`{}` is not a service account", text.escape_debug())),
    })
}

pub(super) fn net(at: Cursor<'_, '_, '_>) -> Option<IpBlock> {
    parsed(at, "a network", "write `10.0.0.0/8`, `2001:db8::/32` or one address", |text| {
        text.parse().map_err(|_| format!("`{}` is not a network", text.escape_debug()))
    })
}

fn host(at: Cursor<'_, '_, '_>) -> Option<HostText> {
    parsed(at, "a host", "", |text| said(HostText::new(text)))
}

fn port(at: Cursor<'_, '_, '_>) -> Option<u16> {
    at.integer(1..=65_535).and_then(|port| u16::try_from(port).ok())
}

fn path(at: Cursor<'_, '_, '_>) -> Option<PathText> {
    parsed(at, "a path", "write `/a`, `/a/*`, `*.png`, `/users/{*}/orders` or `/files/{**}`", |text| {
        said(PathText::new(text))
    })
}

fn grpc(at: Cursor<'_, '_, '_>) -> Option<GrpcMethod> {
    at.map("a map with `service` and `method`", |fields| {
        let name = |fields: &mut Fields<'_, '_, '_>, key, doc| {
            fields.field(key, doc, |at| at.text("a name")).map(|set| set.value)
        };
        let service = name(fields, "service", "Full name, `package.Service`.");
        let method = name(fields, "method", "Name of the method.");
        if !fields.has("service") && !fields.has("method") {
            let help = "write `{service: package.Service}`, `{method: Name}` or both";
            fields.report("", Wrong::new("`grpc` names neither a service nor a method", help));
        }
        GrpcMethod::new(service, method)
    })
}
