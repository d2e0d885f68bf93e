//! A unary echo as tonic's code generator would write it: no build needs protoc.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::{
    client::GrpcService,
    server::{NamedService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{BoxError, Echo};

/// `message Payload { bytes data = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
}

/// A caller over any channel.
pub(crate) struct Grpc<C>(tonic::client::Grpc<C>);

impl<C> Grpc<C> {
    pub(crate) fn new(channel: C) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }
}

impl<C> Echo for Grpc<C>
where
    C: GrpcService<tonic::body::Body, Future: Send> + Send + 'static,
    C::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<BoxError> + Send,
{
    async fn echo(&mut self, payload: &Bytes) -> Result<usize, BoxError> {
        self.0.ready().await.map_err(Into::into)?;
        let request = tonic::Request::new(Payload { data: payload.to_vec() });
        let path = PathAndQuery::from_static("/bench.Echo/Unary");
        let response = self.0.unary(request, path, ProstCodec::<Payload, Payload>::default()).await?;
        Ok(response.get_ref().data.len())
    }
}

/// The server.
#[derive(Clone, Debug)]
pub(crate) struct EchoService;

impl NamedService for EchoService {
    const NAME: &'static str = "bench.Echo";
}

impl<B> Service<http::Request<B>> for EchoService
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Payload, Payload>::default());
            Ok(grpc.unary(Unary, request).await)
        })
    }
}

struct Unary;

impl UnaryService<Payload> for Unary {
    type Response = Payload;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Payload>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Payload>) -> Self::Future {
        Box::pin(async move { Ok(tonic::Response::new(request.into_inner())) })
    }
}
