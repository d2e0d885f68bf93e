//! What the environment turns off is off in the effective configuration, and shows so.

use crate::{
    enforcement::Mode,
    model::{InboundSpec, Origin, Provenance, ServiceSpec},
    retry::HedgePolicy,
    switch::{DEBUGGER, DISABLE, Feature, Switches},
};

/// Turns off what stands at a path, unless code pinned it: that is the floor.
struct Off<'a> {
    provenance: &'a mut Provenance,
}

impl Off<'_> {
    fn by(&mut self, variable: &str, path: String, turn_off: impl FnOnce()) {
        if *self.provenance.of(&path) == Origin::Pinned {
            tracing::warn!("{variable} leaves `{path}` as it is: code pinned it");
            return;
        }
        turn_off();
        self.provenance.record(path, Origin::Environment(variable.into()));
    }
}

/// Applies the switches to what is served.
pub(super) fn apply_inbound(inbound: &mut InboundSpec, provenance: &mut Provenance, switches: Switches) {
    let mut off = Off { provenance };
    for feature in switches.off() {
        match feature {
            Feature::RateLimit if inbound.rate_limit.is_some() => {
                off.by(DISABLE, "inbound.rate_limit".into(), || inbound.rate_limit = None);
            }
            Feature::Shed => {
                if inbound.load_shed.is_some() {
                    off.by(DISABLE, "inbound.load_shed".into(), || inbound.load_shed = None);
                }
                if inbound.adaptive_concurrency.is_some() {
                    let path = "inbound.adaptive_concurrency";
                    off.by(DISABLE, path.into(), || inbound.adaptive_concurrency = None);
                }
            }
            _ => {}
        }
    }
}

/// Applies the switches to a service that is resolved.
pub(super) fn apply(spec: &mut ServiceSpec, provenance: &mut Provenance, switches: Switches) {
    let path = format!("services.{}", spec.name);
    let mut off = Off { provenance };
    for feature in switches.off() {
        match feature {
            Feature::Retry => {
                let retries = &mut spec.retries.policy.num_retries;
                off.by(DISABLE, format!("{path}.retry.num_retries"), || *retries = 0);
            }
            Feature::Hedge => {
                off.by(DISABLE, format!("{path}.hedge"), || spec.retries.hedge = HedgePolicy::default());
            }
            Feature::Outlier => {
                let enforcement = &mut spec.outlier_detection.enforcement;
                off.by(DISABLE, format!("{path}.outlier_detection.enforcement"), || *enforcement = Mode::Off);
            }
            Feature::HealthChecks if !spec.health_checks.is_empty() => {
                off.by(DISABLE, format!("{path}.health_checks"), || spec.health_checks.clear());
            }
            Feature::Throttle if spec.throttle.is_some() => {
                off.by(DISABLE, format!("{path}.throttle"), || spec.throttle = None);
            }
            Feature::RateLimit if spec.rate_limit.is_some() => {
                off.by(DISABLE, format!("{path}.rate_limit"), || spec.rate_limit = None);
            }
            // Policies of routes follow, those of what is served stand elsewhere.
            _ => {}
        }
        for (index, options) in spec.route_options.iter_mut().enumerate() {
            let path = format!("{path}.routes[{index}]");
            match feature {
                Feature::Retry => {
                    if let Some(retries) = &mut options.retries {
                        off.by(DISABLE, format!("{path}.retry.num_retries"), || retries.policy.num_retries = 0);
                    }
                }
                Feature::Hedge => {
                    if let Some(retries) = &mut options.retries {
                        off.by(DISABLE, format!("{path}.hedge"), || retries.hedge = HedgePolicy::default());
                    }
                }
                Feature::Fault => {
                    if let Some(fault) = &mut options.fault {
                        off.by(DISABLE, format!("{path}.fault"), || fault.mode = Mode::Off);
                    }
                }
                Feature::Mirror => {
                    if let Some(mirror) = &mut options.mirror {
                        off.by(DISABLE, format!("{path}.mirror"), || mirror.policy.mode = Mode::Off);
                    }
                }
                Feature::RateLimit if options.rate_limit.is_some() => {
                    off.by(DISABLE, format!("{path}.rate_limit"), || options.rate_limit = None);
                }
                _ => {}
            }
        }
    }
    if switches.debugger() {
        // The deadlines of whole calls are suspended where they are worked out. No floor: nothing is protected by a timer
        // that fires while the process stands still.
        spec.timeouts.per_try = None;
        off.provenance.record(format!("{path}.timeouts.per_try"), Origin::Environment(DEBUGGER.into()));
        let routes = spec.route_options.iter_mut().filter_map(|options| options.retries.as_mut());
        for retries in routes.chain([&mut spec.retries]) {
            retries.policy.per_try_timeout = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fault::FaultPolicy,
        model::{RouteOptions, ServiceSpec},
        name::ServiceName,
    };

    #[test]
    fn what_is_switched_off_is_off_in_the_configuration_and_says_so() {
        let mut spec = ServiceSpec::new(ServiceName::new("a").unwrap());
        spec.timeouts.per_try = Some(std::time::Duration::from_secs(1));
        let fault = RouteOptions { fault: Some(FaultPolicy::new()), ..RouteOptions::default() };
        spec.route_options = vec![RouteOptions::default(), fault];
        let untouched = spec.clone();
        let mut provenance = Provenance::default();
        apply(&mut spec, &mut provenance, Switches::default());
        assert_eq!((&spec, provenance.iter().count()), (&untouched, 0));

        let (switches, _) = Switches::parse("retry,hedge,outlier,fault,mirror,rate_limit", "1");
        apply(&mut spec, &mut provenance, switches);
        assert_eq!((spec.retries.policy.num_retries, spec.timeouts.per_try), (0, None));
        assert_eq!(spec.outlier_detection.enforcement, Mode::Off);
        assert_eq!(spec.route_options[1].fault.as_ref().unwrap().mode, Mode::Off);
        let set: Vec<_> = provenance.iter().map(|(path, origin)| format!("{path} by {origin}")).collect();
        assert_eq!(
            set,
            [
                "services.a.hedge by environment SINEW_DISABLE",
                "services.a.outlier_detection.enforcement by environment SINEW_DISABLE",
                "services.a.retry.num_retries by environment SINEW_DISABLE",
                "services.a.routes[1].fault by environment SINEW_DISABLE",
                "services.a.timeouts.per_try by environment SINEW_DEBUGGER",
            ]
        );
    }

    #[test]
    fn checks_throttles_and_limits_of_both_sides_are_switched_off_and_what_code_pinned_stays() {
        use crate::{
            health::HealthCheck,
            limit::{QuotaPolicy, RateLimitPolicy},
            shed::{AdaptivePolicy, ShedPolicy, throttle::ThrottlePolicy},
        };

        let limit = || Some(RateLimitPolicy::new(QuotaPolicy::new(1, std::time::Duration::from_secs(1)).unwrap()));
        let mut spec = ServiceSpec::new(ServiceName::new("a").unwrap());
        spec.health_checks = vec![HealthCheck::tcp()];
        (spec.throttle, spec.rate_limit) = (Some(ThrottlePolicy::default()), limit());
        let mut inbound = InboundSpec {
            load_shed: Some(ShedPolicy::default()),
            adaptive_concurrency: Some(AdaptivePolicy::default()),
            rate_limit: limit(),
            ..InboundSpec::default()
        };
        let (switches, _) = Switches::parse("health_checks,throttle,rate_limit,shed", "");
        let mut pinned = Provenance::default();
        for path in ["services.a.health_checks", "services.a.throttle", "services.a.rate_limit", "inbound"] {
            pinned.record(path, Origin::Pinned);
        }
        let (before, served) = (spec.clone(), inbound.clone());
        apply(&mut spec, &mut pinned, switches);
        apply_inbound(&mut inbound, &mut pinned, switches);
        assert_eq!((&spec, &inbound), (&before, &served));

        let mut provenance = Provenance::default();
        apply(&mut spec, &mut provenance, switches);
        apply_inbound(&mut inbound, &mut provenance, switches);
        assert!(spec.health_checks.is_empty() && spec.throttle.is_none() && spec.rate_limit.is_none());
        assert_eq!(inbound, InboundSpec::default());
        let set: Vec<_> = provenance.iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(
            set,
            [
                "inbound.adaptive_concurrency",
                "inbound.load_shed",
                "inbound.rate_limit",
                "services.a.health_checks",
                "services.a.rate_limit",
                "services.a.throttle",
            ]
        );
    }
}
