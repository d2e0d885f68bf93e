//! A server on one thread, whose handler burns a millisecond.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, IntoFuture, pending},
    net::SocketAddr,
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use sinew::{Body, Mesh};
use tokio::sync::oneshot;
use tonic::{
    server::{NamedService, UnaryService},
    service::Routes,
    transport::server::TcpIncoming,
};
use tonic_prost::ProstCodec;
use tower::{Service, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer, service_fn};

use super::{cpu, load::Wire};

/// Calls in work at a time.
const LIMIT: u32 = 20;
/// Over HTTP/1.1 as many wait in the kernel as there are connections; what tells of them is how late tasks run.
const LAG: &str = "10ms";
const WORK: Duration = Duration::from_millis(1);

pub(crate) const SPIN: &str = "/bench.Spin/Spin";
/// Answered when the server ends.
pub(crate) const HOLD: &str = "/bench.Spin/Hold";

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Variant {
    /// `inbound.load_shed`.
    Sinew,
    /// tonic with tower's limit and load shedding.
    Tower,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sinew => "sinew",
            Self::Tower => "tonic+tower",
        })
    }
}

/// Runs until it is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) thread: i32,
    /// Its only place is taken: it refuses everything else.
    pub(crate) full: bool,
    stop: Option<oneshot::Sender<()>>,
    joined: Option<JoinHandle<()>>,
}

impl Server {
    /// With `full` it has one place, which whoever connects has to take by [`HOLD`].
    pub(crate) fn start(variant: Variant, wire: Wire, full: bool) -> Self {
        let (told, learnt) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let joined = std::thread::spawn(move || {
            cpu::pin_to(cpu::SERVER);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let serve = async {
                    let thread = rustix::thread::gettid().as_raw_nonzero().get();
                    let ready = |addr| told.send((addr, thread)).expect("somebody waits");
                    match variant {
                        Variant::Sinew => sinew(wire, if full { 1 } else { LIMIT }, ready).await,
                        Variant::Tower => tower(ready).await,
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        let (addr, thread) = learnt.recv().expect("it starts");
        Self { addr, thread, full, stop: Some(stop), joined: Some(joined) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(joined) = self.joined.take() {
            let _ = joined.join();
        }
    }
}

async fn sinew(wire: Wire, limit: u32, ready: impl FnOnce(SocketAddr)) {
    let lag = if wire == Wire::Http1 { LAG } else { "off" };
    let config = format!("inbound: {{ load_shed: {{ max_in_flight: {limit}, max_lag: {lag} }} }}");
    let mesh = Mesh::builder("spin").config_str(&config).build().await.expect("a server");
    let listener = mesh.listen("127.0.0.1:0").await.expect("a port");
    ready(listener.local_addr());
    let served = match wire {
        Wire::Grpc => listener.serve(Routes::new(Spin)).with_graceful_shutdown(pending()).into_future().await,
        Wire::Http1 => {
            let app = service_fn(|request: Request<Body>| async move {
                if request.uri().path() == HOLD {
                    pending::<()>().await;
                }
                burn();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
            });
            listener.serve(app).with_graceful_shutdown(pending()).into_future().await
        }
    };
    served.expect("it serves until the end");
}

/// The limit counts over all connections; what it has no room for is refused.
async fn tower(ready: impl FnOnce(SocketAddr)) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    ready(listener.local_addr().expect("its address"));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let refuse = tower::util::MapErrLayer::new(|error: tower::BoxError| -> tower::BoxError {
        match error.is::<tower::load_shed::error::Overloaded>() {
            true => tonic::Status::unavailable("overloaded").into(),
            false => error,
        }
    });
    let layers = tower::ServiceBuilder::new()
        .layer(refuse)
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(LIMIT as usize))
        .into_inner();
    let serve = tonic::transport::Server::builder().layer(layers).add_service(Spin).serve_with_incoming(incoming);
    serve.await.expect("it serves until the end");
}

/// Uses up CPU time of this thread, not time on the wall.
fn burn() {
    let end = cpu::of_this_thread() + WORK;
    while cpu::of_this_thread() < end {
        std::hint::spin_loop();
    }
}

/// `message Empty {}`
#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, Debug)]
struct Spin;

impl NamedService for Spin {
    const NAME: &'static str = "bench.Spin";
}

impl<B> Service<Request<B>> for Spin
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<tower::BoxError> + Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let hold = request.uri().path() == HOLD;
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Empty, Empty>::default());
            Ok(grpc.unary(Unary { hold }, request).await)
        })
    }
}

struct Unary {
    hold: bool,
}

impl UnaryService<Empty> for Unary {
    type Response = Empty;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Empty>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Empty>) -> Self::Future {
        let hold = self.hold;
        Box::pin(async move {
            if hold {
                pending::<()>().await;
            }
            burn();
            Ok(tonic::Response::new(request.into_inner()))
        })
    }
}
