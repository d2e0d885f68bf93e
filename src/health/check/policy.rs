//! What is asked of an endpoint, and how often.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use http::{Method, uri::PathAndQuery};

use super::Payload;
use crate::enforcement::{Mode, Percent};

/// One entry of `health_checks`. Names and meanings are those of Envoy's `envoy.config.core.v3.HealthCheck`.
///
/// What differs from Envoy on purpose: new endpoints are used until checks speak against them; an answer of gRPC counts
/// by its status and not by its HTTP status; the last usable endpoint is never taken out; and a service of one endpoint
/// or of a virtual IP only reports.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// How long one check may take, connection included. Default 1 s; at least 1 ms.
    pub timeout: Duration,
    /// How long after one check the next begins. Default 3 s; at least 10 ms. Each endpoint costs a connection and a
    /// request an interval, for each process that checks it.
    pub interval: Duration,
    /// So many checks in a row that fail make an endpoint unhealthy. Default 3; at least 1. An answer that must not be
    /// given (another status, `NOT_SERVING`) does so at once.
    pub unhealthy_threshold: u32,
    /// So many checks in a row that pass make it healthy again. Default 2 (Envoy's users mostly take 1); at least 1.
    pub healthy_threshold: u32,
    /// The first check begins within this, by chance, so that not all are checked at the same time. Default: the
    /// interval.
    pub initial_jitter: Option<Duration>,
    /// Up to so much is added to each interval by chance. Default 0.
    pub interval_jitter: Duration,
    /// Up to so many per cent of it are added to each interval by chance. Default 10; 0 to 100.
    pub interval_jitter_percent: u32,
    /// The interval while nobody called the service for that long. Default 60 s.
    pub no_traffic_interval: Duration,
    /// The interval while the endpoint is unhealthy. Default: the interval.
    pub unhealthy_interval: Option<Duration>,
    /// The one interval after it became unhealthy. Default: as while it is.
    pub unhealthy_edge_interval: Option<Duration>,
    /// The one interval after it became healthy. Default: the interval.
    pub healthy_edge_interval: Option<Duration>,
    /// Asks another port of the endpoint. Default: its own.
    pub alt_port: Option<u16>,
    /// Asks in plaintext, whatever protects calls: for an ops listener, with `alt_port`. `tls: off` in a document. Default
    /// false.
    pub plaintext: bool,
    /// Whether a connection is kept from one check to the next. Default true. Never one that calls use.
    pub reuse_connection: bool,
    /// Whether an endpoint that joins others is passed over until its first check passed. Default false.
    pub ignore_new_hosts_until_first_hc: bool,
    /// Whether calls heed it. In shadow it asks and reports, and no endpoint is passed over for what it finds. Default
    /// [`Mode::Enforce`].
    pub enforcement: Mode,
    /// In how many cases an endpoint that it finds unhealthy is passed over; drawn anew each time one becomes so. Default all.
    pub percentage: Percent,
}

impl HealthCheck {
    /// This check with the defaults.
    pub fn new(kind: CheckKind) -> Self {
        Self {
            kind,
            timeout: Duration::from_secs(1),
            interval: Duration::from_secs(3),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            initial_jitter: None,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 10,
            no_traffic_interval: Duration::from_secs(60),
            unhealthy_interval: None,
            unhealthy_edge_interval: None,
            healthy_edge_interval: None,
            alt_port: None,
            plaintext: false,
            reuse_connection: true,
            ignore_new_hosts_until_first_hc: false,
            enforcement: Mode::Enforce,
            percentage: Percent::ALL,
        }
    }

    /// A `GET` of a path that has to answer with 200.
    ///
    /// # Errors
    /// If the path is not one.
    pub fn http(path: &str) -> Result<Self, String> {
        Ok(Self::new(CheckKind::Http(HttpCheck::new(path)?)))
    }

    /// `grpc.health.v1` of a service; an empty name asks for the server as a whole.
    pub fn grpc(service: impl Into<Arc<str>>) -> Self {
        Self::new(CheckKind::Grpc(GrpcCheck { service: service.into() }))
    }

    /// A connection.
    pub fn tcp() -> Self {
        Self::new(CheckKind::Tcp(TcpCheck::default()))
    }

    /// What is out of bounds: the key, and why.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let short = [
            ("timeout", Some(self.timeout), Duration::from_millis(1)),
            ("interval", Some(self.interval), SHORTEST),
            ("no_traffic_interval", Some(self.no_traffic_interval), SHORTEST),
            ("unhealthy_interval", self.unhealthy_interval, SHORTEST),
            ("unhealthy_edge_interval", self.unhealthy_edge_interval, SHORTEST),
            ("healthy_edge_interval", self.healthy_edge_interval, SHORTEST),
        ];
        for (key, value, least) in short {
            if let Some(value) = value.filter(|value| *value < least) {
                faults.push((key, format!("{value:?} is too short: it must be at least {least:?}")));
            }
        }
        for (key, value) in
            [("unhealthy_threshold", self.unhealthy_threshold), ("healthy_threshold", self.healthy_threshold)]
        {
            if value == 0 {
                faults.push((key, "0 is out of bounds: it must be at least 1".into()));
            }
        }
        if self.interval_jitter_percent > 100 {
            let reason = format!("{} is out of bounds: it is per cent, at most 100", self.interval_jitter_percent);
            faults.push(("interval_jitter_percent", reason));
        }
        faults
    }
}

/// Shorter intervals are load rather than checks.
pub(crate) const SHORTEST: Duration = Duration::from_millis(10);

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CheckKind {
    /// A request.
    Http(HttpCheck),
    /// `grpc.health.v1.Health`.
    Grpc(GrpcCheck),
    /// A connection, and maybe some bytes.
    Tcp(TcpCheck),
}

impl CheckKind {
    /// The name in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Grpc(_) => "grpc",
            Self::Tcp(_) => "tcp",
        }
    }
}

/// A request and what may be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HttpCheck {
    /// What is asked for.
    pub path: PathAndQuery,
    /// The host that is asked for. Default: the service's name.
    pub host: Option<Arc<str>>,
    /// Default `GET`.
    pub method: Method,
    /// Answers with these pass. Default 200.
    pub expected_statuses: Vec<StatusRange>,
    /// Answers with these fail, and count towards `unhealthy_threshold`; those with any other make the endpoint unhealthy
    /// at once. Default none.
    pub retriable_statuses: Vec<StatusRange>,
}

impl HttpCheck {
    /// A `GET` of a path that has to answer with 200.
    ///
    /// # Errors
    /// If the path is not one.
    pub fn new(path: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not a path: it begins with `/`, such as `/readyz`", path.escape_debug());
        if !path.starts_with('/') {
            return Err(wrong());
        }
        Ok(Self {
            path: path.parse().map_err(|_| wrong())?,
            host: None,
            method: Method::GET,
            expected_statuses: vec![StatusRange { first: 200, last: 200 }],
            retriable_statuses: Vec::new(),
        })
    }
}

/// `200`, `200-299` or `2xx`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// Whether it is among these.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{}` is not a status or a range: use 100 to 599, such as `200`, `200-299` or `2xx`",
                text.escape_debug()
            )
        };
        let status = |text: &str| text.parse::<u16>().ok().filter(|status| (100..600).contains(status));
        let range = match (text.strip_suffix("xx"), text.split_once('-')) {
            (Some(hundreds), _) => hundreds.parse::<u16>().ok().filter(|first| (1..6).contains(first)).map(|first| {
                let first = first * 100;
                (first, first + 99)
            }),
            (None, Some((first, last))) => status(first.trim()).zip(status(last.trim())),
            (None, None) => status(text).map(|status| (status, status)),
        };
        match range {
            Some((first, last)) if first <= last => Ok(Self { first, last }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// `grpc.health.v1.Health`: `Watch`, and `Check` besides, so that an endpoint that says nothing any more is noticed. A
/// server without either passes, as in gRFC A17.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GrpcCheck {
    /// The name that is asked for. Default: empty, the server as a whole.
    pub service: Arc<str>,
}

/// A connection; with `send` or `receive` also what is said on it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct TcpCheck {
    /// What is sent. Default nothing.
    pub send: Payload,
    /// What has to come, in this order and with anything in between. Default nothing.
    pub receive: Vec<Payload>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_ranges_and_classes() {
        for (text, inside, outside) in [("200", 200, 201), ("200-204", 204, 205), ("4xx", 499, 500), (" 3xx", 0, 0)] {
            match text.parse::<StatusRange>() {
                Ok(range) => assert!(range.contains(inside) && !range.contains(outside), "{text}"),
                Err(why) => assert!(inside == 0 && why.contains("`2xx`"), "{text}: {why}"),
            }
        }
        for wrong in ["", "20", "99", "600", "300-200", "0xx", "6xx", "200-", "all"] {
            assert!(wrong.parse::<StatusRange>().is_err(), "{wrong}");
        }
        assert_eq!("2xx".parse::<StatusRange>().unwrap().to_string(), "200-299");
    }

    #[test]
    fn bounds_are_named() {
        let mut check = HealthCheck::http("/x").unwrap();
        assert!(check.faults().is_empty());
        check.timeout = Duration::ZERO;
        check.interval = Duration::ZERO;
        check.healthy_threshold = 0;
        check.interval_jitter_percent = 101;
        let keys: Vec<_> = check.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["timeout", "interval", "healthy_threshold", "interval_jitter_percent"]);
        assert!(HealthCheck::http("readyz").is_err() && HealthCheck::http("/a b").is_err());
    }
}
