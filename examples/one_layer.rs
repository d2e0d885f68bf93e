//! Can I use one policy alone, without the rest of the mesh?
//!
//! Every policy is an ordinary Tower layer. Here a deadline that covers the response body, and an exact limit that is held
//! until the body ends, stand around hyper-util's client.
//!
//! ```text
//! cargo run --example one_layer
//! ```

use std::time::Duration;

use axum::{Router, routing::get};
use http::{Request, Uri};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use sinew::{Body, breaker::LimitLayer, timeout::TimeoutLayer};
use tower::{Service, ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A server without sinew.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let slow = async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        "late"
    };
    let app = Router::new().route("/", get(async || "hello")).route("/slow", get(slow));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build_http();
    let mut client = ServiceBuilder::new()
        .layer(LimitLayer::new(1))
        .layer(TimeoutLayer::new(Duration::from_millis(100)))
        .service(client);

    let request = |path: &str| -> Result<Request<Body>, http::Error> {
        let uri: Uri = format!("{base}{path}").parse()?;
        Request::get(uri).body(Body::empty())
    };

    // The permit is held until the body ends, so the second call is refused while the first is being read.
    let first = client.ready().await?.call(request("/")?).await?;
    match client.ready().await?.call(request("/")?).await {
        Err(error) => println!("refused: {error}"),
        Ok(response) => println!("unexpected: {}", response.status()),
    }
    let body = first.into_body().collect().await?.to_bytes();
    println!("read: {}", String::from_utf8_lossy(&body));

    match client.ready().await?.call(request("/slow")?).await {
        Err(error) => println!("late: {error}"),
        Ok(response) => println!("unexpected: {}", response.status()),
    }
    Ok(())
}
