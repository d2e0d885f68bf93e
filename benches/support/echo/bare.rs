//! hyper and tonic as they come.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::HOST;
use http_body_util::Full;
use hyper::{
    client::conn::{http1, http2},
    server::conn::{http1 as server1, http2 as server2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Endpoint, Server, server::TcpIncoming};

use super::{
    BoxError, Echo, answer,
    grpc::{EchoService, Grpc},
    read, request,
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
pub(crate) async fn bare_http1(callers: usize) -> Result<Vec<Http1>, BoxError> {
    let addr = serve(|io| async move {
        let _ = server1::Builder::new().serve_connection(io, service_fn(answer)).await;
    })
    .await?;
    let mut made = Vec::new();
    for _ in 0..callers {
        let (send, connection) = http1::handshake(connect(addr).await?).await?;
        tokio::spawn(connection);
        made.push(Http1(send));
    }
    Ok(made)
}

/// hyper's client and server over one connection.
pub(crate) async fn bare_http2(callers: usize) -> Result<Vec<Http2>, BoxError> {
    let addr = serve(|io| async move {
        let mut server = server2::Builder::new(TokioExecutor::new());
        // As many streams as the stacks allow, so that c=256 waits for none in either variant.
        server.max_concurrent_streams(1024);
        let _ = server.serve_connection(io, service_fn(answer)).await;
    })
    .await?;
    let (send, connection) = http2::Builder::new(TokioExecutor::new()).handshake(connect(addr).await?).await?;
    tokio::spawn(connection);
    Ok(vec![Http2(send); callers])
}

/// tonic's channel and server over one connection.
pub(crate) async fn bare_grpc(callers: usize) -> Result<Vec<Grpc<Channel>>, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    // The listener's sockets have TCP_NODELAY only if the stream of them sets it: the server's own setting is ignored.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(Server::builder().add_service(EchoService).serve_with_incoming(incoming));
    let channel = Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true).connect().await?;
    Ok((0..callers).map(|_| Grpc::new(channel.clone())).collect())
}

async fn connect(addr: SocketAddr) -> Result<TokioIo<TcpStream>, BoxError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

async fn serve<F, Fut>(connection: F) -> Result<SocketAddr, BoxError>
where
    F: Fn(TokioIo<TcpStream>) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a fresh socket");
            tokio::spawn(connection(TokioIo::new(stream)));
        }
    });
    Ok(addr)
}
