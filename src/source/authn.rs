//! `inbound.authn`: what callers prove besides a certificate.

use super::{
    check::Findings,
    document::{PartialAuthn, Set, place_of},
    resolve::Resolution,
    store::Rejection,
};
use crate::{
    authn::{Authn, ClientCert, JwtIssuer},
    model::{Lint, LintCode, Provenance},
};

pub(super) fn resolve(partial: &PartialAuthn, provenance: &mut Provenance) -> Authn {
    let mut authn = Authn::default();
    if let Some(issuers) = &partial.jwt {
        provenance.record("inbound.authn.jwt", issuers.origin.clone());
        authn.jwt = issuers.value.iter().map(|issuer| issuer.value.clone()).collect();
    }
    if let Some(keys) = &partial.api_keys {
        provenance.record("inbound.authn.api_keys", keys.origin.clone());
        authn.api_keys = Some(keys.value.clone());
    }
    if let Some(client) = &partial.client_address {
        provenance.record("inbound.authn.client_address", client.origin.clone());
        authn.client_address = Some(client.value.clone());
    }
    if let Some(mode) = &partial.forward_client_cert {
        provenance.record("inbound.authn.forward_client_cert", mode.origin.clone());
        authn.forward_client_cert = mode.value;
    }
    if let Some(from) = &partial.forward_client_cert_from {
        provenance.record("inbound.authn.forward_client_cert_from", from.origin.clone());
        authn.forward_client_cert_from.clone_from(&from.value);
    }
    authn
}

/// Issuers that stand twice, and what is asked for and never looked at.
pub(super) fn check(resolution: &Resolution, findings: &mut Findings) {
    let authn = &resolution.authn;
    let issuers: &[Set<JwtIssuer>] = authn.jwt.as_ref().map_or(&[], |issuers| &issuers.value);
    for (index, issuer) in issuers.iter().enumerate() {
        let path = format!("inbound.authn.jwt[{index}]");
        if let Some(earlier) = issuers[..index].iter().find(|other| other.value.issuer == issuer.value.issuer) {
            findings.rejected.push(Rejection {
                resource: "inbound".into(),
                path: format!("{path}.issuer"),
                place: place_of(&issuer.origin),
                reason: format!("the issuer `{}` stands here twice", issuer.value.issuer),
                help: Some("a token has one issuer, and that one set of keys: make one of the two".into()),
                related: place_of(&earlier.origin).map(|place| (place, "it first stands here".into())),
            });
        }
        if issuer.value.audiences.is_empty() {
            let message =
                "without `audiences` a token that was made for another service is good here as well".to_owned();
            findings.lints.push(Lint::new(LintCode::AnyAudience, path, place_of(&issuer.origin), message));
        }
    }
    let policy = &resolution.snapshot.inbound.authn;
    let asks = matches!(policy.forward_client_cert, ClientCert::ForwardOnly | ClientCert::AppendForward);
    if let Some(set) = &authn.forward_client_cert
        && asks
        && policy.forward_client_cert_from.is_empty()
    {
        let message = "nobody is believed, so nothing is forwarded".to_owned();
        let path = "inbound.authn.forward_client_cert";
        findings.lints.push(Lint::new(LintCode::ForwardsNothing, path, place_of(&set.origin), message));
    }
}
