//! How many connections may be open, in all and per source.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::limits::ListenerLimits;
use crate::{instrument::Gauge, peer::PeerAddr};

/// Counts open connections.
pub(super) struct Caps {
    open: AtomicUsize,
    gauge: Gauge,
    handshakes: AtomicUsize,
    /// One lock per accepted connection, never per request.
    sources: Mutex<HashMap<Source, Count>>,
}

/// What is open of one source.
#[derive(Default)]
struct Count {
    connections: usize,
    handshakes: usize,
}

/// Whoever is believed to be one party: one IPv4 address, or one IPv6 /64, of which anyone gets 2^64 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Source {
    V4(Ipv4Addr),
    V6Net([u16; 4]),
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6Net([a, b, c, d])
            }
        }
    }
}

/// Which cap refused a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Total,
    PerSource,
}

/// The right to one open connection; ends with it, upgraded or not.
pub(super) struct Admission {
    caps: Arc<Caps>,
    source: Option<Source>,
}

/// The right to shake hands; ends with the handshake.
pub(super) struct Handshake<'a> {
    of: &'a Admission,
}

impl Admission {
    /// `None` if too many do so already, in all or of this source.
    pub(super) fn handshake(&self, limits: &ListenerLimits) -> Option<Handshake<'_>> {
        let fits = |running| (running < limits.max_handshakes).then_some(running + 1);
        self.caps.handshakes.fetch_update(Relaxed, Relaxed, fits).ok()?;
        // From here on the drop of `handshake` gives the places back.
        let mut handshake = Some(Handshake { of: self });
        if let Some(source) = self.source {
            let mut sources = self.caps.sources.lock().unwrap_or_else(PoisonError::into_inner);
            let count = sources.entry(source).or_default();
            count.handshakes += 1;
            if count.handshakes > limits.max_handshakes_per_source {
                drop(sources);
                handshake = None;
            }
        }
        handshake
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.of.caps.handshakes.fetch_sub(1, Relaxed);
        if let Some(source) = self.of.source {
            let mut sources = self.of.caps.sources.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = sources.get_mut(&source) {
                count.handshakes -= 1;
            }
        }
    }
}

impl Caps {
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { open: AtomicUsize::new(0), gauge, handshakes: AtomicUsize::new(0), sources: Mutex::default() }
    }

    pub(super) fn admit(self: &Arc<Self>, remote: &PeerAddr, limits: &ListenerLimits) -> Result<Admission, Refused> {
        self.open
            .fetch_update(Relaxed, Relaxed, |open| (open < limits.max_connections).then_some(open + 1))
            .map_err(|_| Refused::Total)?;
        self.gauge.inc();
        // From here on the drop of `admission` gives the place back.
        let mut admission = Admission { caps: Arc::clone(self), source: None };
        if let PeerAddr::Tcp(address) = remote {
            let ip = address.ip().to_canonical();
            if !limits.exempt_sources.iter().any(|net| net.contains(&ip)) {
                let source = Source::of(ip);
                let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
                let count = sources.entry(source).or_default();
                if count.connections >= limits.max_per_source {
                    return Err(Refused::PerSource);
                }
                count.connections += 1;
                admission.source = Some(source);
            }
        }
        Ok(admission)
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.caps.open.fetch_sub(1, Relaxed);
        self.caps.gauge.dec();
        if let Some(source) = self.source {
            let mut sources = self.caps.sources.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = sources.get_mut(&source) {
                count.connections -= 1;
                if count.connections == 0 {
                    sources.remove(&source);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> PeerAddr {
        PeerAddr::Tcp(address.parse().unwrap())
    }

    #[test]
    fn a_source_at_its_cap_is_refused_and_others_are_not() {
        let caps = Arc::new(Caps::new(Gauge::default()));
        let limits = ListenerLimits { max_connections: 4, max_per_source: 2, ..ListenerLimits::default() };
        let first = caps.admit(&peer("[2001:db8::1]:1"), &limits).ok().unwrap();
        let _second = caps.admit(&peer("[2001:db8::2]:2"), &limits).ok().unwrap();
        assert_eq!(caps.admit(&peer("[2001:db8::3]:3"), &limits).err(), Some(Refused::PerSource));
        assert_eq!(caps.open(), 2);
        let _mapped = caps.admit(&peer("[::ffff:192.0.2.1]:1"), &limits).ok().unwrap();
        let _plain = caps.admit(&peer("192.0.2.1:1"), &limits).ok().unwrap();
        assert_eq!(caps.admit(&peer("198.51.100.1:1"), &limits).err(), Some(Refused::Total));
        drop(first);
        assert_eq!(caps.admit(&peer("192.0.2.1:1"), &limits).err(), Some(Refused::PerSource));
        assert!(caps.admit(&peer("[2001:db8::3]:3"), &limits).is_ok());
    }

    #[test]
    fn handshakes_are_counted_in_all_and_per_source() {
        let caps = Arc::new(Caps::new(Gauge::default()));
        let limits = ListenerLimits { max_handshakes: 3, max_handshakes_per_source: 2, ..ListenerLimits::default() };
        let one = caps.admit(&peer("192.0.2.1:1"), &limits).ok().unwrap();
        let other = caps.admit(&peer("192.0.2.2:1"), &limits).ok().unwrap();
        let (first, second) = (one.handshake(&limits), one.handshake(&limits));
        assert!(first.is_some() && second.is_some() && one.handshake(&limits).is_none());
        let third = other.handshake(&limits);
        assert!(third.is_some() && other.handshake(&limits).is_none());
        drop(first);
        assert!(one.handshake(&limits).is_some());
        drop((second, third));
        drop((one, other));
        assert!(caps.sources.lock().unwrap().is_empty());
    }

    #[test]
    fn exempt_sources_and_memory_count_only_in_all() {
        let caps = Arc::new(Caps::new(Gauge::default()));
        let limits = ListenerLimits {
            max_connections: 3,
            max_per_source: 1,
            exempt_sources: vec!["10.0.0.0/8".parse().unwrap()],
            ..ListenerLimits::default()
        };
        let held: Vec<_> = (0..3).map(|_| caps.admit(&peer("10.1.1.1:1"), &limits).ok().unwrap()).collect();
        assert_eq!(caps.admit(&PeerAddr::Memory("a".into()), &limits).err(), Some(Refused::Total));
        drop(held);
        assert!(caps.admit(&PeerAddr::Memory("a".into()), &limits).is_ok());
        assert_eq!(caps.open(), 0);
        assert!(caps.sources.lock().unwrap().is_empty());
    }
}
