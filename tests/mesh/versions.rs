//! Members built on earlier and current versions of tonic and axum are one mesh: what sinew shares with them is `http`,
//! `http-body` and `tower`.

use std::{net::SocketAddr, time::Duration};

use http::{Request, Response, uri::PathAndQuery};
use prost::Message as _;
use sinew::{Body, Client, Context, Mesh, ResponseExt};

use crate::{
    echo::{Echo, EchoClient, Message},
    world::Instance,
};

/// A member of tonic 0.13: a codec, a service and a client by its own traits.
mod tonic_0_13 {
    use std::{convert::Infallible, pin::Pin};

    use tonic013::{
        Status,
        codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
        server,
    };
    use tower::Service;

    use super::*;

    #[derive(Clone, Default)]
    pub(super) struct Proto;

    impl Codec for Proto {
        type Encode = Message;
        type Decode = Message;
        type Encoder = Self;
        type Decoder = Self;

        fn encoder(&mut self) -> Self {
            Self
        }

        fn decoder(&mut self) -> Self {
            Self
        }
    }

    impl Encoder for Proto {
        type Item = Message;
        type Error = Status;

        fn encode(&mut self, message: Message, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            message.encode(buffer).map_err(|error| Status::internal(error.to_string()))
        }
    }

    impl Decoder for Proto {
        type Item = Message;
        type Error = Status;

        fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Message>, Status> {
            Message::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
        }
    }

    type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

    /// `/test.Echo/Unary` as the other version serves it.
    #[derive(Clone)]
    pub(super) struct Echo(pub(super) &'static str);

    impl server::NamedService for Echo {
        const NAME: &'static str = "test.Echo";
    }

    impl server::UnaryService<Message> for Echo {
        type Response = Message;
        type Future = Boxed<Result<tonic013::Response<Message>, Status>>;

        fn call(&mut self, request: tonic013::Request<Message>) -> Self::Future {
            let name = self.0;
            Box::pin(async move {
                let text = request.into_inner().text;
                if text == "fail" {
                    return Err(Status::failed_precondition("as asked"));
                }
                Ok(tonic013::Response::new(Message::new(&format!("{name}: {text}"))))
            })
        }
    }

    impl<B> Service<Request<B>> for Echo
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<tonic013::codegen::StdError> + Send,
    {
        type Response = Response<tonic013::body::Body>;
        type Error = Infallible;
        type Future = Boxed<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<B>) -> Self::Future {
            let service = self.clone();
            Box::pin(async move { Ok(server::Grpc::new(Proto).unary(service, request).await) })
        }
    }

    pub(super) async fn say(client: Client, text: &str) -> Result<String, Status> {
        let mut grpc = tonic013::client::Grpc::new(client);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let request = tonic013::Request::new(Message::new(text));
        let path = PathAndQuery::from_static("/test.Echo/Unary");
        Ok(grpc.unary(request, path, Proto).await?.into_inner().text)
    }
}

const GRPC: [&str; 2] = ["tonic13", "tonic14"];
const HTTP: [&str; 2] = ["axum07", "axum08"];

/// Each member calls every other one by this, in its own framework's habit.
async fn ask(own: &'static str, mesh: &Mesh, other: &str) -> String {
    let client = mesh.client(other);
    if HTTP.contains(&other) {
        return client.get("/hello").timeout(Duration::from_secs(5)).send().await.unwrap().text().await.unwrap();
    }
    if own == "tonic13" {
        return tonic_0_13::say(client, own).await.unwrap();
    }
    EchoClient::new(client).say(own).await.unwrap().text
}

async fn member(name: &'static str) -> Instance {
    match name {
        "tonic13" => {
            let routes = tonic013::service::Routes::new(tonic_0_13::Echo(name));
            Instance::start(name, "127.0.0.1:0", routes).await
        }
        "tonic14" => Instance::start(name, "127.0.0.1:0", Echo::new(name).routes()).await,
        "axum07" => {
            let hello = |request: Request<axum07::body::Body>| async move {
                let limited = Context::of(request.extensions()).is_some_and(|context| context.remaining().is_some());
                format!("axum07 {limited}")
            };
            let app = axum07::Router::new().route("/hello", axum07::routing::get(hello));
            Instance::start(name, "127.0.0.1:0", app).await
        }
        _ => {
            let hello = |context: Context| async move { format!("axum08 {}", context.remaining().is_some()) };
            let app = axum::Router::new().route("/hello", axum::routing::get(hello));
            Instance::start(name, "127.0.0.1:0", app).await
        }
    }
}

fn document(addrs: &[(&str, SocketAddr)]) -> String {
    let service =
        |(name, addr): &(&str, SocketAddr)| format!("  {name}: {{ endpoints: {{ static: [\"{addr}\"] }} }}\n");
    format!("services:\n{}", addrs.iter().map(service).collect::<String>())
}

#[tokio::test]
async fn members_of_all_versions_call_each_other() {
    let mut members = Vec::new();
    for name in GRPC.into_iter().chain(HTTP) {
        members.push((name, member(name).await));
    }
    let addrs: Vec<_> = members.iter().map(|(name, instance)| (*name, instance.addr)).collect();
    let yaml = document(&addrs);
    for (own, _) in &addrs {
        let mesh = Mesh::builder(own).config_str(&yaml).build().await.unwrap();
        for (other, _) in addrs.iter().filter(|(other, _)| other != own) {
            let expected = if HTTP.contains(other) { format!("{other} true") } else { format!("{other}: {own}") };
            assert_eq!(ask(own, &mesh, other).await, expected, "{own} calls {other}");
        }
    }
    for (_, instance) in members {
        instance.stop().await;
    }
}

#[tokio::test]
async fn an_earlier_tonic_reads_statuses_and_refusals() {
    let instance = member("tonic13").await;
    let mesh = Mesh::builder("c").config_str(&document(&[("tonic13", instance.addr)])).build().await.unwrap();
    let status = tonic_0_13::say(mesh.client("tonic13"), "fail").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic013::Code::FailedPrecondition, "as asked"));
    let status = tonic_0_13::say(mesh.client("nobody"), "x").await.unwrap_err();
    assert_eq!(status.code(), tonic013::Code::Unavailable);
    assert!(status.message().contains("SINEW-E002"), "{status}");
    instance.stop().await;
}

/// `server_layer` under an earlier axum: its body type is another, so the router is wrapped as a service.
#[tokio::test]
async fn an_earlier_axum_runs_sinews_server_stack_under_its_own_listener() {
    let mesh = Mesh::builder("s").build().await.unwrap();
    let app = axum07::Router::new().route(
        "/",
        axum07::routing::get(|request: Request<axum07::body::Body>| async move {
            Context::of(request.extensions()).is_some().to_string()
        }),
    );
    let service = tower::Layer::layer(&mesh.server_layer(), app);
    let response =
        tower::ServiceExt::oneshot(service, Request::get("/").header("host", "s").body(Body::empty()).unwrap())
            .await
            .unwrap();
    assert_eq!(response.text().await.unwrap(), "true");
}
