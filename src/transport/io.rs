//! The seam between bytes and connections.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::Leash;
use crate::{error::Error, model::Address, rt::Instant};

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
    /// `None` without a negotiation: plaintext, or a peer that does not negotiate.
    pub(crate) alpn: Option<Alpn>,
    /// When another connection should take its place, for the sake of the certificates it was made with.
    pub(crate) renew_at: Option<Instant>,
    /// What becomes of it under TLS.
    pub(crate) fate: Option<Arc<Leash>>,
}

impl Dialed {
    /// Bytes as they are, without TLS.
    pub(crate) fn plain(io: impl Io) -> Self {
        Self { io: Box::new(io), alpn: None, renew_at: None, fate: None }
    }
}

/// What is offered in a negotiation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offer {
    /// HTTP/2, or else HTTP/1.1.
    Both,
    /// HTTP/1.1 only: upgrades need it.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// Makes byte streams. TCP and memory are leaves; TLS wraps a leaf.
pub(crate) trait Dial: Send + Sync + 'static {
    /// Connects to one address. No timeout of its own: the caller holds one. Dropping the future gives up.
    fn dial<'a>(
        &'a self,
        address: &'a Address,
        offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>>;
}
