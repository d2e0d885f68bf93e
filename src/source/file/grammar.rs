//! The grammar of `sinew.yaml`: the document, its defaults, and its services.
//!
//! One function per group; each names its keys, their documentation, and how their values read. Keys are Envoy's where
//! Envoy has the thing. A key of a later version is known by name and refused by place, because a mesh that ignores
//! `mtls: strict` is worse than one that does not start.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    audit, authn, authz,
    cursor::{Cursor, Fields, Wrong},
    endpoints, failover, health,
    limits::{self, Side},
    overload, routes, security,
};
use crate::{
    canon::PathNormalization,
    matching::HostPattern,
    model::{Labels, Origin, Protocol},
    name::{ServiceName, SubsetName},
    seat::Position,
    source::document::{
        Document, PartialBreakers, PartialDrain, PartialEndpointLimits, PartialInbound, PartialMesh, PartialService,
        PartialTimeouts, Tunables,
    },
};

/// Shortest timeout that is not a mistake.
pub(super) const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// The whole document.
pub(super) fn document(at: Cursor<'_, '_, '_>) -> Option<Document> {
    at.map("a map with `version` and `services`", |fields| {
        let version = fields
            .field("version", "Edition of the defaults. Default 1, the only one there is.", |at| at.integer(1..=1));
        let mesh = fields.group("mesh", "Who this process is.", mesh);
        let doc = "Who this process is to others: where its certificate comes from. Default: plaintext, everyone is \
                   admitted.";
        let identity = fields.field("identity", doc, security::identity);
        let doc = "What listeners ask of peers: `strict`, `permissive` or `off`. Default: `strict` with an identity \
                   (`dev`: `permissive` on loopback), else `off`.";
        let mtls = fields.field("mtls", doc, security::mtls);
        let listeners = fields.group("listeners", "Listeners besides those that code opens.", security::listeners);
        let drain = fields.group("drain", "How the process stops.", drain);
        let defaults = fields.group("defaults", "What holds for every service that does not say otherwise.", |at| {
            at.map("a map", |fields| tunables(fields, "`defaults`"))
        });
        let services = fields.group("services", "What can be called, by name.", services);
        let inbound = fields.group("inbound", "What holds for everything that is served.", |at| {
            at.map("a map", |fields| PartialInbound {
                load_shed: overload::load_shed(fields),
                adaptive_concurrency: overload::adaptive_concurrency(fields),
                rate_limit: limits::rate_limit(fields, Side::Served),
                path_normalization: fields.field(
                    "path_normalization",
                    "How paths are made to have one meaning. Default `strict`: what can be read in two ways is \
                         refused with SINEW-E055. The others accept and rewrite as Istio's levels do.",
                    |at| {
                        let words = PathNormalization::ALL.map(|level| (level.as_str(), level));
                        at.choice("a level of `path_normalization`", &words, &[])
                    },
                ),
                authn: fields.group(
                    "authn",
                    "What callers prove besides a certificate. Default: nothing.",
                    authn::authn,
                ),
                authz: fields.group("authz", "Who may ask for what. Default: the listener's own rule.", authz::authz),
                audit_log: audit::audit_log(fields),
                policies: fields.policies(&[Position::Server], "`inbound`"),
            })
        });
        Document { version, mesh, identity, mtls, listeners, drain, defaults, services, inbound }
    })
}

fn mesh(at: Cursor<'_, '_, '_>) -> Option<PartialMesh> {
    at.map("a map", |fields| PartialMesh {
        service: fields.field("service", "The service this process is an instance of. Default: given by code.", |at| {
            at.parsed::<ServiceName>("a service name")
        }),
        version: fields.field("version", "Its version, free text. Default: none.", |at| at.text("a version")),
        namespace: fields.field("namespace", "Its namespace. Default `default`.", |at| name(at, "namespace")),
        trust_domain: fields.field(
            "trust_domain",
            "Its trust domain. Needed with an identity; `dev.local` with `source: dev`.",
            |at| name(at, "trust domain"),
        ),
        zone: fields.field("zone", "The zone it runs in. Default: none.", |at| at.text("a zone")),
        region: fields.field("region", "The region it runs in. Default: none.", |at| at.text("a region")),
        labels: fields.field("labels", "Its labels, for `locality.failover_priority`. Default: none.", labels),
    })
}

fn name(at: Cursor<'_, '_, '_>, what: &str) -> Option<Arc<str>> {
    at.scalar("a name", json!({ "type": "string" }), |text| match ServiceName::new(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(Wrong::plain(error.to_string().replace("service name", what))),
    })
}

fn drain(at: Cursor<'_, '_, '_>) -> Option<PartialDrain> {
    at.map("a map", |fields| PartialDrain {
        lame_duck: fields.field(
            "lame_duck",
            "How long new connections are still served after readiness was withdrawn. Default 5s under Kubernetes, else \
             0s.",
            |at| at.duration(Duration::ZERO),
        ),
        deadline: fields.field("deadline", "After this everything left is closed. Default 25s, at least 0s.", |at| {
            at.duration(Duration::ZERO)
        }),
    })
}

/// The keys that `defaults` and services share.
fn tunables(fields: &mut Fields<'_, '_, '_>, place: &str) -> Tunables {
    let throttle = overload::throttle(fields);
    let rate_limit = limits::rate_limit(fields, Side::Called);
    let balancer = fields.group(
        "load_balancer",
        "How an endpoint is chosen: `least_request` (default), `round_robin` or `random`; or a map of one of them to \
         its settings, and of what holds whichever it is.",
        failover::load_balancer,
    );
    let locality = fields.group(
        "locality",
        "Which zones calls go to, and which endpoints come first. `off` (default), `zone_aware`, or a map.",
        failover::locality,
    );
    let mut timeouts = fields.group("timeouts", "How long things may take.", timeouts);
    let short = fields.field("timeout", "Short for `timeouts.request`.", |at| at.duration_or_off(MIN_TIMEOUT));
    if let (Some(_), Some(long)) = (&short, &timeouts.request) {
        let line = long.place().map_or(0, |place| place.line);
        let wrong = Wrong::new(
            format!("`timeout` is short for `timeouts.request`, which line {line} sets as well"),
            "keep one of the two",
        );
        fields.report("timeout", wrong);
    }
    timeouts.request = timeouts.request.or(short);
    let circuit_breakers =
        fields.group("circuit_breakers", "Exact limits on what is in flight towards one service.", circuit_breakers);
    let outlier_detection = fields.group(
        "outlier_detection",
        "When an endpoint is taken out because of what its calls show; `off`, `shadow` or `enforce` alone is short for \
         `enforcement`.",
        super::outlier::outlier,
    );
    let retries = super::retry::retries(fields);
    let health_checks = fields.field(
        "health_checks",
        "What endpoints are asked, calls or not; all of it has to pass. One check or a list. Default none.",
        |at| at.one_or_list("a check, or a list of checks", health::check),
    );
    let health_checks = health_checks.map(|set| {
        crate::source::document::Set::new(set.value.into_iter().map(|check| check.value).collect(), set.origin)
    });
    let policies = fields.policies(&[Position::Outer, Position::Attempt], place);
    Tunables {
        load_balancer: balancer.policy,
        throttle,
        rate_limit,
        failover: balancer.failover,
        slow_start: balancer.slow_start,
        locality,
        timeouts,
        circuit_breakers,
        outlier_detection,
        retries,
        health_checks,
        policies,
    }
}

fn timeouts(at: Cursor<'_, '_, '_>) -> Option<PartialTimeouts> {
    at.map("a map", |fields| PartialTimeouts {
        request: fields.field(
            "request",
            "The whole call, response body included: all attempts and all waiting. Default off; at least 1ms.",
            |at| at.duration_or_off(MIN_TIMEOUT),
        ),
        per_try: fields.field(
            "per_try",
            "One attempt, from dispatch to response headers. Default off; at least 1ms, at most `request`.",
            |at| at.duration_or_off(MIN_TIMEOUT),
        ),
        response: fields.field(
            "response",
            "From the end of the request body to response headers, for plain HTTP calls with neither timeout nor \
             deadline. Default 15s; at least 1ms, or `off`.",
            |at| at.duration_or_off(MIN_TIMEOUT),
        ),
        connect: fields.field("connect", "One connection attempt, TLS included. Default 5s; at least 1ms.", |at| {
            at.duration(MIN_TIMEOUT)
        }),
        connect_wait: fields.field(
            "connect_wait",
            "How long a call waits while endpoints are unknown, connecting or at their stream limit. Default 3s; 0s \
             fails at once.",
            |at| at.duration(Duration::ZERO),
        ),
        limit_wait: fields.field("limit_wait", "How long a call waits for `max_requests`. Default 0s.", |at| {
            at.duration(Duration::ZERO)
        }),
        per_try_idle: fields.field(
            "per_try_idle",
            "Without a byte of the response, within one attempt and in response bodies of every kind. Default off; at least \
             1ms.",
            |at| at.duration_or_off(MIN_TIMEOUT),
        ),
        stream_idle: fields.field(
            "stream_idle",
            "Between two frames of a response body, where `response` applies and it is no event stream. Default 5m; at \
             least 1ms, or `off`.",
            |at| at.duration_or_off(MIN_TIMEOUT),
        ),
        upgrade_idle: fields.field(
            "upgrade_idle",
            "Without a byte on a connection that was upgraded. Default 1h; at least 1ms, or `off`.",
            |at| at.duration_or_off(MIN_TIMEOUT),
        ),
        max_stream_duration: fields.field(
            "max_stream_duration",
            "The whole life of a call of any kind, streams included. Default off; at least 1ms.",
            |at| at.duration_or_off(MIN_TIMEOUT),
        ),
        grpc_timeout_header_max: fields.field(
            "grpc_timeout_header_max",
            "The most that counts of a `grpc-timeout` that the application wrote. Default off: as written.",
            |at| at.duration_or_off(MIN_TIMEOUT),
        ),
        grpc_timeout_header_offset: fields.field(
            "grpc_timeout_header_offset",
            "Taken from a `grpc-timeout` that the application wrote. Default 0s.",
            |at| at.duration(Duration::ZERO),
        ),
        honor_inbound_deadline: fields.field(
            "honor_inbound_deadline",
            "Whether calls end when the caller of the request being served stops waiting. Default true.",
            |at| at.boolean(),
        ),
        enforcement: super::traffic::enforcement(
            fields,
            "Whether calls end at `request`, `response` and `max_stream_duration`: `enforce` (default), `shadow` (they go on, \
             and those that would have ended are counted), or `off`.",
        ),
        percentage: super::traffic::share(
            fields,
            "The share of the calls for which that is enforced; the others are as in shadow. Default 100%.",
        ),
    })
}

fn circuit_breakers(at: Cursor<'_, '_, '_>) -> Option<PartialBreakers> {
    const LARGEST: u32 = 10_000_000;
    at.map("a map", |fields| PartialBreakers {
        max_connections: fields.field(
            "max_connections",
            "Connections to all endpoints. Default 1024; at least 1.",
            |at| at.integer(1..=LARGEST),
        ),
        max_pending_requests: fields.field(
            "max_pending_requests",
            "Calls that wait for a connection or for `max_requests`. Default 1024; 0 refuses instead of waiting.",
            |at| at.integer(0..=LARGEST),
        ),
        max_requests: fields.field("max_requests", "Calls in flight. Default 1024; 0 refuses every call.", |at| {
            at.integer(0..=LARGEST)
        }),
        max_streams: fields.field(
            "max_streams",
            "Upgraded connections, event streams, and streams older than 30s. Default 100000.",
            |at| at.integer(0..=LARGEST),
        ),
        queue: fields.field(
            "queue",
            "In which order calls that wait by `timeouts.limit_wait` or `connect_wait` are served: `fifo` (default), `lifo`, or `codel`, which \
             is `fifo` until somebody has waited for 100ms without a break, then `lifo` that sends away after 5ms.",
            |at| {
                use crate::breaker::QueueOrder as Q;
                at.choice("an order", &[Q::Fifo, Q::Lifo, Q::Codel].map(|order| (order.as_str(), order)), &[])
            },
        ),
        per_endpoint: fields.group(
            "per_endpoint",
            "Limits on each endpoint: at them it takes no more calls for a while, as if its connections took no more streams. \
             Default none.",
            per_endpoint,
        ),
        breaker: super::breaker::breaker(fields),
    })
}

fn per_endpoint(at: Cursor<'_, '_, '_>) -> Option<PartialEndpointLimits> {
    at.map("a map", |fields| PartialEndpointLimits {
        max_requests: fields.field(
            "max_requests",
            "Calls in flight to one endpoint. Default none; at least 1.",
            |at| at.integer(1..=10_000_000),
        ),
        max_connections: fields.field(
            "max_connections",
            "Connections to one endpoint. Default none; at least 1.",
            |at| at.integer(1..=10_000_000),
        ),
    })
}

fn services(at: Cursor<'_, '_, '_>) -> Option<BTreeMap<ServiceName, PartialService>> {
    let services =
        at.keyed("a map from service names to services", |key| ServiceName::new(key).map_err(Wrong::plain), service)?;
    let with_origin = |(name, set): (ServiceName, crate::source::document::Set<PartialService>)| {
        (name, PartialService { origin: set.origin, ..set.value })
    };
    Some(services.into_iter().map(with_origin).collect())
}

fn service(at: Cursor<'_, '_, '_>) -> Option<PartialService> {
    let problems = at.reading.diagnostics.len();
    at.map("a map", |fields| {
        let endpoints = fields.field(
            "endpoints",
            "Where its endpoints come from: one source or a list. Without any, calls fail with SINEW-E002.",
            |at| at.one_or_list("a source of endpoints, or a list of them", endpoints::source),
        );
        let endpoints = endpoints.map(|sources| crate::source::document::Set {
            value: sources.value.into_iter().map(|set| set.value).collect(),
            origin: sources.origin,
        });
        let hosts = fields.field(
            "hosts",
            "Authorities by which it is found, besides its name: `a.example` or `*.example`.",
            |at| {
                at.one_or_list("a host, or a list of hosts", |at| {
                    at.scalar("a host", json!({ "type": "string" }), |text| {
                        HostPattern::new(text).map_err(Wrong::plain)
                    })
                })
            },
        );
        let protocol = fields.field("protocol", "HTTP version towards its endpoints. Default `auto`.", |at| {
            let words = [("auto", Protocol::Auto), ("http1", Protocol::Http1), ("http2", Protocol::Http2)];
            at.choice("a protocol", &words, &["http3"])
        });
        let doc = "TLS towards its endpoints: `mesh`, `public`, `off`, or a map with `private`. Default: `mesh` with an \
                   identity, else `off`.";
        let tls = fields.field("tls", doc, security::tls);
        let doc = "Who may answer for it, with `tls: mesh`. Default: by the rule of the identity's source.";
        let identities = fields.field("identities", doc, security::identities);
        let doc = "A JWT-SVID of ours as `authorization: Bearer` of each call, from a SPIFFE Workload API.";
        let jwt_svid = fields.field("jwt_svid", doc, security::jwt_svid);
        let subsets =
            fields.group("subsets", "Endpoints by labels: a name, and the labels an endpoint must have.", |at| {
                at.keyed("a map from subset names to labels", |key| SubsetName::new(key).map_err(Wrong::plain), labels)
            });
        let routes = fields.field(
            "routes",
            "Rules, evaluated in order of precedence. Without any, everything goes to all endpoints.",
            |at| {
                let routes = at.list("a list of routes", routes::route)?;
                Some(routes.into_iter().map(|set| set.value).collect())
            },
        );
        let tunables = tunables(fields, "a service");
        PartialService {
            origin: Origin::Default,
            tainted: fields.reading.diagnostics.len() > problems,
            endpoints,
            hosts,
            protocol,
            tls,
            identities,
            jwt_svid,
            subsets: subsets.into_iter().collect(),
            tunables,
            routes,
        }
    })
}

/// A map of labels.
pub(super) fn labels(at: Cursor<'_, '_, '_>) -> Option<Labels> {
    let labels = at.keyed("a map of labels", |key| Ok(Arc::<str>::from(key)), |at| at.text("a label's value"))?;
    Some(labels.into_iter().map(|(key, set)| (key, set.value)).collect())
}
