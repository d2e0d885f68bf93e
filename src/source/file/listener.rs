//! The grammar of `limits` of a listener, and how `config show` prints it.

use std::{ops::RangeInclusive, time::Duration};

use super::cursor::Fields;
use crate::{
    model::ListenerLimits,
    source::{document::Field, duration::format as duration},
};

/// The most that a count may be.
const MANY: u32 = 10_000_000;
/// HTTP/2 has no larger window.
const WINDOW: u32 = i32::MAX as u32;

/// `limits`.
pub(super) fn limits(fields: &mut Fields<'_, '_, '_>) -> Field<ListenerLimits> {
    let doc = "What is allowed, as far as it is not the default; holds for connections from then on.";
    fields.field("limits", doc, |at| at.map("a map of limits", read))
}

fn count(
    fields: &mut Fields<'_, '_, '_>,
    key: &'static str,
    doc: &'static str,
    range: RangeInclusive<u32>,
) -> Option<u32> {
    fields.field(key, doc, |at| at.integer(range)).map(|set| set.value)
}

fn time(fields: &mut Fields<'_, '_, '_>, key: &'static str, doc: &'static str, least: Duration) -> Option<Duration> {
    fields.field(key, doc, |at| at.duration(least)).map(|set| set.value)
}

fn read(fields: &mut Fields<'_, '_, '_>) -> ListenerLimits {
    const SOON: Duration = Duration::from_millis(100);
    const SECOND: Duration = Duration::from_secs(1);
    let mut limits = ListenerLimits::default();
    macro_rules! say {
        ($($read:ident $key:ident: $doc:literal, $bound:expr;)*) => {
            $(limits.$key = $read(fields, stringify!($key), $doc, $bound);)*
        };
    }
    say! {
        count max_connections: "Open connections. Default 10000, or 4/5 of the open files.", 1..=MANY;
        count max_connections_per_source: "Open connections of one IPv4 address or IPv6 /64. Default 1024.", 1..=MANY;
        count max_connections_per_identity: "Open connections of one proven identity. Default 1024.", 1..=MANY;
        count max_handshakes: "TLS handshakes at a time; more wait. Default 1000.", 1..=MANY;
        count max_handshakes_per_source: "TLS handshakes of one source at a time; more wait. Default 64.", 1..=MANY;
        time handshake_timeout: "From the first byte of a TLS handshake to its end. Default 5s; at least 100ms.", SOON;
        time request_headers_timeout:
            "From the first byte of an HTTP/1.1 header to its last. Default 10s; at least 100ms.", SOON;
        count max_request_headers_bytes:
            "Bytes of the header of a request; more is answered with 431. Default 16384; 1024 to 1048576.",
            1024..=1024 * 1024;
        count max_headers_count:
            "Header fields of an HTTP/1.1 request; more is answered with 431. Default 100; at most 10000.", 1..=10_000;
        count max_request_bytes:
            "Bytes of a request body, but for gRPC and CONNECT; more is answered with 413. Default: no limit.",
            0..=u32::MAX;
        time idle_timeout:
            "How long a connection may be without a request. Default 60s over HTTP/1.1, 5m over HTTP/2; at least 1s.",
            SECOND;
        time max_connection_duration:
            "Age, ±10 %, at which a connection takes no new requests. Default 30m; at least 1s.", SECOND;
        count max_concurrent_streams: "Open streams of an HTTP/2 connection. Default 100.", 1..=MANY;
        count max_pending_resets:
            "Streams that the peer reset before they were looked at, before GOAWAY. Default 20.", 1..=MANY;
        count max_local_resets: "Streams reset for the peer's errors, before GOAWAY. Default 1024.", 1..=MANY;
        count max_control_frames:
            "Control frames a second that are a flood when they last 3s without a new request. Default 1000.", 1..=MANY;
        count initial_stream_window_size:
            "Receive window of an HTTP/2 stream, in bytes. Default 65536; at least 16384.", 16 * 1024..=WINDOW;
        count initial_connection_window_size:
            "Receive window of an HTTP/2 connection, in bytes. Default 1 MiB, 16 MiB for an identity; at least 65535.",
            65_535..=WINDOW;
        count min_body_rate:
            "Bytes a second of a request body that is waited for, of peers without identity. Default 1024.",
            1..=u32::MAX;
        time send_stall_timeout:
            "How long a part of a response may wait to be taken, by peers without identity. Default 30s; at least 1s.",
            SECOND;
        time stream_idle_timeout:
            "How long nothing of an exchange may move, with peers without identity. Default 5m; at least 1s.", SECOND;
    }
    limits
}

/// What is said, as keys and values.
pub(super) fn shown(limits: &ListenerLimits) -> Vec<(String, String)> {
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let time = |value: Option<Duration>| value.map(duration);
    macro_rules! said {
        ($($shown:ident $key:ident),* $(,)?) => {
            [$((stringify!($key), $shown(limits.$key))),*]
        };
    }
    let said = said![
        number max_connections,
        number max_connections_per_source,
        number max_connections_per_identity,
        number max_handshakes,
        number max_handshakes_per_source,
        time handshake_timeout,
        time request_headers_timeout,
        number max_request_headers_bytes,
        number max_headers_count,
        number max_request_bytes,
        time idle_timeout,
        time max_connection_duration,
        number max_concurrent_streams,
        number max_pending_resets,
        number max_local_resets,
        number max_control_frames,
        number initial_stream_window_size,
        number initial_connection_window_size,
        number min_body_rate,
        time send_stall_timeout,
        time stream_idle_timeout,
    ];
    said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}
