//! What guides promise and no other test shows.

mod failover;

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use sinew::{
    Code, Mesh, ResponseExt,
    discover::{Discover, DiscoverError, Discovery},
    model::{EndpointSpec, EndpointUpdate, SetKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

type Update = Result<EndpointUpdate, DiscoverError>;

/// Says what the test tells it to say.
struct Registry(std::sync::Mutex<Option<UnboundedReceiver<Update>>>);

impl Registry {
    fn new() -> (UnboundedSender<Update>, Self) {
        let (sender, updates) = unbounded_channel();
        (sender, Self(std::sync::Mutex::new(Some(updates))))
    }
}

impl Discover for Registry {
    fn subscribe(&self) -> Discovery {
        let updates = self.0.lock().unwrap().take().expect("one service uses it");
        Discovery::new(tokio_stream::wrappers::UnboundedReceiverStream::new(updates))
    }
}

async fn instance(name: &'static str) -> SocketAddr {
    let mesh = Mesh::builder(name).build().await.unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    let app = Router::new().route("/", get(move || async move { name }));
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    addr
}

fn only(addr: SocketAddr) -> EndpointUpdate {
    EndpointUpdate::Reset { endpoints: vec![EndpointSpec::new(addr)], kind: SetKind::Replicas }
}

/// Calls until the answer is `wanted`; each call has to succeed.
async fn becomes(client: &sinew::Client, wanted: &str) {
    let calls = async {
        while client.get("/").send().await.unwrap().text().await.unwrap() != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), calls).await.expect("the endpoints were changed");
}

#[tokio::test]
async fn a_source_of_ones_own_is_followed() {
    let (first, second) = (instance("first").await, instance("second").await);
    let (say, registry) = Registry::new();
    let mesh = Mesh::builder("app")
        .source("registry", registry)
        .service("a", |service| service.custom("registry"))
        .build()
        .await
        .unwrap();
    let client = mesh.client("a");

    // Unknown is not empty: the call waits for the source.
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").send().await.unwrap().text().await.unwrap() }
    });
    tokio::task::yield_now().await;
    say.send(Ok(only(first))).unwrap();
    assert_eq!(waiting.await.unwrap(), "first");

    say.send(Ok(only(second))).unwrap();
    becomes(&client, "second").await;

    // A complaint is shown and changes nothing.
    say.send(Err(DiscoverError::new("the registry is away"))).unwrap();
    let shown = async {
        while mesh.status().services["a"].discovery_error.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), shown).await.expect("the complaint is shown");
    becomes(&client, "second").await;

    say.send(Ok(EndpointUpdate::Reset { endpoints: Vec::new(), kind: SetKind::Replicas })).unwrap();
    let refused = async {
        loop {
            match client.get("/").send().await {
                Err(error) => return error,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(10), refused).await.expect("nobody is there any more");
    assert_eq!(error.code(), Code::NoHealthyEndpoint, "{error}");
}

#[tokio::test]
async fn the_server_layer_works_under_axums_own_listener() {
    let server = Mesh::builder("server").build().await.unwrap();
    let app = Router::new()
        .route("/", get(|context: sinew::Context| async move { context.remaining().is_some().to_string() }))
        .layer(server.server_layer());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mesh =
        Mesh::builder("app").service("a", |service| service.endpoints([addr.to_string()])).build().await.unwrap();
    let response = mesh.client("a").get("/").timeout(Duration::from_secs(5)).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "true");
}

async fn asked(addr: SocketAddr, path: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    socket
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn an_ops_listener_answers_a_probe() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mesh = Mesh::builder("app").ops(free).build().await.unwrap();
    assert!(asked(free, "/livez").await.starts_with("HTTP/1.1 200"));
    let not_ready = asked(free, "/readyz").await;
    assert!(not_ready.starts_with("HTTP/1.1 503") && not_ready.contains("nothing is served yet"), "{not_ready}");

    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let served = listener.serve(Router::new()).with_graceful_shutdown(std::future::pending());
    tokio::spawn(served.into_future());
    mesh.ready().await;
    assert!(asked(free, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(asked(free, "/secret").await.starts_with("HTTP/1.1 404"));
}
