//! How do I change the configuration of a running process, and what if I get it wrong?
//!
//! Edit the file. A good change takes effect for the next call; a wrong one changes nothing, and the status says what is
//! wrong and where.
//!
//! ```text
//! cargo run --example config_reload
//! ```

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use axum::{Router, routing::get};
use sinew::{Mesh, MeshStatus, ResponseExt};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("sinew.yaml");
    let (blue, green) = (start("blue").await?, start("green").await?);

    write(&file, &format!("services: {{ color: {{ endpoints: {{ static: [\"{blue}\"] }} }} }}\n"))?;
    // In a real program: `Mesh::from_env("visitor")` with the file in `SINEW_CONFIG` or beside the program.
    let mesh = Mesh::builder("visitor").config_file(&file).build().await?;
    let color = mesh.client("color");
    let ask = async || color.get("/").send().await?.text().await;
    println!("at first: {}", ask().await?);

    write(&file, &format!("services: {{ color: {{ endpoints: {{ static: [\"{green}\"] }}, timeout: 2s }} }}\n"))?;
    wait(&mesh, |status| serves(status, green)).await?;
    println!("after the edit: {}", ask().await?);

    write(&file, &format!("services: {{ color: {{ endpoint: {{ static: [\"{blue}\"] }}, timeout: 2 }} }}\n"))?;
    wait(&mesh, |status| error(status).is_some()).await?;
    let report = error(&mesh.status()).unwrap_or_default();
    println!("refused:\n{}", report.replace(&format!("{}/", directory.path().display()), ""));
    println!("still: {}", ask().await?);

    write(&file, &format!("services: {{ color: {{ endpoints: {{ static: [\"{blue}\"] }}, timeout: 2s }} }}\n"))?;
    wait(&mesh, |status| error(status).is_none() && serves(status, blue)).await?;
    println!("corrected: {}", ask().await?);
    Ok(())
}

fn error(status: &MeshStatus) -> Option<String> {
    status.sources.iter().find_map(|source| source.error.clone())
}

fn serves(status: &MeshStatus, addr: SocketAddr) -> bool {
    let cluster = status.services.get("color").and_then(|service| service.cluster.as_ref());
    cluster.is_some_and(|cluster| cluster.endpoints.iter().map(|endpoint| &endpoint.id).eq([&addr.to_string()]))
}

/// Beside it, then renamed over it: what editors and deployments do. Half-written files are survived, too.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let beside = file.with_extension("new");
    fs::write(&beside, text)?;
    fs::rename(beside, file)
}

async fn wait(mesh: &Mesh, until: impl Fn(&MeshStatus) -> bool) -> Result<()> {
    for _ in 0..500 {
        if until(&mesh.status()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the change was not noticed within 10 s".into())
}

async fn start(name: &'static str) -> Result<SocketAddr> {
    let mesh = Mesh::builder("color").build().await?;
    let listener = mesh.listen("127.0.0.1:0").await?;
    let addr = listener.local_addr();
    tokio::spawn(listener.serve(Router::new().route("/", get(move || async move { name }))).into_future());
    Ok(addr)
}
