//! gRPC over one connection that lives as long as its call.

use std::{
    fmt,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use http::{Uri, uri::PathAndQuery};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{Code, Request, Status, body::Body, client::Grpc, metadata::MetadataValue};
use tonic_prost::ProstCodec;

use crate::rt::StreamExecutor;

/// A message carries whole bundles.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Bytes to the agent.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Dials the agent.
pub(crate) type Connect = Arc<dyn Fn() -> Dialled + Send + Sync>;

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
        write!(f, "the Workload API answers {:?}: {}", self.code, self.why)
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
    pub(super) async fn follow<Q, M>(&self, path: &'static str, request: Q, mut each: impl FnMut(M)) -> Ended
    where
        Q: Message + Default + 'static,
        M: Message + Default + Send + 'static,
    {
        let result = self
            .with(async |mut grpc| {
                let path = PathAndQuery::from_static(path);
                let codec = ProstCodec::<Q, M>::default();
                let mut stream = grpc.server_streaming(asked(request), path, codec).await?.into_inner();
                while let Some(message) = stream.message().await? {
                    each(message);
                }
                Ok(())
            })
            .await;
        result.err().unwrap_or_else(|| Ended::unavailable("the stream has ended"))
    }

    /// The answer to one request.
    pub(super) async fn call<Q, M>(&self, path: &'static str, request: Q) -> Result<M, Ended>
    where
        Q: Message + Default + 'static,
        M: Message + Default + Send + 'static,
    {
        self.with(async |mut grpc| {
            let path = PathAndQuery::from_static(path);
            let answer = grpc.unary(asked(request), path, ProstCodec::<Q, M>::default()).await?;
            Ok(answer.into_inner())
        })
        .await
    }

    /// Dials, and drives the connection for as long as `call` takes.
    async fn with<T>(&self, call: impl AsyncFnOnce(Grpc<Wire>) -> Result<T, Status>) -> Result<T, Ended> {
        let io = (self.connect)().await.map_err(Ended::unavailable)?;
        let (send, connection) =
            http2::handshake(StreamExecutor, TokioIo::new(io)).await.map_err(Ended::unavailable)?;
        // Neither endpoint has a name of its own.
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

fn asked<Q>(message: Q) -> Request<Q> {
    let mut request = Request::new(message);
    // Keeps a browser's request from counting as a workload's. (SPIFFE Workload Endpoint §5)
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
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
