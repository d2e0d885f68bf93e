//! tonic over the mesh, in both roles.

use std::time::Duration;

use sinew::{Call, Context};
use tokio_stream::StreamExt;

use crate::{
    echo::{Echo, EchoClient, Message},
    world::{Instance, mesh},
};

async fn world() -> (Instance, sinew::Mesh) {
    let instance = Instance::start("echo", "127.0.0.1:0", Echo::new("v1").routes()).await;
    let mesh = mesh(&format!("services: {{ echo: {{ endpoints: {{ static: [\"{}\"] }} }} }}", instance.addr)).await;
    (instance, mesh)
}

#[tokio::test]
async fn the_client_is_a_tonic_channel() {
    let (instance, mesh) = world().await;
    let mut client = EchoClient::new(mesh.client("echo"));
    assert_eq!(client.say("hi").await.unwrap().text, "v1: hi");
    let feed: Vec<_> = client.feed(3, 0).await.unwrap().map(|message| message.unwrap().text).collect().await;
    assert_eq!(feed, ["v1: 0", "v1: 1", "v1: 2"]);
    let chat = client.chat(tokio_stream::iter(["a", "b"]).map(Message::new)).await.unwrap();
    let chat: Vec<_> = chat.map(|message| message.unwrap().text).collect().await;
    assert_eq!(chat, ["v1: a", "v1: b"]);
    instance.stop().await;
}

#[tokio::test]
async fn statuses_pass_untouched_and_refusals_become_statuses() {
    let (instance, mesh) = world().await;
    let mut client = EchoClient::new(mesh.client("echo"));
    assert_eq!(client.say("status:9").await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    let error = EchoClient::new(mesh.client("nobody")).say("hi").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert!(error.message().contains("SINEW-E002"), "{error}");
    instance.stop().await;
}

#[tokio::test]
async fn a_plain_tonic_server_and_a_plain_tonic_client_are_peers_too() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(Echo::new("tonic"))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
    );
    let mesh = mesh(&format!("services: {{ echo: {{ endpoints: {{ static: [\"{addr}\"] }} }} }}")).await;
    assert_eq!(EchoClient::new(mesh.client("echo")).say("hi").await.unwrap().text, "tonic: hi");

    let instance = Instance::start("echo", "127.0.0.1:0", Echo::new("sinew").routes()).await;
    let channel =
        tonic::transport::Endpoint::new(format!("http://{}", instance.addr)).unwrap().connect().await.unwrap();
    assert_eq!(EchoClient::new(channel).say("hi").await.unwrap().text, "sinew: hi");
    instance.stop().await;
}

#[tokio::test]
async fn a_deadline_shrinks_from_hop_to_hop_and_options_reach_through_tonic() {
    // The outer service tells how much time it was given and calls the inner one, which tells the same.
    let inner = axum::Router::new().route("/left", axum::routing::get(left));
    let inner = Instance::start("inner", "127.0.0.1:0", inner).await;
    let yaml = format!("services: {{ inner: {{ endpoints: {{ static: [\"{}\"] }} }} }}", inner.addr);
    let middle_mesh = mesh(&yaml).await;
    let client = middle_mesh.client("inner");
    let outer = axum::Router::new().route(
        "/left",
        axum::routing::get(move |context: Context| async move {
            use sinew::ResponseExt;
            let here = context.remaining().unwrap().as_millis();
            let there = client.get("/left").send().await.unwrap().text().await.unwrap();
            format!("{here} {there}")
        }),
    );
    let outer = Instance::start("outer", "127.0.0.1:0", outer).await;
    let mesh = mesh(&format!("services: {{ outer: {{ endpoints: {{ static: [\"{}\"] }} }} }}", outer.addr)).await;
    let mut request = http::Request::get("/left").body(sinew::Body::empty()).unwrap();
    request.extensions_mut().insert(Call::new().timeout(Duration::from_secs(2)));
    let text = sinew::ResponseExt::text(mesh.client("outer").send(request).await.unwrap()).await.unwrap();
    let times: Vec<u64> = text.split(' ').map(|time| time.parse().unwrap()).collect();
    assert!(times[0] <= 2000 && times[0] > 1500, "{text}");
    // 5 % of what is left, at most 50 ms, stays with the outer service for its own answer.
    assert!(times[1] <= times[0] - 50 && times[1] > 1400, "{text}");
    outer.stop().await;
    inner.stop().await;
}

async fn left(context: Context) -> String {
    context.remaining().map_or_else(|| "none".into(), |left| left.as_millis().to_string())
}

#[tokio::test]
async fn a_grpc_deadline_ends_the_call_with_deadline_exceeded() {
    let (instance, mesh) = world().await;
    let mut client = EchoClient::new(mesh.client("echo"));
    let mut request = tonic::Request::new(Message { text: "slow".into(), count: 0, every_ms: 60_000 });
    request.set_timeout(Duration::from_millis(50));
    let status = client.unary(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
    instance.stop().await;
}
