//! The grammar of `health_checks`, and how `config show` prints them.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::{
    cursor::{Cursor, Fields, Wrong},
    routes::method,
    show::{map, quoted},
    traffic,
};
use crate::{
    enforcement::{Mode, Percent},
    health::{CheckKind, GrpcCheck, HealthCheck, HttpCheck, Payload, StatusRange, TcpCheck},
    source::duration::format as duration,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// One check.
pub(super) fn check(at: Cursor<'_, '_, '_>) -> Option<HealthCheck> {
    at.map("a map with `http`, `grpc` or `tcp`", |fields| {
        let http = fields.field("http", "A request, and what has to be answered.", http);
        let grpc = fields.field("grpc", "`grpc.health.v1`: `Watch`, and `Check` besides.", grpc);
        let tcp = fields.field("tcp", "A connection, and maybe some bytes.", tcp);
        let timing = Timing::read(fields);
        let tls = fields.field(
            "tls",
            "`off` asks in plaintext, as an ops listener wants it; `service` as calls are made. Default `service`.",
            |at| at.choice("a word for `tls`", &[("service", false), ("off", true)], &[]),
        );
        let (alt_port, reuse_connection) = (
            fields.field("alt_port", "Another port of the endpoint. Default: its own.", |at| at.integer(1..=65_535)),
            fields.field(
                "reuse_connection",
                "Whether a connection is kept from one check to the next. Default true; never one that calls use.",
                |at| at.boolean(),
            ),
        );
        let ignore_new = fields.field(
            "ignore_new_hosts_until_first_hc",
            "Whether an endpoint that joins others is passed over until its first check passed. Default false.",
            |at| at.boolean(),
        );
        let doc = "`off`, `shadow` (asks and reports, and calls do not heed it) or `enforce` (default).";
        let enforcement = traffic::enforcement(fields, doc);
        let doc = "In how many cases an endpoint that it finds unhealthy is passed over. Default 100%.";
        let percentage = traffic::share(fields, doc);
        fields.exactly_one(&["http", "grpc", "tcp"]);
        let kind = http
            .map(|set| CheckKind::Http(set.value))
            .or(grpc.map(|set| CheckKind::Grpc(set.value)))
            .or(tcp.map(|set| CheckKind::Tcp(set.value)))?;
        let mut check = HealthCheck::new(kind);
        timing.onto(&mut check);
        check.alt_port = alt_port.and_then(|set| u16::try_from(set.value).ok());
        check.plaintext = tls.is_some_and(|set| set.value);
        check.reuse_connection = reuse_connection.is_none_or(|set| set.value);
        check.ignore_new_hosts_until_first_hc = ignore_new.is_some_and(|set| set.value);
        check.enforcement = enforcement.map_or(Mode::Enforce, |set| set.value);
        check.percentage = percentage.map_or(Percent::ALL, |set| set.value);
        Some(check)
    })
    .flatten()
}

/// When and how often.
struct Timing {
    durations: [Option<Duration>; 8],
    counts: [Option<u32>; 3],
}

impl Timing {
    fn read(fields: &mut Fields<'_, '_, '_>) -> Self {
        let mut duration = |key: &'static str, doc, least| {
            fields.field(key, doc, |at: Cursor<'_, '_, '_>| at.duration(least)).map(|set| set.value)
        };
        let shortest = crate::health::SHORTEST;
        let durations = [
            duration(
                "timeout",
                "How long one check may take, connection included. Default 1s; at least 1ms.",
                MILLISECOND,
            ),
            duration("interval", "How long after one check the next begins. Default 3s; at least 10ms.", shortest),
            duration(
                "initial_jitter",
                "The first check begins within this, by chance. Default: the interval.",
                Duration::ZERO,
            ),
            duration(
                "interval_jitter",
                "Up to so much is added to each interval by chance. Default 0s.",
                Duration::ZERO,
            ),
            duration(
                "no_traffic_interval",
                "The interval while nobody called the service for that long. Default 60s; at least 10ms.",
                shortest,
            ),
            duration(
                "unhealthy_interval",
                "The interval while the endpoint is unhealthy. Default: the interval; at least 10ms.",
                shortest,
            ),
            duration(
                "unhealthy_edge_interval",
                "The one interval after it became unhealthy. Default: as while it is; at least 10ms.",
                shortest,
            ),
            duration(
                "healthy_edge_interval",
                "The one interval after it became healthy. Default: the interval; at least 10ms.",
                shortest,
            ),
        ];
        let mut count = |key: &'static str, doc, range| {
            fields.field(key, doc, |at: Cursor<'_, '_, '_>| at.integer(range)).map(|set| set.value)
        };
        let counts = [
            count(
                "unhealthy_threshold",
                "So many in a row that fail make an endpoint unhealthy; an answer that must not be given does at once. \
                 Default 3; at least 1.",
                1..=1_000,
            ),
            count(
                "healthy_threshold",
                "So many in a row that pass make it healthy again. Default 2; at least 1.",
                1..=1_000,
            ),
            count(
                "interval_jitter_percent",
                "Up to so many per cent of it are added to each interval by chance. Default 10; 0 to 100.",
                0..=100,
            ),
        ];
        Self { durations, counts }
    }

    fn onto(self, check: &mut HealthCheck) {
        let [timeout, interval, initial_jitter, interval_jitter, no_traffic, unhealthy, unhealthy_edge, healthy_edge] =
            self.durations;
        let [unhealthy_threshold, healthy_threshold, percent] = self.counts;
        check.timeout = timeout.unwrap_or(check.timeout);
        check.interval = interval.unwrap_or(check.interval);
        check.initial_jitter = initial_jitter;
        check.interval_jitter = interval_jitter.unwrap_or(check.interval_jitter);
        check.no_traffic_interval = no_traffic.unwrap_or(check.no_traffic_interval);
        check.unhealthy_interval = unhealthy;
        check.unhealthy_edge_interval = unhealthy_edge;
        check.healthy_edge_interval = healthy_edge;
        check.unhealthy_threshold = unhealthy_threshold.unwrap_or(check.unhealthy_threshold);
        check.healthy_threshold = healthy_threshold.unwrap_or(check.healthy_threshold);
        check.interval_jitter_percent = percent.unwrap_or(check.interval_jitter_percent);
    }
}

fn http(at: Cursor<'_, '_, '_>) -> Option<HttpCheck> {
    at.map("a map with `path`", |fields| {
        let check = fields.field("path", "What is asked for: `/readyz`.", |at| {
            at.scalar("a path", json!({ "type": "string", "pattern": "^/" }), |text| {
                HttpCheck::new(text).map_err(Wrong::plain)
            })
        });
        let host = fields.field("host", "The host that is asked for. Default: the service's name.", |at| at.text("a host"));
        let verb = fields.field("method", "Default GET; not CONNECT.", method);
        let expected = fields.field("expected_statuses", "Answers that pass. Default 200.", statuses);
        let retriable = fields.field(
            "retriable_statuses",
            "Answers that fail and count towards `unhealthy_threshold`; any other makes the endpoint unhealthy at once. \
             Default none.",
            statuses,
        );
        fields.exactly_one(&["path"]);
        if verb.as_ref().is_some_and(|verb| verb.value == Method::CONNECT) {
            let wrong = Wrong::new("`CONNECT` asks for a tunnel, not for health", "use `GET` or `HEAD`");
            fields.report("method", wrong);
        }
        let mut check = check?.value;
        check.host = host.map(|set| set.value);
        check.method = verb.map_or(check.method, |set| set.value);
        check.expected_statuses = expected.map_or(check.expected_statuses, |set| set.value);
        check.retriable_statuses = retriable.map_or(check.retriable_statuses, |set| set.value);
        Some(check)
    })
    .flatten()
}

fn statuses(at: Cursor<'_, '_, '_>) -> Option<Vec<StatusRange>> {
    let schema = json!({ "anyOf": [
        { "type": "integer", "minimum": 100, "maximum": 599 },
        { "type": "string", "pattern": r"^([1-5][0-9]{2}(-[1-5][0-9]{2})?|[1-5]xx)$" },
    ] });
    let one = |at: Cursor<'_, '_, '_>| {
        at.scalar("a status", schema.clone(), |text| text.parse::<StatusRange>().map_err(Wrong::plain))
    };
    let ranges = at.one_or_list("a status, a range, or a list of them", one)?;
    Some(ranges.into_iter().map(|set| set.value).collect())
}

fn grpc(at: Cursor<'_, '_, '_>) -> Option<GrpcCheck> {
    at.map("a map", |fields| {
        let doc = "The name that is asked for. Default: empty, the server as a whole.";
        GrpcCheck {
            service: fields.field("service", doc, |at| at.text("a name")).map(|set| set.value).unwrap_or_default(),
        }
    })
}

fn tcp(at: Cursor<'_, '_, '_>) -> Option<TcpCheck> {
    at.map("a map", |fields| {
        let mut check = TcpCheck::default();
        let send = fields.field("send", "What is sent: a text, or `hex:0d0a`. Default nothing.", payload);
        let receive = fields.field(
            "receive",
            "What has to come, in this order and with anything in between. Default nothing.",
            |at| at.one_or_list("a text, `hex:..`, or a list of them", payload),
        );
        check.send = send.map(|set| set.value).unwrap_or_default();
        check.receive = receive.map(|set| set.value.into_iter().map(|set| set.value).collect()).unwrap_or_default();
        check
    })
}

fn payload(at: Cursor<'_, '_, '_>) -> Option<Payload> {
    at.parsed::<Payload>("a text, or `hex:` and digits")
}

/// A check as a flow map.
pub(super) fn shown(check: &HealthCheck) -> String {
    let list = |ranges: &[StatusRange]| {
        let ranges: Vec<_> = ranges.iter().map(|range| quoted(&range.to_string())).collect();
        format!("[{}]", ranges.join(", "))
    };
    let of_kind = match &check.kind {
        CheckKind::Http(http) => {
            let mut parts = vec![("path".to_owned(), quoted(http.path.as_str()))];
            parts.extend(http.host.as_ref().map(|host| ("host".to_owned(), quoted(host))));
            parts.push(("method".into(), http.method.to_string()));
            parts.push(("expected_statuses".into(), list(&http.expected_statuses)));
            if !http.retriable_statuses.is_empty() {
                parts.push(("retriable_statuses".into(), list(&http.retriable_statuses)));
            }
            map(&parts)
        }
        CheckKind::Grpc(grpc) => map(&[("service".into(), quoted(&grpc.service))]),
        CheckKind::Tcp(tcp) => {
            let mut parts = Vec::new();
            if !tcp.send.as_bytes().is_empty() {
                parts.push(("send".to_owned(), quoted(&tcp.send.to_string())));
            }
            if !tcp.receive.is_empty() {
                let receive: Vec<_> = tcp.receive.iter().map(|payload| quoted(&payload.to_string())).collect();
                parts.push(("receive".into(), format!("[{}]", receive.join(", "))));
            }
            map(&parts)
        }
    };
    let mut parts = vec![(check.kind.as_str().to_owned(), of_kind)];
    for (key, value) in [
        ("timeout", Some(check.timeout)),
        ("interval", Some(check.interval)),
        ("initial_jitter", check.initial_jitter),
        ("interval_jitter", Some(check.interval_jitter)),
        ("no_traffic_interval", Some(check.no_traffic_interval)),
        ("unhealthy_interval", check.unhealthy_interval),
        ("unhealthy_edge_interval", check.unhealthy_edge_interval),
        ("healthy_edge_interval", check.healthy_edge_interval),
    ] {
        parts.extend(value.map(|value| (key.to_owned(), duration(value))));
    }
    for (key, value) in [
        ("interval_jitter_percent", check.interval_jitter_percent),
        ("unhealthy_threshold", check.unhealthy_threshold),
        ("healthy_threshold", check.healthy_threshold),
    ] {
        parts.push((key.to_owned(), value.to_string()));
    }
    parts.extend(check.alt_port.map(|port| ("alt_port".to_owned(), port.to_string())));
    if check.plaintext {
        parts.push(("tls".into(), "off".into()));
    }
    parts.push(("reuse_connection".into(), check.reuse_connection.to_string()));
    if check.ignore_new_hosts_until_first_hc {
        parts.push(("ignore_new_hosts_until_first_hc".into(), "true".into()));
    }
    parts.push(("enforcement".into(), check.enforcement.as_str().into()));
    parts.push(("percentage".into(), check.percentage.to_string()));
    map(&parts)
}
