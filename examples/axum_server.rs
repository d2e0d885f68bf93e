//! How does my axum service join the mesh?
//!
//! `mesh.serve(addr, router)` in place of `axum::serve`, extractors for what sinew knows about a request, calls that
//! inherit its deadline, and the same router under a listener that is not sinew's.
//!
//! ```text
//! cargo run --example axum_server
//! ```

use std::time::Duration;

use axum::{Router, extract::State, routing::get};
use sinew::{Client, Context, Mesh, Peer, ResponseExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A leaf: says how much time it has, without having been told by the application in between.
    let ratings = Mesh::builder("ratings").build().await?;
    let listener = ratings.listen("127.0.0.1:0").await?;
    let ratings_addr = listener.local_addr();
    tokio::spawn(listener.serve(Router::new().route("/ratings", get(time_left))).into_future());

    // The service of this example. In `main` of a real one: `mesh.serve("0.0.0.0:9080", app).await?`, which drains at
    // SIGTERM and Ctrl-C.
    let mesh = Mesh::builder("reviews")
        .service("ratings", |service| service.endpoints([ratings_addr.to_string()]))
        .drain(Duration::ZERO, Duration::from_secs(5))
        .build()
        .await?;
    let app =
        Router::new().route("/whoami", get(whoami)).route("/reviews", get(reviews)).with_state(mesh.client("ratings"));
    let listener = mesh.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve = listener.serve(app.clone()).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serve.into_future());

    let visitor =
        Mesh::builder("visitor").service("reviews", |service| service.endpoints([addr.to_string()])).build().await?;
    let reviews = visitor.client("reviews");
    let me = reviews.get("/whoami").send().await?.error_for_status()?.text().await?;
    println!("peer is loopback: {}", me.starts_with("127.0.0.1"));
    let told = reviews.get("/reviews").timeout(Duration::from_secs(2)).send().await?.error_for_status()?.text().await?;
    println!("two hops away: {told}");

    // Drain: what is in flight is finished, nothing new is accepted.
    let _ = stop.send(());
    serving.await??;
    println!("drained");

    // Another listener: everything but connection limits and drain.
    let foreign = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let foreign_addr = foreign.local_addr()?;
    let app = Router::new().route("/ratings", get(time_left)).layer(ratings.server_layer());
    tokio::spawn(async move { axum::serve(foreign, app).await });
    let visitor = Mesh::builder("visitor")
        .service("ratings", |service| service.endpoints([foreign_addr.to_string()]))
        .build()
        .await?;
    let ratings = visitor.client("ratings");
    let told = ratings.get("/ratings").timeout(Duration::from_secs(2)).send().await?.error_for_status()?.text().await?;
    println!("under axum::serve: {told}");
    Ok(())
}

async fn whoami(peer: Peer) -> String {
    peer.remote_addr().to_string()
}

async fn reviews(State(ratings): State<Client>) -> Result<String, String> {
    // No timeout here: the caller's deadline travels with the request.
    let response = ratings.get("/ratings").send().await.map_err(|error| error.to_string())?;
    response.text().await.map_err(|error| error.to_string())
}

async fn time_left(cx: Context) -> &'static str {
    match cx.remaining() {
        Some(left) if left <= Duration::from_secs(2) => "less than 2 s are left",
        Some(_) => "more than 2 s are left",
        None => "there is no deadline",
    }
}
