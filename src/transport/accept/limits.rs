//! Every limit of a listener.

use std::time::Duration;

use crate::model::ListenerLimits;

/// What a listener allows a connection. The defaults hold for peers without a proven identity.
///
/// Times of zero are not "off"; a limit is lifted by a large value.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Limits {
    /// From accept to the first bytes that tell HTTP/1 from HTTP/2. Default 5 s. A silent connection costs a file
    /// descriptor and about 5 KiB until then.
    pub(crate) first_byte: Duration,
    /// From the first byte of a TLS handshake to its end, the wait for a place included. Default 5 s.
    pub(crate) tls_handshake: Duration,
    /// TLS handshakes at the same time. Default 1,000; more wait in order, within `tls_handshake`.
    pub(crate) max_handshakes: usize,
    /// TLS handshakes of one source at the same time. Default 64; more wait likewise.
    pub(crate) max_handshakes_per_source: usize,
    /// From the first byte of an HTTP/1 header to its last. Default 10 s.
    pub(crate) h1_header_read: Duration,
    /// How long an HTTP/1 connection may wait for its next request. Default 60 s. Clients must give up their idle
    /// connections earlier.
    pub(crate) h1_idle: Duration,
    /// Header fields of an HTTP/1 request. Default 100; more is answered with 431.
    pub(crate) h1_max_headers: usize,
    /// Bytes of an HTTP/1 request line with all headers. Default 16 KiB; more is answered with 431.
    pub(crate) h1_max_header_size: usize,
    /// Read buffer of an HTTP/1 connection. Default 64 KiB, at least 8 KiB. Larger helps only uploads on fast networks.
    pub(crate) h1_max_buffer: usize,
    /// Open streams of an HTTP/2 connection. Default 100.
    pub(crate) h2_max_streams: u32,
    /// Streams reset by us for the peer's errors before GOAWAY(ENHANCE_YOUR_CALM). Default 1024. A client that opens
    /// more streams than allowed before it has seen our SETTINGS causes these honestly: 128 was too few.
    pub(crate) h2_max_local_resets: usize,
    /// Streams that the peer reset before we looked at them (rapid reset). Default 20.
    pub(crate) h2_max_pending_resets: usize,
    /// Decoded header list of an HTTP/2 request. Default 16 KiB; more is answered with 431.
    pub(crate) h2_max_header_list: u32,
    /// Receive window of a stream. Default 64 KiB: the memory a stream can pin that nobody reads.
    pub(crate) h2_stream_window: u32,
    /// Receive window of a connection. Default 1 MiB.
    pub(crate) h2_connection_window: u32,
    /// The same for a peer with a proven identity. Default 16 MiB: a handler that does not read must not let small
    /// messages of other streams use it up, which ends the connection.
    pub(crate) h2_connection_window_proven: u32,
    /// Longest frame that is taken. Default 16 KiB, the least that HTTP/2 allows.
    pub(crate) h2_max_frame: u32,
    /// Bytes of responses buffered per stream. Default 64 KiB.
    pub(crate) h2_send_buffer: usize,
    /// A PING after this long without a frame. Default 30 s.
    pub(crate) h2_ping_interval: Duration,
    /// The connection ends if a PING is not answered for this long. Default 20 s.
    pub(crate) h2_ping_timeout: Duration,
    /// An HTTP/2 connection without streams gets GOAWAY after this. Default 5 min.
    pub(crate) h2_idle: Duration,
    /// Extended CONNECT (RFC 8441: WebSocket over HTTP/2). Default on.
    pub(crate) h2_connect_protocol: bool,
    /// Control frames per second that count as a flood when they last 3 s without a new request. Default 1,000.
    pub(crate) h2_control_frames: u32,
    /// Age at which a connection takes no new requests. Default 30 min, ±10 % per connection so that a fleet does not
    /// reconnect at once. What is open runs on.
    pub(crate) max_age: Duration,
    /// How long an idle HTTP/1 connection may still send a request after accepting stopped. Default 250 ms: covers a
    /// request that is already on its way, and is what a drain without traffic costs.
    pub(crate) closing_grace: Duration,
    /// Open connections of all listeners of one acceptor. Default min(10,000, 80 % of RLIMIT_NOFILE). At the cap new
    /// ones are closed at once.
    pub(crate) max_connections: usize,
    /// Open connections per source: an IPv4 address or an IPv6 /64. Default 1,024.
    pub(crate) max_per_source: usize,
    /// From accept to the end of the PROXY header, where there is one. Default 2 s.
    pub(crate) proxy_header: Duration,
    /// Open connections per proven identity. Default 1,024.
    pub(crate) max_per_identity: usize,
    /// Whose exchanges have to keep a pace: `body_rate`, `send_stall`, `stream_idle`. Never those of gRPC, upgrades and
    /// CONNECT. Default: those of peers without identity.
    pub(crate) paced: Paced,
    /// Bytes per second of a request body that the application waits for. Default 1 KiB.
    pub(crate) body_rate: u64,
    /// How long a request body may stay below its rate. Default 10 s.
    pub(crate) body_grace: Duration,
    /// How long a part of a response may wait to be taken by the peer. Default 30 s.
    pub(crate) send_stall: Duration,
    /// How long nothing of an exchange may move, in either direction. Default 5 min. A request with `prefer: wait` may
    /// wait longer.
    pub(crate) stream_idle: Duration,
    /// TCP keep-alive probes start after this. Default 60 s.
    pub(crate) tcp_keepalive: Duration,
    /// How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, Linux). Default 20 s.
    pub(crate) tcp_user_timeout: Duration,
}

/// Whose exchanges have to keep a pace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Paced {
    /// Those of peers of other processes that proved no identity.
    Strangers,
    /// Everybody's.
    All,
}

impl Limits {
    /// As configured: what is not said stays.
    pub(crate) fn with(mut self, said: &ListenerLimits) -> Self {
        fn set<T, U>(to: &mut T, said: Option<U>, convert: impl FnOnce(U) -> T) {
            if let Some(said) = said {
                *to = convert(said);
            }
        }
        let count = |said: u32| said as usize;
        let itself = |said: Duration| said;
        set(&mut self.max_connections, said.max_connections, count);
        set(&mut self.max_per_source, said.max_connections_per_source, count);
        set(&mut self.max_per_identity, said.max_connections_per_identity, count);
        set(&mut self.max_handshakes, said.max_handshakes, count);
        set(&mut self.max_handshakes_per_source, said.max_handshakes_per_source, count);
        set(&mut self.tls_handshake, said.handshake_timeout, itself);
        set(&mut self.h1_header_read, said.request_headers_timeout, itself);
        set(&mut self.h1_max_header_size, said.max_request_headers_bytes, count);
        set(&mut self.h2_max_header_list, said.max_request_headers_bytes, |said| said);
        // A header is read whole.
        self.h1_max_buffer = self.h1_max_buffer.max(self.h1_max_header_size.saturating_mul(2));
        set(&mut self.h1_max_headers, said.max_headers_count, count);
        set(&mut self.h1_idle, said.idle_timeout, itself);
        set(&mut self.h2_idle, said.idle_timeout, itself);
        set(&mut self.max_age, said.max_connection_duration, itself);
        set(&mut self.h2_max_streams, said.max_concurrent_streams, |said| said);
        set(&mut self.h2_max_pending_resets, said.max_pending_resets, count);
        set(&mut self.h2_max_local_resets, said.max_local_resets, count);
        set(&mut self.h2_control_frames, said.max_control_frames, |said| said);
        set(&mut self.h2_stream_window, said.initial_stream_window_size, |said| said);
        set(&mut self.h2_connection_window, said.initial_connection_window_size, |said| said);
        set(&mut self.h2_connection_window_proven, said.initial_connection_window_size, |said| said);
        set(&mut self.body_rate, said.min_body_rate, u64::from);
        set(&mut self.send_stall, said.send_stall_timeout, itself);
        set(&mut self.stream_idle, said.stream_idle_timeout, itself);
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(5),
            tls_handshake: Duration::from_secs(5),
            max_handshakes: 1_000,
            max_handshakes_per_source: 64,
            h1_header_read: Duration::from_secs(10),
            h1_idle: Duration::from_secs(60),
            h1_max_headers: 100,
            h1_max_header_size: 16 * 1024,
            h1_max_buffer: 64 * 1024,
            h2_max_streams: 100,
            h2_max_local_resets: 1024,
            h2_max_pending_resets: 20,
            h2_max_header_list: 16 * 1024,
            h2_stream_window: 64 * 1024,
            h2_connection_window: 1024 * 1024,
            h2_connection_window_proven: 16 * 1024 * 1024,
            h2_max_frame: 16 * 1024,
            h2_send_buffer: 64 * 1024,
            h2_ping_interval: Duration::from_secs(30),
            h2_ping_timeout: Duration::from_secs(20),
            h2_idle: Duration::from_secs(300),
            h2_connect_protocol: true,
            h2_control_frames: 1_000,
            max_age: Duration::from_secs(30 * 60),
            closing_grace: Duration::from_millis(250),
            max_connections: default_max_connections(open_files()),
            max_per_source: 1_024,
            proxy_header: Duration::from_secs(2),
            max_per_identity: 1_024,
            paced: Paced::Strangers,
            body_rate: 1024,
            body_grace: Duration::from_secs(10),
            send_stall: Duration::from_secs(30),
            stream_idle: Duration::from_secs(300),
            tcp_keepalive: Duration::from_secs(60),
            tcp_user_timeout: Duration::from_secs(20),
        }
    }
}

fn default_max_connections(open_files: Option<usize>) -> usize {
    open_files.map_or(10_000, |files| (files / 10 * 8).min(10_000))
}

/// The soft limit on open files; `None` where the system has no `/proc` or no limit.
fn open_files() -> Option<usize> {
    parse_open_files(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

fn parse_open_files(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_capped_at_four_fifths_of_the_open_files() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(parse_open_files(text), Some(1024));
        assert_eq!(parse_open_files("Max open files            unlimited            unlimited            files"), None);
        assert_eq!(default_max_connections(Some(1024)), 816);
        assert_eq!(default_max_connections(Some(1_048_576)), 10_000);
        assert_eq!(default_max_connections(None), 10_000);
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let limits = Limits::default();
        assert_eq!(
            (limits.first_byte.as_secs(), limits.h1_header_read.as_secs(), limits.h1_idle.as_secs()),
            (5, 10, 60)
        );
        assert_eq!((limits.h2_max_streams, limits.h2_max_local_resets, limits.h2_max_pending_resets), (100, 1024, 20));
        assert_eq!((limits.h2_stream_window, limits.h2_connection_window), (65_536, 1_048_576));
        assert_eq!((limits.h2_ping_interval.as_secs(), limits.h2_ping_timeout.as_secs()), (30, 20));
        assert_eq!((limits.h2_idle.as_secs(), limits.max_age.as_secs()), (300, 1_800));
        assert_eq!((limits.h2_max_header_list, limits.max_per_source), (16_384, 1_024));
        assert_eq!((limits.tcp_keepalive.as_secs(), limits.tcp_user_timeout.as_secs()), (60, 20));
        assert_eq!((limits.tls_handshake.as_secs(), limits.proxy_header.as_secs()), (5, 2));
        assert_eq!(
            (limits.max_handshakes, limits.max_handshakes_per_source, limits.max_per_identity),
            (1_000, 64, 1_024)
        );
        assert_eq!((limits.h1_max_headers, limits.h1_max_header_size, limits.h1_max_buffer), (100, 16_384, 65_536));
        assert_eq!((limits.h2_connection_window_proven, limits.h2_max_frame), (16_777_216, 16_384));
        assert_eq!(
            (limits.h2_control_frames, limits.h2_send_buffer, limits.h2_connect_protocol),
            (1_000, 65_536, true)
        );
        assert_eq!((limits.body_rate, limits.body_grace.as_secs()), (1_024, 10));
        assert_eq!((limits.send_stall.as_secs(), limits.stream_idle.as_secs()), (30, 300));
        assert!(limits.max_connections <= 10_000 && limits.paced == Paced::Strangers);
    }
}
