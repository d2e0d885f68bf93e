//! Checks of rate limits that need the whole document: who counts has to be called.

use super::{
    check::Findings,
    document::{Field, place_of},
    resolve::{Resolution, Resolved},
    store::Rejection,
    suggest_or_list,
};
use crate::{
    limit::RateLimitPolicy,
    model::{Origin, Snapshot},
    name::ServiceName,
};

/// The limit on what is served.
pub(super) fn check_inbound(resolution: &Resolution, findings: &mut Findings) {
    let snapshot = &resolution.snapshot;
    let policy = snapshot.inbound.rate_limit.as_ref();
    let Some(reason) = policy.and_then(|policy| wrong(snapshot, policy)) else { return };
    let path = "inbound.rate_limit.global";
    findings.rejected.push(Rejection {
        resource: "inbound".into(),
        path: path.into(),
        place: place_of(snapshot.provenance.of(path)),
        reason: reason.0,
        help: Some(reason.1),
        related: None,
    });
}

/// The limits on calls to a service.
pub(super) fn check_service(snapshot: &Snapshot, service: &Resolved, findings: &mut Findings) {
    let own: &Field<RateLimitPolicy> = &service.tunables.rate_limit;
    if let Some((set, (reason, help))) = own.as_ref().and_then(|set| Some((set, wrong(snapshot, &set.value)?))) {
        findings.reject(service, "rate_limit.global", &set.origin, reason, help, None);
    }
    for (index, route) in service.partial.routes.iter().flat_map(|routes| routes.value.iter().enumerate()) {
        let Some(policy) = &route.options.rate_limit else { continue };
        if let Some((reason, help)) = wrong(snapshot, policy) {
            let origin: &Origin = route.options_at.get("rate_limit").unwrap_or(&route.origin);
            findings.reject(service, &format!("routes[{index}].rate_limit.global"), origin, reason, help, None);
        }
    }
}

fn wrong(snapshot: &Snapshot, policy: &RateLimitPolicy) -> Option<(String, String)> {
    let name: &ServiceName = &policy.global.as_ref()?.service;
    if !cfg!(feature = "tonic") {
        let help = "build sinew with the feature `tonic`";
        return Some(("asking a rate limit service needs the feature `tonic`".into(), help.into()));
    }
    if snapshot.services.contains_key(name) {
        return None;
    }
    let known: Vec<&str> = snapshot.services.keys().map(ServiceName::as_str).collect();
    let help = suggest_or_list(name.as_str(), &known, "the services are", "add it to `services` with its `endpoints`");
    Some((format!("no service `{name}` is configured"), help))
}
