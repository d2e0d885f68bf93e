//! The table of error codes: one row per reason a call can be refused or fail for.
//!
//! A code is what a caller, a log line, a metric label and a dashboard have in common, so the set is closed, printed
//! as `SINEW-E010`, and never renumbered. Each row carries the HTTP status and gRPC status that a caller sees, Envoy's
//! response flag (so that existing queries keep working) and the error type of RFC 9209 for `Proxy-Status`.

use std::fmt;

macro_rules! codes {
    ($( $(#[doc = $doc:literal])+ $name:ident = $number:literal, $reason:literal, $http:literal, $grpc:literal, $flag:literal, $proxy:literal; )+) => {
        /// Why a call was refused or failed.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Code] = &[$( Code::$name, )+];

            const fn row(self) -> &'static Row {
                match self {
                    $( Code::$name => &Row {
                        number: $number,
                        reason: $reason,
                        http: $http,
                        grpc: $grpc,
                        flag: $flag,
                        proxy: $proxy,
                        doc: concat!($($doc, "\n"),+),
                    }, )+
                }
            }
        }
    };
}

struct Row {
    number: u16,
    reason: &'static str,
    http: u16,
    grpc: u8,
    flag: &'static str,
    proxy: &'static str,
    doc: &'static str,
}

codes! {
    /// No routing rule matched the request. Add a route, or a catch-all without `match`.
    NoRoute = 1, "no_route", 404, 12, "NR", "destination_not_found";
    /// The service is neither configured nor announced by any source. Check its name, or add it under `services`.
    UnknownService = 2, "unknown_service", 503, 14, "NC", "destination_not_found";
    /// Configuration or endpoints were still unknown when the wait for them ended. Look at the source's status.
    ConfigNotReady = 3, "config_not_ready", 503, 14, "NFCF", "proxy_configuration_error";
    /// No endpoint can be used: none exist, or all are failing, ejected or draining.
    NoHealthyEndpoint = 10, "no_healthy_endpoint", 503, 14, "UH", "destination_unavailable";
    /// The connection was refused or could not be made. Nothing of the request left.
    ConnectFailed = 11, "connect_failed", 503, 14, "UF", "connection_refused";
    /// No connection within the connect timeout. Nothing of the request left.
    ConnectTimeout = 12, "connect_timeout", 504, 14, "UF", "connection_timeout";
    /// The name could not be resolved and no earlier answer is known.
    DnsFailed = 13, "dns_failed", 503, 14, "DF", "dns_error";
    /// The TLS handshake failed; the reason names which certificate and why.
    TlsFailed = 14, "tls_failed", 503, 14, "UF", "tls_certificate_error";
    /// The connection closed before a response arrived; the error says whether the request may have been processed.
    ConnectionClosed = 15, "connection_closed_before_response", 503, 14, "UC", "connection_terminated";
    /// The peer reset the stream.
    PeerReset = 16, "peer_reset", 503, 14, "UR", "connection_terminated";
    /// The peer broke the protocol.
    ProtocolError = 17, "protocol_error", 502, 13, "UPE", "http_protocol_error";
    /// The peer closed the connection with ENHANCE_YOUR_CALM: this side sent too much of something.
    PeerCalmed = 18, "peer_calmed", 503, 14, "UC", "connection_limit_reached";
    /// A configured or default timeout passed. The error names which, and the key that sets it.
    TimeoutRequest = 20, "timeout_request", 504, 4, "UT", "http_response_timeout";
    /// The caller's deadline passed before this hop had answered. Give the call more time, or find what spent it.
    DeadlineExhausted = 21, "deadline_exhausted", 504, 4, "DT", "http_response_timeout";
    /// No byte moved on the stream for the idle timeout.
    Idle = 22, "stream_idle", 408, 4, "SI", "http_response_timeout";
    /// The stream lived longer than its configured maximum.
    MaxDuration = 23, "max_duration", 504, 4, "UMSDR", "http_response_timeout";
    /// A limit on requests, pending requests or connections is reached.
    Overflow = 30, "overflow", 503, 14, "UO", "connection_limit_reached";
    /// The circuit breaker is open.
    CircuitOpen = 31, "circuit_open", 503, 14, "UO", "destination_unavailable";
    /// All retries failed; the last cause is the source.
    RetryExhausted = 32, "retry_exhausted", 503, 14, "URX", "destination_unavailable";
    /// Load was shed to protect the service.
    OverloadShed = 33, "overload_shed", 503, 14, "OM", "destination_unavailable";
    /// A rate limit refused the call; `Retry-After` says when to come back.
    RateLimited = 40, "rate_limited", 429, 8, "RL", "http_request_denied";
    /// The rate limit service could not be asked and the policy is to deny.
    LimiterUnavailable = 41, "limiter_unavailable", 429, 14, "RLSE", "http_request_denied";
    /// The caller did not prove who it is.
    Unauthenticated = 50, "unauthenticated", 401, 16, "UAEX", "http_request_denied";
    /// A policy denies the call.
    Denied = 51, "denied", 403, 7, "UAEX", "http_request_denied";
    /// The external authorization service denies the call.
    ExternalDenied = 52, "external_denied", 403, 7, "UAEX", "http_request_denied";
    /// The request is malformed: its path, host or a header. The reason names which.
    BadRequest = 55, "bad_request", 400, 3, "DPE", "http_request_error";
    /// The body or the headers exceed a limit.
    TooLarge = 56, "too_large", 413, 8, "DPE", "http_request_error";
    /// Fault injection aborted the call.
    FaultAbort = 60, "fault_abort", 503, 14, "FI", "http_request_denied";
    /// This process is draining and takes no new work.
    LocalDraining = 70, "local_draining", 503, 14, "LH", "destination_unavailable";
    /// A panic was caught, or an invariant of this process does not hold.
    Internal = 71, "internal", 500, 13, "-", "proxy_internal_error";
    /// This process cannot listen on an address. The message says why and what to do about it.
    BindFailed = 72, "bind_failed", 500, 13, "-", "proxy_internal_error";
    /// The caller went away before the response was complete.
    ClientGone = 80, "client_gone", 499, 1, "DC", "connection_terminated";
    /// Information: the response was served from the cache.
    ServedFromCache = 90, "served_from_cache", 200, 0, "RFCF", "-";
}

impl Code {
    /// The number: 10 for `SINEW-E010`.
    pub const fn number(self) -> u16 {
        self.row().number
    }

    /// The stable snake_case reason, as used in metric labels and status documents.
    pub const fn reason(self) -> &'static str {
        self.row().reason
    }

    /// The HTTP status a plain HTTP caller sees.
    pub const fn http_status(self) -> http::StatusCode {
        match http::StatusCode::from_u16(self.row().http) {
            Ok(status) => status,
            Err(_) => http::StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The gRPC status code a gRPC caller sees.
    pub const fn grpc_status(self) -> u8 {
        self.row().grpc
    }

    /// Envoy's response flag for the same event, as used in the `flag` label and in access logs.
    pub const fn flag(self) -> &'static str {
        self.row().flag
    }

    /// The `Proxy-Status` error type of RFC 9209, `-` where there is none.
    pub const fn proxy_status(self) -> &'static str {
        self.row().proxy
    }

    /// What the code means and what to do about it.
    pub const fn explanation(self) -> &'static str {
        self.row().doc
    }

    /// The code with this number.
    pub fn from_number(number: u16) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.number() == number)
    }

    /// True for refusals that this process decides before anything of the request is sent.
    pub(crate) const fn refuses_before_sending(self) -> bool {
        matches!(
            self,
            Code::NoRoute
                | Code::UnknownService
                | Code::ConfigNotReady
                | Code::NoHealthyEndpoint
                | Code::DnsFailed
                | Code::Overflow
                | Code::CircuitOpen
                | Code::OverloadShed
                | Code::RateLimited
                | Code::LimiterUnavailable
                | Code::BadRequest
                | Code::LocalDraining
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SINEW-E{:03}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_print_with_three_digits_and_come_back_by_number() {
        assert_eq!(Code::NoRoute.to_string(), "SINEW-E001");
        assert_eq!(Code::ServedFromCache.to_string(), "SINEW-E090");
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(*code));
            assert!(!code.explanation().trim().is_empty(), "{code} has no explanation");
        }
    }

    #[test]
    fn numbers_and_reasons_are_unique_and_ascending() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        let mut reasons: Vec<_> = Code::ALL.iter().map(|code| code.reason()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), Code::ALL.len());
    }

    #[test]
    fn shed_answers_as_unavailable_so_that_other_hops_may_retry_elsewhere() {
        assert_eq!(Code::OverloadShed.http_status(), 503);
        assert_eq!(Code::OverloadShed.grpc_status(), 14);
    }
}
