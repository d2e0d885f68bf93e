//! What a limit looks at: a request, wherever it stands.

use std::{
    hash::Hasher,
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use http::{Extensions, HeaderMap, Method, Request, Uri, header::HOST};
use serde_json::Value as Json;

use super::policy::KeySource;
use crate::{
    caller::Caller,
    context::Inbound,
    matching::host_of,
    peer::{Peer, PeerAddr},
    rt,
};

/// A request as a limit sees it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    method: &'a Method,
    uri: &'a Uri,
    path: &'a str,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    peer: Option<&'a Peer>,
    caller: Option<&'a Caller>,
}

impl<'a> Subject<'a> {
    /// A request without a peer.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            path: request.uri().path(),
            headers: request.headers(),
            extensions: request.extensions(),
            peer: None,
            caller: None,
        }
    }

    /// With the peer that sent it.
    #[must_use]
    pub fn from_peer(mut self, peer: &'a Peer) -> Self {
        self.peer = Some(peer);
        self
    }

    /// With what it proved about its caller.
    #[must_use]
    pub(crate) fn with_caller(mut self, caller: &'a Caller) -> Self {
        self.caller = Some(caller);
        self
    }

    /// With the path as rules see it.
    #[must_use]
    pub(crate) fn with_path(mut self, path: &'a str) -> Self {
        self.path = path;
        self
    }

    /// The method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The path without its query, percent-decoded where it is served.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The extensions.
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// The peer that sent it, if it is a request that is served.
    pub fn peer(&self) -> Option<&'a Peer> {
        self.peer
    }

    /// What the request proved about its caller, if it is one that is served.
    pub fn caller(&self) -> Option<&'a Caller> {
        self.caller
    }

    /// What a source says of this request. `None`: nothing.
    pub(super) fn value(&self, source: &KeySource) -> Option<Value<'a>> {
        Some(match source {
            KeySource::Identity => Value::Text(self.peer?.id()?.as_str().as_bytes()),
            KeySource::RemoteAddress => match self.peer?.remote_addr() {
                PeerAddr::Tcp(address) => Value::Address(household(address.ip())),
                PeerAddr::Memory(name) => Value::Text(name.as_bytes()),
            },
            KeySource::Path => Value::Text(self.path.as_bytes()),
            KeySource::Method => Value::Text(self.method.as_str().as_bytes()),
            KeySource::Host => Value::Host(match self.uri.authority() {
                Some(authority) => host_of(authority.as_str()),
                None => host_of(self.headers.get(HOST)?.to_str().ok()?),
            }),
            KeySource::Header(name) => Value::Text(self.headers.get(name)?.as_bytes()),
            KeySource::Claim(path) => match self.caller?.token()?.nested(path)? {
                Json::String(text) => Value::Text(text.as_bytes()),
                value @ (Json::Number(_) | Json::Bool(_)) => Value::Owned(value.to_string()),
                _ => return None,
            },
            KeySource::Custom(function) => Value::Owned(function.call(self)?),
        })
    }
}

/// Of IPv6 the first 64 bits: a caller chooses the rest as it likes.
fn household(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// What a source says.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Text(&'a [u8]),
    /// Its case means nothing.
    Host(&'a str),
    Address(IpAddr),
    Owned(String),
}

impl Value<'_> {
    pub(super) fn feed(&self, hasher: &mut impl Hasher) {
        match self {
            Self::Text(bytes) => hasher.write(bytes),
            Self::Host(host) => host.bytes().for_each(|byte| hasher.write_u8(byte.to_ascii_lowercase())),
            Self::Address(IpAddr::V4(ip)) => hasher.write(&ip.octets()),
            Self::Address(IpAddr::V6(ip)) => hasher.write(&ip.octets()),
            Self::Owned(text) => hasher.write(text.as_bytes()),
        }
    }

    /// As others are told it. `None` if it is no text.
    pub(super) fn text(self) -> Option<String> {
        Some(match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
            Self::Host(host) => host.to_ascii_lowercase(),
            Self::Address(ip) => ip.to_string(),
            Self::Owned(text) => text,
        })
    }

    pub(super) fn is(&self, text: &str) -> bool {
        match self {
            Self::Text(bytes) => *bytes == text.as_bytes(),
            Self::Host(host) => host.eq_ignore_ascii_case(text),
            Self::Address(ip) => text.parse::<IpAddr>().is_ok_and(|wanted| household(wanted) == *ip),
            Self::Owned(own) => own == text,
        }
    }
}

/// A request that a [`RateLimitLayer`](super::RateLimitLayer) can look at.
pub trait Limited {
    /// The request as a limit sees it.
    fn subject(&self) -> Subject<'_>;

    /// When it came. Default: now.
    fn at(&self) -> Instant {
        rt::moment().into_std()
    }

    /// Its headers, where a service that counts elsewhere may add some. Default: it may not.
    fn headers_mut(&mut self) -> Option<&mut HeaderMap> {
        None
    }
}

impl<B> Limited for Request<B> {
    fn headers_mut(&mut self) -> Option<&mut HeaderMap> {
        Some(Request::headers_mut(self))
    }

    fn subject(&self) -> Subject<'_> {
        let subject = Subject::of(self);
        match Inbound::of(self.extensions()) {
            Some(inbound) => subject.from_peer(inbound.peer()).with_caller(&inbound.caller),
            None => subject,
        }
    }
}
