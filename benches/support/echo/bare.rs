//! hyper and tonic as they come.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::header::HOST;
use http_body_util::Full;
use hyper::{
    client::conn::{http1, http2},
    server::conn::{http1 as server1, http2 as server2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::transport::{
    Channel, Endpoint, Server,
    server::{Connected, TcpIncoming},
};

use super::{
    BoxError, Echo, answer,
    grpc::{EchoService, Grpc},
    read, request,
    tls::Ends,
};

/// A caller with an HTTP/1.1 connection of its own.
pub(crate) struct Http1(http1::SendRequest<Full<Bytes>>);

impl Echo for Http1 {
    async fn echo(&mut self, payload: &Bytes) -> Result<usize, BoxError> {
        self.0.ready().await?;
        let mut request = request("", payload);
        request.headers_mut().insert(HOST, http::HeaderValue::from_static("echo"));
        read(self.0.send_request(request).await?).await
    }
}

/// A caller that shares one HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Http2(http2::SendRequest<Full<Bytes>>);

impl Echo for Http2 {
    async fn echo(&mut self, payload: &Bytes) -> Result<usize, BoxError> {
        self.0.ready().await?;
        read(self.0.send_request(request("echo", payload)).await?).await
    }
}

/// hyper's client and server, one connection for each caller.
pub(crate) async fn bare_http1(callers: usize, mtls: bool) -> Result<Vec<Http1>, BoxError> {
    async fn connection<I: Bytestream>(io: I) {
        let _ = server1::Builder::new().serve_connection(TokioIo::new(io), service_fn(answer)).await;
    }
    async fn caller<I: Bytestream>(io: I) -> Result<Http1, BoxError> {
        let (send, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection);
        Ok(Http1(send))
    }
    let tls = ends(mtls, b"http/1.1")?;
    let addr = serve(tls.clone(), connection, connection).await?;
    let mut made = Vec::new();
    for _ in 0..callers {
        made.push(match &tls {
            None => caller(connect(addr).await?).await?,
            Some(tls) => caller(tls.connect(addr).await?).await?,
        });
    }
    Ok(made)
}

async fn http2_server<I: Bytestream>(io: I) {
    let mut server = server2::Builder::new(TokioExecutor::new());
    // As many streams as the stacks allow, so that c=256 waits for none in either variant.
    server.max_concurrent_streams(1024);
    let _ = server.serve_connection(TokioIo::new(io), service_fn(answer)).await;
}

async fn http2_caller<I: Bytestream>(io: I) -> Result<Http2, BoxError> {
    let (send, connection) = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    Ok(Http2(send))
}

/// hyper's client and server over one connection.
pub(crate) async fn bare_http2(callers: usize, mtls: bool) -> Result<Vec<Http2>, BoxError> {
    let tls = ends(mtls, b"h2")?;
    let addr = serve(tls.clone(), http2_server, http2_server).await?;
    let caller = match &tls {
        None => http2_caller(connect(addr).await?).await?,
        Some(tls) => http2_caller(tls.connect(addr).await?).await?,
    };
    Ok(vec![caller; callers])
}

/// hyper's client and server, plain, with something between them that is told where the server is.
pub(crate) async fn http2_through<F>(
    callers: usize,
    between: impl FnOnce(SocketAddr) -> F,
) -> Result<Vec<Http2>, BoxError>
where
    F: Future<Output = Result<SocketAddr, BoxError>>,
{
    let addr = between(serve(None, http2_server, http2_server).await?).await?;
    Ok(vec![http2_caller(connect(addr).await?).await?; callers])
}

/// tonic's channel and server over one connection.
pub(crate) async fn bare_grpc(callers: usize, mtls: bool) -> Result<Vec<Grpc<Channel>>, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let server = Server::builder().add_service(EchoService);
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true);
    let channel = match ends(mtls, b"h2")? {
        None => {
            // The listener's sockets have TCP_NODELAY only if the stream of them sets it: the server's own setting is
            // ignored.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            tokio::spawn(server.serve_with_incoming(incoming));
            endpoint.connect().await?
        }
        Some(tls) => {
            let accepting = tls.clone();
            let (accepted, incoming) = tokio::sync::mpsc::channel(16);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).expect("a fresh socket");
                    let stream = accepting.accept(stream).await.map(Accepted);
                    if accepted.send(stream).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(incoming)));
            let connector = tower::service_fn(move |_: http::Uri| {
                let tls = tls.clone();
                async move { tls.connect(addr).await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector(connector).await?
        }
    };
    Ok((0..callers).map(|_| Grpc::new(channel.clone())).collect())
}

/// A TLS stream as tonic wants it.
struct Accepted(tokio_rustls::server::TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn ends(mtls: bool, alpn: &[u8]) -> Result<Option<Ends>, BoxError> {
    mtls.then(|| Ends::new(alpn)).transpose()
}

trait Bytestream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Bytestream for T {}

async fn connect(addr: SocketAddr) -> Result<TcpStream, BoxError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn serve<P, PFut, T, TFut>(tls: Option<Ends>, plain: P, secure: T) -> Result<SocketAddr, BoxError>
where
    P: Fn(TcpStream) -> PFut + Send + 'static,
    PFut: Future<Output = ()> + Send + 'static,
    T: Fn(tokio_rustls::server::TlsStream<TcpStream>) -> TFut + Send + 'static,
    TFut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a fresh socket");
            match &tls {
                None => _ = tokio::spawn(plain(stream)),
                Some(tls) => {
                    let stream = tls.accept(stream).await.expect("certificates of one authority");
                    tokio::spawn(secure(stream));
                }
            }
        }
    });
    Ok(addr)
}
