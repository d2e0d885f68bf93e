//! `limits` of a listener.

use std::time::Duration;

/// What a listener allows, as far as it is not the default: `listeners.mesh.limits`, `listeners.edge.limits`.
///
/// They hold for connections that are accepted from then on, `max_request_bytes` for requests that arrive from then on.
/// Names are Envoy's where it has the same limit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ListenerLimits {
    /// Open connections. Default 10,000, or four fifths of the open files that the process may have. At the cap the oldest
    /// that has said nothing whole yet gives up its place; if there is none, new ones are closed at once.
    pub max_connections: Option<u32>,
    /// Open connections of one IPv4 address or IPv6 /64; `trusted_proxies` have no such cap. Default 1,024.
    pub max_connections_per_source: Option<u32>,
    /// Open connections of one proven identity. Default 1,024.
    pub max_connections_per_identity: Option<u32>,
    /// TLS handshakes at the same time; more wait their turn. Default 1,000.
    pub max_handshakes: Option<u32>,
    /// TLS handshakes of one source at the same time; more wait their turn. Default 64.
    pub max_handshakes_per_source: Option<u32>,
    /// From the first byte of a TLS handshake to its end, the wait for a turn included. Default 5 s; at least 100 ms.
    pub handshake_timeout: Option<Duration>,
    /// From the first byte of an HTTP/1.1 header to its last. Default 10 s; at least 100 ms.
    pub request_headers_timeout: Option<Duration>,
    /// Bytes of the header of a request; more is answered with 431. Default 16 KiB; 1 KiB to 1 MiB.
    pub max_request_headers_bytes: Option<u32>,
    /// Header fields of an HTTP/1.1 request; more is answered with 431. Default 100; at most 10,000.
    pub max_headers_count: Option<u32>,
    /// Bytes of the body of a request; more is refused with E056, 413 where it is known beforehand, an error of the body where
    /// not. Never of gRPC, whose messages are limited one by one, of upgrades and CONNECT. Default: no limit; what is not
    /// read costs no more than the windows.
    pub max_request_bytes: Option<u32>,
    /// How long a connection may be without a request: over HTTP/1.1 it is closed, over HTTP/2 it gets GOAWAY. Default 60 s
    /// and 5 min; at least 1 s. Clients must give up their idle connections earlier.
    pub idle_timeout: Option<Duration>,
    /// Age, ±10 %, at which a connection takes no new requests; what is open runs on. Default 30 min; at least 1 s.
    pub max_connection_duration: Option<Duration>,
    /// Open streams of an HTTP/2 connection. Default 100.
    pub max_concurrent_streams: Option<u32>,
    /// Streams that the peer reset before we looked at them, before GOAWAY(ENHANCE_YOUR_CALM). Default 20. A client that
    /// honestly cancels many calls at once needs more.
    pub max_pending_resets: Option<u32>,
    /// Streams reset by us for the peer's errors before GOAWAY(ENHANCE_YOUR_CALM). Default 1,024.
    pub max_local_resets: Option<u32>,
    /// Control frames a second that count as a flood when they last 3 s without a new request. Default 1,000.
    pub max_control_frames: Option<u32>,
    /// Receive window of an HTTP/2 stream, in bytes: the memory that a stream pins which nobody reads. Default 64 KiB; 16
    /// KiB to 2 GiB. Far away, an upload is at most so fast as one window a round trip.
    pub initial_stream_window_size: Option<u32>,
    /// Receive window of an HTTP/2 connection, in bytes. Default 1 MiB, and 16 MiB for a proven identity; 64 KiB to 2 GiB.
    pub initial_connection_window_size: Option<u32>,
    /// Bytes a second of a request body that the application waits for, of peers without identity. Default 1,024.
    pub min_body_rate: Option<u32>,
    /// How long a part of a response may wait to be taken, by peers without identity. Default 30 s; at least 1 s.
    pub send_stall_timeout: Option<Duration>,
    /// How long nothing of an exchange may move, with peers without identity. Default 5 min; at least 1 s.
    pub stream_idle_timeout: Option<Duration>,
}

impl ListenerLimits {
    /// What is out of its bounds, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        const WINDOW: u32 = i32::MAX as u32;
        let within = |value: Option<u32>, least, most| value.is_none_or(|value| (least..=most).contains(&value));
        let lasts = |value: Option<Duration>, least| value.is_none_or(|value| value >= Duration::from_millis(least));
        let (least, short) = ("it is at least 1", "it is at least 1s");
        for (holds, key, reason) in [
            (within(self.max_connections, 1, u32::MAX), "max_connections", least),
            (within(self.max_connections_per_source, 1, u32::MAX), "max_connections_per_source", least),
            (within(self.max_connections_per_identity, 1, u32::MAX), "max_connections_per_identity", least),
            (within(self.max_handshakes, 1, 10_000_000), "max_handshakes", "it is 1 to 10000000"),
            (within(self.max_handshakes_per_source, 1, 10_000_000), "max_handshakes_per_source", "it is 1 to 10000000"),
            (lasts(self.handshake_timeout, 100), "handshake_timeout", "it is at least 100ms"),
            (lasts(self.request_headers_timeout, 100), "request_headers_timeout", "it is at least 100ms"),
            (
                within(self.max_request_headers_bytes, 1024, 1024 * 1024),
                "max_request_headers_bytes",
                "it is 1024 to 1048576",
            ),
            (within(self.max_headers_count, 1, 10_000), "max_headers_count", "it is 1 to 10000"),
            (lasts(self.idle_timeout, 1_000), "idle_timeout", short),
            (lasts(self.max_connection_duration, 1_000), "max_connection_duration", short),
            (within(self.max_concurrent_streams, 1, u32::MAX), "max_concurrent_streams", least),
            (within(self.max_pending_resets, 1, u32::MAX), "max_pending_resets", least),
            (within(self.max_local_resets, 1, u32::MAX), "max_local_resets", least),
            (within(self.max_control_frames, 1, u32::MAX), "max_control_frames", least),
            (
                within(self.initial_stream_window_size, 16 * 1024, WINDOW),
                "initial_stream_window_size",
                "it is 16384 to 2147483647",
            ),
            (
                within(self.initial_connection_window_size, 65_535, WINDOW),
                "initial_connection_window_size",
                "it is 65535 to 2147483647",
            ),
            (within(self.min_body_rate, 1, u32::MAX), "min_body_rate", least),
            (lasts(self.send_stall_timeout, 1_000), "send_stall_timeout", short),
            (lasts(self.stream_idle_timeout, 1_000), "stream_idle_timeout", short),
        ] {
            if !holds {
                return Err((key, reason));
            }
        }
        Ok(())
    }
}
