//! The way out through an HTTP proxy: CONNECT, then whatever the other end speaks.
//!
//! As other clients do, `HTTPS_PROXY` names the proxy and `NO_PROXY` who is reached without it. Only services outside of
//! the mesh go this way.

use std::{future::Future, io, net::IpAddr, pin::Pin, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial;
use crate::{
    error::Error,
    model::Address,
    transport::{Dial, Dialed, Io, Offer, error},
};

/// Longest answer to CONNECT.
const MAX_HEAD: usize = 8 * 1024;

/// Where the proxy is, and who is reached without it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ProxySettings {
    /// `host:port`.
    proxy: Arc<str>,
    /// The value of `Proxy-Authorization`.
    credentials: Option<Arc<str>>,
    exempt: Arc<[Exempt]>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Exempt {
    All,
    Net(IpNet),
    /// The domain itself and everything under it.
    Domain(Box<str>),
}

impl ProxySettings {
    /// As the environment says; `None` without a proxy.
    ///
    /// # Errors
    /// If `HTTPS_PROXY` is not the URL of an HTTP proxy: going around a proxy that was asked for would be wrong.
    pub(crate) fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let either = |name: &str| env(name).or_else(|| env(&name.to_ascii_lowercase())).filter(|text| !text.is_empty());
        let Some(url) = either("HTTPS_PROXY") else { return Ok(None) };
        let wrong = || {
            format!(
                "HTTPS_PROXY is `{}`, which is not the URL of an HTTP proxy: `http://host:port`",
                url.escape_debug()
            )
        };
        let text = if url.contains("://") { url.clone() } else { format!("http://{url}") };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
        let credentials = authority.as_str().rsplit_once('@').map(|(user, _)| {
            let user = percent_encoding::percent_decode_str(user).collect::<Vec<u8>>();
            format!("Basic {}", STANDARD.encode(user)).into()
        });
        let proxy = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)).into();
        let exempt = either("NO_PROXY").unwrap_or_default();
        let exempt = exempt.split(',').map(str::trim).filter(|word| !word.is_empty()).map(exemption).collect();
        Ok(Some(Self { proxy, credentials, exempt }))
    }

    /// Whether this host is reached without the proxy.
    fn is_exempt(&self, host: &str) -> bool {
        let ip = host.parse::<IpAddr>().ok();
        self.exempt.iter().any(|exempt| match exempt {
            Exempt::All => true,
            Exempt::Net(net) => ip.is_some_and(|ip| net.contains(&ip.to_canonical())),
            Exempt::Domain(domain) => {
                let end = host.len().checked_sub(domain.len());
                end.is_some_and(|at| {
                    host.as_bytes()[at..].eq_ignore_ascii_case(domain.as_bytes())
                        && (at == 0 || host.as_bytes()[at - 1] == b'.')
                })
            }
        })
    }
}

fn exemption(word: &str) -> Exempt {
    if word == "*" {
        return Exempt::All;
    }
    let net = word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
    match net {
        Some(net) => Exempt::Net(net),
        None => Exempt::Domain(word.trim_start_matches("*.").trim_start_matches('.').into()),
    }
}

/// Dials through the proxy.
pub(crate) struct ProxyDialer {
    direct: Arc<dyn Dial>,
    settings: ProxySettings,
    /// The host that is asked for; the port is the address's.
    host: Arc<str>,
}

impl ProxyDialer {
    /// `direct` reaches those that are exempt.
    pub(crate) fn new(direct: Arc<dyn Dial>, settings: ProxySettings, host: Arc<str>) -> Self {
        Self { direct, settings, host }
    }

    async fn through(&self, address: &Address) -> Result<Dialed, Error> {
        let Address::Tcp(socket) = address else { return self.direct.dial(address, Offer::Both).await };
        let failed = |failure| error::proxy(&self.settings.proxy, failure);
        let mut stream = dial::connect_name(&self.settings.proxy).await.map_err(failed)?;
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        connect(&mut stream, &format!("{host}:{}", socket.port()), self.settings.credentials.as_deref())
            .await
            .map_err(failed)?;
        Ok(Dialed::plain(stream))
    }
}

async fn connect(io: &mut (impl Io + ?Sized), target: &str, credentials: Option<&str>) -> io::Result<()> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(credentials) = credentials {
        request.push_str(&format!("Proxy-Authorization: {credentials}\r\n"));
    }
    request.push_str("\r\n");
    io.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // Byte by byte, since what follows the head is not ours.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Err(io::Error::other("its answer to CONNECT is longer than 8 KiB"));
        }
        head.push(io.read_u8().await?);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match line.get(9..10) {
        Some(b"2") if line.starts_with(b"HTTP/1.") => Ok(()),
        _ => Err(io::Error::other(format!("it refused CONNECT {target}: {}", String::from_utf8_lossy(line)))),
    }
}

impl Dial for ProxyDialer {
    fn dial<'a>(
        &'a self,
        address: &'a Address,
        offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        if self.settings.is_exempt(&self.host) {
            return self.direct.dial(address, offer);
        }
        Box::pin(self.through(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(https: &str, no: &str) -> Result<Option<ProxySettings>, String> {
        let (https, no) = (https.to_owned(), no.to_owned());
        ProxySettings::from_env(move |name| match name {
            "HTTPS_PROXY" => Some(https.clone()),
            "no_proxy" => Some(no.clone()),
            _ => None,
        })
    }

    #[test]
    fn the_environment_is_read_as_other_clients_read_it() {
        assert_eq!(settings("", "").unwrap(), None);
        let proxy = settings("http://user:p%40ss@proxy.example:3128/", "").unwrap().unwrap();
        assert_eq!(&*proxy.proxy, "proxy.example:3128");
        assert_eq!(proxy.credentials.as_deref(), Some("Basic dXNlcjpwQHNz"));
        assert_eq!(&*settings("proxy.example:3128", "").unwrap().unwrap().proxy, "proxy.example:3128");
        for wrong in ["socks5://a:1", "https://a:1", "http://", "http:// a"] {
            assert!(settings(wrong, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn exemptions_are_names_with_what_is_under_them_addresses_and_networks() {
        let settings = settings("http://p:1", "example.org, .internal,*.a.b,10.0.0.0/8,192.0.2.1").unwrap().unwrap();
        for host in ["example.org", "EXAMPLE.org", "x.example.org", "db.internal", "c.a.b", "10.1.2.3", "192.0.2.1"] {
            assert!(settings.is_exempt(host), "{host}");
        }
        for host in ["badexample.org", "example.org.evil", "b", "11.0.0.1", ""] {
            assert!(!settings.is_exempt(host), "{host}");
        }
    }

    async fn asked(answer: &'static [u8]) -> (io::Result<()>, String, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        let proxy = async {
            let mut request = vec![0; 4096];
            let n = far.read(&mut request).await.unwrap();
            far.write_all(answer).await.unwrap();
            drop(far);
            String::from_utf8(request[..n].to_vec()).unwrap()
        };
        let (result, request) = tokio::join!(connect(&mut near, "a.example:443", Some("Basic eA==")), proxy);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (result, request, rest)
    }

    #[tokio::test]
    async fn a_tunnel_begins_right_behind_the_answer() {
        let (result, request, rest) = asked(b"HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n\x16tls").await;
        result.unwrap();
        assert_eq!(
            request,
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic eA==\r\n\r\n"
        );
        assert_eq!(rest, b"\x16tls");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_proxys_words() {
        let (result, ..) = asked(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        assert!(result.unwrap_err().to_string().contains("407 Proxy Authentication Required"));
        assert!(asked(b"SSH-2.0\r\n\r\n").await.0.is_err());
        assert!(asked(b"HTTP/1.1 2").await.0.is_err());
    }
}
