//! How do I call an HTTP service by its name?
//!
//! Verbs, query, JSON, timeouts for one call, errors that say what to do, and base URLs that exist already.
//!
//! ```text
//! cargo run --example http_client
//! ```

use std::{collections::HashMap, time::Duration};

use axum::{
    Json, Router,
    extract::Query,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use sinew::{Call, Code, Criticality, Mesh, ResponseExt};

#[derive(Serialize, Deserialize, Debug)]
struct Order {
    book: String,
    copies: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shop = start_shop().await?;

    let mesh =
        Mesh::builder("visitor").service("shop", |service| service.endpoints([shop.to_string()])).build().await?;
    let client = mesh.client("shop");

    let found = client.get("/search").query([("title", "The Tempest")]).send().await?.error_for_status()?;
    println!("found: {}", found.text().await?);

    let order = Order { book: "The Tempest".into(), copies: 2 };
    let stored: Order = client.post("/orders").json(&order).send().await?.error_for_status()?.json().await?;
    println!("stored: {stored:?}");

    // An error status is a response until it is asked for.
    match client.get("/missing").send().await?.error_for_status() {
        Ok(_) => println!("/missing is there"),
        Err(error) => println!("not found: {error}"),
    }

    // The time limit covers all waiting, all attempts and the response body. The server knows it as well, and whoever
    // notices first tells: this side by an error, the server by a 504.
    match client.get("/slow").timeout(Duration::from_millis(50)).send().await {
        Err(error) if error.is_timeout() => println!("too slow: {error}"),
        Ok(response) if response.status() == StatusCode::GATEWAY_TIMEOUT => {
            println!("too slow: {}", response.text().await?)
        }
        other => println!("unexpected: {other:?}"),
    }

    // The same for everything that a piece of code calls, however deep.
    let patient = Call::new().timeout(Duration::from_secs(2)).criticality(Criticality::Sheddable);
    let status = patient.scope(async { client.get("/slow").send().await }).await?.status();
    println!("patient: {status}");

    // Base URLs that exist already: the host names the service.
    let http = mesh.http();
    let found = http.get("http://shop/search?title=Macbeth").send().await?.error_for_status()?.text().await?;
    println!("by URL: {found}");

    // A service that nobody configured. Nothing was sent, and the error says what to add.
    match mesh.client("warehouse").get("/").send().await {
        Err(error) if error.code() == Code::UnknownService => println!("unknown: {error}"),
        other => println!("unexpected: {other:?}"),
    }

    mesh.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

async fn start_shop() -> Result<std::net::SocketAddr, Box<dyn std::error::Error>> {
    async fn search(Query(query): Query<HashMap<String, String>>) -> String {
        query.get("title").cloned().unwrap_or_default()
    }
    async fn order(Json(order): Json<Order>) -> (StatusCode, Json<Order>) {
        (StatusCode::CREATED, Json(order))
    }
    async fn slow() {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    let app = Router::new().route("/search", get(search)).route("/orders", post(order)).route("/slow", get(slow));
    let mesh = Mesh::builder("shop").build().await?;
    let listener = mesh.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    tokio::spawn(listener.serve(app).into_future());
    Ok(addr)
}
