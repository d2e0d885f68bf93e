//! One running instance of a service: its own mesh, its own socket.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use axum::Router;
use sinew::Mesh;

use crate::{Result, details, productpage, ratings, reviews};

/// How long an instance may take to finish what it is doing when it is stopped.
const DRAIN: Duration = Duration::from_secs(5);

pub(crate) struct Instance {
    pub(crate) service: &'static str,
    pub(crate) version: &'static str,
    pub(crate) addr: SocketAddr,
    pub(crate) mesh: Mesh,
    serving: tokio::task::JoinHandle<std::result::Result<(), sinew::Error>>,
}

impl Instance {
    /// Starts to serve on a loopback port; 0 takes a free one.
    pub(crate) async fn start(service: &'static str, version: &'static str, port: u16, config: &Path) -> Result<Self> {
        let mesh = Mesh::builder(service).version(version).config_file(config).build().await?;
        let listener = mesh.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        let addr = listener.local_addr();
        let app = app(service, version, &mesh, addr);
        // Ctrl-C is for the whole example; an instance ends by `stop`.
        let serve = listener.serve(app).with_graceful_shutdown(std::future::pending());
        Ok(Self { service, version, addr, mesh, serving: tokio::spawn(serve.into_future()) })
    }

    /// Finishes what is in flight and ends.
    pub(crate) async fn stop(self) -> Result<()> {
        self.mesh.shutdown(DRAIN).await;
        self.serving.await??;
        Ok(())
    }
}

/// The application of a service.
pub(crate) fn app(service: &str, version: &str, mesh: &Mesh, addr: SocketAddr) -> Router {
    let pod = format!("{service}-{version}-{}", addr.port());
    match service {
        "details" => details::app(),
        "ratings" => ratings::app(version),
        "reviews" => reviews::app(version, pod, mesh.client("ratings")),
        _ => productpage::app(mesh, pod),
    }
}
