//! Istio's authority: `istio.v1.auth.IstioCertificateService`, as istiod serves it.
//!
//! A projected token of a service account says who asks; the names in the request are not looked at. The chain ends with
//! the root. Whom to believe at the other end is in a file, which Istio replaces when its roots change: token and root are
//! read for each request.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use prost::Message;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName};
use tonic::{Request, metadata::MetadataValue};

use super::{
    CertificateAuthority, CertificateRequest, IssuedCertificate, Signing, Trusting,
    tls::{Tls, Trust},
};
use crate::identity::{
    certificate::Facts,
    dial::Connect,
    document::pem_certificates,
    grpc::{Client, Ended},
};

const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Where istiod is, and what it is told.
#[derive(Clone, Debug)]
pub(crate) struct IstioSettings {
    /// Its name in its certificate.
    pub(crate) server_name: Arc<str>,
    /// Its roots, PEM.
    pub(crate) root: PathBuf,
    /// A token for the audience `istio-ca`.
    pub(crate) token: PathBuf,
    pub(crate) cluster_id: Arc<str>,
}

/// A client of istiod.
#[derive(Clone)]
pub(crate) struct IstioAuthority {
    settings: Arc<IstioSettings>,
    tls: Tls,
    /// The root of the last chain.
    last: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

#[derive(Clone, PartialEq, Message)]
struct CertificateQuestion {
    #[prost(string, tag = "1")]
    csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

#[derive(Clone, PartialEq, Message)]
struct CertificateAnswer {
    /// PEM, leaf first, root last; one certificate each, or several.
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

impl IstioAuthority {
    /// # Errors
    /// If the name of the server is neither a DNS name nor an address.
    pub(crate) fn new(
        settings: IstioSettings,
        connect: Connect,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let name = ServerName::try_from(settings.server_name.to_string())
            .map_err(|_| format!("`{}` is neither a DNS name nor an address", settings.server_name))?;
        let tls = Tls { provider, connect, name };
        Ok(Self { settings: Arc::new(settings), tls, last: Arc::default() })
    }

    async fn ask(&self, request: CertificateRequest) -> Result<IssuedCertificate, String> {
        let roots = self.roots()?;
        let tls = self.tls.clone();
        let known = Arc::new(roots.clone());
        let connect: Connect = Arc::new(move || {
            let (tls, known) = (tls.clone(), Arc::clone(&known));
            Box::pin(async move {
                let stream = tls.open(Trust::Roots(&known), None, b"h2").await;
                stream.map_err(std::io::Error::other)
            })
        });
        let question = CertificateQuestion {
            csr: request.pem(),
            validity_duration: request.lifetime().map_or(0, |life| i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
        };
        let mut question = Request::new(question);
        let token = self.token()?;
        let token = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| format!("`{}` is not a token", self.settings.token.display()))?;
        let cluster = MetadataValue::try_from(&*self.settings.cluster_id)
            .map_err(|_| format!("`{}` is no name of a cluster", self.settings.cluster_id))?;
        question.metadata_mut().insert("authorization", token);
        question.metadata_mut().insert("clusterid", cluster);
        let answer: Result<CertificateAnswer, Ended> = Client::new(connect).call(PATH, question).await;
        let answer = answer.map_err(|ended| format!("it answers {ended}"))?;
        let mut chain = Vec::new();
        for text in &answer.cert_chain {
            chain.extend(pem_certificates(text.as_bytes()).map_err(|why| format!("its answer cannot be used: {why}"))?);
        }
        let last = chain.last().and_then(|last| Facts::of(last).ok());
        if last.is_some_and(|facts| facts.is_ca() && facts.issuer == facts.subject) {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = chain.pop();
        }
        Ok(IssuedCertificate::new(bytes(chain), bytes(self.trusts(roots))))
    }

    /// What the file says and the last chain had.
    fn trusts(&self, mut roots: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = last.as_ref().filter(|root| !roots.contains(root)) {
            roots.push(root.clone());
        }
        roots
    }

    fn token(&self) -> Result<String, String> {
        let path = &self.settings.token;
        let token = fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
        Ok(token.trim().to_owned())
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let path = &self.settings.root;
        let text = fs::read(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
        pem_certificates(&text).map_err(|why| format!("`{}`: {why}", path.display()))
    }
}

impl CertificateAuthority for IstioAuthority {
    fn sign(&self, request: CertificateRequest) -> Signing {
        let this = self.clone();
        Box::pin(async move { this.ask(request).await.map_err(Into::into) })
    }

    fn trusted(&self) -> Trusting {
        let trusted = self.roots().map(|roots| Some(bytes(self.trusts(roots))));
        Box::pin(async move { trusted.map_err(Into::into) })
    }
}

fn bytes(certificates: Vec<CertificateDer<'static>>) -> Vec<Vec<u8>> {
    certificates.into_iter().map(|certificate| certificate.to_vec()).collect()
}
