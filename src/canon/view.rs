//! What rules look at.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method};

use super::Authority;
use crate::caller::Token;

/// The attributes of one request, or of one connection where `http` is `None`. Borrowed: making one allocates nothing.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    /// The SPIFFE ID that the peer proved.
    pub(crate) principal: Option<&'a str>,
    /// Whether the peer is this process itself.
    pub(crate) in_process: bool,
    /// Where the connection came from, in its canonical form: no IPv4 address inside of IPv6.
    pub(crate) peer: Option<IpAddr>,
    /// Where the request came from, behind trusted proxies; the peer without them.
    pub(crate) client: Option<IpAddr>,
    /// The token that was verified.
    pub(crate) token: Option<&'a Token>,
    /// The name of the API key.
    pub(crate) api_key: Option<&'a str>,
    /// Where the connection arrived.
    pub(crate) local: Option<SocketAddr>,
    /// The name that the client asked for in its handshake.
    pub(crate) server_name: Option<&'a str>,
    pub(crate) http: Option<HttpView<'a>>,
    /// A draw from 0 to 999,999, one for each request: which share of requests it belongs to.
    pub(crate) draw: u32,
}

/// The part that only requests have.
#[derive(Clone, Debug)]
pub(crate) struct HttpView<'a> {
    pub(crate) authority: Option<Authority<'a>>,
    pub(crate) method: &'a Method,
    /// Canonical, without query; `None` for a tunnel.
    pub(crate) path: Option<&'a str>,
    /// Path and query, as they arrived.
    pub(crate) target: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
}

/// The parts of a SPIFFE ID that rules name. The text has been parsed before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Principal<'a>(pub(crate) &'a str);

impl<'a> Principal<'a> {
    fn split(self) -> (&'a str, &'a str) {
        let rest = self.0.strip_prefix("spiffe://").unwrap_or_default();
        rest.split_once('/').unwrap_or((rest, ""))
    }

    /// The trust domain.
    pub(crate) fn trust_domain(self) -> &'a str {
        self.split().0
    }

    /// The value of a key in a path of pairs, as in `/ns/prod/sa/web`.
    fn value(self, key: &str) -> Option<&'a str> {
        let mut parts = self.split().1.split('/');
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            if name == key {
                return Some(value);
            }
        }
        None
    }

    /// `web` of `spiffe://td/ns/prod/sa/web`.
    pub(crate) fn service_account(self) -> Option<&'a str> {
        self.value("sa")
    }

    /// `prod` of `spiffe://td/ns/prod/sa/web`.
    pub(crate) fn namespace(self) -> Option<&'a str> {
        self.value("ns")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_taken_apart_by_pairs() {
        let parts = |id| (Principal(id).trust_domain(), Principal(id).namespace(), Principal(id).service_account());
        assert_eq!(parts("spiffe://td.example/ns/prod/sa/web"), ("td.example", Some("prod"), Some("web")));
        assert_eq!(parts("spiffe://td.example/cluster/c1/ns/prod/sa/web").1, Some("prod"));
        assert_eq!(parts("spiffe://td.example/web"), ("td.example", None, None));
        // A namespace named `sa` is no service account.
        assert_eq!(parts("spiffe://td/ns/sa/sa/x"), ("td", Some("sa"), Some("x")));
        assert_eq!(parts("spiffe://td"), ("td", None, None));
    }
}
