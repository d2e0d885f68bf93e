//! How do I send a tenth of my traffic to a new version?
//!
//! Two versions of one service, one split, and a count of who answered.
//!
//! ```text
//! cargo run --example helloworld
//! ```

use std::collections::BTreeMap;

use axum::{Router, routing::get};
use sinew::{Mesh, ResponseExt};

const CALLS: usize = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let v1 = start("v1").await?;
    let v2 = start("v2").await?;

    // Usually a file, `sinew.yaml`; see the example `config_reload`.
    let config = format!(
        r#"
services:
  helloworld:
    endpoints:
      - {{ static: ["{v1}"], labels: {{ version: v1 }} }}
      - {{ static: ["{v2}"], labels: {{ version: v2 }} }}
    subsets: {{ v1: {{ version: v1 }}, v2: {{ version: v2 }} }}
    routes:
      - {{ name: canary, split: {{ v1: 90, v2: 10 }} }}
"#
    );
    let mesh = Mesh::builder("visitor").config_str(&config).build().await?;
    let helloworld = mesh.client("helloworld");

    print!("{}", helloworld.get("/hello").send().await?.error_for_status()?.text().await?);
    let mut counts = BTreeMap::new();
    for _ in 0..CALLS {
        let hello = helloworld.get("/hello").send().await?.error_for_status()?.text().await?;
        let version = hello.split([' ', ',']).nth(2).unwrap_or("nobody").to_owned();
        *counts.entry(version).or_insert(0) += 1;
    }
    for (version, count) in counts {
        println!("{version}: {count} of {CALLS}");
    }
    Ok(())
}

/// One version of the service, on a free port.
async fn start(version: &'static str) -> Result<std::net::SocketAddr, Box<dyn std::error::Error>> {
    let mesh = Mesh::builder("helloworld").version(version).build().await?;
    let listener = mesh.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    let hello =
        move || async move { format!("Hello version: {version}, instance: helloworld-{version}-{}\n", addr.port()) };
    tokio::spawn(listener.serve(Router::new().route("/hello", get(hello))).into_future());
    Ok(addr)
}
