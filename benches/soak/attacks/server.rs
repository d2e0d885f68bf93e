//! The service that is attacked, in a process of its own, so that its memory is its own.

use std::{
    future::IntoFuture,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
};

use axum::{Router, body::Bytes, routing::get, routing::post};
use sinew::Mesh;

use super::echo::EchoService;

/// One for all, so that what grows is what the listener holds.
static LARGE: LazyLock<Bytes> = LazyLock::new(|| vec![b'x'; 8 << 20].into());

/// Arguments: `--serve KIND FILE`. Ends with its input.
pub(crate) async fn run(kind: &str, file: &str) {
    let mesh = Mesh::builder("attacked").config_file(file).build().await.unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    if kind == "tonic" {
        let app = tonic::service::Routes::new(EchoService).prepare();
        tokio::spawn(listener.serve(app).into_future());
    } else {
        let app = Router::new()
            .route("/", get(async || "ok"))
            .route("/large", get(async || LARGE.clone()))
            .route("/echo", post(async |body: Bytes| body));
        tokio::spawn(listener.serve(app).into_future());
    }
    println!("listening {addr}");
    std::io::stdout().flush().unwrap();
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().lines().count());
    ended.await.unwrap();
}

/// Such a process.
pub(crate) struct Attacked {
    process: Child,
    pub(crate) plain: SocketAddr,
}

impl Attacked {
    /// With the configuration of a file, trusting `roots` where that is given.
    pub(crate) fn start(kind: &str, file: &Path, roots: Option<&PathBuf>) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--serve", kind])
            .arg(file)
            .envs(roots.map(|roots| ("SSL_CERT_FILE", roots)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let plain = lines.find_map(|line| line.unwrap().strip_prefix("listening ")?.parse().ok());
        Self { process, plain: plain.expect("the service says where it listens") }
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
    }
}

impl Drop for Attacked {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
