//! An authority that signs requests, from what is configured to what is asked.

use std::sync::Arc;

use super::control::Inner;
use crate::{
    error::{Code, Error},
    identity::{self, CaSource, CertificateAuthority, Identity, StepAuthority, StepSettings},
    model::{AuthorityKind, AuthoritySpec, IstioCa, Snapshot, StepCa, StepRoot},
    rt::TaskSet,
};

impl Inner {
    pub(super) fn start_authority(
        self: &Arc<Self>,
        spec: &AuthoritySpec,
        identity: &Arc<Identity>,
        snapshot: &Snapshot,
        tasks: &TaskSet,
    ) -> Result<(), Error> {
        let refused =
            |why: String| Error::new(Code::BadRequest, format!("identity.source.ca.{}: {why}", spec.kind.as_str()));
        let mesh = &snapshot.mesh;
        let id = identity.domain().workload(&mesh.namespace, mesh.service.as_str());
        let id = id.map_err(|error| refused(error.to_string()))?;
        let authority: Arc<dyn CertificateAuthority> = match &spec.kind {
            AuthorityKind::Istio(ca) => istio(ca, identity).map_err(refused)?,
            AuthorityKind::Step(ca) => step(ca, identity).map_err(refused)?,
            AuthorityKind::Custom(name) => self.security.authority(name).ok_or_else(|| {
                refused(format!("no authority is named `{name}`; register it by `Builder::certificate_authority`"))
            })?,
        };
        self.in_background(tasks, CaSource::new(authority, Identity::clone(identity), id, spec.lifetime).run());
        Ok(())
    }
}

#[cfg(feature = "tonic")]
fn istio(ca: &IstioCa, identity: &Identity) -> Result<Arc<dyn CertificateAuthority>, String> {
    let settings = identity::IstioSettings {
        server_name: ca.server_name.clone().unwrap_or_else(|| host(&ca.address)),
        root: ca.root.clone(),
        token: ca.token.clone(),
        cluster_id: Arc::clone(&ca.cluster_id),
    };
    let connect = identity::tcp(Arc::clone(&ca.address));
    Ok(Arc::new(identity::IstioAuthority::new(settings, connect, Arc::clone(identity.provider()))?))
}

#[cfg(not(feature = "tonic"))]
fn istio(_: &IstioCa, _: &Identity) -> Result<Arc<dyn CertificateAuthority>, String> {
    Err("it needs the feature `tonic`".into())
}

fn step(ca: &StepCa, identity: &Identity) -> Result<Arc<dyn CertificateAuthority>, String> {
    let root = match &ca.root {
        StepRoot::File(path) => identity::StepTrust::File(path.clone()),
        StepRoot::Fingerprint(hash) => identity::StepTrust::Fingerprint(*hash),
    };
    let settings = StepSettings { server_name: host(&ca.address), root, token: ca.token.clone() };
    let connect = identity::tcp(Arc::clone(&ca.address));
    Ok(Arc::new(StepAuthority::new(settings, connect, Arc::clone(identity.provider()))?))
}

/// Of `host:port`, without the brackets of an address.
fn host(address: &str) -> Arc<str> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).into()
}
