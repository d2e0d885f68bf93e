//! How do tonic clients and servers join the mesh?
//!
//! `mesh.client("echo")` is the channel of a generated client, and tonic's `Routes` are an application for `serve`. Neither
//! needs an adapter. The module `echo` is what `tonic-prost-build` would generate, by hand, so that this builds without
//! protoc.
//!
//! ```text
//! cargo run --example tonic_client_server
//! ```

use std::{pin::Pin, time::Duration};

use echo::{EchoClient, EchoServer, Reply, Request};
use sinew::{Call, Context, Mesh};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Response, Status, service::Routes};

struct MyEcho;

impl echo::Echo for MyEcho {
    async fn once(&self, request: tonic::Request<Request>) -> Result<Response<Reply>, Status> {
        // The caller's deadline arrives by itself, and holds for every call that is made from here.
        let limited = Context::of_tonic(&request).is_some_and(|context| context.remaining().is_some());
        let Request { text, delay_ms } = request.into_inner();
        tokio::time::sleep(Duration::from_millis(delay_ms.into())).await;
        if text.is_empty() {
            return Err(Status::invalid_argument("nothing to echo"));
        }
        Ok(Response::new(Reply { text, limited }))
    }

    async fn letters(&self, request: tonic::Request<Request>) -> Result<Response<echo::ReplyStream>, Status> {
        let letters: Vec<_> = request.into_inner().text.chars().map(String::from).collect();
        let replies = tokio_stream::iter(letters).map(|text| Ok(Reply { text, limited: false }));
        Ok(Response::new(Box::pin(replies)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Mesh::builder("echo").build().await?;
    let listener = server.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    let routes = Routes::new(EchoServer::new(MyEcho)).into_axum_router();
    tokio::spawn(listener.serve(routes).into_future());

    let mesh =
        Mesh::builder("visitor").service("echo", |service| service.endpoints([addr.to_string()])).build().await?;
    let mut client = EchoClient::new(mesh.client("echo"));

    let reply = client.once(Request { text: "hello".into(), delay_ms: 0 }).await?.into_inner();
    println!("unary: {}", reply.text);

    let mut replies = client.letters(Request { text: "abc".into(), delay_ms: 0 }).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        println!("stream: {}", reply.text);
    }

    // Options of one call go through tonic as an extension.
    let mut request = tonic::Request::new(Request { text: "patient".into(), delay_ms: 0 });
    request.extensions_mut().insert(Call::new().timeout(Duration::from_secs(2)));
    println!("the server knows of the deadline: {}", client.once(request).await?.into_inner().limited);

    let mut request = tonic::Request::new(Request { text: "late".into(), delay_ms: 500 });
    request.extensions_mut().insert(Call::new().timeout(Duration::from_millis(50)));
    match client.once(request).await {
        Err(status) if status.code() == Code::DeadlineExceeded => println!("late: {}", status.message()),
        other => println!("unexpected: {other:?}"),
    }

    match client.once(Request::default()).await {
        Err(status) => println!("status: {:?}: {}", status.code(), status.message()),
        Ok(reply) => println!("unexpected: {reply:?}"),
    }
    Ok(())
}

// Public, as it would be in a crate of its own.
#[allow(unreachable_pub)]
/// `package example; service Echo { rpc Once(Request) returns (Reply); rpc Letters(Request) returns (stream Reply); }`
mod echo {
    use std::{
        convert::Infallible,
        sync::Arc,
        task::{Context, Poll},
    };

    use http::uri::PathAndQuery;
    use tonic::{
        Status, Streaming,
        body::Body,
        client::GrpcService,
        codegen::{BoxFuture, Bytes, Service, StdError},
        server::{NamedService, ServerStreamingService, UnaryService},
    };
    use tonic_prost::ProstCodec;

    use super::{Pin, Stream};

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Request {
        #[prost(string, tag = "1")]
        pub text: String,
        #[prost(uint32, tag = "2")]
        pub delay_ms: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Reply {
        #[prost(string, tag = "1")]
        pub text: String,
        #[prost(bool, tag = "2")]
        pub limited: bool,
    }

    pub type ReplyStream = Pin<Box<dyn Stream<Item = Result<Reply, Status>> + Send>>;

    #[derive(Clone, Debug)]
    pub struct EchoClient<T> {
        inner: tonic::client::Grpc<T>,
    }

    impl<T> EchoClient<T>
    where
        T: GrpcService<Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
        <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
    {
        pub fn new(channel: T) -> Self {
            Self { inner: tonic::client::Grpc::new(channel) }
        }

        pub async fn once(
            &mut self,
            request: impl tonic::IntoRequest<Request>,
        ) -> Result<tonic::Response<Reply>, Status> {
            self.ready().await?;
            let path = PathAndQuery::from_static("/example.Echo/Once");
            self.inner.unary(request.into_request(), path, ProstCodec::default()).await
        }

        pub async fn letters(
            &mut self,
            request: impl tonic::IntoRequest<Request>,
        ) -> Result<tonic::Response<Streaming<Reply>>, Status> {
            self.ready().await?;
            let path = PathAndQuery::from_static("/example.Echo/Letters");
            self.inner.server_streaming(request.into_request(), path, ProstCodec::default()).await
        }

        async fn ready(&mut self) -> Result<(), Status> {
            self.inner.ready().await.map_err(|error| Status::unknown(format!("not ready: {}", error.into())))
        }
    }

    pub trait Echo: Send + Sync + 'static {
        fn once(
            &self,
            request: tonic::Request<Request>,
        ) -> impl Future<Output = Result<tonic::Response<Reply>, Status>> + Send;

        fn letters(
            &self,
            request: tonic::Request<Request>,
        ) -> impl Future<Output = Result<tonic::Response<ReplyStream>, Status>> + Send;
    }

    #[derive(Debug)]
    pub struct EchoServer<T> {
        inner: Arc<T>,
    }

    impl<T> EchoServer<T> {
        pub fn new(inner: T) -> Self {
            Self { inner: Arc::new(inner) }
        }
    }

    impl<T> Clone for EchoServer<T> {
        fn clone(&self) -> Self {
            Self { inner: Arc::clone(&self.inner) }
        }
    }

    impl<T> NamedService for EchoServer<T> {
        const NAME: &'static str = "example.Echo";
    }

    impl<T: Echo> Service<http::Request<Body>> for EchoServer<T> {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<Self::Response, Infallible>;

        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let inner = Arc::clone(&self.inner);
            match request.uri().path() {
                "/example.Echo/Once" => Box::pin(async move {
                    Ok(tonic::server::Grpc::new(ProstCodec::default()).unary(Once(inner), request).await)
                }),
                "/example.Echo/Letters" => Box::pin(async move {
                    Ok(tonic::server::Grpc::new(ProstCodec::default()).server_streaming(Letters(inner), request).await)
                }),
                _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
            }
        }
    }

    struct Once<T>(Arc<T>);

    impl<T: Echo> UnaryService<Request> for Once<T> {
        type Response = Reply;
        type Future = BoxFuture<tonic::Response<Reply>, Status>;

        fn call(&mut self, request: tonic::Request<Request>) -> Self::Future {
            let inner = Arc::clone(&self.0);
            Box::pin(async move { inner.once(request).await })
        }
    }

    struct Letters<T>(Arc<T>);

    impl<T: Echo> ServerStreamingService<Request> for Letters<T> {
        type Response = Reply;
        type ResponseStream = ReplyStream;
        type Future = BoxFuture<tonic::Response<ReplyStream>, Status>;

        fn call(&mut self, request: tonic::Request<Request>) -> Self::Future {
            let inner = Arc::clone(&self.0);
            Box::pin(async move { inner.letters(request).await })
        }
    }
}
