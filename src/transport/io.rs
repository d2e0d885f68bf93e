//! The seam between bytes and connections.

use std::{future::Future, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{error::Error, model::Address};

/// Any byte stream.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What the two ends agreed to speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alpn {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
}

/// A byte stream to an endpoint.
pub(crate) struct Dialed {
    /// Boxed, so that no generic task carries the stream's type.
    pub(crate) io: Box<dyn Io>,
    /// `None` without a negotiation: plaintext.
    pub(crate) alpn: Option<Alpn>,
}

/// Makes byte streams. TCP and memory are leaves; TLS wraps a leaf.
pub(crate) trait Dial: Send + Sync + 'static {
    /// Connects to one address. No timeout of its own: the caller holds one. Dropping the future gives up.
    fn dial<'a>(&'a self, address: &'a Address) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>>;
}
