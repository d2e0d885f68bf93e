//! The floor: what nobody set is raised to it, what somebody set lower is refused.

use super::{check::Findings, document::place_of, duration, resolve::Resolution, store::Rejection};
use crate::{
    authz::{Action, Policy, Rule},
    canon::PathNormalization,
    enforcement::{Mode, Percent},
    model::{Floor, InboundSpec, Origin, Provenance, ServiceSpec, Snapshot, TlsMode},
    retry::{HedgeMode, RetrySpec},
};

/// Raises what concerns the whole process.
pub(super) fn raise(snapshot: &mut Snapshot, provenance: &mut Provenance) {
    if let Some(floor) = snapshot.floor.mtls
        && snapshot.mtls < floor
        && *provenance.of("mtls") == Origin::Default
    {
        snapshot.mtls = floor;
        provenance.record("mtls", Origin::Pinned);
    }
}

/// Raises what concerns one service.
pub(super) fn raise_service(spec: &mut ServiceSpec, floor: &Floor, provenance: &mut Provenance) {
    let path = |key: &str| format!("services.{}.{key}", spec.name);
    let (identities, request) = (path("identities"), path("timeouts.request"));
    if let Some(ids) = floor.identities.get(spec.name.as_str())
        && spec.identities.is_empty()
    {
        spec.identities.clone_from(ids);
        provenance.record(identities, Origin::Pinned);
    }
    if floor.max_timeout.is_some() && spec.timeouts.request.is_none() && *provenance.of(&request) == Origin::Default {
        spec.timeouts.request = floor.max_timeout;
        provenance.record(request, Origin::Pinned);
    }
}

/// What lies below.
pub(super) fn check(resolution: &Resolution, findings: &mut Findings) {
    let snapshot = &resolution.snapshot;
    let floor = &*snapshot.floor;
    let provenance = &snapshot.provenance;
    let mut reject = |path: String, reason: String, help: &str| {
        findings.rejected.push(Rejection {
            resource: path.split(['.', '[']).take(2).collect::<Vec<_>>().join(" "),
            place: place_of(provenance.of(&path)),
            path,
            reason,
            help: Some(help.to_owned()),
            related: None,
        });
    };
    if let Some(least) = floor.mtls {
        let listeners = snapshot.listeners.mesh.map(|mode| ("listeners.mesh.mtls", mode));
        for (path, mode) in [("mtls", snapshot.mtls)].into_iter().chain(listeners) {
            if mode < least {
                reject(path.to_owned(), below(mode.as_str(), least.as_str()), HELP);
            }
        }
    }
    for spec in snapshot.services.values() {
        let path = |key: &str| format!("services.{}.{key}", spec.name);
        if let Some(ids) = floor.identities.get(spec.name.as_str()) {
            if spec.tls != TlsMode::Mesh {
                reject(path("tls"), below(spec.tls.as_str(), TlsMode::Mesh.as_str()), HELP);
            }
            if let Some(other) = spec.identities.iter().find(|id| !ids.contains(id)) {
                let reason = format!("`{other}` is not among those whom code lets answer (`Builder::floor`)");
                reject(path("identities"), reason, "name one of these, or raise it in code");
            }
        }
        if floor.unprocessed_only {
            if let Some(what) = processed(&spec.retries) {
                reject(path("retry"), repeats(&what), HELP);
            }
            for (index, options) in spec.route_options.iter().enumerate() {
                if let Some(what) = options.retries.as_ref().and_then(processed) {
                    reject(path(&format!("routes[{index}].retry")), repeats(&what), HELP);
                }
            }
        }
        if let Some(most) = floor.max_timeout {
            let longer = |timeout: Option<std::time::Duration>| timeout.is_none_or(|timeout| timeout > most);
            let said =
                |timeout: Option<std::time::Duration>| timeout.map_or_else(|| "off".to_owned(), duration::format);
            if !spec.timeouts.is_whole() {
                let (key, found, floor) = match spec.timeouts.enforcement {
                    Mode::Enforce => ("timeouts.percentage", spec.timeouts.percentage.to_string(), "100%"),
                    mode => ("timeouts.enforcement", mode.as_str().to_owned(), "enforce"),
                };
                reject(path(key), below(&found, floor), HELP);
            }
            if longer(spec.timeouts.request) {
                let reason = below(&said(spec.timeouts.request), &duration::format(most));
                reject(path("timeouts.request"), reason, HELP);
            }
            for (index, route) in spec.routes.iter().enumerate().filter(|(_, route)| route.timeout.is_some()) {
                if longer(route.timeout) {
                    let reason = below(&said(route.timeout), &duration::format(most));
                    reject(path(&format!("routes[{index}].timeout")), reason, HELP);
                }
            }
        }
    }
}

const HELP: &str = "remove it, or change the floor in code";

fn below(found: &str, floor: &str) -> String {
    format!("`{found}` is less than code holds fast by `Builder::floor`, which is `{floor}`")
}

fn repeats(what: &str) -> String {
    format!("{what} may repeat what a peer has processed, and code forbids that by `Builder::floor`")
}

/// What may repeat a request that was processed.
fn processed(spec: &RetrySpec) -> Option<String> {
    if spec.hedge.mode != HedgeMode::Off {
        return Some("hedging".to_owned());
    }
    spec.policy.retry_on.processed().map(|condition| format!("`{condition}`"))
}

/// What a new configuration of the local file lowers, which it may: for the record.
pub(crate) fn lowered(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut lowered = Vec::new();
    let mode = |snapshot: &Snapshot| snapshot.listeners.mesh.unwrap_or(snapshot.mtls);
    if mode(after) < mode(before) {
        lowered.push(format!("mtls: {} -> {}", mode(before).as_str(), mode(after).as_str()));
    }
    if before.identity.is_some() && after.identity.is_none() {
        lowered.push("identity: removed".to_owned());
    }
    lowered.extend(authz(&before.inbound, &after.inbound));
    if before.inbound.audit_log.is_some() && after.inbound.audit_log != before.inbound.audit_log {
        lowered.push("inbound.audit_log: another".to_owned());
    }
    for (name, before) in &before.services {
        let Some(after) = after.services.get(name) else { continue };
        if before.tls == TlsMode::Mesh && after.tls != TlsMode::Mesh {
            lowered.push(format!("services.{name}.tls: mesh -> {}", after.tls.as_str()));
        }
        let more = after.identities.iter().any(|id| !before.identities.contains(id));
        if !before.identities.is_empty() && (more || after.identities.is_empty()) {
            lowered.push(format!("services.{name}.identities: others may answer"));
        }
        if processed(&before.retries).is_none()
            && let Some(what) = processed(&after.retries)
        {
            lowered.push(format!("services.{name}.retry: {what}"));
        }
    }
    lowered
}

/// Rules that hold back less than before: what is gone, or counts for fewer requests, and what else is allowed.
fn authz(before: &InboundSpec, after: &InboundSpec) -> Vec<String> {
    let mut lowered = Vec::new();
    if before.path_normalization == PathNormalization::Strict && after.path_normalization != before.path_normalization {
        lowered.push(format!("inbound.path_normalization: strict -> {}", after.path_normalization.as_str()));
    }
    let (before, after) = (&before.authz, &after.authz);
    let allows = |policy: &Policy| policy.exclusive || policy.rules.iter().any(|rule| rule.action == Action::Allow);
    if allows(before) && !allows(after) {
        lowered.push("inbound.authz.allow: gone, so that the listener's own rule holds".to_owned());
    }
    // A rule is the same if nothing but its share has grown.
    let keeps = |rule: &Rule, other: &Rule| {
        other.enforced >= rule.enforced && *rule == Rule { enforced: rule.enforced, ..other.clone() }
    };
    for rule in before.rules.iter().filter(|rule| rule.action != Action::Allow && rule.enforced != Percent::NONE) {
        if !after.rules.iter().any(|other| keeps(rule, other)) {
            lowered.push(format!("inbound.authz: the rule `{}` is gone, or another", rule.name));
        }
    }
    if allows(before) {
        for rule in after.rules.iter().filter(|rule| rule.action == Action::Allow) {
            if !before.rules.contains(rule) {
                lowered.push(format!("inbound.authz.allow: `{}` is new, or another", rule.name));
            }
        }
    }
    lowered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Mtls, name::ServiceName};

    #[test]
    fn rules_that_hold_back_less_are_told() {
        let with = |rules: &[&Rule]| {
            let mut snapshot = Snapshot::new(ServiceName::new("web").unwrap());
            let policy = Policy::new(rules.iter().map(|rule| (*rule).clone()));
            snapshot.inbound = std::sync::Arc::new(InboundSpec { authz: policy, ..InboundSpec::default() });
            snapshot
        };
        let half = |rule: &Rule| Rule { enforced: Percent::of_millionths(500_000), ..rule.clone() };
        let (deny, allow, other) = (Rule::deny("d"), Rule::allow("a"), Rule::allow("b"));
        let (less, shadow) = (half(&deny), deny.clone().shadow());
        let told = |before: &[&Rule], after: &[&Rule]| lowered(&with(before), &with(after));
        let gone = "inbound.authz: the rule `d` is gone, or another";
        assert_eq!(told(&[&deny], &[]), [gone]);
        assert_eq!(told(&[&deny], &[&less]), [gone]);
        assert!(told(&[&less], &[&deny]).is_empty());
        assert!(told(&[&shadow], &[]).is_empty() && told(&[], &[&deny, &allow]).is_empty());
        assert_eq!(told(&[&allow], &[]), ["inbound.authz.allow: gone, so that the listener's own rule holds"]);
        assert_eq!(told(&[&allow], &[&allow, &other]), ["inbound.authz.allow: `b` is new, or another"]);
        let mut loose = with(&[]);
        let inbound = InboundSpec { path_normalization: PathNormalization::Base, ..InboundSpec::default() };
        loose.inbound = std::sync::Arc::new(inbound);
        assert_eq!(lowered(&with(&[]), &loose), ["inbound.path_normalization: strict -> base"]);
        assert!(lowered(&loose, &with(&[])).is_empty());
    }

    #[test]
    fn what_is_lowered_is_told_and_what_is_raised_is_not() {
        let with = |mtls, tls: TlsMode| {
            let mut snapshot = Snapshot::new(ServiceName::new("web").unwrap());
            let mut spec = ServiceSpec::new(ServiceName::new("db").unwrap());
            (snapshot.mtls, spec.tls) = (mtls, tls);
            snapshot.services.insert(spec.name.clone(), std::sync::Arc::new(spec));
            snapshot
        };
        let (low, high) = (with(Mtls::Permissive, TlsMode::Off), with(Mtls::Strict, TlsMode::Mesh));
        assert_eq!(lowered(&high, &low), ["mtls: strict -> permissive", "services.db.tls: mesh -> off"]);
        assert!(lowered(&low, &high).is_empty() && lowered(&high, &high).is_empty());
    }
}
