//! How does a library use the mesh when the program owns the runtime?
//!
//! It takes a [`sinew::Client`], which is one nameable type, and asks for nothing else. Who builds the mesh needs no
//! runtime either: `build_lazy` joins with the first call, in whatever runtime that call runs.
//!
//! ```text
//! cargo run --example library_client
//! ```

use std::{net::SocketAddr, sync::mpsc};

use axum::{Router, routing::get};
use sinew::Mesh;

/// What a crate `ratings-sdk` would export.
#[allow(unreachable_pub)]
mod ratings_sdk {
    use sinew::{Client, ResponseExt};

    /// Reads ratings. Clones share the connections.
    #[derive(Clone, Debug)]
    pub struct Ratings {
        client: Client,
    }

    impl Ratings {
        /// Uses this client; spawns nothing, and needs no runtime until it is called.
        pub fn new(client: Client) -> Self {
            Self { client }
        }

        /// The stars of a product.
        pub async fn stars(&self, product: u64) -> Result<u8, sinew::Error> {
            let response = self.client.get(format!("/stars/{product}")).send().await?.error_for_status()?;
            response.json().await
        }
    }
}

// No `#[tokio::main]`: there is no runtime here.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = start_server()?;

    let mesh =
        Mesh::builder("shop").service("ratings", |service| service.endpoints([server.to_string()])).build_lazy()?;
    let ratings = ratings_sdk::Ratings::new(mesh.client("ratings"));
    println!("built without a runtime");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("stars: {}", runtime.block_on(ratings.stars(5))?);
    println!(
        "stars, by a clone in a task: {}",
        runtime.block_on(async {
            let ratings = ratings.clone();
            tokio::spawn(async move { ratings.stars(3).await }).await
        })??
    );
    Ok(())
}

/// A server in a thread and runtime of its own, as another process would be.
fn start_server() -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let mesh = Mesh::builder("ratings").build().await?;
            let listener = mesh.listen("127.0.0.1:0").await?;
            tell.send(listener.local_addr())?;
            let stars = async |axum::extract::Path(product): axum::extract::Path<u8>| axum::Json(product.min(5));
            listener.serve(Router::new().route("/stars/{product}", get(stars))).await?;
            Ok(())
        })
    });
    Ok(told.recv()?)
}
