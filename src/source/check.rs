//! What only the whole can tell: references, contradictions, and what is probably not meant.
//!
//! Runs on the merged result, because a file may name a subset that the builder defines. A rejection stops the update,
//! a lint only warns. Parts that could not be read are not checked, so that one mistake is reported once.

mod policies;
mod retries;

use std::collections::HashMap;

use super::{
    authn, authz,
    document::{PartialRoute, place_of},
    duration, failover, floor, health, limits,
    order::shadows,
    resolve::{Resolution, Resolved, route_name},
    security,
    store::Rejection,
};
use crate::{
    matching::HostPattern,
    model::{EndpointSource, Labels, Lint, LintCode, Origin, SourceKind},
    name::{RouteName, SubsetName},
    route::{RouteAction, WeightedTarget},
};

/// What the checks found.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) rejected: Vec<Rejection>,
    pub(super) lints: Vec<Lint>,
    /// How many processes there are of the service that this one is of, where they are listed.
    pub(super) members: Option<usize>,
}

/// Checks everything.
pub(super) fn check(resolution: &Resolution) -> Findings {
    let services = &resolution.services;
    let snapshot = &resolution.snapshot;
    let members = snapshot.services.get(&snapshot.mesh.service).and_then(|own| policies::listed(&own.endpoints));
    let mut findings = Findings { members, ..Findings::default() };
    security::check(resolution, &mut findings);
    floor::check(resolution, &mut findings);
    authn::check(resolution, &mut findings);
    authz::check(resolution, &mut findings);
    limits::check_inbound(resolution, &mut findings);
    let mut hosts: HashMap<&HostPattern, (&Resolved, &Origin)> = HashMap::new();
    for service in services {
        // A host is one service's, whether or not the rest of the service could be read.
        for (index, host) in service.partial.hosts.iter().flat_map(|hosts| hosts.value.iter().enumerate()) {
            match hosts.get(&host.value) {
                None => {
                    hosts.insert(&host.value, (service, &host.origin));
                }
                Some((other, origin)) => {
                    let other = &other.spec.name;
                    let reason = format!("the host `{}` already belongs to service `{other}`", host.value);
                    findings.reject(
                        service,
                        &format!("hosts[{index}]"),
                        &host.origin,
                        reason,
                        "a host leads to one service: remove it from one of the two",
                        Some((*origin, format!("`{other}` claims it here"))),
                    );
                }
            }
        }
        if !service.partial.tainted {
            findings.endpoints(service);
            findings.subsets(service);
            findings.timeouts(service);
            findings.policies(service);
            health::check(service, &mut findings);
            failover::check(&resolution.snapshot, service, &mut findings);
            findings.outliers(service);
            limits::check_service(&resolution.snapshot, service, &mut findings);
            findings.service_retries(service);
            findings.routes(service);
        }
    }
    findings
}

impl Findings {
    pub(super) fn reject(
        &mut self,
        service: &Resolved,
        path: &str,
        origin: &Origin,
        reason: String,
        help: impl Into<String>,
        related: Option<(&Origin, String)>,
    ) {
        let name = &service.spec.name;
        self.rejected.push(Rejection {
            resource: format!("service {name}"),
            path: format!("services.{name}.{path}"),
            place: place_of(origin),
            reason,
            help: Some(help.into()),
            related: related.and_then(|(origin, why)| place_of(origin).map(|place| (place, why))),
        });
    }

    pub(super) fn lint(&mut self, service: &Resolved, path: &str, origin: &Origin, code: LintCode, message: String) {
        let path = format!("services.{}.{path}", service.spec.name);
        self.lints.push(Lint::new(code, path, place_of(origin), message));
    }

    /// An address stands once in a service: twice would be one endpoint with two states.
    fn endpoints(&mut self, service: &Resolved) {
        let mut seen = HashMap::new();
        for (index, source) in service.partial.endpoints.iter().flat_map(|sources| sources.value.iter().enumerate()) {
            let SourceKind::Static(specs) = &source.source.source else { continue };
            for (item, spec) in specs.iter().enumerate() {
                let origin = source.items.get(item).unwrap_or(&source.origin);
                if let Some(earlier) = seen.insert(&spec.id, origin) {
                    // An address that stands alone is the source itself.
                    let alone = matches!(origin, Origin::File(_)) && origin == &source.origin;
                    let item = if alone { String::new() } else { format!(".static[{item}]") };
                    self.reject(
                        service,
                        &format!("endpoints[{index}]{item}"),
                        origin,
                        format!("the endpoint `{}` stands here twice", spec.id),
                        "remove one; to send it more, give it a `weight`",
                        Some((earlier, "it first stands here".into())),
                    );
                }
            }
            if specs.is_empty() {
                let message = "the list of endpoints is empty: every call fails with SINEW-E010".into();
                let path = format!("endpoints[{index}].static");
                self.lint(service, &path, &source.origin, LintCode::NoEndpoints, message);
            } else if specs.iter().all(|spec| spec.weight == 0) {
                let message = "every endpoint has weight 0, so none is used".into();
                let path = format!("endpoints[{index}].static");
                self.lint(service, &path, &source.origin, LintCode::NoWeight, message);
            }
        }
    }

    /// Where all labels are known beforehand, a subset that none satisfies stays empty for ever.
    fn subsets(&mut self, service: &Resolved) {
        let Some(sets) = known_labels(&service.spec.endpoints) else { return };
        if sets.is_empty() {
            return;
        }
        for (name, labels) in &service.partial.subsets {
            let satisfied = |set: &&Labels| labels.value.iter().all(|(key, value)| set.get(key) == Some(value));
            if !sets.iter().any(satisfied) {
                let message =
                    "no endpoint can ever have these labels: calls to this subset fail with SINEW-E010".into();
                let path = format!("subsets.{name}");
                self.lint(service, &path, &labels.origin, LintCode::EmptySubset, message);
            }
        }
    }

    fn timeouts(&mut self, service: &Resolved) {
        let timeouts = &service.spec.timeouts;
        let partial = &service.tunables.timeouts;
        if let (Some(request), Some(per_try)) = (timeouts.request, timeouts.per_try)
            && per_try > request
        {
            let origin =
                |field: &super::document::Field<_>| field.as_ref().map_or(Origin::Default, |set| set.origin.clone());
            let (request_origin, per_try_origin) = (origin(&partial.request), origin(&partial.per_try));
            self.reject(
                service,
                "timeouts.per_try",
                &per_try_origin,
                format!(
                    "one attempt may take {}, the whole call only {}",
                    duration::format(per_try),
                    duration::format(request)
                ),
                "make `per_try` shorter than `request`, or `request` longer",
                Some((&request_origin, "the whole call's timeout is set here".into())),
            );
        }
    }

    fn outliers(&mut self, service: &Resolved) {
        let policy = &service.spec.outlier_detection;
        let partial = &service.tunables.outlier_detection;
        fn origin<T>(field: &super::document::Field<T>) -> &Origin {
            field.as_ref().map_or(&Origin::Default, |set| &set.origin)
        }
        if policy.max_ejection_time < policy.base_ejection_time {
            let (base, longest) = (origin(&partial.base_ejection_time), origin(&partial.max_ejection_time));
            // At the one that somebody wrote.
            let (path, here, there, why) = match partial.max_ejection_time {
                Some(_) => ("max_ejection_time", longest, base, "the first ejection's length is set here"),
                None => ("base_ejection_time", base, longest, "the longest ejection's length is set here"),
            };
            self.reject(
                service,
                &format!("outlier_detection.{path}"),
                here,
                format!(
                    "the first ejection lasts {}, the longest only {}",
                    duration::format(policy.base_ejection_time),
                    duration::format(policy.max_ejection_time)
                ),
                "make `max_ejection_time` at least `base_ejection_time`",
                Some((there, why.into())),
            );
        }
        for (detector, enforcing, settings) in [
            (
                "success_rate",
                [&partial.enforcing_success_rate, &partial.enforcing_local_origin_success_rate],
                [
                    ("stdev_factor", &partial.success_rate_stdev_factor),
                    ("minimum_hosts", &partial.success_rate_minimum_hosts),
                    ("request_volume", &partial.success_rate_request_volume),
                ],
            ),
            (
                "failure_percentage",
                [&partial.enforcing_failure_percentage, &partial.enforcing_failure_percentage_local_origin],
                [
                    ("threshold", &partial.failure_percentage_threshold),
                    ("minimum_hosts", &partial.failure_percentage_minimum_hosts),
                    ("request_volume", &partial.failure_percentage_request_volume),
                ],
            ),
        ] {
            if enforcing.iter().any(|field| field.is_some()) {
                continue;
            }
            for (key, set) in settings.iter().filter_map(|(key, field)| Some((key, field.as_ref()?))) {
                let message = format!("this has no effect without `enforcing_{detector}: 100`");
                let path = format!("outlier_detection.{detector}_{key}");
                self.lint(service, &path, &set.origin, LintCode::DetectorOff, message);
            }
        }
    }

    fn routes(&mut self, service: &Resolved) {
        let Some(written) = &service.partial.routes else { return };
        let mut names: HashMap<RouteName, &PartialRoute> = HashMap::new();
        for (index, route) in written.value.iter().enumerate() {
            self.targets(service, index, route);
            self.mirror(service, index, route);
            self.route_timeout(service, index, route);
            self.route_retries(service, index, route);
            let name = route_name(index, route);
            if let Some(earlier) = names.insert(name.clone(), route) {
                let origin = route.name.as_ref().map_or(&route.origin, |name| &name.origin);
                let first = earlier.name.as_ref().map_or(&earlier.origin, |name| &name.origin);
                self.reject(
                    service,
                    &format!("routes[{index}].name"),
                    origin,
                    format!("two routes are named `{name}`"),
                    "names are unique within a service, because metrics and status show them; rename one",
                    Some((first, "the other is here".into())),
                );
            }
        }
        // In order of evaluation: a later route that an earlier one covers is never asked.
        let order = &service.indices;
        for (position, index) in order.iter().enumerate() {
            let later = &written.value[*index];
            let Some(cover) =
                order[..position].iter().find(|at| shadows(&written.value[**at].route.matches, &later.route.matches))
            else {
                continue;
            };
            let earlier = &written.value[*cover];
            let name = route_name(*cover, earlier);
            if earlier.route.matches == later.route.matches {
                self.reject(
                    service,
                    &format!("routes[{index}]"),
                    &later.origin,
                    format!("this route is never reached: route `{name}` has the same `match`"),
                    "remove one, or tell them apart by `match`; to send a share elsewhere use `split` or `match: \
                     {fraction: ..}`",
                    Some((&earlier.origin, format!("route `{name}` is here"))),
                );
            } else {
                let message =
                    format!("this route is never reached: route `{name}` comes first and takes everything it matches");
                let path = format!("routes[{index}]");
                self.lint(service, &path, &later.origin, LintCode::UnreachableRoute, message);
            }
        }
    }

    fn targets(&mut self, service: &Resolved, index: usize, route: &PartialRoute) {
        let RouteAction::Forward(targets) = &route.route.action else { return };
        for (at, target) in targets.iter().enumerate() {
            let Some(subset) = &target.subset else { continue };
            if service.spec.subsets.contains_key(subset) {
                continue;
            }
            let key = if targets.len() == 1 { "to".to_owned() } else { format!("split.{subset}") };
            let origin = route.targets.get(at).unwrap_or(&route.origin);
            self.unknown_subset(service, &format!("routes[{index}].{key}"), origin, subset);
        }
        self.weights(service, index, route, targets);
    }

    /// Copies go to a subset that there is.
    fn mirror(&mut self, service: &Resolved, index: usize, route: &PartialRoute) {
        let Some(to) = route.options.mirror.as_ref().and_then(|mirror| mirror.to.as_ref()) else { return };
        if !service.spec.subsets.contains_key(to) {
            let origin = route.options_at.get("mirror.to").unwrap_or(&route.origin);
            self.unknown_subset(service, &format!("routes[{index}].mirror.to"), origin, to);
        }
    }

    fn unknown_subset(&mut self, service: &Resolved, path: &str, origin: &Origin, subset: &SubsetName) {
        let known: Vec<&str> = service.spec.subsets.keys().map(SubsetName::as_str).collect();
        self.reject(
            service,
            path,
            origin,
            format!("service `{}` has no subset `{subset}`", service.spec.name),
            super::suggest_or_list(subset.as_str(), &known, "its subsets are", "define it under `subsets`"),
            None,
        );
    }

    fn weights(&mut self, service: &Resolved, index: usize, route: &PartialRoute, targets: &[WeightedTarget]) {
        let sum: u64 = targets.iter().map(|target| u64::from(target.weight)).sum();
        let origin = route.targets.first().unwrap_or(&route.origin);
        if sum == 0 {
            self.reject(
                service,
                &format!("routes[{index}].split"),
                origin,
                "no target has a weight above 0".into(),
                "give at least one subset a weight",
                None,
            );
        } else if targets.len() > 1 && sum != 100 {
            let message = format!("the weights add up to {sum}, not 100; they are relative, so this works as written");
            self.lint(service, &format!("routes[{index}].split"), origin, LintCode::WeightsOffHundred, message);
        }
        if route.route.matches.fraction == Some(0) {
            let message = "a fraction of 0% matches no request".to_owned();
            let path = format!("routes[{index}].match.fraction");
            self.lint(service, &path, &route.origin, LintCode::NoFraction, message);
        }
    }

    fn route_timeout(&mut self, service: &Resolved, index: usize, route: &PartialRoute) {
        let (Some(timeout), Some(origin)) = (route.route.timeout, &route.timeout) else { return };
        if let Some(per_try) = service.spec.timeouts.per_try.filter(|per_try| *per_try >= timeout) {
            let message = format!(
                "the whole call may take {}, one attempt {}: `per_try` has no effect on this route",
                duration::format(timeout),
                duration::format(per_try)
            );
            let path = format!("routes[{index}].timeout");
            self.lint(service, &path, origin, LintCode::AttemptAsLongAsCall, message);
        }
    }
}

/// Every set of labels the sources can yield, or `None` if some are only known at run time.
fn known_labels(sources: &[EndpointSource]) -> Option<Vec<&Labels>> {
    let mut sets = Vec::new();
    for source in sources {
        match &source.source {
            SourceKind::Static(specs) => sets.extend(specs.iter().map(|spec| &*spec.labels)),
            // DNS has no labels of its own.
            SourceKind::Dns { .. } => sets.push(&source.labels),
            SourceKind::File(_) | SourceKind::Custom(_) => return None,
        }
    }
    Some(sets)
}
