//! What a configured service looks like to calls: its routes with everything they need, resolved once per change.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use http::{
    Request,
    uri::{Authority, Scheme},
};

use super::{deadline::WatchTimeouts, outbound::CallContext};
use crate::{
    body::Body,
    breaker::{CircuitHandle, CircuitPolicy, CircuitSeries},
    cluster::{Cluster, SubsetId},
    enforcement::Mode,
    error::Code,
    fault::{self, FaultHandle, FaultPolicy},
    instrument::Registry,
    limit::{self, Fleet, RateLimitPolicy, RateLimiter},
    matching::PathPattern,
    mirror::{self, MirrorHandle},
    model::{PolicySet, RouteMirror, RouteOptions, ServiceSpec},
    name::ServiceName,
    retry::{Handle, RetrySpec, Series},
    route::{DirectResponse, Redirect, Route, RouteAction, RouteTable, WeightedTarget},
    rt,
    seat::{Position, Seat, chain},
    shed::throttle::{self, ThrottleHandle, ThrottlePolicy},
    telemetry::{CallSeries, Direction},
    timeout::TimeoutPolicy,
};

/// A service by name: clones of a client share it, reloads swap what is inside.
pub(crate) struct ServiceHandle {
    pub(crate) name: ServiceName,
    current: ArcSwap<ServiceRuntime>,
}

impl ServiceHandle {
    pub(crate) fn new(name: ServiceName, runtime: ServiceRuntime) -> Arc<Self> {
        Arc::new(Self { name, current: ArcSwap::from_pointee(runtime) })
    }

    pub(crate) fn store(&self, runtime: ServiceRuntime) {
        self.current.store(Arc::new(runtime));
    }

    pub(crate) fn runtime(&self) -> Arc<ServiceRuntime> {
        self.current.load_full()
    }

    /// Pins the configuration of this moment for the whole call: route, cluster and deadline.
    pub(crate) fn pin(&self, request: &mut Request<Body>, bare: bool) -> CallContext {
        let started = rt::now();
        let runtime = self.current.load();
        let (entry, subset) = if bare { (runtime.bare(), None) } else { runtime.find(request) };
        let mut cx = CallContext::new(request, Arc::clone(entry), subset, started);
        drop(runtime);
        if let Some(fault) = &cx.entry.fault {
            cx.fault = fault.inject(request.headers_mut(), started);
        }
        cx.deadline = super::deadline::decide(&cx, request);
        cx
    }
}

/// One service under one configuration.
pub(crate) struct ServiceRuntime {
    pub(crate) spec: Option<Arc<ServiceSpec>>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    table: RouteTable,
    /// In the order of the table's routes.
    entries: Vec<Arc<RouteEntry>>,
    /// For requests that no route matches.
    unmatched: Arc<RouteEntry>,
    throttle: Option<Arc<ThrottleHandle>>,
    /// What every route of the service shares, and an operator may hold.
    pub(crate) circuit: Option<CircuitHandle>,
    /// What the routes without a limit of their own share.
    rate_limit: Option<Arc<RateLimiter>>,
    /// For calls without policies, made when one is first asked for.
    bare: OnceLock<Arc<RouteEntry>>,
    token: Option<Arc<dyn Seat>>,
    registry: Registry,
}

impl ServiceRuntime {
    /// A configured service. `previous` lends the handles of routes that kept their name.
    pub(crate) fn new(
        spec: &Arc<ServiceSpec>,
        cluster: &Arc<Cluster>,
        registry: &Registry,
        fleet: &Fleet,
        seats: &CallSeats<'_>,
        previous: Option<&ServiceRuntime>,
    ) -> Self {
        let mut builder = EntryBuilder {
            spec,
            cluster,
            registry,
            fleet,
            seats,
            previous,
            known: BTreeMap::new(),
            throttle: None,
            circuit: None,
            rate_limit: None,
        };
        builder.throttle = spec.throttle.as_ref().and_then(|policy| builder.throttle(policy));
        builder.circuit = spec.breaker.as_ref().and_then(|policy| builder.circuit(policy));
        let shared = previous.and_then(|previous| previous.rate_limit.as_ref());
        builder.rate_limit = spec.rate_limit.as_ref().map(|policy| builder.limiter("_service", policy, shared));
        let (none, plain) = (PolicySet::default(), RouteOptions::default());
        let entries = spec
            .routes
            .iter()
            .enumerate()
            .map(|(index, route)| {
                let policies = spec.route_policies.get(index).unwrap_or(&none);
                builder.route(route, policies, spec.route_options.get(index).unwrap_or(&plain))
            })
            .collect();
        let unmatched = if spec.routes.is_empty() { builder.everything() } else { builder.unmatched() };
        Self {
            table: RouteTable::new(&spec.routes),
            entries,
            unmatched,
            throttle: builder.throttle,
            circuit: builder.circuit,
            rate_limit: builder.rate_limit,
            bare: OnceLock::new(),
            token: seats.token.clone(),
            registry: registry.clone(),
            spec: Some(Arc::clone(spec)),
            cluster: Some(Arc::clone(cluster)),
        }
    }

    /// A service that nothing is known about.
    pub(crate) fn unknown(name: &ServiceName, registry: &Registry) -> Self {
        let message =
            format!("no service `{name}` is configured; add `services.{name}` with its `endpoints`, or check the name");
        Self {
            spec: None,
            cluster: None,
            table: RouteTable::new(&[]),
            entries: Vec::new(),
            throttle: None,
            circuit: None,
            rate_limit: None,
            bare: OnceLock::new(),
            token: None,
            registry: registry.clone(),
            unmatched: Arc::new(RouteEntry {
                name: "_unknown".into(),
                route: None,
                action: Action::Refuse(Code::UnknownService, message.into()),
                timeouts: TimeoutPolicy::default(),
                watch_timeouts: None,
                origin: (Scheme::HTTP, Authority::from_static("localhost")),
                outer: None,
                attempt: None,
                bare: false,
                fault: None,
                retry: None,
                mirror: None,
                throttle: None,
                circuit: None,
                rate_limit: None,
                series: CallSeries::new(registry, Direction::Outbound, name.as_str(), "_unknown"),
            }),
        }
    }

    /// All endpoints, as balanced, and nothing else.
    fn bare(&self) -> &Arc<RouteEntry> {
        let Some((spec, cluster)) = self.spec.as_ref().zip(self.cluster.as_ref()) else { return &self.unmatched };
        self.bare.get_or_init(|| {
            let name = "_bare";
            Arc::new(RouteEntry {
                name: name.into(),
                route: None,
                action: Action::Forward {
                    cluster: Arc::clone(cluster),
                    targets: vec![WeightedTarget::new(None, 1)],
                    subsets: vec![None],
                },
                timeouts: TimeoutPolicy { response: None, ..TimeoutPolicy::default() },
                watch_timeouts: None,
                origin: origin(spec),
                outer: None,
                attempt: self.token.clone(),
                bare: true,
                fault: None,
                retry: None,
                mirror: None,
                throttle: None,
                circuit: None,
                rate_limit: None,
                series: CallSeries::new(&self.registry, Direction::Outbound, spec.name.as_str(), name),
            })
        })
    }

    fn find(&self, request: &Request<Body>) -> (&Arc<RouteEntry>, Option<SubsetId>) {
        let entry = match self.table.find(request.method(), request.uri(), request.headers()) {
            Some(index) => &self.entries[index],
            None => &self.unmatched,
        };
        let subset = match &entry.action {
            Action::Forward { targets, subsets, .. } if targets.len() > 1 => subsets[crate::route::choose(targets)],
            Action::Forward { subsets, .. } => subsets[0],
            _ => None,
        };
        (entry, subset)
    }
}

/// One route with everything a call on it needs.
pub(crate) struct RouteEntry {
    pub(crate) name: Arc<str>,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) action: Action,
    pub(crate) timeouts: TimeoutPolicy,
    /// Where those are not enforced for every call.
    pub(crate) watch_timeouts: Option<WatchTimeouts>,
    /// Scheme and authority of requests that name none.
    pub(crate) origin: (Scheme, Authority),
    pub(crate) outer: Option<Arc<dyn Seat>>,
    pub(crate) attempt: Option<Arc<dyn Seat>>,
    /// Without policies, and without limits on calls.
    pub(crate) bare: bool,
    pub(crate) fault: Option<Arc<FaultHandle>>,
    /// What is sent again; `None` where nothing is sent.
    pub(crate) retry: Option<Arc<Handle>>,
    pub(crate) mirror: Option<MirrorTo>,
    /// Shared by all routes of the service.
    pub(crate) throttle: Option<Arc<ThrottleHandle>>,
    pub(crate) circuit: Option<CircuitHandle>,
    pub(crate) rate_limit: Option<Arc<RateLimiter>>,
    pub(crate) series: Arc<CallSeries>,
}

impl RouteEntry {
    /// What `path: {prefix: ..}` of this route matches.
    pub(crate) fn prefix(&self) -> Option<&str> {
        match self.route.as_ref()?.matches.path.as_ref()? {
            PathPattern::Prefix(prefix) => Some(prefix),
            _ => None,
        }
    }

    pub(crate) fn changes_response(&self) -> bool {
        self.route.as_ref().is_some_and(|route| !route.response_headers.is_empty())
    }

    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        match &self.action {
            Action::Forward { cluster, .. } => Some(cluster),
            _ => None,
        }
    }
}

/// Where copies of a route's calls go.
pub(crate) struct MirrorTo {
    pub(crate) handle: Arc<MirrorHandle>,
    pub(crate) subset: Option<SubsetId>,
}

/// Inside of the mesh a service is known by its name, outside by the name that its certificate carries.
fn origin(spec: &ServiceSpec) -> (Scheme, Authority) {
    let inside = || spec.name.as_str().parse().unwrap_or_else(|_| Authority::from_static("localhost"));
    match spec.outside_authority().and_then(|authority| authority.parse().ok()) {
        Some(authority) => (Scheme::HTTPS, authority),
        None => (Scheme::HTTP, inside()),
    }
}

/// What a route does.
pub(crate) enum Action {
    Forward { cluster: Arc<Cluster>, targets: Vec<WeightedTarget>, subsets: Vec<Option<SubsetId>> },
    Redirect(Redirect),
    Direct(DirectResponse),
    Refuse(Code, Arc<str>),
}

/// What stands in the seats of a service's calls before its own policies.
pub(crate) struct CallSeats<'a> {
    pub(crate) outer: &'a [Arc<dyn Seat>],
    pub(crate) attempt: &'a [Arc<dyn Seat>],
    /// Puts our token into what is sent: below user code, which has no business with it.
    pub(crate) token: Option<Arc<dyn Seat>>,
}

struct EntryBuilder<'a> {
    spec: &'a Arc<ServiceSpec>,
    cluster: &'a Arc<Cluster>,
    registry: &'a Registry,
    fleet: &'a Fleet,
    seats: &'a CallSeats<'a>,
    previous: Option<&'a ServiceRuntime>,
    known: BTreeMap<Arc<str>, Arc<CallSeries>>,
    rate_limit: Option<Arc<RateLimiter>>,
    throttle: Option<Arc<ThrottleHandle>>,
    circuit: Option<CircuitHandle>,
}

impl EntryBuilder<'_> {
    fn route(&mut self, route: &Arc<Route>, policies: &PolicySet, options: &RouteOptions) -> Arc<RouteEntry> {
        let action = match &route.action {
            RouteAction::Forward(targets) => self.forward(targets),
            RouteAction::Redirect(redirect) => Action::Redirect(redirect.clone()),
            RouteAction::Direct(direct) => Action::Direct(direct.clone()),
        };
        let mut timeouts = self.spec.timeouts;
        timeouts.request = route.timeout.or(timeouts.request);
        let policies = policies.over(&self.spec.policies);
        self.entry(route.name.as_str(), Some((route, options)), action, timeouts, &policies)
    }

    /// A service without routes.
    fn everything(&mut self) -> Arc<RouteEntry> {
        let action = self.forward(&[WeightedTarget::new(None, 1)]);
        self.entry("_default", None, action, self.spec.timeouts, &self.spec.policies)
    }

    fn unmatched(&mut self) -> Arc<RouteEntry> {
        let message = format!(
            "none of the {} routes of `{}` matches the request; add a catch-all route without `match`",
            self.spec.routes.len(),
            self.spec.name
        );
        let action = Action::Refuse(Code::NoRoute, message.into());
        self.entry("_unmatched", None, action, self.spec.timeouts, &PolicySet::default())
    }

    fn forward(&self, targets: &[WeightedTarget]) -> Action {
        Action::Forward {
            cluster: Arc::clone(self.cluster),
            targets: targets.to_vec(),
            subsets: targets
                .iter()
                .map(|target| target.subset.as_ref().map(|name| self.cluster.subset(name)))
                .collect(),
        }
    }

    fn entry(
        &mut self,
        name: &str,
        route: Option<(&Arc<Route>, &RouteOptions)>,
        action: Action,
        timeouts: TimeoutPolicy,
        policies: &PolicySet,
    ) -> Arc<RouteEntry> {
        let seats = |code: &[Arc<dyn Seat>], position, last: Option<&Arc<dyn Seat>>| {
            chain(code.iter().chain(policies.seats(position)).chain(last).cloned())
        };
        Arc::new(RouteEntry {
            name: name.into(),
            route: route.map(|(route, _)| Arc::clone(route)),
            action,
            watch_timeouts: WatchTimeouts::new(&timeouts, self.registry, self.spec.name.as_str()),
            timeouts,
            origin: origin(self.spec),
            outer: seats(self.seats.outer, Position::Outer, None),
            attempt: seats(self.seats.attempt, Position::Attempt, self.seats.token.as_ref()),
            bare: false,
            fault: route.and_then(|(_, options)| self.fault(name, options.fault.as_ref()?)),
            retry: Some(self.retry(name, route.and_then(|(_, options)| options.retries.as_ref()))),
            mirror: route.and_then(|(_, options)| self.mirror(name, options.mirror.as_ref()?)),
            throttle: self.throttle.clone(),
            circuit: self.circuit.clone(),
            rate_limit: match route.and_then(|(_, options)| options.rate_limit.as_ref()) {
                Some(own) => {
                    let before = self.before(name).and_then(|entry| entry.rate_limit.as_ref());
                    Some(self.limiter(name, own, before))
                }
                None => self.rate_limit.clone(),
            },
            series: self.series(name),
        })
    }

    /// A policy that did not change keeps its state, its age above all.
    fn fault(&self, name: &str, policy: &FaultPolicy) -> Option<Arc<FaultHandle>> {
        let before = self.before(name).and_then(|entry| entry.fault.clone());
        Some(before.filter(|before| before.policy == *policy).unwrap_or_else(|| {
            let series = fault::Series::new(self.registry, self.spec.name.as_str(), name);
            FaultHandle::new(policy.clone(), rt::now(), series)
        }))
    }

    fn mirror(&self, name: &str, mirror: &RouteMirror) -> Option<MirrorTo> {
        let before = self.before(name).and_then(|entry| entry.mirror.as_ref()).map(|mirror| Arc::clone(&mirror.handle));
        let handle = before.filter(|before| before.policy == mirror.policy).unwrap_or_else(|| {
            let series = mirror::Series::new(self.registry, self.spec.name.as_str(), name);
            MirrorHandle::new(mirror.policy.clone(), series)
        });
        Some(MirrorTo { handle, subset: mirror.to.as_ref().map(|name| self.cluster.subset(name)) })
    }

    /// A policy that did not change keeps what it remembers.
    fn throttle(&self, policy: &ThrottlePolicy) -> Option<Arc<ThrottleHandle>> {
        if policy.mode == Mode::Off {
            return None;
        }
        let before = self.previous.and_then(|previous| previous.throttle.as_ref());
        Some(before.filter(|before| before.policy() == policy).cloned().unwrap_or_else(|| {
            let service = self.spec.name.as_str();
            ThrottleHandle::new(*policy, throttle::Series::new(self.registry, service), rt::now())
        }))
    }

    /// A changed policy keeps what the circuit does, and who decides that.
    fn circuit(&self, policy: &CircuitPolicy) -> Option<CircuitHandle> {
        if policy.mode == Mode::Off {
            return None;
        }
        Some(match self.previous.and_then(|previous| previous.circuit.clone()) {
            Some(before) => {
                before.set_policy(*policy);
                before
            }
            None => CircuitHandle::new(*policy, CircuitSeries::new(self.registry, self.spec.name.as_str())),
        })
    }

    /// A changed limit keeps what was counted.
    fn limiter(&self, route: &str, policy: &RateLimitPolicy, before: Option<&Arc<RateLimiter>>) -> Arc<RateLimiter> {
        if let Some(before) = before.filter(|before| before.policy() == policy) {
            return Arc::clone(before);
        }
        let service = self.spec.name.as_str();
        let what = match route {
            "_service" => format!("the rate limit of `{service}`"),
            route => format!("the rate limit of route `{route}` of `{service}`"),
        };
        let series = limit::Series::new(self.registry, ["outbound", service, route], what, policy.global.is_some());
        RateLimiter::make(policy.clone(), before.map(|before| &**before), series, self.fleet, rt::now())
    }

    /// The route of this name before the change.
    fn before(&self, name: &str) -> Option<&RouteEntry> {
        let previous = self.previous?;
        let mut entries = previous.entries.iter().chain([&previous.unmatched]);
        entries.find(|entry| &*entry.name == name).map(|entry| &**entry)
    }

    /// An equal policy keeps its state, what it knows of latency above all.
    fn retry(&self, name: &str, own: Option<&RetrySpec>) -> Arc<Handle> {
        let (spec, per_try) = (own.unwrap_or(&self.spec.retries), self.spec.timeouts.per_try);
        let kept = self.before(name).and_then(|entry| entry.retry.as_ref());
        if let Some(kept) = kept.filter(|kept| kept.is(spec, per_try, &self.cluster.retries)) {
            return Arc::clone(kept);
        }
        let series = Series::new(self.registry, self.spec.name.as_str(), name);
        Arc::new(Handle::on(spec.clone(), per_try, Arc::clone(&self.cluster.retries), series, rt::now()))
    }

    fn series(&mut self, name: &str) -> Arc<CallSeries> {
        if let Some(series) = self.known.get(name) {
            return Arc::clone(series);
        }
        let kept = self.before(name).map(|entry| Arc::clone(&entry.series));
        let series =
            kept.unwrap_or_else(|| CallSeries::new(self.registry, Direction::Outbound, self.spec.name.as_str(), name));
        self.known.insert(name.into(), Arc::clone(&series));
        series
    }
}
