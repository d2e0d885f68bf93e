//! Mutual TLS by a module that is validated to FIPS 140-3: keys, certificates and connections of the mesh use it alone.
//!
//! ```text
//! cd examples/fips && cargo run      # with CMake and Go; reads ./sinew.yaml
//! ```

use std::sync::Arc;

use axum::{Router, routing::get};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = rustls::crypto::default_fips_provider();
    assert!(provider.fips(), "the module is not in its validated mode");
    let mesh =
        sinew::Mesh::builder("ledger").crypto_provider(Arc::new(provider)).config_file("sinew.yaml").build().await?;
    let app = Router::new().route("/", get(|| async { "ok" }));
    mesh.serve("127.0.0.1:9080", app).await?;
    Ok(())
}
