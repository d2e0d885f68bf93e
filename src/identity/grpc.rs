//! gRPC over one connection that lives as long as its call.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use http::{Uri, uri::PathAndQuery};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::{Code, Request, Status, body::Body, client::Grpc};
use tonic_prost::ProstCodec;

use super::dial::Connect;
use crate::rt::StreamExecutor;

/// A message carries whole bundles.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

#[derive(Clone)]
pub(super) struct Client {
    connect: Connect,
}

/// How a call ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Code,
    why: String,
}

impl Ended {
    fn unavailable(why: impl fmt::Display) -> Self {
        Self { code: Code::Unavailable, why: why.to_string() }
    }

    /// Asking again is of no use. (SPIFFE Workload API §6)
    pub(super) fn is_final(&self) -> bool {
        matches!(self.code, Code::InvalidArgument | Code::Unimplemented)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.why)
    }
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self { code: status.code(), why: status.message().chars().take(256).collect() }
    }
}

impl Client {
    pub(super) fn new(connect: Connect) -> Self {
        Self { connect }
    }

    /// Hands each message of a stream to `each`, until the stream ends.
    pub(super) async fn follow<Q, M>(&self, path: &'static str, request: Request<Q>, mut each: impl FnMut(M)) -> Ended
    where
        Q: Message + Default + 'static,
        M: Message + Default + Send + 'static,
    {
        let result = self
            .with(async |mut grpc| {
                let path = PathAndQuery::from_static(path);
                let codec = ProstCodec::<Q, M>::default();
                let mut stream = grpc.server_streaming(request, path, codec).await?.into_inner();
                while let Some(message) = stream.message().await? {
                    each(message);
                }
                Ok(())
            })
            .await;
        result.err().unwrap_or_else(|| Ended::unavailable("the stream has ended"))
    }

    /// The first message of a stream.
    pub(super) async fn first<Q, M>(&self, path: &'static str, request: Request<Q>) -> Result<M, Ended>
    where
        Q: Message + Default + 'static,
        M: Message + Default + Send + 'static,
    {
        self.with(async |mut grpc| {
            let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<Q, M>::default());
            let mut stream = grpc.server_streaming(request, path, codec).await?.into_inner();
            stream.message().await?.ok_or_else(|| Status::unavailable("the stream has ended"))
        })
        .await
    }

    /// The answer to one request.
    pub(super) async fn call<Q, M>(&self, path: &'static str, request: Request<Q>) -> Result<M, Ended>
    where
        Q: Message + Default + 'static,
        M: Message + Default + Send + 'static,
    {
        self.with(async |mut grpc| {
            let path = PathAndQuery::from_static(path);
            let answer = grpc.unary(request, path, ProstCodec::<Q, M>::default()).await?;
            Ok(answer.into_inner())
        })
        .await
    }

    /// Dials, and drives the connection for as long as `call` takes.
    async fn with<T>(&self, call: impl AsyncFnOnce(Grpc<Wire>) -> Result<T, Status>) -> Result<T, Ended> {
        let io = (self.connect)().await.map_err(Ended::unavailable)?;
        let (send, connection) =
            http2::handshake(StreamExecutor, TokioIo::new(io)).await.map_err(Ended::unavailable)?;
        // An agent has no name of its own, and an authority looks at that of TLS.
        let origin = Uri::from_static("http://localhost");
        let grpc = Grpc::with_origin(Wire(send), origin).max_decoding_message_size(MAX_MESSAGE);
        let mut call = pin!(call(grpc));
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            result = &mut call => return Ok(result?),
            _ = &mut connection => {}
        }
        // What arrived before the connection ended is still to be read.
        Ok(call.await?)
    }
}

/// An HTTP/2 connection as tonic wants it.
struct Wire(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
