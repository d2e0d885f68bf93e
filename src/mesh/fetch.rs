//! Fetches documents of strangers by `https`: the keys of issuers.
//!
//! A name is resolved once, every address it has is looked at, and one of these is dialled: a name that leads to the
//! inside of this network, or does so the second time, leads nowhere. Redirects are not followed.

#[cfg(all(test, feature = "aws-lc"))]
mod tests;

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, OnceLock},
};

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use crate::{
    authn::{Fetch, FetchRequest, Fetched, is_public},
    identity::{Cryptography, PublicTls},
    rt,
};

/// Over a connection of its own for each fetch.
#[derive(Clone, Default)]
pub(super) struct HttpsFetch {
    cryptography: Cryptography,
    trust: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl HttpsFetch {
    pub(super) fn new(cryptography: Cryptography) -> Self {
        Self { cryptography, ..Self::default() }
    }

    /// Trusts what this configuration does instead of the platform.
    #[cfg(test)]
    fn trusting(config: ClientConfig) -> Self {
        let trust = OnceLock::new();
        let _ = trust.set(Arc::new(config));
        Self { trust: Arc::new(trust), ..Self::default() }
    }

    /// The platform's trust store, read with the first fetch that finds one.
    fn trust(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(trust) = self.trust.get() {
            return Ok(Arc::clone(trust));
        }
        let provider = self.cryptography.provider().map_err(|error| error.to_string())?;
        let public = PublicTls::new(&provider).and_then(|public| public.side("localhost"));
        let mut config = public.map(|side| ClientConfig::clone(&side.config)).map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::clone(self.trust.get_or_init(|| Arc::new(config))))
    }

    async fn get(self, request: FetchRequest) -> Result<Bytes, String> {
        let uri = &request.uri;
        let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(format!("`{uri}` is not an https URI"));
        };
        let address = resolve(host, uri.port_u16().unwrap_or(443), &request).await?;
        let failed = |what: &str| {
            let at = format!("{what} {address}");
            move |error: &dyn std::fmt::Display| format!("{at}: {error}")
        };
        let socket = TcpStream::connect(address).await.map_err(|error| failed("connecting to")(&error))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| format!("`{host}` is not a host"))?;
        let connector = TlsConnector::from(self.trust()?);
        let stream = connector.connect(name, socket).await.map_err(|error| failed("TLS with")(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed("HTTP with")(&error))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map_or(host, |authority| authority.as_str());
        let get = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender.send_request(get).await.map_err(|error| failed("HTTP with")(&error))?;
            if response.status() != StatusCode::OK {
                return Err(format!("{uri} answers {}; redirects are not followed", response.status()));
            }
            read(response.into_body(), request.limit).await
        };
        let mut exchange = pin!(exchange);
        tokio::select! {
            biased;
            result = &mut exchange => result,
            // What had arrived by then can still be read.
            _ = connection => exchange.await,
        }
    }
}

impl Fetch for HttpsFetch {
    fn fetch(&self, request: FetchRequest) -> Fetched {
        let fetch = self.clone();
        Box::pin(async move {
            let timeout = request.timeout;
            match rt::timeout(timeout, fetch.get(request)).await {
                Some(result) => result,
                None => Err(format!("nothing complete within {timeout:?}")),
            }
        })
    }
}

/// One address of a host, if all of them may be dialled.
async fn resolve(host: &str, port: u16, request: &FetchRequest) -> Result<SocketAddr, String> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let found = lookup_host((bare, port)).await.map_err(|error| format!("resolving `{host}`: {error}"))?;
    let found: Vec<SocketAddr> = found.collect();
    let allowed = |address: &SocketAddr| {
        let ip = address.ip().to_canonical();
        is_public(ip) || request.networks.iter().any(|net| net.contains(ip))
    };
    if let Some(address) = found.iter().find(|address| !allowed(address)) {
        return Err(format!(
            "`{host}` leads to {}, which is not public; list its network in `jwks_networks` if that is meant",
            address.ip()
        ));
    }
    found.first().copied().ok_or_else(|| format!("`{host}` has no address"))
}

async fn read<B>(body: B, limit: usize) -> Result<Bytes, String>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut body = body;
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("reading the answer: {error}"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(format!("the answer has more than {limit} bytes"));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
