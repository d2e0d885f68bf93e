//! The grammar of authorities that sign requests.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    cursor::{Cursor, Wrong},
    security::path,
    show::{map, quoted},
};
use crate::{
    model::{AuthorityKind, AuthoritySpec, IstioCa, StepCa, StepRoot},
    source::duration::format as duration,
};

/// `identity.source.ca`.
pub(super) fn authority(at: Cursor<'_, '_, '_>) -> Option<AuthoritySpec> {
    at.map("a map of one authority", |fields| {
        let istio = fields.field("istio", "Istio's authority, with a token of a service account.", istio);
        let step = fields.field("step", "step-ca, with a one-time token, then by renewal.", step);
        let custom = fields.field("custom", "One that code registers by `Builder::certificate_authority`.", |at| {
            at.text("the name of an authority")
        });
        let doc = "How long certificates should live. Default: as the authority has it.";
        let lifetime = fields.field("lifetime", doc, |at| at.duration(Duration::from_secs(1)));
        fields.exactly_one(&["istio", "step", "custom"]);
        let istio = istio.map(|set| AuthorityKind::Istio(set.value));
        let step = step.map(|set| AuthorityKind::Step(set.value));
        let kind = istio.or(step).or(custom.map(|set| AuthorityKind::Custom(set.value)))?;
        let mut spec = AuthoritySpec::new(kind);
        spec.lifetime = lifetime.map(|set| set.value);
        Some(spec)
    })
    .flatten()
}

/// `identity.source.ca` as a document has it.
pub(super) fn shown(spec: &AuthoritySpec) -> Vec<(String, String)> {
    let pair = |key: &str, value: String| (key.to_owned(), value);
    let file = |path: &Path| quoted(&path.to_string_lossy());
    let what = match &spec.kind {
        AuthorityKind::Custom(name) => quoted(name),
        AuthorityKind::Istio(ca) => {
            let mut parts = vec![pair("address", quoted(&ca.address))];
            parts.extend(ca.server_name.as_ref().map(|name| pair("server_name", quoted(name))));
            parts.extend([
                pair("root", file(&ca.root)),
                pair("token", file(&ca.token)),
                pair("cluster_id", quoted(&ca.cluster_id)),
            ]);
            map(&parts)
        }
        AuthorityKind::Step(ca) => {
            let root = match &ca.root {
                StepRoot::File(path) => pair("root", file(path)),
                StepRoot::Fingerprint(hash) => {
                    let digits = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                    pair("fingerprint", quoted(&digits))
                }
            };
            map(&[pair("address", quoted(&ca.address)), root, pair("token", file(&ca.token))])
        }
    };
    let mut parts = vec![pair(spec.kind.as_str(), what)];
    parts.extend(spec.lifetime.map(|lifetime| pair("lifetime", duration(lifetime))));
    parts
}

fn istio(at: Cursor<'_, '_, '_>) -> Option<IstioCa> {
    at.map("a map", |fields| {
        let mut ca = IstioCa::default();
        let doc = "`host:port`. Default `istiod.istio-system.svc:15012`.";
        let given = fields.field("address", doc, address);
        ca.address = given.map_or(ca.address, |set| set.value);
        let doc = "The name in its certificate. Default: the host of `address`.";
        ca.server_name = fields.field("server_name", doc, server_name).map(|set| set.value);
        let doc = "Its roots, PEM, read for each request. Default `/var/run/secrets/istio/root-cert.pem`.";
        ca.root = fields.field("root", doc, path).map_or(ca.root, |set| set.value);
        let doc = "A projected token for the audience `istio-ca`, read for each request. Default \
                   `/var/run/secrets/tokens/istio-token`.";
        ca.token = fields.field("token", doc, path).map_or(ca.token, |set| set.value);
        let doc = "The cluster that the token is of. Default `Kubernetes`.";
        let cluster = fields.field("cluster_id", doc, |at| {
            at.scalar("the name of a cluster", json!({ "type": "string" }), |text| match text {
                text if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) => Ok(Arc::<str>::from(text)),
                text => Err(Wrong::new(
                    format!("`{}` is no name of a cluster", text.escape_debug()),
                    "write it in visible ASCII, such as `Kubernetes`",
                )),
            })
        });
        ca.cluster_id = cluster.map_or(ca.cluster_id, |set| set.value);
        ca
    })
}

fn step(at: Cursor<'_, '_, '_>) -> Option<StepCa> {
    at.map("a map with `address`, `token` and `root` or `fingerprint`", |fields| {
        let address = fields.field("address", "`host:port`.", address);
        let root = fields.field("root", "Its root, PEM.", path);
        let doc = "SHA-256 of its root, as `step certificate fingerprint` prints it: the root is fetched once.";
        let fingerprint = fields.field("fingerprint", doc, fingerprint);
        let token = fields.field("token", "A one-time token, read when there is nothing to renew.", path);
        fields.exactly_one(&["address"]);
        fields.exactly_one(&["root", "fingerprint"]);
        fields.exactly_one(&["token"]);
        let root = root.map(|set| StepRoot::File(set.value));
        let root = root.or(fingerprint.map(|set| StepRoot::Fingerprint(set.value)))?;
        Some(StepCa::new(address?.value, root, token?.value))
    })
    .flatten()
}

fn address(at: Cursor<'_, '_, '_>) -> Option<Arc<str>> {
    at.scalar("an address with a port", json!({ "type": "string" }), |text| {
        let known = text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && (!host.contains(':') || host.starts_with('['))
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        match known && !text.contains('/') {
            true => Ok(text.into()),
            false => Err(Wrong::new(
                format!("`{}` is not `host:port`", text.escape_debug()),
                "use the address alone, such as `ca.example:9000`",
            )),
        }
    })
}

fn server_name(at: Cursor<'_, '_, '_>) -> Option<Arc<str>> {
    at.scalar("a name", json!({ "type": "string" }), |text| match rustls_pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err(Wrong::new(
            format!("`{}` is neither a DNS name nor an IP address", text.escape_debug()),
            "use the name in the certificate of the authority, such as `istiod.istio-system.svc`",
        )),
    })
}

fn fingerprint(at: Cursor<'_, '_, '_>) -> Option<[u8; 32]> {
    at.scalar("a fingerprint", json!({ "type": "string" }), |text| {
        let digits = text.replace(':', "");
        let mut bytes = [0; 32];
        let read = digits.len() == 64 && digits.is_ascii();
        let read = read
            && bytes.iter_mut().zip(digits.as_bytes().chunks(2)).all(|(byte, pair)| {
                let pair = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
                pair.is_some_and(|value| {
                    *byte = value;
                    true
                })
            });
        match read {
            true => Ok(bytes),
            false => Err(Wrong::new(
                format!("`{}` is not a fingerprint", text.escape_debug()),
                "write SHA-256 in hexadecimal: 64 digits",
            )),
        }
    })
}
