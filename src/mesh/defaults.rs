//! What holds by default and stands in no document: what policies come to with so many endpoints, and the numbers that
//! have no key.
//!
//! The defaults that have keys are those of [`model::ServiceSpec`](crate::model::ServiceSpec), printed by `sinew config
//! show`. All three together are `docs/reference/defaults.md`, which is made from here. Every row asks the engine that
//! acts by it, so none can say something else.

use crate::{
    balance::FEWEST,
    client::MARGIN,
    cluster::Cluster,
    discover::DnsSettings,
    health::{Ejection, in_panic, most_ejected},
    model::{ServiceSpec, SetKind, Snapshot},
    permit::QueueOrder,
    retry::{Budget, HedgePolicy, PEEK},
    rt::Lag,
    source::duration::format as duration,
    transport::{PoolPolicy, accept::Limits},
};

/// What is so, and how much it is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Row {
    /// What, in words. The same for every set.
    pub what: &'static str,
    /// How much, with its unit; `-` where it does not apply.
    pub value: String,
}

fn row(what: &'static str, value: impl ToString) -> Row {
    Row { what, value: value.to_string() }
}

/// What the policies of a service come to with so many endpoints of one priority.
///
/// ```
/// use sinew::{defaults, model::{ServiceSpec, SetKind}, name::ServiceName};
///
/// let service = ServiceSpec::new(ServiceName::new("reviews").unwrap());
/// let rows = defaults::by_size(&service, SetKind::Replicas, 3);
/// let ejected = rows.iter().find(|row| row.what == "ejected at most").unwrap();
/// assert_eq!(ejected.value, "1");
/// ```
pub fn by_size(service: &ServiceSpec, kind: SetKind, endpoints: usize) -> Vec<Row> {
    let outliers = &service.outlier_detection;
    let (on_a_word, most) = match kind {
        SetKind::Replicas => most_ejected(endpoints, outliers),
        // Its connections are judged instead.
        SetKind::Vip => (0, 0),
    };
    let threshold = service.failover.healthy_panic_threshold;
    let panic = (0..endpoints).rev().find(|usable| in_panic(*usable, endpoints, threshold));
    let slow = &service.slow_start;
    let (connections, (age, jitter)) = (PoolPolicy::connections(kind), PoolPolicy::age(kind));
    vec![
        row("ejected at most", most),
        row("of them on a detector's word alone", on_a_word),
        row("panic: so many usable or fewer", panic.map_or_else(|| "never".into(), |usable| usable.to_string())),
        row(
            "endpoints compared for a call",
            match service.load_balancer.compared(endpoints) {
                0 | 1 => "-".to_owned(),
                compared if compared == endpoints => "all".to_owned(),
                compared => compared.to_string(),
            },
        ),
        row(
            "slow start",
            match slow.is_on() && endpoints >= FEWEST {
                true => format!("{}, from {} %", duration(slow.window), slow.min_weight_percent),
                false => "off".to_owned(),
            },
        ),
        row("HTTP/2 connections to an endpoint", format!("{} to {}", connections.start(), connections.end())),
        row("age of an HTTP/2 connection", format!("{} ±{jitter} %", duration(age))),
    ]
}

/// What has a number and no key.
pub fn built_in() -> Vec<Row> {
    let (reserve, per_success, per_second) = Budget::RATES;
    let (earliest, samples, window) = HedgePolicy::BOUNDS;
    let (target, interval) = QueueOrder::CODEL;
    let (probe, repeatable) = Ejection::PROBE;
    let (first, longest) = PoolPolicy::BACK_OFF;
    let (h1_idle, h2_idle) = PoolPolicy::IDLE;
    let (ping_after, ping_timeout, pings) = PoolPolicy::PING;
    let (keepalive, unacknowledged) = PoolPolicy::TCP;
    let (part, least, most) = MARGIN;
    let limits = Limits::default();
    vec![
        row("retry budget: at first, and at least as large", format!("{reserve} retries")),
        row("retry budget: by a call that succeeds", format!("{per_success} of a retry")),
        row("retry budget: by a second", format!("{per_second} of a retry")),
        row("wait for the trailers of a gRPC response that may be retried", duration(PEEK)),
        row("hedge by percentile: earliest", duration(earliest)),
        row("hedge by percentile: calls seen before", format!("{samples} in {}", duration(window))),
        row("margin kept of an inherited deadline", {
            format!("1/{part} of what remains, {} to {}", duration(least), duration(most))
        }),
        row("`codel`: patience while overloaded, and until it is", {
            format!("{}, {}", duration(target), duration(interval))
        }),
        row("a call counts by `max_streams` once it is open for", duration(Cluster::LONG_LIVED)),
        row("an answer is late at so many times the median", Cluster::LATE),
        row("probation: a probe without an answer failed after", duration(probe)),
        row("probation: idempotent calls only, for", duration(repeatable)),
        row("own stall: what fails during a longer one counts against nobody", duration(Lag::STALL)),
        row("back-off between attempts to connect", format!("{} to {}", duration(first), duration(longest))),
        row("client: HTTP/1.1 connection without a request", duration(h1_idle)),
        row("client: HTTP/2 connection without a request", duration(h2_idle)),
        row("client: PING after silence with streams open", duration(ping_after)),
        row("client: PING unanswered", duration(ping_timeout)),
        row("client: PINGs to strangers without an answer in between", pings),
        row("client: TCP keep-alive", duration(keepalive)),
        row("client: `TCP_USER_TIMEOUT`", duration(unacknowledged)),
        row("DNS: shortest TTL", duration(DnsSettings::TTL_FLOOR)),
        row("DNS: an absent address is kept for at least", duration(DnsSettings::ABSENT_HOLD)),
        row("`drain.lame_duck` under Kubernetes", duration(Snapshot::LAME_DUCK)),
        row("listener: first byte", duration(limits.first_byte)),
        row("listener: PING after silence, and its answer", {
            format!("{}, {}", duration(limits.h2_ping_interval), duration(limits.h2_ping_timeout))
        }),
        row("listener: a request body below its rate", duration(limits.body_grace)),
    ]
}

/// `limits` of a listener, by key.
pub fn listener() -> Vec<Row> {
    let limits = Limits::default();
    vec![
        row("max_connections", "10000, or 4/5 of the open files"),
        row("max_connections_per_source", limits.max_per_source),
        row("max_connections_per_identity", limits.max_per_identity),
        row("max_handshakes", limits.max_handshakes),
        row("max_handshakes_per_source", limits.max_handshakes_per_source),
        row("handshake_timeout", duration(limits.tls_handshake)),
        row("request_headers_timeout", duration(limits.h1_header_read)),
        row("max_request_headers_bytes", limits.h2_max_header_list),
        row("max_headers_count", limits.h1_max_headers),
        row("max_request_bytes", "off"),
        row(
            "idle_timeout",
            format!("{} over HTTP/1.1, {} over HTTP/2", duration(limits.h1_idle), duration(limits.h2_idle)),
        ),
        row("max_connection_duration", format!("{} ±10 %", duration(limits.max_age))),
        row("max_concurrent_streams", limits.h2_max_streams),
        row("max_pending_resets", limits.h2_max_pending_resets),
        row("max_local_resets", limits.h2_max_local_resets),
        row("max_control_frames", limits.h2_control_frames),
        row("initial_stream_window_size", limits.h2_stream_window),
        row("initial_connection_window_size", {
            format!("{}, of a proven peer {}", limits.h2_connection_window, limits.h2_connection_window_proven)
        }),
        row("min_body_rate", limits.body_rate),
        row("send_stall_timeout", duration(limits.send_stall)),
        row("stream_idle_timeout", duration(limits.stream_idle)),
    ]
}
