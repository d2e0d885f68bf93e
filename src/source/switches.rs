//! What the environment turns off is off in the effective configuration, and shows so.

use crate::{
    enforcement::Mode,
    model::{Origin, Provenance, ServiceSpec},
    retry::HedgePolicy,
    switch::{DEBUGGER, DISABLE, Feature, Switches},
};

/// Applies the switches to a service that is resolved.
pub(super) fn apply(spec: &mut ServiceSpec, provenance: &mut Provenance, switches: Switches) {
    let path = format!("services.{}", spec.name);
    let mut by = |variable: &str, key: String| provenance.record(key, Origin::Environment(variable.into()));
    for feature in switches.off() {
        match feature {
            Feature::Retry => {
                spec.retries.policy.num_retries = 0;
                by(DISABLE, format!("{path}.retry.num_retries"));
            }
            Feature::Hedge => {
                spec.retries.hedge = HedgePolicy::default();
                by(DISABLE, format!("{path}.hedge"));
            }
            Feature::Outlier => {
                spec.outlier_detection.enforcement = Mode::Off;
                by(DISABLE, format!("{path}.outlier_detection.enforcement"));
            }
            Feature::RateLimit if spec.rate_limit.is_some() => {
                spec.rate_limit = None;
                by(DISABLE, format!("{path}.rate_limit"));
            }
            // Policies of routes follow; the others ask for the switch themselves.
            _ => {}
        }
        for (index, options) in spec.route_options.iter_mut().enumerate() {
            let path = format!("{path}.routes[{index}]");
            match feature {
                Feature::Retry if options.retries.is_some() => {
                    options.retries.iter_mut().for_each(|retries| retries.policy.num_retries = 0);
                    by(DISABLE, format!("{path}.retry.num_retries"));
                }
                Feature::Hedge if options.retries.is_some() => {
                    options.retries.iter_mut().for_each(|retries| retries.hedge = HedgePolicy::default());
                    by(DISABLE, format!("{path}.hedge"));
                }
                Feature::Fault if options.fault.is_some() => {
                    options.fault.iter_mut().for_each(|fault| fault.mode = Mode::Off);
                    by(DISABLE, format!("{path}.fault"));
                }
                Feature::Mirror if options.mirror.is_some() => {
                    options.mirror.iter_mut().for_each(|mirror| mirror.policy.mode = Mode::Off);
                    by(DISABLE, format!("{path}.mirror"));
                }
                Feature::RateLimit if options.rate_limit.is_some() => {
                    options.rate_limit = None;
                    by(DISABLE, format!("{path}.rate_limit"));
                }
                _ => {}
            }
        }
    }
    if switches.debugger() {
        // The deadlines of whole calls are suspended where they are worked out.
        spec.timeouts.per_try = None;
        by(DEBUGGER, format!("{path}.timeouts.per_try"));
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
}
