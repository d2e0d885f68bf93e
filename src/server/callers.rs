//! Who is behind a request: tokens, API keys, what proxies say; and what only the inside may say is taken out.

use std::{sync::Arc, time::UNIX_EPOCH};

use http::{HeaderName, HeaderValue};

use super::inbound::Served;
use crate::{
    authn::{
        Authn, CertElement, ClientAddress, ClientCert, Issuer, KeyRing, Refused, Tokens, Verdict, client_ip,
        forward_client_cert,
    },
    caller::Caller,
    error::{Code, Error},
    instrument::Registry,
    name::SpiffeId,
    peer::PeerAddr,
    rt,
};

pub(super) const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What is asked of callers, at one moment.
#[derive(Debug)]
pub(crate) struct Callers {
    tokens: Tokens,
    keys: Option<KeyRing>,
    client: Option<ClientAddress>,
    cert: ClientCert,
    cert_from: Vec<SpiffeId>,
    /// The identity of this process.
    own: Option<Arc<str>>,
    registry: Registry,
}

impl Callers {
    /// `issuers` are those of the policy, with their keys.
    pub(crate) fn new(policy: &Authn, issuers: Vec<Arc<Issuer>>, own: Option<Arc<str>>, registry: &Registry) -> Self {
        Self {
            tokens: Tokens::new(issuers),
            keys: policy.api_keys.as_ref().map(KeyRing::new),
            client: policy.client_address.clone(),
            cert: policy.forward_client_cert,
            cert_from: policy.forward_client_cert_from.clone(),
            own,
            registry: registry.clone(),
        }
    }

    /// Learns who is behind a request, or whose keys have to be fetched first.
    ///
    /// # Errors
    /// E050 where what the request brings does not verify, E055 where it brings several tokens.
    pub(super) fn authenticate(&self, served: &mut Served) -> Result<Option<Arc<Issuer>>, Error> {
        self.forward(served);
        self.tokens.sanitize(served.request.headers_mut());
        let unix = rt::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (uri, headers) = (served.request.uri(), served.request.headers());
        let verdict = self.tokens.check(uri, headers, served.cx.started, unix);
        let found = match verdict.map_err(|refused| self.refuse("jwt", refused))? {
            Verdict::None => None,
            Verdict::Wait(issuer) => return Ok(Some(issuer)),
            Verdict::Token(found) => Some(found),
        };
        let api_key = match &self.keys {
            Some(ring) => {
                let name = ring.find(served.request.headers()).map_err(|refused| self.refuse("api_key", refused))?;
                served.request.headers_mut().remove(ring.header());
                name
            }
            None => None,
        };
        let client = match (&self.client, served.cx.peer.remote_addr()) {
            (Some(policy), PeerAddr::Tcp(peer)) => Some(client_ip(policy, peer.ip(), served.request.headers())),
            _ => None,
        };
        if let Some(found) = &found {
            self.tokens.apply(found, &mut served.request);
        }
        served.cx.caller = Caller::new(found.map(|found| found.token), api_key, client);
        Ok(None)
    }

    fn forward(&self, served: &mut Served) {
        let before = served.cx.client_cert.take();
        if self.cert == ClientCert::Sanitize {
            return;
        }
        let headers = served.request.headers_mut();
        for value in before.into_iter().flat_map(|values| values.into_iter()) {
            headers.append(XFCC, value);
        }
        let id = served.cx.peer.id();
        let believed = id.is_some_and(|id| self.cert_from.contains(id));
        let element = id.map(|id| CertElement { by: self.own.as_deref(), uri: id.as_str() });
        forward_client_cert(self.cert, element, believed, headers);
    }

    #[cold]
    fn refuse(&self, method: &str, refused: Refused) -> Error {
        self.registry.counter("sinew_authn_refused_total", &[("method", method), ("reason", refused.reason)]).inc();
        match refused.reason {
            "several" => Error::new(Code::BadRequest, format!("header: {}", refused.why)).with_reason("header"),
            reason => Error::new(Code::Unauthenticated, format!("{method}: {refused}")).with_reason(reason),
        }
    }

    /// The keys did not come in time.
    #[cold]
    pub(super) fn no_keys(&self) -> Error {
        self.refuse("jwt", Refused::new("no_keys", "the keys of the issuer could not be fetched"))
    }
}

/// What arrived under a name that only proxies use, until it is known whether to believe it.
pub(super) type ClientCertValues = Option<Box<Vec<HeaderValue>>>;
