//! Services that can be started, stopped and moved.

use std::{net::SocketAddr, time::Duration};

use http::{Request, Response};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sinew::{Body, Client, Mesh};
use tokio::{sync::oneshot, task::JoinHandle};
use tower::Service;

/// A mesh that calls the service `s` at this address, without an identity.
pub(crate) async fn client(addr: SocketAddr) -> (Mesh, Client) {
    let mesh = Mesh::builder("c").service("s", |s| s.endpoints([addr.to_string()])).build().await.unwrap();
    let client = mesh.client("s");
    (mesh, client)
}

/// A running instance.
pub(crate) struct Instance {
    pub(crate) addr: SocketAddr,
    pub(crate) mesh: Mesh,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), sinew::Error>>,
}

impl Instance {
    pub(crate) async fn start<S, B>(name: &str, addr: impl Into<sinew::Listen>, app: S) -> Instance
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<sinew::BoxError>,
        S::Future: Send,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<sinew::BoxError>,
    {
        let mesh = Mesh::builder(name).build().await.unwrap();
        let listener = mesh.listen(addr).await.unwrap();
        let addr = listener.local_addr();
        let (stop, stopped) = oneshot::channel();
        let serve = listener.serve(app).with_graceful_shutdown(async move {
            let _ = stopped.await;
        });
        let served = tokio::spawn(serve.into_future());
        Instance { addr, mesh, stop: Some(stop), served }
    }

    /// Drains and ends.
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.served.await.unwrap().unwrap();
        self.mesh.shutdown(Duration::from_secs(5)).await;
    }
}

/// A client mesh from a document.
pub(crate) async fn mesh(yaml: &str) -> Mesh {
    Mesh::builder("client").config_str(yaml).build().await.unwrap()
}

/// What a mesh knows about one service's endpoints.
pub(crate) fn status_of(mesh: &Mesh, service: &str) -> sinew::ClusterStatus {
    mesh.status().services[service].cluster.clone().unwrap()
}

/// Every counter at one moment, as the last flush (every 5 s, and at the end of a mesh) left it.
pub(crate) struct Counters(Vec<(metrics::Key, u64)>);

impl Counters {
    /// Reads a recorder, once: reading takes what is there.
    pub(crate) fn of(recorder: &DebuggingRecorder) -> Self {
        let series = recorder.snapshotter().snapshot().into_vec().into_iter();
        let counter = |value| if let DebugValue::Counter(count) = value { Some(count) } else { None };
        Self(series.filter_map(|(key, _, _, value)| Some((key.key().clone(), counter(value)?))).collect())
    }

    /// The sum over all series of this name with this label.
    pub(crate) fn sum(&self, name: &str, (label, value): (&str, &str)) -> u64 {
        let wanted = |key: &metrics::Key| {
            key.name() == name && key.labels().any(|there| there.key() == label && there.value() == value)
        };
        self.0.iter().filter(|(key, _)| wanted(key)).map(|(_, count)| count).sum()
    }
}

/// That a test which is ignored passes in a process of its own with these variables, which each process reads once.
pub(crate) fn passes_with(test: &str, variables: &[(&str, &str)]) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
