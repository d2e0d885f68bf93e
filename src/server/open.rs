//! What is open, judged again when who may ask for what changes.
//!
//! An exchange keeps what rules see of it: its method, target and caller, and the headers that rules named when it began.
//! When rules change it is woken and judges itself at its next poll, so it ends as what it is: with a status where it has
//! not been answered, with the status of a gRPC call in its trailers, with a reset else. A connection from which nothing
//! can be allowed any more is asked to leave and cut soon after, and so is one that was upgraded by a request that would be denied now.
//!
//! What it costs while nothing changes: a clone of method and target for each request, a look at a number at each poll,
//! and a place among those to wake for an exchange that has to wait. Without rules and identity, nothing.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering::Relaxed},
    task::{Context, Waker},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header::HOST};

use super::{
    access::{Access, Audience, Facts},
    inbound::Served,
    policy::ServerShared,
};
use crate::{
    caller::Caller,
    canon::{self, Canonical, HttpView},
    error::Error,
    peer::Peer,
    rt::{self, TaskSet},
    transport::accept::Cut,
};

/// How long a connection may take to leave by itself before it is cut.
const GRACE: Duration = Duration::from_millis(400);
/// Most upgrades that one connection is judged by: over HTTP/2 their end is not seen.
const MAX_UPGRADES: usize = 64;

/// A connection while it is open.
pub(crate) struct OpenConnection {
    pub(super) shared: Arc<ServerShared>,
    pub(super) peer: Peer,
    pub(super) audience: Audience,
    cut: Option<Cut>,
    waiting: Mutex<Waiting>,
    upgrades: Mutex<Vec<Kept>>,
    key: usize,
}

/// Who is to be woken, each by its place.
#[derive(Default)]
struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// All that are open.
#[derive(Default)]
pub(super) struct Open {
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    places: Vec<Weak<OpenConnection>>,
    free: Vec<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    fn enrol(&self) -> usize {
        let mut connections = lock(&self.connections);
        connections.free.pop().unwrap_or_else(|| {
            connections.places.push(Weak::new());
            connections.places.len() - 1
        })
    }

    fn all(&self) -> Vec<Arc<OpenConnection>> {
        lock(&self.connections).places.iter().filter_map(Weak::upgrade).collect()
    }

    /// Wakes every exchange, and cuts what cannot be allowed any more.
    pub(super) fn judge(&self, access: Option<&Arc<Access>>, tasks: &TaskSet) {
        let connections = self.all();
        connections.iter().for_each(|connection| connection.wake());
        let Some(access) = access else { return };
        let over: Vec<_> = connections.into_iter().filter(|connection| connection.is_over(access)).collect();
        if over.is_empty() {
            return;
        }
        // A caller that goes on asking learns the answer on a connection of its own, instead of losing this one.
        over.iter().filter_map(|connection| connection.cut.as_ref()).for_each(Cut::leave);
        // Not kept open by this: what has left by then is not cut.
        let over: Vec<_> = over.iter().map(Arc::downgrade).collect();
        tasks.spawn(async move {
            rt::sleep(GRACE).await;
            let left = over.iter().filter_map(Weak::upgrade);
            left.for_each(|connection| connection.cut.iter().for_each(Cut::cut));
        });
    }
}

impl OpenConnection {
    /// `cut` ends it wherever its bytes are by then; `None` for a listener that is not ours.
    pub(crate) fn new(shared: Arc<ServerShared>, peer: Peer, audience: Audience, cut: Option<Cut>) -> Arc<Self> {
        let key = shared.open.enrol();
        let connection =
            Arc::new(Self { shared, peer, audience, cut, waiting: Mutex::default(), upgrades: Mutex::default(), key });
        lock(&connection.shared.open.connections).places[key] = Arc::downgrade(&connection);
        // It was accepted under the rules of then, and may have taken its time since. A change from now on finds it.
        let (remote, local) = (connection.peer.remote_addr(), connection.peer.local_addr());
        if let Some(cut) = &connection.cut
            && !connection.shared.admits_address(remote, local)
        {
            cut.cut();
        }
        connection
    }

    fn wake(&self) {
        // Outside of the lock: what wakes may take itself off.
        let waiting: Vec<Waker> = lock(&self.waiting).places.iter().flatten().cloned().collect();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether nothing that it may ask for can be allowed, or what it became by an upgrade is not.
    fn is_over(&self, access: &Access) -> bool {
        if self.cut.is_none() {
            return false;
        }
        access.admits_connection(&self.peer, self.audience).is_err()
            || lock(&self.upgrades).iter().any(|kept| kept.judge(access, self, "upgrade").is_err())
    }

    fn upgraded(&self, kept: Kept) {
        let mut upgrades = lock(&self.upgrades);
        if upgrades.len() == MAX_UPGRADES {
            upgrades.remove(0);
        }
        upgrades.push(kept);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut connections = lock(&self.shared.open.connections);
        connections.places[self.key] = Weak::new();
        connections.free.push(self.key);
    }
}

/// What rules see of an exchange, after the request went to the application.
struct Kept {
    method: Method,
    uri: Uri,
    canonical: Canonical,
    caller: Caller,
    host: Option<HeaderValue>,
    /// Those that rules named when it began.
    headers: Option<Box<HeaderMap>>,
    names: Option<Arc<[HeaderName]>>,
    draw: u32,
}

impl Kept {
    fn new(served: &Served, names: Option<&Arc<[HeaderName]>>, draw: u32) -> Self {
        let request = &served.request;
        // Nothing for a request that has none of them.
        let mut headers: Option<Box<HeaderMap>> = None;
        for name in names.iter().flat_map(|names| names.iter()) {
            for value in request.headers().get_all(name) {
                headers.get_or_insert_default().append(name, value.clone());
            }
        }
        let host = request.uri().authority().is_none().then(|| request.headers().get(HOST).cloned()).flatten();
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            canonical: served.cx.canonical.clone(),
            caller: served.cx.caller.clone(),
            host,
            headers,
            names: names.cloned(),
            draw,
        }
    }

    /// # Errors
    /// E051 where it would be denied now.
    fn judge(&self, access: &Access, connection: &OpenConnection, what: &'static str) -> Result<(), Error> {
        let none = HeaderMap::new();
        let path = self.canonical.path(&self.uri);
        let http = HttpView {
            authority: canon::host_of(&self.uri, self.host.as_ref()),
            method: canon::method(&self.method, &self.uri),
            path: path.starts_with('/').then_some(path),
            target: self.uri.path_and_query().map(|target| target.as_str()),
            headers: self.headers.as_deref().unwrap_or(&none),
        };
        let facts = Facts { peer: &connection.peer, caller: &self.caller, http: Some(http), draw: self.draw };
        access.still_allows(&facts, self.names.as_deref().unwrap_or_default(), connection.audience, what)
    }
}

/// An exchange while it is open.
pub(super) struct OpenExchange {
    connection: Arc<OpenConnection>,
    kept: Kept,
    /// The change of rules up to which it was judged.
    seen: u64,
    place: Option<(usize, Waker)>,
}

impl OpenExchange {
    pub(super) fn new(
        connection: &Arc<OpenConnection>,
        served: &Served,
        names: Option<&Arc<[HeaderName]>>,
        draw: u32,
    ) -> Self {
        let seen = served.cx.policy.changes;
        Self { connection: Arc::clone(connection), kept: Kept::new(served, names, draw), seen, place: None }
    }

    /// Judges again if the rules have changed.
    ///
    /// # Errors
    /// E051 where it would be denied now.
    #[inline]
    pub(super) fn check(&mut self) -> Result<(), Error> {
        if self.connection.shared.changes.load(Relaxed) == self.seen { Ok(()) } else { self.judge() }
    }

    #[cold]
    fn judge(&mut self) -> Result<(), Error> {
        self.seen = self.connection.shared.changes.load(Relaxed);
        match &self.connection.shared.pin().access {
            Some(access) => self.kept.judge(access, &self.connection, "exchange"),
            None => Ok(()),
        }
    }

    /// To be woken when the rules change. False if they just did.
    pub(super) fn wait(&mut self, cx: &Context<'_>) -> bool {
        if self.place.as_ref().is_none_or(|(_, waker)| !waker.will_wake(cx.waker())) {
            let waker = cx.waker().clone();
            let mut waiting = lock(&self.connection.waiting);
            let place = match &self.place {
                Some((place, _)) => *place,
                None => waiting.free.pop().unwrap_or_else(|| {
                    waiting.places.push(None);
                    waiting.places.len() - 1
                }),
            };
            waiting.places[place] = Some(waker.clone());
            drop(waiting);
            self.place = Some((place, waker));
        }
        // After the place was taken: a change that did not see it is seen here.
        self.connection.shared.changes.load(Relaxed) == self.seen
    }

    /// It became something else than an exchange, which only its connection can end.
    pub(super) fn upgraded(mut self) {
        let nothing = Kept {
            method: Method::GET,
            uri: Uri::default(),
            canonical: Canonical::default(),
            caller: Caller::default(),
            host: None,
            headers: None,
            names: None,
            draw: 0,
        };
        let kept = mem::replace(&mut self.kept, nothing);
        self.connection.upgraded(kept);
    }
}

impl Drop for OpenExchange {
    fn drop(&mut self) {
        if let Some((place, _)) = self.place.take() {
            let mut waiting = lock(&self.connection.waiting);
            waiting.places[place] = None;
            waiting.free.push(place);
        }
    }
}
