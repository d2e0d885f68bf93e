//! Bytes to whom an identity comes from.

use std::{future::Future, io, pin::Pin, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// A connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Dials, once per call.
pub(crate) type Connect = Arc<dyn Fn() -> Dialled + Send + Sync>;

/// Dials `host:port`, resolved each time.
pub(crate) fn tcp(address: Arc<str>) -> Connect {
    Arc::new(move || {
        let address = Arc::clone(&address);
        Box::pin(async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    })
}
