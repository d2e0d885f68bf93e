//! Exact limits on what may be in flight towards one service.

/// `circuit_breakers` of a service. Every limit is exact, shared by all clones and routes, and held until the response
/// body ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct BreakerPolicy {
    /// Connections to all endpoints, those that are being made included. Default 1024, at least 1. Every endpoint may
    /// always hold one; at the limit a connection that idles elsewhere is closed first, unless its endpoint has no other.
    pub max_connections: u32,
    /// Calls that wait for a connection. Default 1024; 0 refuses instead of waiting.
    pub max_pending_requests: u32,
    /// Calls in flight. Default 1024; 0 refuses every call.
    pub max_requests: u32,
    /// Upgraded connections, event streams and whatever is open for 30 s (found within 5 s more): they leave
    /// `max_requests`, as far as there is room here. Default 100,000.
    pub max_streams: u32,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_streams: 100_000 }
    }
}
