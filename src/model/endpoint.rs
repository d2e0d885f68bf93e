//! What discovery says about endpoints.

use std::{borrow::Borrow, collections::BTreeMap, fmt, net::SocketAddr, str::FromStr, sync::Arc};

use crate::name::Locality;

/// Labels of an endpoint, by which `subsets` select.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Where an endpoint listens.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// `127.0.0.1:9080` or `[::1]:9080`.
    Tcp(SocketAddr),
    /// A listener of the in-memory transport: `memory:name`.
    Memory(Arc<str>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Memory(name) => write!(f, "memory:{name}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("memory:") {
            return match name {
                "" => Err("`memory:` needs the name of a listener, such as `memory:reviews`".into()),
                name => Ok(Self::Memory(name.into())),
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("`{text}` is not an address: use `IP:PORT`, such as `127.0.0.1:9080` or `[::1]:9080`; names go under `dns`")
        })
    }
}

/// The stable identity of an endpoint: its state survives every update that keeps its id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// An id, unique within its service.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for EndpointId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One endpoint as discovery describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EndpointSpec {
    /// Its identity; by default its first address.
    pub id: EndpointId,
    /// Its addresses, preferred first. More than one is raced (RFC 8305). Never empty.
    pub addresses: Arc<[Address]>,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Where it lives.
    pub locality: Locality,
    /// Relative share of traffic. Default 1; 0 takes it out of balancing.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u32,
}

impl EndpointSpec {
    /// An endpoint at one address, without labels, weight 1, priority 0.
    pub fn new(address: impl Into<Address>) -> Self {
        let address = address.into();
        Self {
            id: EndpointId::new(address.to_string()),
            addresses: [address].into(),
            labels: Arc::default(),
            locality: Locality::default(),
            weight: 1,
            priority: 0,
        }
    }

    /// Sets the labels.
    #[must_use]
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels = Arc::new(labels);
        self
    }

    /// Sets the weight.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the priority.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the locality.
    #[must_use]
    pub fn locality(mut self, locality: Locality) -> Self {
        self.locality = locality;
        self
    }
}

/// What the addresses of a set stand for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum SetKind {
    /// Each address is one instance.
    #[default]
    Replicas,
    /// One address in front of many instances: a virtual IP. Never ejected, several connections that are renewed often.
    Vip,
}

/// One message of a discovery stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointUpdate {
    /// The whole set; an empty one means that there are none.
    Reset {
        /// Every endpoint.
        endpoints: Vec<EndpointSpec>,
        /// What they stand for.
        kind: SetKind,
    },
    /// These are new or changed.
    Upsert(Vec<EndpointSpec>),
    /// These are gone.
    Remove(Vec<EndpointId>),
    /// Nothing is known yet, or any more: calls wait instead of failing. Not the same as an empty set.
    Unknown,
}
