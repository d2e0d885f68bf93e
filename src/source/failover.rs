//! How priorities and zones share calls, as one source says it: parts of `load_balancer`, and `locality`.

use std::{collections::BTreeSet, time::Duration};

use super::{
    check::Findings,
    document::{Field, Set},
    resolve::{Resolved, effective},
};
use crate::{
    balance::{Failover, FailoverKey, FailoverPolicy, LocalityMode, LocalityPolicy, SlowStartPolicy, Whereabouts},
    enforcement::{Mode, Percent},
    model::{EndpointSource, LintCode, Origin, Provenance, Snapshot, SourceKind},
};

/// What `load_balancer` says besides the policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialFailover {
    pub(crate) failover: Field<Failover>,
    pub(crate) enforcement: Field<Mode>,
    pub(crate) percentage: Field<Percent>,
    pub(crate) overprovisioning_factor: Field<u32>,
    pub(crate) healthy_panic_threshold: Field<u32>,
    pub(crate) fail_traffic_on_panic: Field<bool>,
}

impl PartialFailover {
    pub(crate) fn over(self, lower: Self) -> Self {
        Self {
            failover: self.failover.or(lower.failover),
            enforcement: self.enforcement.or(lower.enforcement),
            percentage: self.percentage.or(lower.percentage),
            overprovisioning_factor: self.overprovisioning_factor.or(lower.overprovisioning_factor),
            healthy_panic_threshold: self.healthy_panic_threshold.or(lower.healthy_panic_threshold),
            fail_traffic_on_panic: self.fail_traffic_on_panic.or(lower.fail_traffic_on_panic),
        }
    }

    /// Everything that a policy says.
    pub(super) fn of(policy: &FailoverPolicy, origin: &Origin) -> Self {
        Self {
            failover: Some(Set::new(policy.failover, origin.clone())),
            enforcement: Some(Set::new(policy.enforcement, origin.clone())),
            percentage: Some(Set::new(policy.percentage, origin.clone())),
            overprovisioning_factor: Some(Set::new(policy.overprovisioning_factor, origin.clone())),
            healthy_panic_threshold: Some(Set::new(policy.healthy_panic_threshold, origin.clone())),
            fail_traffic_on_panic: Some(Set::new(policy.fail_traffic_on_panic, origin.clone())),
        }
    }

    /// The policy in effect.
    pub(super) fn resolve(&self, provenance: &mut Provenance, path: &str) -> FailoverPolicy {
        let mut policy = FailoverPolicy::default();
        let at = |key| format!("{path}.load_balancer.{key}");
        policy.failover = effective(provenance, at("failover.how"), &self.failover, policy.failover);
        policy.enforcement = effective(provenance, at("failover.enforcement"), &self.enforcement, policy.enforcement);
        policy.percentage = effective(provenance, at("failover.percentage"), &self.percentage, policy.percentage);
        policy.overprovisioning_factor = effective(
            provenance,
            at("overprovisioning_factor"),
            &self.overprovisioning_factor,
            policy.overprovisioning_factor,
        );
        policy.healthy_panic_threshold = effective(
            provenance,
            at("healthy_panic_threshold"),
            &self.healthy_panic_threshold,
            policy.healthy_panic_threshold,
        );
        policy.fail_traffic_on_panic = effective(
            provenance,
            at("fail_traffic_on_panic"),
            &self.fail_traffic_on_panic,
            policy.fail_traffic_on_panic,
        );
        policy
    }
}

/// `load_balancer.slow_start`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialSlowStart {
    pub(crate) window: Field<Duration>,
    pub(crate) aggression: Field<f64>,
    pub(crate) min_weight_percent: Field<u32>,
}

impl PartialSlowStart {
    pub(crate) fn over(self, lower: Self) -> Self {
        Self {
            window: self.window.or(lower.window),
            aggression: self.aggression.or(lower.aggression),
            min_weight_percent: self.min_weight_percent.or(lower.min_weight_percent),
        }
    }

    /// Everything that a policy says.
    pub(super) fn of(policy: &SlowStartPolicy, origin: &Origin) -> Self {
        Self {
            window: Some(Set::new(policy.window, origin.clone())),
            aggression: Some(Set::new(policy.aggression, origin.clone())),
            min_weight_percent: Some(Set::new(policy.min_weight_percent, origin.clone())),
        }
    }

    /// The policy in effect.
    pub(super) fn resolve(&self, provenance: &mut Provenance, path: &str) -> SlowStartPolicy {
        let mut policy = SlowStartPolicy::default();
        let at = |key| format!("{path}.load_balancer.slow_start.{key}");
        policy.window = effective(provenance, at("window"), &self.window, policy.window);
        policy.aggression = effective(provenance, at("aggression"), &self.aggression, policy.aggression);
        policy.min_weight_percent =
            effective(provenance, at("min_weight_percent"), &self.min_weight_percent, policy.min_weight_percent);
        // What else was said of it means nothing then.
        if policy.is_on() { policy } else { SlowStartPolicy::off() }
    }
}

/// `locality`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartialLocality {
    pub(crate) mode: Field<LocalityMode>,
    pub(crate) failover_priority: Field<Vec<FailoverKey>>,
}

impl PartialLocality {
    pub(crate) fn over(self, lower: Self) -> Self {
        Self { mode: self.mode.or(lower.mode), failover_priority: self.failover_priority.or(lower.failover_priority) }
    }

    /// Everything that a policy says.
    pub(super) fn of(policy: &LocalityPolicy, origin: &Origin) -> Self {
        Self {
            mode: Some(Set::new(policy.mode.clone(), origin.clone())),
            failover_priority: Some(Set::new(policy.failover_priority.clone(), origin.clone())),
        }
    }

    /// The policy in effect.
    pub(super) fn resolve(&self, provenance: &mut Provenance, path: &str) -> LocalityPolicy {
        let mut policy = LocalityPolicy::default();
        let path = format!("{path}.locality");
        policy.mode = effective(provenance, path.clone(), &self.mode, policy.mode);
        policy.failover_priority = effective(
            provenance,
            format!("{path}.failover_priority"),
            &self.failover_priority,
            policy.failover_priority,
        );
        policy
    }
}

/// What is said about zones and priorities and cannot come true.
pub(super) fn check(snapshot: &Snapshot, service: &Resolved, findings: &mut Findings) {
    let mesh = &snapshot.mesh;
    let failover = &service.spec.failover;
    if let Some(set) = &service.tunables.failover.fail_traffic_on_panic
        && failover.fail_traffic_on_panic
        && failover.healthy_panic_threshold == 0
    {
        let related = service.tunables.failover.healthy_panic_threshold.as_ref();
        findings.reject(
            service,
            "load_balancer.fail_traffic_on_panic",
            &set.origin,
            "calls are to fail on panic, and `healthy_panic_threshold: 0` says that there is none".into(),
            "remove one of the two",
            related.map(|set| (&set.origin, "the threshold is set here".into())),
        );
    }
    if let Some(set) = &service.tunables.locality.mode {
        let zones = known_zones(&service.spec.endpoints);
        match &service.spec.locality.mode {
            LocalityMode::ZoneAware(policy) => {
                let message = if mesh.locality.zone.is_empty() {
                    Some("this has no effect: nobody says which zone this process is in; set `mesh.zone`".to_owned())
                } else if policy.force_local_zone.is_none() && !snapshot.services.contains_key(&mesh.service) {
                    Some(format!(
                        "this has no effect: nobody says how many instances of `{own}` are in each zone; add a service \
                         `{own}` with their endpoints, or set `force_local_zone`",
                        own = mesh.service
                    ))
                } else {
                    None
                };
                if let Some(message) = message {
                    findings.lint(service, "locality", &set.origin, LintCode::ZoneUnknown, message);
                }
            }
            LocalityMode::Weighted(weights) => {
                for zone in zones.iter().flatten().filter(|zone| !weights.contains_key(**zone)) {
                    let message = match zone.is_empty() {
                        true => "endpoints without a zone get nothing while one with a weight is usable".to_owned(),
                        false => {
                            format!("zone `{zone}` has no weight: it gets nothing while one with a weight is usable")
                        }
                    };
                    findings.lint(service, "locality.weighted", &set.origin, LintCode::ZoneWithoutWeight, message);
                }
            }
            LocalityMode::Off => {}
        }
    }
    if let Some(set) = &service.tunables.locality.failover_priority {
        let own = Whereabouts { locality: &mesh.locality, labels: &mesh.labels };
        for key in set.value.iter().filter(|key| key.value().is_none() && own.value(key.name()).is_none()) {
            let place = match key.name() {
                "region" | "zone" => format!("mesh.{key}"),
                "sub_zone" => "`LABEL=VALUE` instead".to_owned(),
                label => format!("mesh.labels.{label}"),
            };
            let message =
                format!("no endpoint agrees in `{key}`, since this process does not say its own: set {place}");
            let path = "locality.failover_priority";
            findings.lint(service, path, &set.origin, LintCode::FailoverKeyUnknown, message);
        }
    }
}

/// The zones the sources can yield, or `None` if some are only known at run time.
fn known_zones(sources: &[EndpointSource]) -> Option<BTreeSet<&str>> {
    let mut zones = BTreeSet::new();
    for source in sources {
        match &source.source {
            SourceKind::Static(specs) => zones.extend(specs.iter().map(|spec| &*spec.locality.zone)),
            SourceKind::Dns { .. } => {
                zones.insert(&*source.locality.zone);
            }
            SourceKind::File(_) | SourceKind::Custom(_) => return None,
        }
    }
    Some(zones)
}
