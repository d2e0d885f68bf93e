//! Where the agent is: `unix:/run/spire/agent.sock` or `tcp://127.0.0.1:8081`, as `SPIFFE_ENDPOINT_SOCKET` has it.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::net::TcpStream;

use crate::identity::dial::{Connect, Io};

/// The address of a Workload API. (SPIFFE Workload Endpoint §4)
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Endpoint {
    /// A socket of this machine.
    Unix(PathBuf),
    /// An address, which has to be of this machine.
    Tcp(SocketAddr),
}

impl Endpoint {
    /// Reads a URI.
    ///
    /// `unix:` takes an absolute path, with or without an empty authority. `unix://path`, which go-spiffe takes for a
    /// relative path, is refused: by RFC 3986 §3.2 `path` would be a host, and the standard wants the authority empty.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(uri: &str) -> Result<Self, &'static str> {
        if uri.contains(['?', '#']) {
            return Err("it must not have a query or a fragment");
        }
        if uri.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("it must not have spaces or control characters");
        }
        if let Some(path) = uri.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" | "/" => Err("the path of the socket is missing"),
                path if path.starts_with('/') => Ok(Self::Unix(path.into())),
                _ => Err("the path of the socket must be absolute: `unix:/run/agent.sock`"),
            };
        }
        let Some(address) = uri.strip_prefix("tcp://") else { return Err("it must begin with `unix:/` or `tcp://`") };
        address
            .parse()
            .map(Self::Tcp)
            .map_err(|_| "behind `tcp://` there must be an IP address and a port, and no more")
    }

    /// Dials it.
    pub(crate) fn connect(self) -> Connect {
        let endpoint = Arc::new(self);
        Arc::new(move || {
            let endpoint = Arc::clone(&endpoint);
            Box::pin(async move {
                match &*endpoint {
                    Self::Unix(path) => unix(path).await,
                    Self::Tcp(address) => {
                        let stream = TcpStream::connect(address).await?;
                        stream.set_nodelay(true)?;
                        Ok(Box::new(stream) as Box<dyn Io>)
                    }
                }
            })
        })
    }
}

#[cfg(unix)]
async fn unix(path: &std::path::Path) -> io::Result<Box<dyn Io>> {
    Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
}

#[cfg(not(unix))]
async fn unix(_: &std::path::Path) -> io::Result<Box<dyn Io>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of go-spiffe's tables of addresses, one of them judged otherwise, and some more.
    #[test]
    fn addresses_are_those_of_the_specification() {
        for wrong in [
            "\t",
            "blah",
            "tcp:opaque",
            "tcp://",
            "tcp://1.2.3.4:5?whatever",
            "tcp://1.2.3.4:5#whatever",
            "tcp://john:doe@1.2.3.4:5/path",
            "tcp://1.2.3.4:5/path",
            "tcp://foo",
            "tcp://1.2.3.4",
            "unix:opaque",
            "unix://",
            "unix://foo?whatever",
            "unix://foo#whatever",
            "unix://john:doe@foo/path",
            // Valid to go-spiffe.
            "unix://foo",
            "unix:",
            "unix:/",
            "unix:///",
            "tcp://localhost:5",
            "tcp://1.2.3.4:70000",
            "http://1.2.3.4:5",
            "",
        ] {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(Endpoint::parse("tcp://1.2.3.4:5"), Ok(Endpoint::Tcp("1.2.3.4:5".parse().unwrap())));
        assert_eq!(Endpoint::parse("tcp://[::1]:5"), Ok(Endpoint::Tcp("[::1]:5".parse().unwrap())));
        for right in ["unix:/run/agent.sock", "unix:///run/agent.sock"] {
            assert_eq!(Endpoint::parse(right), Ok(Endpoint::Unix("/run/agent.sock".into())));
        }
    }
}
