//! A plain hyper server over HTTP/2 with a limit on streams, which stops as hyper does: GOAWAY, then the last stream.

use std::net::SocketAddr;

use http_body_util::BodyExt;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::oneshot,
    task::JoinHandle,
};
use tower::ServiceExt;

pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

fn bind(addr: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    socket.listen(1024).unwrap()
}

impl Peer {
    pub(crate) async fn start(addr: SocketAddr, streams: u32) -> Self {
        let listener = bind(addr);
        let addr = listener.local_addr().unwrap();
        let (stop, mut stopped) = oneshot::channel();
        let served = tokio::spawn(async move {
            let graceful = GracefulShutdown::new();
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                super::app().oneshot(request.map(|body| axum::body::Body::new(body.map_err(axum::Error::new))))
            });
            loop {
                tokio::select! {
                    biased;
                    _ = &mut stopped => break,
                    Ok((stream, _)) = listener.accept() => {
                        let _ = stream.set_nodelay(true);
                        let connection = http2::Builder::new(TokioExecutor::new())
                            .max_concurrent_streams(streams)
                            .serve_connection(TokioIo::new(stream), service);
                        let connection = graceful.watch(connection);
                        tokio::spawn(async move {
                            let _ = connection.await;
                        });
                    }
                }
            }
            drop(listener);
            graceful.shutdown().await;
        });
        Self { addr, stop, served }
    }

    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.served.await.unwrap();
    }
}
