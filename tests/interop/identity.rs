//! Identities against real peers: who they are to us, who we are to them, and where certificates come from.

mod envoy;
mod grpcio;
mod istiod;
mod nginx;
mod openssl;
mod rules;
mod spiffe;
mod step;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{Router, routing::get};
use sinew::{
    Mesh, Peer,
    model::{IdentityFiles, IdentitySource},
};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle, time::Instant};

use crate::{
    echo::Echo,
    signer::{Leaf, Root, pem},
};

const HOUR: Duration = Duration::from_secs(3_600);
const DOMAIN: &str = "interop.example";

fn id(name: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/default/sa/{name}")
}

/// Who calls, and an echo.
fn app() -> Router {
    let who = |request: axum::extract::Request| async move {
        let peer = Peer::of(request.extensions()).and_then(|peer| peer.id().map(ToString::to_string));
        peer.unwrap_or_else(|| "nobody".into())
    };
    Router::new().route("/who", get(who)).merge(Echo::new("v1").routes().into_axum_router())
}

/// A folder with a root, and members of it.
struct World {
    root: Root,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let (root, dir) = (Root::new("interop"), tempfile::tempdir().unwrap());
        // Peers run as another user where the tests run as root.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let world = Self { root, dir };
        world.write("root.pem", &pem("CERTIFICATE", &world.root.cert));
        world
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Writes `<name>.pem` and `<name>.key`.
    fn member(&self, name: &str, dns: &[&str]) -> Leaf {
        let leaf = self.root.leaf(&id(name), dns, HOUR);
        self.write(&format!("{name}.pem"), &pem("CERTIFICATE", &leaf.cert));
        self.write(&format!("{name}.key"), &pem("PRIVATE KEY", &leaf.key));
        leaf
    }

    /// A member of ours, with its identity from files.
    fn builder(&self, name: &str, dns: &[&str]) -> sinew::Builder {
        self.member(name, dns);
        let path = |name: &str| self.dir.path().join(name);
        let files = IdentityFiles::new(path(&format!("{name}.pem")), path(&format!("{name}.key")), path("root.pem"));
        Mesh::builder(name).identity(IdentitySource::Files(files), DOMAIN)
    }
}

/// A mesh that serves [`app`].
struct Served {
    addr: std::net::SocketAddr,
    mesh: Mesh,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), sinew::Error>>,
}

impl Served {
    async fn start(mesh: Mesh) -> Self {
        let listener = mesh.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let (stop, stopped) = oneshot::channel();
        let serve = listener.serve(app()).with_graceful_shutdown(async move {
            let _ = stopped.await;
        });
        Self { addr, mesh, stop, served: tokio::spawn(serve.into_future()) }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.served.await.unwrap().unwrap();
        self.mesh.shutdown(Duration::from_secs(5)).await;
    }
}

/// A port that was free a moment ago.
fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until somebody listens.
async fn listens(port: u16, who: &str, log: &Path) {
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(begun.elapsed() < Duration::from_secs(60), "{who} does not listen: {}", said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for what happens in its own time at a peer.
async fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
