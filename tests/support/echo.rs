//! A gRPC service without generated code: unary, server stream and bidirectional echo.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, uri::PathAndQuery};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, body::Body as TonicBody, client::Grpc, codegen::Service, server};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Message {
    #[prost(string, tag = "1")]
    pub text: String,
    #[prost(uint32, tag = "2")]
    pub count: u32,
    #[prost(uint32, tag = "3")]
    pub every_ms: u32,
}

impl Message {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), count: 0, every_ms: 0 }
    }
}

/// Answers with its own name and what it was sent; `status:N` fails with that status.
#[derive(Clone)]
pub(crate) struct Echo {
    pub(crate) name: Arc<str>,
}

impl Echo {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// As axum routes, which is what tonic's own routes are.
    pub(crate) fn routes(self) -> tonic::service::Routes {
        tonic::service::Routes::new(self)
    }
}

impl server::NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Messages = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

fn answer(name: &str, message: Message) -> Result<Message, Status> {
    match message.text.strip_prefix("status:") {
        Some(code) => Err(Status::new(tonic::Code::from_i32(code.parse().unwrap()), "as asked")),
        None => Ok(Message::new(&format!("{name}: {}", message.text))),
    }
}

struct Unary(Arc<str>);
impl server::UnaryService<Message> for Unary {
    type Response = Message;
    type Future = Boxed<Result<tonic::Response<Message>, Status>>;
    fn call(&mut self, request: tonic::Request<Message>) -> Self::Future {
        let name = self.0.clone();
        Box::pin(async move {
            let message = request.into_inner();
            if message.every_ms > 0 {
                tokio::time::sleep(Duration::from_millis(message.every_ms.into())).await;
            }
            answer(&name, message).map(tonic::Response::new)
        })
    }
}

struct Feed(Arc<str>);
impl server::ServerStreamingService<Message> for Feed {
    type Response = Message;
    type ResponseStream = Messages;
    type Future = Boxed<Result<tonic::Response<Messages>, Status>>;
    fn call(&mut self, request: tonic::Request<Message>) -> Self::Future {
        let (name, message) = (self.0.clone(), request.into_inner());
        Box::pin(async move {
            let every = Duration::from_millis(message.every_ms.into());
            let items = tokio_stream::iter(0..message.count).then(move |n| {
                let name = name.clone();
                async move {
                    if !every.is_zero() {
                        tokio::time::sleep(every).await;
                    }
                    Ok(Message::new(&format!("{name}: {n}")))
                }
            });
            Ok(tonic::Response::new(Box::pin(items) as Messages))
        })
    }
}

struct Chat(Arc<str>);
impl server::StreamingService<Message> for Chat {
    type Response = Message;
    type ResponseStream = Messages;
    type Future = Boxed<Result<tonic::Response<Messages>, Status>>;
    fn call(&mut self, request: tonic::Request<tonic::Streaming<Message>>) -> Self::Future {
        let name = self.0.clone();
        Box::pin(async move {
            let items = request.into_inner().map(move |message| answer(&name, message?));
            Ok(tonic::Response::new(Box::pin(items) as Messages))
        })
    }
}

impl<B> Service<Request<B>> for Echo
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send,
{
    type Response = Response<TonicBody>;
    type Error = Infallible;
    type Future = Boxed<Result<Response<TonicBody>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let name = self.name.clone();
        Box::pin(async move {
            let mut grpc = server::Grpc::new(ProstCodec::<Message, Message>::default());
            Ok(match request.uri().path() {
                "/test.Echo/Unary" => grpc.unary(Unary(name), request).await,
                "/test.Echo/Feed" => grpc.server_streaming(Feed(name), request).await,
                "/test.Echo/Chat" => grpc.streaming(Chat(name), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// A client over any tonic channel.
#[derive(Clone)]
pub(crate) struct EchoClient<T> {
    grpc: Grpc<T>,
}

impl<T> EchoClient<T>
where
    T: tonic::client::GrpcService<TonicBody>,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    pub(crate) fn new(channel: T) -> Self {
        Self { grpc: Grpc::new(channel) }
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::unknown(error.into().to_string()))
    }

    pub(crate) async fn unary(&mut self, request: tonic::Request<Message>) -> Result<Message, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Echo/Unary");
        Ok(self.grpc.unary(request, path, ProstCodec::default()).await?.into_inner())
    }

    pub(crate) async fn say(&mut self, text: &str) -> Result<Message, Status> {
        self.unary(tonic::Request::new(Message::new(text))).await
    }

    pub(crate) async fn feed(&mut self, count: u32, every_ms: u32) -> Result<tonic::Streaming<Message>, Status> {
        self.ready().await?;
        let request = tonic::Request::new(Message { text: String::new(), count, every_ms });
        let path = PathAndQuery::from_static("/test.Echo/Feed");
        Ok(self.grpc.server_streaming(request, path, ProstCodec::default()).await?.into_inner())
    }

    pub(crate) async fn chat(
        &mut self,
        messages: impl Stream<Item = Message> + Send + 'static,
    ) -> Result<tonic::Streaming<Message>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Echo/Chat");
        Ok(self.grpc.streaming(tonic::Request::new(messages), path, ProstCodec::default()).await?.into_inner())
    }
}
