//! The grammar of `routes`: what a rule matches and what it does.

use std::{str::FromStr, sync::Arc};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;

use super::{
    cursor::{Cursor, Fields, Wrong},
    grammar::MIN_TIMEOUT,
    traffic,
};
use crate::{
    matching::{HostPattern, PathPattern, Pattern, StringMatch},
    model::Origin,
    name::{RouteName, SubsetName},
    route::{
        DirectResponse, GrpcMatch, HeaderChanges, PathRewrite, Redirect, Rewrite, Route, RouteAction, RouteMatch,
        WeightedTarget,
    },
    seat::Position,
    source::{
        document::{Field, PartialRoute, Set},
        unnamed_route,
    },
};

/// Largest weight in a `split`; 4,000 targets of it still add up in 32 bits.
const MAX_WEIGHT: u32 = 1_000_000;

/// Largest body of a `direct_response`, in bytes.
const MAX_BODY: usize = 4096;

/// Headers that belong to one connection or to the message's framing: changing them breaks the message.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// One route.
pub(super) fn route(at: Cursor<'_, '_, '_>) -> Option<PartialRoute> {
    at.map("a route: a map with `match` and what to do", |fields| {
        let origin = Origin::File(fields.place());
        let name =
            fields.field("name", "Unique within the service; shown in status and metrics. Default `route-N`.", |at| {
                at.parsed::<RouteName>("a route name")
            });
        let matches = fields.group("match", "All of it must hold. Default: every request.", matches);
        let to = fields.field("to", "Send to this subset. Default: to all endpoints.", |at| {
            at.parsed::<SubsetName>("the name of a subset")
        });
        let split = fields.field("split", "Send to these subsets by relative weight, chosen once per call.", split);
        let redirect = fields
            .field("redirect", "Answer with a redirect; absent parts are the request's.", |at| redirect(at, &matches));
        let direct = fields.field("direct_response", "Answer with this.", direct);
        fields.at_most_one(&["to", "split", "redirect", "direct_response"]);
        let rewrite = fields.group("rewrite", "Changes before the request is sent.", |at| rewrite(at, &matches));
        let request_headers = fields.group("request_headers", "Changes to the request's headers.", header_changes);
        let response_headers = fields.group("response_headers", "Changes to the response's headers.", header_changes);
        let timeout =
            fields.field("timeout", "The whole call's timeout in place of the service's. At least 1ms.", |at| {
                at.duration(MIN_TIMEOUT)
            });
        let (options, options_at) = traffic::options(fields);
        let retries = super::retry::retries(fields);
        let policies = fields.policies(&[Position::Outer, Position::Attempt], "a route");

        let (action, targets) = action(to, split, redirect, direct);
        let mut route = Route::new(name.as_ref().map_or_else(|| unnamed_route(0), |name| name.value.clone()), action);
        route.matches = matches;
        route.rewrite = rewrite;
        route.request_headers = request_headers;
        route.response_headers = response_headers;
        route.timeout = timeout.as_ref().map(|set| set.value);
        PartialRoute {
            route,
            origin,
            name,
            targets,
            timeout: timeout.map(|set| set.origin),
            policies,
            options,
            options_at,
            retries,
        }
    })
}

type Split = Vec<(SubsetName, Set<u32>)>;

fn action(
    to: Field<SubsetName>,
    split: Field<Split>,
    redirect: Field<Redirect>,
    direct: Field<DirectResponse>,
) -> (RouteAction, Vec<Origin>) {
    if let Some(to) = to {
        return (RouteAction::Forward(vec![WeightedTarget::new(Some(to.value), 1)]), vec![to.origin]);
    }
    if let Some(split) = split {
        let target =
            |(subset, weight): (SubsetName, Set<u32>)| (WeightedTarget::new(Some(subset), weight.value), weight.origin);
        let (targets, origins) = split.value.into_iter().map(target).unzip();
        return (RouteAction::Forward(targets), origins);
    }
    let action = redirect
        .map(|redirect| RouteAction::Redirect(redirect.value))
        .or(direct.map(|direct| RouteAction::Direct(direct.value)))
        .unwrap_or_else(|| RouteAction::Forward(vec![WeightedTarget::new(None, 1)]));
    (action, Vec::new())
}

fn split(at: Cursor<'_, '_, '_>) -> Option<Split> {
    let mark = at.node.map(|node| node.mark);
    let reading = at.reading;
    let split = Cursor { reading: &mut *reading, node: at.node }.keyed(
        "a map from subsets to weights",
        |key| SubsetName::new(key).map_err(Wrong::plain),
        |at| at.integer(0..=MAX_WEIGHT),
    )?;
    let entries = at.node.map_or(0, |node| match &node.kind {
        super::node::Kind::Map(entries) => entries.len(),
        _ => 0,
    });
    // Weights that could not be read may be the ones that are not 0.
    if let Some(mark) = mark
        && split.len() == entries
        && split.iter().all(|(_, weight)| weight.value == 0)
    {
        reading.report(mark, Wrong::new("no target has a weight above 0", "give at least one subset a weight"));
    }
    Some(split)
}

fn matches(at: Cursor<'_, '_, '_>) -> Option<RouteMatch> {
    at.map("a map of conditions", |fields| {
        let hosts = fields.field("hosts", "Any of these: `a.example`, `*.example`.", |at| {
            at.one_or_list("a host, or a list of hosts", |at| {
                at.scalar("a host", json!({ "type": "string" }), |text| HostPattern::new(text).map_err(Wrong::plain))
            })
        });
        let path = fields.field("path", "One of `exact`, `prefix`, `regex`, `template`.", path);
        let method = fields.field("method", "The method, in capitals.", method);
        let headers = fields.group("headers", "All of these: a name, and a text or a condition.", |at| {
            at.keyed("a map from header names to conditions", header_name, string_match)
        });
        let query = fields.group("query", "All of these: a parameter's name, and a text or a condition.", |at| {
            at.keyed("a map from parameters to conditions", |key| Ok(key.to_owned()), string_match)
        });
        let grpc = fields.field("grpc", "A gRPC call by its names.", |at| {
            at.map("a map with `service` and `method`", |fields| {
                let service = fields.field("service", "Full name, `package.Service`.", |at| at.text("a service"));
                let method = fields.field("method", "Name of the method.", |at| at.text("a method"));
                if !fields.has("service") && !fields.has("method") {
                    let help = "write `{service: package.Service}`, `{method: Name}` or both";
                    fields.report("", Wrong::new("`grpc` names neither a service nor a method", help));
                }
                GrpcMatch {
                    service: service.map(|set| set.value.to_string()),
                    method: method.map(|set| set.value.to_string()),
                }
            })
        });
        if grpc.is_some() && fields.has("path") {
            let help = "keep one of them: a gRPC call's path is `/service/method`";
            fields.report("grpc", Wrong::new("`grpc` and `path` exclude each other", help));
        }
        let fraction =
            fields.field("fraction", "Holds for this share of requests; the rest falls through. Default 100%.", |at| {
                at.percent()
            });
        RouteMatch {
            hosts: hosts.map(|set| set.value.into_iter().map(|host| host.value).collect()).unwrap_or_default(),
            path: path.map(|set| set.value),
            method: method.map(|set| set.value),
            headers: headers.into_iter().map(|(name, set)| (name, set.value)).collect(),
            query: query.into_iter().map(|(name, set)| (name, set.value)).collect(),
            grpc: grpc.map(|set| set.value),
            fraction: fraction.map(|set| set.value).filter(|millionths| *millionths < 1_000_000),
        }
    })
}

/// A text of a pattern type.
fn pattern<T>(
    fields: &mut Fields<'_, '_, '_>,
    key: &'static str,
    doc: &str,
    parse: fn(&str) -> Result<T, crate::matching::PatternError>,
) -> Option<T> {
    let read = |at: Cursor<'_, '_, '_>| {
        at.scalar("a pattern", json!({ "type": "string" }), |text| {
            parse(text).map_err(|error| match key {
                "regex" => Wrong::new(
                    error.to_string(),
                    "the syntax is that of Rust's `regex`: no look-around or back-references, special characters \
                     are escaped by `\\`",
                ),
                _ => Wrong::plain(error),
            })
        })
    };
    fields.field(key, doc, read).map(|set| set.value)
}

fn path(at: Cursor<'_, '_, '_>) -> Option<PathPattern> {
    at.map("a map such as `{prefix: /reviews}`", |fields| {
        let exact = pattern(fields, "exact", "The whole path.", PathPattern::exact);
        let prefix =
            pattern(fields, "prefix", "Whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.", PathPattern::prefix);
        let regex = pattern(fields, "regex", "A regular expression over the whole path.", PathPattern::regex);
        let template = pattern(fields, "template", "Such as `/users/{id}` or `/files/{*rest}`.", PathPattern::template);
        fields.exactly_one(&["exact", "prefix", "regex", "template"]);
        exact.or(prefix).or(regex).or(template)
    })
    .flatten()
}

pub(super) fn method(at: Cursor<'_, '_, '_>) -> Option<Method> {
    at.scalar("a method", json!({ "type": "string" }), |text| {
        let upper = text.to_ascii_uppercase();
        match Method::from_str(text) {
            Ok(_) if upper != text => Err(Wrong::new(
                format!("`{text}` is not a method: methods are written in capitals"),
                format!("did you mean `{upper}`?"),
            )),
            Ok(method) => Ok(method),
            Err(_) => Err(Wrong::new(
                format!("`{}` is not a method", text.escape_debug()),
                "write one, such as `GET`; for several methods write several routes",
            )),
        }
    })
}

pub(super) fn header_name(key: &str) -> Result<HeaderName, Wrong> {
    if key.starts_with(':') {
        let help = "use `hosts`, `path` or `method`";
        return Err(Wrong::new(format!("`{}` is a pseudo-header", key.escape_debug()), help));
    }
    HeaderName::from_str(key).map_err(|_| {
        Wrong::new(
            format!("`{}` is not a header name", key.escape_debug()),
            "letters, digits and `-` may appear, such as `end-user`",
        )
    })
}

pub(super) fn string_match(at: Cursor<'_, '_, '_>) -> Option<StringMatch> {
    at.scalar_or(
        |at| at.text("a text").map(StringMatch::Exact),
        |at| {
            at.map("a text, or a condition such as `{prefix: a}`", |fields| {
                let exact = fields.field("exact", "Equal.", |at| at.text("a text"));
                let prefix = fields.field("prefix", "Begins with.", |at| at.text("a text"));
                let regex = pattern(fields, "regex", "The whole value matches.", Pattern::new);
                let present = fields.field("present", "There (`true`) or not (`false`).", |at| at.boolean());
                fields.exactly_one(&["exact", "prefix", "regex", "present"]);
                exact
                    .map(|set| StringMatch::Exact(set.value))
                    .or(prefix.map(|set| StringMatch::Prefix(set.value)))
                    .or(regex.map(StringMatch::Regex))
                    .or(present.map(|set| StringMatch::Present(set.value)))
            })
            .flatten()
        },
    )
}

/// The new path of a rewrite or redirect.
fn path_rewrite(at: Cursor<'_, '_, '_>, matches: &RouteMatch) -> Option<PathRewrite> {
    at.map("a map with `full` or `prefix`", |fields| {
        let absolute = |at: Cursor<'_, '_, '_>| {
            at.scalar("a path", json!({ "type": "string" }), |text| {
                if text.starts_with('/') && !text.contains(['?', '#']) {
                    return Ok(text.to_owned());
                }
                let why = "a path begins with `/` and has no `?` or `#`";
                Err(Wrong::new(format!("`{}` is not a path", text.escape_debug()), why))
            })
        };
        let full = fields.field("full", "Replaces the whole path; the query is kept.", absolute);
        let prefix = fields.field("prefix", "Replaces what `match: {path: {prefix: ..}}` matched.", absolute);
        if prefix.is_some() && !matches!(matches.path, Some(PathPattern::Prefix(_))) {
            let help = "add `match: {path: {prefix: /..}}`, or use `full`";
            fields.report("prefix", Wrong::new("there is no matched prefix to replace", help));
        }
        fields.exactly_one(&["full", "prefix"]);
        full.map(|set| PathRewrite::Full(set.value)).or(prefix.map(|set| PathRewrite::Prefix(set.value)))
    })
    .flatten()
}

fn rewrite(at: Cursor<'_, '_, '_>, matches: &RouteMatch) -> Option<Rewrite> {
    at.map("a map with `path` and `host`", |fields| Rewrite {
        path: fields.field("path", "The new path.", |at| path_rewrite(at, matches)).map(|set| set.value),
        host: fields
            .field("host", "The new authority, `HOST` or `HOST:PORT`.", |at| {
                let text = host(at)?;
                HeaderValue::from_str(&text).ok()
            })
            .map(|set| set.value),
    })
}

/// A host without wildcard.
fn host(at: Cursor<'_, '_, '_>) -> Option<Arc<str>> {
    at.scalar("a host", json!({ "type": "string" }), |text| match HostPattern::new(text) {
        Ok(pattern) if pattern.is_exact() => Ok(text.into()),
        Ok(_) => Err(Wrong::new(format!("`{text}` is a pattern, not a host"), "write one host, such as `a.example`")),
        Err(error) => Err(Wrong::plain(error.to_string().replace("usable pattern", "host"))),
    })
}

fn redirect(at: Cursor<'_, '_, '_>, matches: &RouteMatch) -> Option<Redirect> {
    at.map("a map", |fields| {
        let scheme = fields.field("scheme", "`http` or `https`.", |at| {
            at.choice("a scheme", &[("http", "http"), ("https", "https")], &[])
        });
        let host = fields.field("host", "The host.", host);
        let port = fields.field("port", "The port, 1 to 65535.", |at| at.integer(1..=65_535));
        let path = fields.field("path", "The path.", |at| path_rewrite(at, matches));
        let status = fields.field("status", "301, 302, 303, 307 or 308. Default 302.", |at| {
            at.scalar("a status", json!({ "enum": [301, 302, 303, 307, 308] }), |text| {
                match text.parse::<u16>().map(StatusCode::from_u16) {
                    Ok(Ok(status)) if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) => Ok(status),
                    _ => Err(Wrong::new(
                        format!("`{}` is not the status of a redirect", text.escape_debug()),
                        "use 301, 302, 303, 307 or 308",
                    )),
                }
            })
        });
        if !["scheme", "host", "port", "path"].iter().any(|key| fields.has(key)) {
            let help = "set at least one of `scheme`, `host`, `port` and `path`";
            fields.report("", Wrong::new("this redirects every request to itself", help));
        }
        Redirect {
            scheme: scheme.map(|set| set.value.into()),
            host: host.map(|set| set.value),
            port: port.and_then(|set| u16::try_from(set.value).ok()),
            path: path.map(|set| set.value),
            status: status.map_or(StatusCode::FOUND, |set| set.value),
        }
    })
}

fn direct(at: Cursor<'_, '_, '_>) -> Option<DirectResponse> {
    at.map("a map with `status` and `body`", |fields| {
        let status = fields.field("status", "200 to 599.", |at| at.integer(200..=599));
        let body = fields.field("body", "At most 4 KiB. Default empty.", |at| {
            at.scalar("a text", json!({ "type": "string", "maxLength": MAX_BODY }), |text| {
                if text.len() <= MAX_BODY {
                    return Ok(text.to_owned());
                }
                let message = format!("the body has {} bytes; at most {MAX_BODY} (4 KiB) are allowed", text.len());
                Err(Wrong::new(message, "serve longer texts from the application"))
            })
        });
        fields.exactly_one(&["status"]);
        let status = StatusCode::from_u16(u16::try_from(status?.value).ok()?).ok()?;
        Some(DirectResponse::new(status, body.map(|set| set.value).unwrap_or_default()))
    })
    .flatten()
}

fn changeable_header(key: &str) -> Result<HeaderName, Wrong> {
    let name = header_name(key)?;
    if FRAMING.contains(&name.as_str()) {
        let help =
            if name.as_str() == "host" { "use `rewrite: {host: ..}`" } else { "remove it: the transport sets it" };
        return Err(Wrong::new(format!("`{name}` cannot be changed by a route"), help));
    }
    if name.as_str().starts_with("sinew-") {
        return Err(Wrong::new(
            format!("`{name}` belongs to the mesh"),
            "choose a name that does not begin with `sinew-`",
        ));
    }
    Ok(name)
}

fn header_changes(at: Cursor<'_, '_, '_>) -> Option<HeaderChanges> {
    let value = |at: Cursor<'_, '_, '_>| {
        at.scalar("a header's value", json!({ "type": ["string", "number", "boolean"] }), |text| {
            HeaderValue::from_str(text).map_err(|_| {
                let help = "no line breaks or control characters may appear";
                Wrong::new(format!("`{}` is not a header value", text.escape_debug()), help)
            })
        })
    };
    let plain =
        |pairs: Vec<(HeaderName, Set<HeaderValue>)>| pairs.into_iter().map(|(name, set)| (name, set.value)).collect();
    at.map("a map with `set`, `add` and `remove`", |fields| {
        let set = fields.group("set", "Replaces all values.", |at| {
            at.keyed("a map from header names to values", changeable_header, value)
        });
        let add = fields.group("add", "Appends a value.", |at| {
            at.keyed("a map from header names to values", changeable_header, value)
        });
        let remove = fields.group("remove", "Removes all values.", |at| {
            at.one_or_list("a header name, or a list of them", |at| {
                at.scalar("a header name", json!({ "type": "string" }), changeable_header)
            })
        });
        HeaderChanges { set: plain(set), add: plain(add), remove: remove.into_iter().map(|set| set.value).collect() }
    })
}
