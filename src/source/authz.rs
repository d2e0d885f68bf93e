//! `inbound.authz`: rules of several sources as one policy, and what is odd about them.

use std::collections::HashMap;

use super::{
    check::Findings,
    document::{Field, PartialAuthz, Set, place_of},
    resolve::Resolution,
    store::Rejection,
};
use crate::{
    authz::{Action, ExtAuthzProtocol, Policy, Rule},
    canon::{PathNormalization, never_in_strict},
    model::{Lint, LintCode, Origin, Provenance},
};

const LISTS: [&str; 4] = ["allow", "deny", "audit", "custom"];

fn lists(partial: &PartialAuthz) -> [(&'static str, &Field<Vec<Set<Rule>>>); 4] {
    let [allow, deny, audit, custom] = LISTS;
    [(allow, &partial.allow), (deny, &partial.deny), (audit, &partial.audit), (custom, &partial.custom)]
}

/// The policy that the lists make.
pub(super) fn resolve(partial: &PartialAuthz, provenance: &mut Provenance) -> Policy {
    let mut policy = Policy::default();
    for (list, rules) in lists(partial) {
        let Some(rules) = rules else { continue };
        provenance.record(format!("inbound.authz.{list}"), rules.origin.clone());
        for (index, rule) in rules.value.iter().enumerate() {
            provenance.record(format!("inbound.authz.{list}[{index}]"), rule.origin.clone());
            let mut rule_value = rule.value.clone();
            if rule_value.name.is_empty() {
                rule_value.name = format!("{list}[{index}]").into();
            }
            policy.rules.push(rule_value);
        }
    }
    policy.exclusive = partial.allow.as_ref().is_some_and(|allow| allow.value.is_empty());
    policy
}

/// Whom a rule asks has to be there.
fn asked(rule: &Rule, path: &str, origin: &Origin, resolution: &Resolution, findings: &mut Findings) {
    let mut reject = |key: &str, reason: String, help: &str| {
        findings.rejected.push(Rejection {
            resource: "inbound".into(),
            path: format!("{path}{key}"),
            place: place_of(origin),
            reason,
            help: Some(help.into()),
            related: None,
        });
    };
    let Some(policy) = &rule.ext_authz else {
        if rule.action == Action::Custom {
            reject("", "it does not say who is to be asked".into(), "name a service: `ext_authz: {service: authz}`");
        }
        return;
    };
    if !resolution.snapshot.services.contains_key(&policy.service) {
        let reason = format!("there is no service `{}`", policy.service);
        reject(".ext_authz.service", reason, "define it under `services`: it is found and secured as others are");
    }
    if policy.protocol == ExtAuthzProtocol::Grpc && cfg!(not(feature = "tonic")) {
        let reason = "asking by gRPC needs the feature `tonic`".into();
        reject(".ext_authz.protocol", reason, "enable it in Cargo.toml, or ask by `http`");
    }
}

/// Names that stand twice, and rules that cannot do what they seem to.
pub(super) fn check(resolution: &Resolution, findings: &mut Findings) {
    let snapshot = &resolution.snapshot;
    if snapshot.inbound.audit_log.is_some() && cfg!(not(any(feature = "aws-lc", feature = "ring"))) {
        findings.rejected.push(Rejection {
            resource: "inbound".into(),
            path: "inbound.audit_log".into(),
            place: place_of(snapshot.provenance.of("inbound.audit_log")),
            reason: "this build has no cryptography, and the lines of an audit log are hashed".into(),
            help: Some("enable the feature `aws-lc` or `ring` in Cargo.toml".into()),
            related: None,
        });
    }
    let mut names: HashMap<&str, &Origin> = HashMap::new();
    for (list, rules) in lists(&resolution.authz) {
        let Some(rules) = rules else { continue };
        let path = format!("inbound.authz.{list}");
        if list == "allow" && rules.value.is_empty() {
            let message = "nobody is allowed anything";
            findings.lints.push(Lint::new(LintCode::AllowsNobody, path.clone(), place_of(&rules.origin), message));
        }
        for (index, rule) in rules.value.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let identity = rule.value.from.iter().any(|source| {
                !(source.principals.is_empty()
                    && source.namespaces.is_empty()
                    && source.trust_domains.is_empty()
                    && source.service_accounts.is_empty())
            });
            if identity && snapshot.identity.is_none() {
                let message =
                    "it asks for the identity of peers, and without `identity` none has one: it never matches";
                let place = place_of(&rule.origin);
                findings.lints.push(Lint::new(LintCode::RuleWithoutIdentity, path.clone(), place, message));
            }
            asked(&rule.value, &path, &rule.origin, resolution, findings);
            let operations = rule.value.to.iter();
            let paths = operations.flat_map(|operation| operation.paths.iter().chain(&operation.not_paths));
            for path_text in paths.filter(|_| snapshot.inbound.path_normalization == PathNormalization::Strict) {
                let text = path_text.to_string();
                if let Some(why) = never_in_strict(&text) {
                    findings.rejected.push(Rejection {
                        resource: "inbound".into(),
                        path: format!("{path}.paths"),
                        place: place_of(&rule.origin),
                        reason: format!("no request matches the path `{}`: {why}", text.escape_debug()),
                        help: Some(
                            "write the path decoded once, or choose another `inbound.path_normalization`".into(),
                        ),
                        related: None,
                    });
                }
            }
            let name = &*rule.value.name;
            if !name.is_empty()
                && let Some(earlier) = names.insert(name, &rule.origin)
            {
                findings.rejected.push(Rejection {
                    resource: "inbound".into(),
                    path: format!("{path}.name"),
                    place: place_of(&rule.origin),
                    reason: format!("two rules are named `{name}`"),
                    help: Some("names are unique, because metrics and logs show them; rename one".into()),
                    related: place_of(earlier).map(|place| (place, "the other is here".into())),
                });
            }
        }
    }
}
