//! The five lines: a service, a client, and what travels between them.

use std::time::Duration;

use axum::{Router, routing::get};
use sinew::{Context, Mesh, Network, Peer, ResponseExt};

async fn serve(app: Router) -> std::net::SocketAddr {
    let mesh = Mesh::builder("server").build().await.unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    tokio::spawn(async move { listener.serve(app).with_graceful_shutdown(std::future::pending()).await });
    addr
}

async fn client(addr: std::net::SocketAddr) -> Mesh {
    Mesh::builder("client").service("hello", |s| s.endpoints([addr.to_string()])).build().await.unwrap()
}

#[tokio::test]
async fn a_call_reaches_an_axum_service() {
    let addr = serve(Router::new().route("/hello", get(|| async { "hello" }))).await;
    let mesh = client(addr).await;
    let hello = mesh.client("hello");
    for _ in 0..10 {
        let text = hello.get("/hello").send().await.unwrap().error_for_status().unwrap().text().await.unwrap();
        assert_eq!(text, "hello");
    }
    let status = mesh.status();
    let cluster = status.services["hello"].cluster.as_ref().unwrap();
    assert_eq!(cluster.requests.0, 0);
    assert_eq!(cluster.endpoints[0].state, "ready");
    assert_eq!(cluster.endpoints[0].in_flight, 0);
}

#[tokio::test]
async fn the_handler_sees_the_context_and_the_peer() {
    let app = Router::new().route(
        "/",
        get(|context: Context, peer: Peer| async move {
            format!("{:?} {}", context.remaining().is_some(), peer.remote_addr())
        }),
    );
    let mesh = client(serve(app).await).await;
    let text =
        mesh.client("hello").get("/").timeout(Duration::from_secs(5)).send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with("true 127.0.0.1:"), "{text}");
}

#[tokio::test]
async fn meshes_that_share_a_network_need_no_sockets() {
    let network = Network::new();
    let server = Mesh::builder("server").network(&network).build().await.unwrap();
    let app = Router::new().route("/", get(|| async { "in memory" }));
    let listener = server.listen("memory:hello").await.unwrap();
    tokio::spawn(async move { listener.serve(app).with_graceful_shutdown(std::future::pending()).await });
    let mesh = Mesh::builder("client")
        .network(&network)
        .service("hello", |s| s.endpoints(["memory:hello"]))
        .build()
        .await
        .unwrap();
    let text = mesh.client("hello").get("/").send().await.unwrap().text().await.unwrap();
    assert_eq!(text, "in memory");
}

#[tokio::test]
async fn unknown_services_and_unreachable_endpoints_say_so() {
    let mesh = Mesh::builder("client").service("hello", |s| s.endpoints(["127.0.0.1:1"])).build().await.unwrap();
    let error = mesh.client("nobody").get("/").send().await.unwrap_err();
    assert_eq!(error.code(), sinew::Code::UnknownService);
    let error = mesh.client("hello").get("/").send().await.unwrap_err();
    assert_eq!(error.code(), sinew::Code::ConnectFailed, "{error}");
    assert!(error.message().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_client_outlives_its_mesh_value_and_a_shut_down_mesh_refuses() {
    let addr = serve(Router::new().route("/", get(|| async { "here" }))).await;
    let hello = client(addr).await.client("hello");
    assert_eq!(hello.get("/").send().await.unwrap().text().await.unwrap(), "here");

    let mesh = client(addr).await;
    let hello = mesh.client("hello");
    assert!(hello.get("/").send().await.is_ok());
    mesh.shutdown(Duration::from_secs(5)).await;
    let error = hello.get("/").send().await.unwrap_err();
    assert_eq!(error.code(), sinew::Code::LocalDraining, "{error}");
}

#[tokio::test]
async fn context_travels_through_a_handler_without_its_help() {
    let inner = serve(Router::new().route(
        "/",
        get(|context: Context, headers: http::HeaderMap| async move {
            let trace = headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned());
            format!("{:?} {:?} {trace:?}", context.request_id(), headers.get("x-request-id").is_some())
        }),
    ))
    .await;
    let mesh = client(inner).await;
    let next = mesh.client("hello");
    let outer = serve(
        Router::new().route("/", get(move || async move { next.get("/").send().await.unwrap().text().await.unwrap() })),
    )
    .await;
    let mesh = client(outer).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = mesh.client("hello").get("/").header("x-request-id", "abc").header("traceparent", trace);
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with("Some(\"abc\") true Some(\"00-0af7651916cd43dd8448eb211c80319c-"), "{text}");
    assert!(!text.contains("b7ad6b7169203331"), "each hop has its own span: {text}");
}

#[tokio::test]
async fn a_passed_timeout_is_an_error_whoever_notices_first() {
    let slow = get(|| async { std::future::pending::<&'static str>().await });
    let mesh = client(serve(Router::new().route("/", slow)).await).await;
    for _ in 0..20 {
        let error = mesh.client("hello").get("/").timeout(Duration::from_millis(20)).send().await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
    }
}

#[tokio::test]
async fn a_seat_of_a_client_sees_the_context_of_the_request_that_is_served() {
    let inner = serve(Router::new().route("/", get(|| async { "ok" }))).await;
    let (seen, mut ids) = tokio::sync::mpsc::unbounded_channel();
    let seat = sinew::seat::seat_fn(move |request: http::Request<sinew::Body>, next: sinew::seat::Next| {
        let id = Context::of(request.extensions()).and_then(|context| context.request_id().map(str::to_owned));
        seen.send(id).unwrap();
        next.run(request)
    });
    let mesh = Mesh::builder("middle")
        .service("hello", |s| s.endpoints([inner.to_string()]))
        .attempt(seat)
        .build()
        .await
        .unwrap();
    let next = mesh.client("hello");
    let outer = serve(
        Router::new().route("/", get(move || async move { next.get("/").send().await.unwrap().text().await.unwrap() })),
    )
    .await;
    let mesh = client(outer).await;
    mesh.client("hello").get("/").header("x-request-id", "abc").send().await.unwrap().text().await.unwrap();
    assert_eq!(ids.recv().await.unwrap().as_deref(), Some("abc"));
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_told_with_the_cure_and_memory_has_a_name_for_an_address() {
    let network = Network::new();
    let mesh = Mesh::builder("s").network(&network).build().await.unwrap();
    let memory = mesh.listen("memory:s").await.unwrap();
    assert_eq!((memory.addr().to_string(), memory.local_addr().port()), ("memory:s".to_owned(), 0));
    let tcp = mesh.listen("127.0.0.1:0").await.unwrap();
    for taken in ["memory:s".to_owned(), tcp.local_addr().to_string(), "not an address".to_owned()] {
        let error = mesh.listen(taken.as_str()).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), (sinew::Code::BindFailed, sinew::Kind::Listen), "{error}");
        assert!(error.message().contains("use ") || error.message().contains("choose "), "{error}");
    }
}
