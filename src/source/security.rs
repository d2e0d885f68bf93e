//! Identity and TLS: defaults that depend on each other, and what contradicts.

use super::{
    check::Findings,
    document::{Field, PartialListeners, PartialService, place_of},
    resolve::{Resolution, effective},
    store::Rejection,
};
use crate::model::{IdentitySource, Lint, LintCode, Mtls, Origin, Provenance, ServiceSpec, Snapshot, TlsMode};

/// The trust domain of development.
const DEV_DOMAIN: &str = "dev.local";

/// Who set what is checked.
#[derive(Default)]
pub(super) struct SecurityOrigins {
    identity: Option<Origin>,
    mtls: Option<Origin>,
    mesh: Option<Origin>,
    mesh_proxies: Option<Origin>,
    edge: Option<Origin>,
}

/// Resolves `identity`, `mtls` and `listeners`.
pub(super) fn resolve(
    snapshot: &mut Snapshot,
    provenance: &mut Provenance,
    identity: Field<IdentitySource>,
    mtls: Field<Mtls>,
    listeners: PartialListeners,
) -> SecurityOrigins {
    let origin = |path: &str, origin: Option<&Origin>, provenance: &mut Provenance| {
        if let Some(origin) = origin {
            provenance.record(path, origin.clone());
        }
        origin.cloned()
    };
    let origins = SecurityOrigins {
        identity: origin("identity.source", identity.as_ref().map(|set| &set.origin), provenance),
        mtls: mtls.as_ref().map(|set| set.origin.clone()),
        mesh: origin("listeners.mesh.mtls", listeners.mesh.as_ref().map(|set| &set.origin), provenance),
        mesh_proxies: origin(
            "listeners.mesh.trusted_proxies",
            listeners.mesh_proxies.as_ref().map(|set| &set.origin),
            provenance,
        ),
        edge: origin("listeners.edge", listeners.edge.as_ref().map(|set| &set.origin), provenance),
    };
    snapshot.identity = identity.map(|set| set.value);
    let default = match &snapshot.identity {
        None => Mtls::Off,
        Some(IdentitySource::Dev) => Mtls::Permissive,
        Some(_) => Mtls::Strict,
    };
    snapshot.mtls = effective(provenance, "mtls".into(), &mtls, default);
    if snapshot.identity == Some(IdentitySource::Dev) && snapshot.mesh.trust_domain.is_none() {
        provenance.record("mesh.trust_domain", Origin::Default);
        snapshot.mesh.trust_domain = Some(DEV_DOMAIN.into());
    }
    origin("listeners.ops.listen", listeners.ops.as_ref().map(|set| &set.origin), provenance);
    snapshot.listeners.ops = listeners.ops.map(|set| set.value);
    snapshot.listeners.mesh = listeners.mesh.map(|set| set.value);
    snapshot.listeners.mesh_proxies = listeners.mesh_proxies.map(|set| set.value).unwrap_or_default();
    origin("listeners.mesh.limits", listeners.mesh_limits.as_ref().map(|set| &set.origin), provenance);
    snapshot.listeners.mesh_limits = listeners.mesh_limits.map(|set| set.value).unwrap_or_default();
    snapshot.listeners.edge = listeners.edge.map(|set| set.value);
    origins
}

/// Resolves `tls` and `identities` of a service.
pub(super) fn service(
    spec: &mut ServiceSpec,
    partial: &PartialService,
    identity: Option<&IdentitySource>,
    provenance: &mut Provenance,
) {
    let path = format!("services.{}", spec.name);
    let default = if identity.is_some() { TlsMode::Mesh } else { TlsMode::Off };
    spec.tls = effective(provenance, format!("{path}.tls"), &partial.tls, default);
    if let Some(identities) = &partial.identities {
        provenance.record(format!("{path}.identities"), identities.origin.clone());
        spec.identities.clone_from(&identities.value);
    }
    if let Some(token) = &partial.jwt_svid {
        provenance.record(format!("{path}.jwt_svid"), token.origin.clone());
        let mut token = token.value.clone();
        if let (None, Some(IdentitySource::WorkloadApi(address))) = (&token.workload_api, identity) {
            token.workload_api = Some(address.clone());
        }
        spec.jwt_svid = Some(token);
    }
}

/// What contradicts.
pub(super) fn check(resolution: &Resolution, findings: &mut Findings) {
    let (snapshot, origins) = (&resolution.snapshot, &resolution.security);
    let mut reject = |path: &str, origin: &Option<Origin>, reason: &str, help: &str| {
        findings.rejected.push(Rejection {
            resource: path.split('.').next().unwrap_or(path).to_owned(),
            path: path.to_owned(),
            place: origin.as_ref().and_then(place_of),
            reason: reason.to_owned(),
            help: Some(help.to_owned()),
            related: None,
        });
    };
    match &snapshot.identity {
        None => {
            const HELP: &str = "add `identity`, such as `identity: {source: dev}`, or set `off`";
            let asked = [
                ("mtls", snapshot.mtls, &origins.mtls),
                ("listeners.mesh.mtls", snapshot.listeners.mesh.unwrap_or(Mtls::Off), &origins.mesh),
            ];
            for (path, mode, origin) in asked {
                if mode != Mtls::Off {
                    let reason = format!("`{}` needs an identity, and none is configured", mode.as_str());
                    reject(path, origin, &reason, HELP);
                }
            }
        }
        Some(source) => {
            if *source == IdentitySource::Dev && !cfg!(feature = "dev-ca") {
                let reason = "`source: dev` makes certificates, which this build cannot";
                reject("identity.source", &origins.identity, reason, "build with the feature `dev-ca`");
            }
            if snapshot.mesh.trust_domain.is_none() {
                let reason = "an identity needs to know its trust domain, and `mesh.trust_domain` is not set";
                reject("identity.source", &origins.identity, reason, "add `mesh: {trust_domain: example.org}`");
            }
        }
    }
    let edge = snapshot.listeners.edge.as_ref().map(|edge| &edge.proxies);
    for (path, proxies, origin) in [
        ("listeners.mesh.proxy_protocol", Some(&snapshot.listeners.mesh_proxies), &origins.mesh_proxies),
        ("listeners.edge.proxy_protocol", edge, &origins.edge),
    ] {
        if proxies.is_some_and(|proxies| proxies.proxy_protocol && proxies.trusted_proxies.is_empty()) {
            let reason = "a PROXY header is believed, and nobody is trusted to send one";
            reject(path, origin, reason, "name the balancers in `trusted_proxies`, and nobody else will get in");
        }
    }
    // A document was held to them where it was read.
    if let Err((key, reason)) = snapshot.listeners.mesh_limits.check() {
        reject(&format!("listeners.mesh.limits.{key}"), &None, reason, "change it, or leave it at its default");
    }
    if snapshot.kubernetes && snapshot.listeners.ops.is_none() {
        let message = "probes of Kubernetes have nothing to ask: there is no ops listener";
        findings.lints.push(Lint::new(LintCode::NoOpsListener, "listeners.ops", None, message));
    }
    if let (Some(edge), Some(origin)) = (&snapshot.listeners.edge, &origins.edge) {
        let mut lint =
            |code, message| findings.lints.push(Lint::new(code, "listeners.edge", place_of(origin), message));
        if edge.tls.is_none() && edge.proxies.trusted_proxies.is_empty() {
            lint(LintCode::PlaintextEdge, "the edge is plaintext and trusts no balancer");
        }
        let (rules, pinned) = (&snapshot.inbound.authz, &snapshot.inbound.pinned_authz);
        if rules.rules.is_empty() && !rules.exclusive && pinned.rules.is_empty() && !pinned.exclusive {
            lint(LintCode::OpenEdge, "the edge admits everyone: there is no rule in `inbound.authz`");
        }
    }
    for service in &resolution.services {
        if service.partial.tainted {
            continue;
        }
        if let (TlsMode::Mesh, Some(tls), None) = (&service.spec.tls, &service.partial.tls, &snapshot.identity) {
            let reason = "`mesh` needs an identity, and none is configured".to_owned();
            findings.reject(service, "tls", &tls.origin, reason, "add `identity`, or set `tls: off`", None);
        }
        if let (TlsMode::Public, Some(tls), None) =
            (&service.spec.tls, &service.partial.tls, service.spec.outside_name())
        {
            let reason = "`public` needs the name that the server's certificate carries, and none is known".to_owned();
            let help = "resolve a name (`endpoints: [{dns: \"api.example.com:443\"}]`), or add it to `hosts`";
            findings.reject(service, "tls", &tls.origin, reason, help, None);
        }
        if let Some(identities) = &service.partial.identities
            && service.spec.tls != TlsMode::Mesh
        {
            let reason =
                format!("`identities` are of the mesh, and this service has `tls: {}`", service.spec.tls.as_str());
            let help = "remove them, or set `tls: mesh`";
            findings.reject(service, "identities", &identities.origin, reason, help, None);
        }
        if let (Some(token), Some(spec)) = (&service.partial.jwt_svid, &service.spec.jwt_svid) {
            let wrong = if spec.workload_api.is_none() {
                Some((
                    "no Workload API is named, and `identity` comes from none".to_owned(),
                    "add `workload_api: \"unix:/run/spire/agent.sock\"`",
                ))
            } else if cfg!(not(feature = "tonic")) {
                Some((
                    "a Workload API is spoken to by gRPC, which this build cannot".to_owned(),
                    "build with the feature `tonic`",
                ))
            } else if service.spec.tls == TlsMode::Off && !service.spec.stays_here() {
                Some((
                    "a token is a secret, and this service has `tls: off` and endpoints that may be elsewhere"
                        .to_owned(),
                    "set `tls: mesh`, `public` or `private`; plaintext may carry it to addresses of loopback only",
                ))
            } else {
                None
            };
            if let Some((reason, help)) = wrong {
                findings.reject(service, "jwt_svid", &token.origin, reason, help, None);
            }
        }
    }
}
