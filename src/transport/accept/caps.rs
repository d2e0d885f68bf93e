//! How many connections may be open, in all, per source and per identity.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    num::NonZero,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::Duration,
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use super::limits::Limits;
use crate::{
    instrument::Gauge,
    name::SpiffeId,
    peer::PeerAddr,
    rt::{self, Instant},
};

/// Counts open connections.
pub(super) struct Caps {
    open: AtomicUsize,
    gauge: Gauge,
    handshakes: ArcSwap<Handshakes>,
    turns: Arc<Semaphore>,
    /// One lock per accepted connection, never per request.
    sources: Mutex<HashMap<Source, Count>>,
    identities: Mutex<HashMap<SpiffeId, usize>>,
    unheard: Mutex<Unheard>,
}

/// Connections that have not yet said anything whole: neither a ClientHello nor what protocol they speak. When places are
/// short the oldest of them gives up its own.
#[derive(Default)]
struct Unheard {
    next: u64,
    waiting: BTreeMap<u64, Arc<Waiting>>,
}

/// One that has not.
#[derive(Default)]
struct Waiting {
    evicted: Notify,
    /// Its place is another's now. Written with the list locked, and read after a look at the list: who ends at this moment
    /// either leaves its place to the other or gives it back, never both.
    gave_place: AtomicBool,
    shakes_hands: OnceLock<(Instant, Option<Source>)>,
}

/// The places of those that shake hands.
struct Handshakes {
    most: usize,
    places: Arc<Semaphore>,
}

impl Handshakes {
    fn new(most: usize) -> Self {
        Self { most, places: Arc::new(Semaphore::new(most)) }
    }
}

/// What is open of one source.
#[derive(Default)]
struct Count {
    connections: usize,
    /// Made with its first handshake.
    handshakes: Option<Arc<Semaphore>>,
}

/// Who speaks for others to a listener.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Proxies {
    /// Balancers and proxies: they have no cap of their own, since they speak for many. Default none.
    pub(crate) trusted: Arc<[IpNet]>,
    /// They, and only they, connect, and each connection begins with a PROXY header.
    pub(crate) header: bool,
}

impl Proxies {
    fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.trusted.iter().any(|net| net.contains(&ip))
    }
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
    NotAProxy,
}

/// The right to one open connection; ends with it, upgraded or not.
pub(super) struct Admission {
    caps: Arc<Caps>,
    source: Option<Source>,
    /// Speaks for many: neither its source nor its identity is counted.
    exempt: bool,
    identity: Option<SpiffeId>,
    key: u64,
    waiting: Arc<Waiting>,
}

/// The right to shake hands; ends with the handshake.
pub(super) struct Handshake {
    _of_all: Option<OwnedSemaphorePermit>,
    _of_source: Option<OwnedSemaphorePermit>,
}

/// How long a handshake may be without a whole ClientHello before others get its place. One that is on its way comes in
/// one go.
const HELLO_PATIENCE: Duration = Duration::from_millis(500);
/// How often those that wait look for one that has been so for too long.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Admission {
    /// Waits for a place among those that shake hands: in order, first of its source, then of all. A burst of honest peers
    /// takes its time and fails nobody; while it is waited for, who has begun and does not go on gives up its place.
    pub(super) async fn handshake(&self, limits: &Limits) -> Handshake {
        let of_source = match self.source {
            None => None,
            Some(source) => {
                let places = {
                    let mut sources = self.caps.sources();
                    let places = &mut sources.entry(source).or_default().handshakes;
                    Arc::clone(places.get_or_insert_with(|| Arc::new(Semaphore::new(limits.max_handshakes_per_source))))
                };
                self.place(places, |of| of == Some(source)).await
            }
        };
        let of_all = self.place(Arc::clone(&self.caps.handshakes.load().places), |_| true).await;
        let _ = self.waiting.shakes_hands.set((rt::now(), self.source));
        Handshake { _of_all: of_all, _of_source: of_source }
    }

    async fn place(
        &self,
        places: Arc<Semaphore>,
        which: impl Fn(Option<Source>) -> bool,
    ) -> Option<OwnedSemaphorePermit> {
        let mut place = pin!(places.acquire_owned());
        loop {
            if let Some(place) = rt::timeout(LOOK_EVERY, place.as_mut()).await {
                // Never closed.
                return place.ok();
            }
            let now = rt::now();
            let stuck = self.caps.evict(false, |waiting| {
                let began = waiting.shakes_hands.get();
                began.is_some_and(|(began, of)| which(*of) && now.saturating_duration_since(*began) >= HELLO_PATIENCE)
            });
            if let Some(stuck) = stuck {
                stuck.evicted.notify_one();
            }
        }
    }

    /// Turns at the arithmetic of handshakes: as many at a time as there are cores, so that however many shake hands,
    /// requests are served in between.
    pub(super) fn turns(&self) -> PollSemaphore {
        PollSemaphore::new(Arc::clone(&self.caps.turns))
    }

    /// The peer has said something whole: its place is its own from now on.
    pub(super) fn heard(&self) {
        self.caps.unheard().waiting.remove(&self.key);
    }

    /// Resolves when another has this place; never once the peer was [`heard`](Admission::heard).
    pub(super) fn evicted(&self) -> impl Future<Output = ()> + Send + use<> {
        let waiting = Arc::clone(&self.waiting);
        async move { waiting.evicted.notified().await }
    }

    /// The source is known now: a proxy has told it. False if that has too many connections already.
    pub(super) fn told(&mut self, ip: IpAddr, limits: &Limits) -> bool {
        self.exempt = false;
        let source = Source::of(ip);
        let mut sources = self.caps.sources();
        let count = sources.entry(source).or_default();
        let fits = count.connections < limits.max_per_source;
        if fits {
            count.connections += 1;
            self.source = Some(source);
        }
        fits
    }

    /// The peer has proved who it is. False if too many connections have proved the same.
    pub(super) fn identify(&mut self, id: &SpiffeId, limits: &Limits) -> bool {
        if self.exempt {
            return true;
        }
        let mut identities = self.caps.identities();
        let count = identities.entry(id.clone()).or_default();
        let fits = *count < limits.max_per_identity;
        if fits {
            *count += 1;
            self.identity = Some(id.clone());
        }
        fits
    }
}

impl Caps {
    pub(super) fn new(gauge: Gauge, limits: &Limits) -> Self {
        Self {
            open: AtomicUsize::new(0),
            gauge,
            handshakes: ArcSwap::from_pointee(Handshakes::new(limits.max_handshakes)),
            turns: Arc::new(Semaphore::new(available_parallelism().map_or(1, NonZero::get))),
            sources: Mutex::default(),
            identities: Mutex::default(),
            unheard: Mutex::default(),
        }
    }

    /// Those that shake hands go on where they are; who comes has the places of the new number.
    pub(super) fn set(&self, limits: &Limits) {
        if self.handshakes.load().most != limits.max_handshakes {
            self.handshakes.store(Arc::new(Handshakes::new(limits.max_handshakes)));
        }
    }

    pub(super) fn admit(
        self: &Arc<Self>,
        remote: &PeerAddr,
        proxies: &Proxies,
        limits: &Limits,
    ) -> Result<Admission, Refused> {
        let ip = match remote {
            PeerAddr::Tcp(address) => Some(address.ip()),
            PeerAddr::Memory(_) => None,
        };
        let trusted = ip.is_some_and(|ip| proxies.trusts(ip));
        if proxies.header && ip.is_some() && !trusted {
            return Err(Refused::NotAProxy);
        }
        // Before anybody gives up a place for it.
        let of_source = |ip| self.sources().get(&Source::of(ip)).map_or(0, |count| count.connections);
        if ip.is_some_and(|ip| !trusted && of_source(ip) >= limits.max_per_source) {
            return Err(Refused::PerSource);
        }
        let fits = |open| (open < limits.max_connections).then_some(open + 1);
        if self.open.fetch_update(Relaxed, Relaxed, fits).is_err() {
            let oldest = self.evict(true, |_| true).ok_or(Refused::Total)?;
            oldest.evicted.notify_one();
        }
        self.gauge.inc();
        let mut unheard = self.unheard();
        let key = unheard.next;
        unheard.next += 1;
        let waiting = Arc::<Waiting>::default();
        unheard.waiting.insert(key, Arc::clone(&waiting));
        drop(unheard);
        // From here on the drop of `admission` gives the place back.
        let mut admission =
            Admission { caps: Arc::clone(self), source: None, exempt: true, identity: None, key, waiting };
        match ip {
            // A peer in memory has no source, and still an identity.
            None => admission.exempt = false,
            Some(ip) if !trusted => {
                if !admission.told(ip, limits) {
                    return Err(Refused::PerSource);
                }
            }
            Some(_) => {}
        }
        Ok(admission)
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Takes the oldest that has not been heard off the list; `takes_place`: for one who has its place from now on.
    fn evict(&self, takes_place: bool, which: impl Fn(&Waiting) -> bool) -> Option<Arc<Waiting>> {
        let mut unheard = self.unheard();
        let key = unheard.waiting.iter().find(|(_, waiting)| which(waiting)).map(|(key, _)| *key)?;
        let evicted = unheard.waiting.remove(&key)?;
        evicted.gave_place.store(takes_place, Relaxed);
        Some(evicted)
    }

    fn unheard(&self) -> MutexGuard<'_, Unheard> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<Source, Count>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn identities(&self) -> MutexGuard<'_, HashMap<SpiffeId, usize>> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.heard();
        if !self.waiting.gave_place.load(Relaxed) {
            self.caps.open.fetch_sub(1, Relaxed);
        }
        self.caps.gauge.dec();
        if let Some(source) = self.source {
            let mut sources = self.caps.sources();
            if let Some(count) = sources.get_mut(&source) {
                count.connections -= 1;
                if count.connections == 0 {
                    sources.remove(&source);
                }
            }
        }
        if let Some(id) = &self.identity {
            let mut identities = self.caps.identities();
            if let Some(count) = identities.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    identities.remove(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::task;

    use super::*;

    fn peer(address: &str) -> PeerAddr {
        PeerAddr::Tcp(address.parse().unwrap())
    }

    #[test]
    fn a_source_at_its_cap_is_refused_and_others_are_not() {
        let limits = Limits { max_connections: 4, max_per_source: 2, ..Limits::default() };
        let caps = Arc::new(Caps::new(Gauge::default(), &limits));
        let admit = |address: &str| heard(&caps, address, &Proxies::default(), &limits);
        let first = admit("[2001:db8::1]:1").unwrap();
        let _second = admit("[2001:db8::2]:2").unwrap();
        assert_eq!(admit("[2001:db8::3]:3").err(), Some(Refused::PerSource));
        assert_eq!(caps.open(), 2);
        let _mapped = admit("[::ffff:192.0.2.1]:1").unwrap();
        let _plain = admit("192.0.2.1:1").unwrap();
        assert_eq!(admit("198.51.100.1:1").err(), Some(Refused::Total));
        drop(first);
        assert_eq!(admit("192.0.2.1:1").err(), Some(Refused::PerSource));
        assert!(admit("[2001:db8::3]:3").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_wait_in_order_for_a_place_of_their_source_and_of_all() {
        let limits = Limits { max_handshakes: 3, max_handshakes_per_source: 2, ..Limits::default() };
        let caps = Arc::new(Caps::new(Gauge::default(), &limits));
        let one = heard(&caps, "192.0.2.1:1", &Proxies::default(), &limits).unwrap();
        let other = heard(&caps, "192.0.2.2:1", &Proxies::default(), &limits).unwrap();
        let (first, second) = (one.handshake(&limits).await, one.handshake(&limits).await);
        let mut third_of_one = task::spawn(one.handshake(&limits));
        assert!(third_of_one.poll().is_pending());
        let third = other.handshake(&limits).await;
        let mut fourth = task::spawn(other.handshake(&limits));
        assert!(fourth.poll().is_pending());
        drop(first);
        assert!(third_of_one.poll().is_pending(), "of its source there is a place, of all another was first");
        let fourth = rt::timeout(LOOK_EVERY, fourth).await;
        assert!(fourth.is_some());
        drop(second);
        assert!(rt::timeout(LOOK_EVERY, third_of_one).await.is_some());
        drop((third, fourth));
        drop((one, other));
        assert!(caps.sources().is_empty());
        assert_eq!(caps.handshakes.load().places.available_permits(), 3);
    }

    #[test]
    fn trusted_proxies_and_memory_count_only_in_all() {
        let limits = Limits { max_connections: 3, max_per_source: 1, ..Limits::default() };
        let caps = Arc::new(Caps::new(Gauge::default(), &limits));
        let id: SpiffeId = "spiffe://example.org/gateway".parse().unwrap();
        let proxies = Proxies { trusted: Arc::new(["10.0.0.0/8".parse().unwrap()]), header: false };
        let mut held: Vec<_> = (0..3).map(|_| heard(&caps, "10.1.1.1:1", &proxies, &limits).unwrap()).collect();
        assert!(held.iter_mut().all(|admission| admission.identify(&id, &limits)));
        assert_eq!(caps.admit(&PeerAddr::Memory("a".into()), &proxies, &limits).err(), Some(Refused::Total));
        drop(held);
        assert!(caps.admit(&PeerAddr::Memory("a".into()), &proxies, &limits).is_ok());
        assert_eq!(caps.open(), 0);
        assert!(caps.sources().is_empty() && caps.identities().is_empty() && caps.unheard().waiting.is_empty());
    }

    #[test]
    fn behind_a_proxy_protocol_only_proxies_connect_and_count_is_kept_by_what_they_tell() {
        let limits = Limits { max_per_source: 1, ..Limits::default() };
        let caps = Arc::new(Caps::new(Gauge::default(), &limits));
        let proxies = Proxies { trusted: Arc::new(["10.0.0.0/8".parse().unwrap()]), header: true };
        assert_eq!(heard(&caps, "192.0.2.1:1", &proxies, &limits).err(), Some(Refused::NotAProxy));
        let mut first = heard(&caps, "10.0.0.1:1", &proxies, &limits).unwrap();
        let mut second = heard(&caps, "10.0.0.1:2", &proxies, &limits).unwrap();
        let client = "192.0.2.1".parse().unwrap();
        assert!(first.told(client, &limits) && !second.told(client, &limits));
        drop(first);
        assert!(second.told(client, &limits));
    }

    #[test]
    fn an_identity_at_its_cap_is_refused_wherever_it_comes_from() {
        let limits = Limits { max_per_identity: 2, ..Limits::default() };
        let caps = Arc::new(Caps::new(Gauge::default(), &limits));
        let [one, other] = ["spiffe://example.org/a", "spiffe://example.org/b"].map(|id| id.parse().unwrap());
        let mut held: Vec<_> =
            (1..=4).map(|n| heard(&caps, &format!("192.0.2.{n}:1"), &Proxies::default(), &limits).unwrap()).collect();
        assert!(held[0].identify(&one, &limits) && held[1].identify(&one, &limits));
        assert!(!held[2].identify(&one, &limits) && held[2].identify(&other, &limits));
        held.remove(0);
        assert!(held[2].identify(&one, &limits));
        drop(held);
        assert!(caps.identities().is_empty());
    }

    #[test]
    fn the_oldest_that_was_not_heard_gives_up_its_place() {
        let limits = Limits { max_connections: 3, ..Limits::default() };
        let caps = Arc::new(Caps::new(Gauge::default(), &limits));
        let admit = |n: u8| caps.admit(&peer(&format!("192.0.2.{n}:1")), &Proxies::default(), &limits);
        let speaks = admit(1).ok().unwrap();
        speaks.heard();
        let (old, young) = (admit(2).ok().unwrap(), admit(3).ok().unwrap());
        let fourth = admit(4).ok().unwrap();
        assert!(is_evicted(&old) && !is_evicted(&young) && !is_evicted(&speaks));
        assert_eq!(caps.open(), 3);
        drop(old);
        assert_eq!(caps.open(), 3, "its place is another's");
        young.heard();
        fourth.heard();
        assert_eq!(admit(5).err(), Some(Refused::Total));
        drop((speaks, young, fourth));
        assert_eq!(caps.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_does_not_go_on_gives_up_its_place_to_those_that_wait() {
        let limits = Limits { max_handshakes_per_source: 2, ..Limits::default() };
        let caps = Arc::new(Caps::new(Gauge::default(), &limits));
        let admit = |address: &str| caps.admit(&peer(address), &Proxies::default(), &limits).ok().unwrap();
        let (stuck, whole, foreign) = (admit("192.0.2.1:1"), admit("192.0.2.1:2"), admit("192.0.2.2:1"));
        let _elsewhere = foreign.handshake(&limits).await;
        let mut places = vec![stuck.handshake(&limits).await, whole.handshake(&limits).await];
        whole.heard();
        let late = admit("192.0.2.1:3");
        let mut waits = pin!(late.handshake(&limits));
        assert!(rt::timeout(HELLO_PATIENCE - LOOK_EVERY / 2, waits.as_mut()).await.is_none());
        assert!(!is_evicted(&stuck));
        assert!(rt::timeout(LOOK_EVERY, waits.as_mut()).await.is_none());
        assert!(is_evicted(&stuck) && !is_evicted(&whole) && !is_evicted(&foreign));
        drop(places.remove(0));
        assert!(rt::timeout(Duration::ZERO, waits).await.is_some());
    }

    fn heard(caps: &Arc<Caps>, address: &str, proxies: &Proxies, limits: &Limits) -> Result<Admission, Refused> {
        caps.admit(&peer(address), proxies, limits).inspect(Admission::heard)
    }

    fn is_evicted(admission: &Admission) -> bool {
        task::spawn(admission.evicted()).poll().is_ready()
    }
}
