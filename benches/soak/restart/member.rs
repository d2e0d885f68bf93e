//! What stands behind the balancer, and which calls reached it.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use axum::{Router, extract::Request, middleware::Next};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use super::{
    Times,
    echo::{Echo, Message},
    support::{Instance, any},
};

const ID: &str = "x-id";

/// The calls that reached a server and were not asked about yet.
#[derive(Clone, Default)]
pub(crate) struct Arrivals {
    next: Arc<AtomicU64>,
    seen: Arc<Mutex<HashSet<String>>>,
}

impl Arrivals {
    pub(crate) fn request(&self) -> (String, tonic::Request<Message>) {
        let id = self.next.fetch_add(1, Relaxed).to_string();
        let mut request = tonic::Request::new(Message::new("x"));
        request.metadata_mut().insert(ID, id.parse().unwrap());
        (id, request)
    }

    pub(crate) fn take(&self, id: String) -> bool {
        self.seen.lock().unwrap().remove(&id)
    }

    fn noting(&self, app: Router) -> Router {
        let seen = Arc::clone(&self.seen);
        app.layer(axum::middleware::from_fn(move |request: Request, next: Next| {
            if let Some(id) = request.headers().get(ID).and_then(|id| id.to_str().ok()) {
                seen.lock().unwrap().insert(id.to_owned());
            }
            next.run(request)
        }))
    }
}

pub(crate) enum Member {
    Sinew(Instance),
    Tonic { addr: SocketAddr, times: Times, stop: oneshot::Sender<()>, served: JoinHandle<()> },
}

impl Member {
    pub(crate) async fn start(bare: bool, times: Times, arrivals: &Arrivals) -> Self {
        if !bare {
            let app = arrivals.noting(super::app());
            return Self::Sinew(Instance::start(super::server(Some(times)).await, any(), app).await);
        }
        let listener = TcpListener::bind(any()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let app = arrivals.noting(Echo::new("echo").routes().into_axum_router());
        let serve = tonic::transport::Server::builder()
            .add_routes(tonic::service::Routes::from(app))
            .serve_with_incoming_shutdown(tokio_stream::wrappers::TcpListenerStream::new(listener), async {
                let _ = stopped.await;
            });
        let served = tokio::spawn(async move { serve.await.unwrap() });
        Self::Tonic { addr, times, stop, served }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Sinew(instance) => instance.addr,
            Self::Tonic { addr, .. } => *addr,
        }
    }

    pub(crate) async fn stop(self) {
        match self {
            Self::Sinew(instance) => instance.stop().await,
            Self::Tonic { times, stop, served, .. } => {
                tokio::time::sleep(times.lame_duck).await;
                let _ = stop.send(());
                served.await.unwrap();
            }
        }
    }
}
