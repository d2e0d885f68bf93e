//! step-ca: `/1.0/sign` with a one-time token, then `/1.0/renew` with the certificate that it replaces.
//!
//! The root is in a file, or is fetched once by its fingerprint. A token is good for one certificate: it is read when there
//! is nothing to renew, at the start and after an outage that was longer than the certificate. A renewed certificate has
//! the key of the one before, as the protocol has it.

use std::{
    fmt::Write,
    fs,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::{crypto::CryptoProvider, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

use super::{
    CertificateAuthority, CertificateRequest, IssuedCertificate, Signing, Trusting,
    tls::{Tls, Trust},
};
use crate::identity::{dial::Connect, document::pem_certificates, provider::fingerprint};

/// More than any chain has.
const MAX_ANSWER: usize = 1024 * 1024;

/// Where step-ca is, and what it is told.
#[derive(Clone, Debug)]
pub(crate) struct StepSettings {
    /// Its name in its certificate.
    pub(crate) server_name: Arc<str>,
    pub(crate) root: StepTrust,
    /// A one-time token.
    pub(crate) token: PathBuf,
}

/// Whom to believe at the other end.
#[derive(Clone, Debug)]
pub(crate) enum StepTrust {
    File(PathBuf),
    /// SHA-256 of the root.
    Fingerprint([u8; 32]),
}

/// A client of step-ca.
#[derive(Clone)]
pub(crate) struct StepAuthority {
    settings: Arc<StepSettings>,
    tls: Tls,
    /// Roots as they were last known.
    known: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

/// An answer that is not what was hoped for.
struct Refused {
    status: Option<StatusCode>,
    why: String,
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self { status: None, why }
    }
}

type Roots = Vec<CertificateDer<'static>>;

impl StepAuthority {
    /// # Errors
    /// If the name of the server is neither a DNS name nor an address.
    pub(crate) fn new(settings: StepSettings, connect: Connect, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let name = ServerName::try_from(settings.server_name.to_string())
            .map_err(|_| format!("`{}` is neither a DNS name nor an address", settings.server_name))?;
        let tls = Tls { provider, connect, name };
        Ok(Self { settings: Arc::new(settings), tls, known: Arc::default() })
    }

    async fn ask(&self, request: CertificateRequest) -> Result<IssuedCertificate, String> {
        let roots = self.roots().await?;
        if let Some(current) = &request.current {
            let renewed = self.exchange(&roots, Some(&current.key), Method::POST, "/1.0/renew", Bytes::new()).await;
            match renewed {
                Ok(answer) => {
                    let trusted = self.named(&roots).await?;
                    return Ok(IssuedCertificate { chain: chain(&answer)?, trusted: bytes(trusted), same_key: true });
                }
                // Renewal may be forbidden, or the certificate unknown to an authority that was set up anew.
                Err(refused) if matches!(refused.status, Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
                    tracing::warn!("step-ca does not renew, a token is used: {}", refused.why);
                }
                Err(refused) => return Err(refused.why),
            }
        }
        let token = self.token()?;
        let mut question = json!({ "csr": request.pem_as(&subject(&token)?)?, "ott": token });
        if let (Some(life), Some(question)) = (request.lifetime(), question.as_object_mut()) {
            question.insert("notAfter".into(), format!("{}s", life.as_secs()).into());
        }
        let question = Bytes::from(question.to_string());
        let answer = self.exchange(&roots, None, Method::POST, "/1.0/sign", question).await;
        let answer = answer.map_err(|refused| refused.why)?;
        let trusted = self.named(&roots).await?;
        Ok(IssuedCertificate::new(chain(&answer)?, bytes(trusted)))
    }

    /// The roots that it names, asked as one that is believed already.
    async fn named(&self, roots: &Roots) -> Result<Roots, String> {
        let answer = self.exchange(roots, None, Method::GET, "/1.0/roots", Bytes::new()).await;
        let answer = answer.map_err(|refused| refused.why)?;
        let named: Roots = list(&answer, "crts")?;
        if named.is_empty() {
            return Err("it names no root".into());
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&named);
        Ok(named)
    }

    /// What it is believed by: what it named last, else what the settings say.
    async fn roots(&self) -> Result<Roots, String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match &self.settings.root {
            StepTrust::File(path) => {
                let at = |why: &dyn std::fmt::Display| format!("`{}`: {why}", path.display());
                let mut roots =
                    pem_certificates(&fs::read(path).map_err(|error| at(&error))?).map_err(|why| at(&why))?;
                roots.extend(known);
                Ok(roots)
            }
            StepTrust::Fingerprint(_) if !known.is_empty() => Ok(known),
            StepTrust::Fingerprint(wanted) => {
                let mut path = String::from("/root/");
                for byte in wanted {
                    let _ = write!(path, "{byte:02x}");
                }
                let stream = self.tls.open(Trust::Anyone, None, b"http/1.1").await?;
                let answer =
                    self.http(stream, Method::GET, &path, Bytes::new()).await.map_err(|refused| refused.why)?;
                let text = answer.get("ca").and_then(Value::as_str).ok_or("its answer names no root")?;
                let root = pem_certificates(text.as_bytes())?;
                let hash = root.first().and_then(|root| fingerprint(&self.tls.provider, root));
                if hash != Some(*wanted) {
                    return Err("its root does not have the `fingerprint` that is configured".into());
                }
                Ok(root)
            }
        }
    }

    async fn exchange(
        &self,
        roots: &Roots,
        own: Option<&CertifiedKey>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Value, Refused> {
        let stream = self.tls.open(Trust::Roots(roots), own, b"http/1.1").await?;
        self.http(stream, method, path, body).await
    }

    /// One request over a connection of its own.
    async fn http(
        &self,
        stream: Box<dyn crate::identity::dial::Io>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Value, Refused> {
        let failed = |error: &dyn std::fmt::Display| Refused::from(format!("{path}: {error}"));
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &*self.settings.server_name)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| failed(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let status = response.status();
            let mut body = response.into_body();
            let mut whole = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| failed(&error))?;
                let Ok(data) = frame.into_data() else { continue };
                if whole.len() + data.len() > MAX_ANSWER {
                    return Err(failed(&"an answer of more than 1 MiB"));
                }
                whole.extend_from_slice(&data);
            }
            let answer: Option<Value> = serde_json::from_slice(&whole).ok();
            if !status.is_success() {
                let said = answer.as_ref().and_then(|answer| answer.get("message")?.as_str()).unwrap_or_default();
                let said: String = said.chars().take(256).collect();
                return Err(Refused { status: Some(status), why: format!("{path} is answered {status}: {said}") });
            }
            answer.ok_or_else(|| failed(&"an answer that is no JSON"))
        };
        let mut exchange = pin!(exchange);
        tokio::select! {
            biased;
            result = &mut exchange => result,
            // What had arrived by then can still be read.
            _ = connection => exchange.await,
        }
    }

    fn token(&self) -> Result<String, String> {
        let path = &self.settings.token;
        let token = fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
        Ok(token.trim().to_owned())
    }
}

impl CertificateAuthority for StepAuthority {
    fn sign(&self, request: CertificateRequest) -> Signing {
        let this = self.clone();
        Box::pin(async move { this.ask(request).await.map_err(Into::into) })
    }

    fn trusted(&self) -> Trusting {
        let this = self.clone();
        Box::pin(async move {
            let roots = this.roots().await?;
            Ok(Some(bytes(this.named(&roots).await?)))
        })
    }
}

/// The name under which a token may be used: the subject of the request has to be the same.
fn subject(token: &str) -> Result<String, String> {
    let read = || {
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        Some(claims.get("sub")?.as_str()?.to_owned())
    };
    read().ok_or_else(|| "the token is no JWT with a subject".into())
}

fn chain(answer: &Value) -> Result<Vec<Vec<u8>>, String> {
    let chain = match answer.get("certChain") {
        Some(_) => list(answer, "certChain")?,
        None => {
            let text = |name| answer.get(name).and_then(Value::as_str).ok_or(format!("its answer has no `{name}`"));
            [pem_certificates(text("crt")?.as_bytes())?, pem_certificates(text("ca")?.as_bytes())?].concat()
        }
    };
    Ok(bytes(chain))
}

fn list(answer: &Value, name: &str) -> Result<Roots, String> {
    let texts = answer.get(name).and_then(Value::as_array).ok_or(format!("its answer has no `{name}`"))?;
    let mut found = Vec::new();
    for text in texts {
        let text = text.as_str().ok_or(format!("`{name}` is not of texts"))?;
        found.extend(pem_certificates(text.as_bytes()).map_err(|why| format!("`{name}`: {why}"))?);
    }
    Ok(found)
}

fn bytes(certificates: Roots) -> Vec<Vec<u8>> {
    certificates.into_iter().map(|certificate| certificate.to_vec()).collect()
}
