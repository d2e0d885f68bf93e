//! From one configuration to the next without losing a call: make before break.
//!
//! A cluster lives as long as its service is configured, whatever else changes about it: its limits keep their counts,
//! its endpoints their connections, calls in flight the route they began with. A service that is gone ends when its last
//! call does.

use std::{
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
};

use super::control::Inner;
use crate::{
    client::{CallSeats, ServiceRuntime},
    cluster::Cluster,
    discover::{self, DiscoverError},
    model::{EndpointSource, EndpointUpdate, ServiceSpec, Snapshot, TlsMode},
    name::ServiceName,
    rt::TaskSet,
    seat::{Position, chain},
    shed::Policies,
};

/// A configured service while it runs.
pub(super) struct Running {
    spec: Arc<ServiceSpec>,
    cluster: Arc<Cluster>,
    /// The subscription's tasks; `None` before the mesh has started.
    discovery: Option<TaskSet>,
    error: Arc<arc_swap::ArcSwapOption<String>>,
}

impl Running {
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

impl Inner {
    /// Brings a configuration into use.
    pub(super) fn reconcile(self: &Arc<Self>, next: Arc<Snapshot>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if self.home.set(&next.mesh) {
            for service in running.values() {
                service.cluster.moved();
            }
        }
        let before = self.snapshot();
        let redial = before.identity != next.identity || before.mesh != next.mesh;
        for (name, spec) in &next.services {
            match running.get_mut(name) {
                Some(service) if !redial && (Arc::ptr_eq(&service.spec, spec) || service.spec == *spec) => {}
                Some(service) => self.change(service, spec, &next, redial),
                None => {
                    let service = self.add(spec, &next);
                    running.insert(name.clone(), service);
                }
            }
        }
        running.retain(|name, service| {
            let kept = next.services.contains_key(name);
            if !kept {
                self.remove(name, service);
            }
            kept
        });
        drop(running);
        let seats = self.seats.server.iter().chain(next.inbound.policies.seats(Position::Server)).cloned();
        let callers = self.callers(&next);
        let (shed, adaptive) = (next.inbound.load_shed.as_ref(), next.inbound.adaptive_concurrency.as_ref());
        let service = self.server.service();
        self.server.change(&self.tasks, |policy| {
            policy.set_seat(chain(seats));
            policy.set_normalization(next.inbound.path_normalization);
            policy.set_max_body(&next.listeners);
            policy.set_callers(callers);
            policy.set_access(self.access(&next));
            policy.set_admission(Policies::new(shed, adaptive), service, &self.tasks, &self.registry);
            policy.set_rate_limit(next.inbound.rate_limit.as_ref(), service, &self.registry, &self.fleet);
        });
        self.limit(&next);
        let generation = next.generation;
        self.snapshot.store(next);
        self.generation.send_replace(generation);
    }

    fn add(self: &Arc<Self>, spec: &Arc<ServiceSpec>, next: &Snapshot) -> Running {
        let dial = self.dialer(spec, next);
        let cluster = Cluster::new(spec, &self.home, dial, self.tasks.clone(), &self.registry);
        let mut service = Running { spec: Arc::clone(spec), cluster, discovery: None, error: Arc::default() };
        if self.has_started() {
            self.subscribe(&mut service);
        }
        self.install(&service);
        service
    }

    fn change(self: &Arc<Self>, service: &mut Running, spec: &Arc<ServiceSpec>, next: &Snapshot, redial: bool) {
        let before = std::mem::replace(&mut service.spec, Arc::clone(spec));
        let redial = before.tls != spec.tls
            || before.identities != spec.identities
            || before.outside_name() != spec.outside_name()
            || (redial && spec.tls == TlsMode::Mesh);
        service.cluster.update(spec, redial.then(|| self.dialer(spec, next)));
        if before.endpoints != spec.endpoints && self.has_started() {
            // The endpoints there are stay in use until the new sources have spoken.
            self.subscribe(service);
        }
        self.install(service);
    }

    fn remove(self: &Arc<Self>, name: &ServiceName, service: &mut Running) {
        if let Some(tasks) = service.discovery.take() {
            tasks.cancel();
        }
        if let Ok(handle) = self.services.get(name.as_str()) {
            handle.store(ServiceRuntime::unknown(name, &self.registry));
        }
        service.cluster.close();
    }

    /// Gives calls the new routes.
    fn install(&self, service: &Running) {
        if let Ok(handle) = self.services.get(service.spec.name.as_str()) {
            let previous = handle.runtime();
            let token = service.spec.jwt_svid.as_ref().map(|spec| {
                let security = Arc::clone(&self.security);
                let own = move || security.identity().and_then(|identity| identity.own()).map(|own| own.id().clone());
                self.tokens.seat(spec, own, &self.tasks, &self.registry)
            });
            handle.store(ServiceRuntime::new(
                &service.spec,
                &service.cluster,
                &self.registry,
                &self.fleet,
                &CallSeats { outer: &self.seats.outer, attempt: &self.seats.attempt, token },
                Some(&previous),
            ));
        }
    }

    /// Subscribes every service to its sources.
    pub(super) fn subscribe_all(self: &Arc<Self>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for service in running.values_mut() {
            self.subscribe(service);
        }
    }

    fn subscribe(self: &Arc<Self>, service: &mut Running) {
        let sources: &[EndpointSource] = &service.spec.endpoints;
        let discovery = discover::subscribe(sources, &self.discovery);
        let cluster = Arc::downgrade(&service.cluster);
        service.cluster.set_refresh(discovery.refresh.clone());
        let tasks = self.tasks.child();
        let error = Arc::clone(&service.error);
        let name = service.spec.name.clone();
        let mut updates = discovery.updates;
        let take = move |cluster: &Arc<Cluster>, update: Result<EndpointUpdate, DiscoverError>| match update {
            Ok(update) => {
                error.store(None);
                cluster.apply(update);
            }
            Err(failure) => {
                tracing::warn!(service = %name, "endpoints: {failure}");
                error.store(Some(Arc::new(failure.to_string())));
            }
        };
        // What is known at once, such as addresses in the configuration, is in use when the configuration is.
        if let Poll::Ready(Some(update)) = updates.as_mut().poll_next(&mut Context::from_waker(Waker::noop())) {
            take(&service.cluster, update);
        }
        tasks.spawn(async move {
            while let Some(update) = std::future::poll_fn(|cx| updates.as_mut().poll_next(cx)).await {
                let Some(cluster) = cluster.upgrade() else { return };
                take(&cluster, update);
            }
        });
        if let Some(before) = service.discovery.replace(tasks) {
            before.cancel();
        }
    }

    pub(super) fn discovery_error(&self, name: &ServiceName) -> Option<String> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(name).and_then(|service| service.error.load_full()).map(|error| error.to_string())
    }

    pub(super) fn has_started(&self) -> bool {
        self.started.load(std::sync::atomic::Ordering::Relaxed)
    }
}
