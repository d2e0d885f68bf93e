//! Pools against scripted, h2 and hyper servers; on the memory network and paused time unless sockets are the matter.

mod bodies;
mod http1;
mod http2;
mod limit;
mod lines;
mod raw;
mod sockets;
mod stalls;
mod states;
mod stress;
mod unsent;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{io::DuplexStream, sync::Notify};

use self::raw::Raw;
use super::*;
use crate::{
    body::Body,
    error::Error,
    model::{Protocol, SetKind},
    rt::TaskSet,
    transport::{
        Dial,
        memory::{MemoryListener, MemoryNetwork},
    },
};

/// What the pools of a cluster share.
#[derive(Clone)]
struct Context {
    dial: Arc<dyn Dial>,
    limit: Arc<ConnectionLimit>,
    waiting: Arc<AtomicU32>,
    changed: Arc<Notify>,
}

impl Context {
    fn pool(&self, target: PoolTarget) -> Arc<Pool> {
        self.pool_with(target, PoolPolicy::default())
    }

    fn pool_with(&self, target: PoolTarget, policy: PoolPolicy) -> Arc<Pool> {
        let (dial, limit, waiting) = (self.dial.clone(), self.limit.clone(), self.waiting.clone());
        let changed = self.changed.clone();
        let told = move |_| changed.notify_waiters();
        Pool::new(target, policy, dial, limit, TaskSet::new(), waiting, told)
    }
}

/// A pool to `memory:server` and what it needs.
struct Bench {
    network: MemoryNetwork,
    limit: Arc<ConnectionLimit>,
    context: Context,
    changed: Arc<Notify>,
    pool: Arc<Pool>,
}

impl Bench {
    fn new(protocol: Protocol) -> Self {
        Self::with(protocol, SetKind::Replicas, 1024)
    }

    fn with(protocol: Protocol, kind: SetKind, connections: u32) -> Self {
        let network = MemoryNetwork::new();
        Self::on(network.clone(), Dialer::new(network), "memory:server", protocol, kind, connections)
    }

    fn on(
        network: MemoryNetwork,
        dial: Arc<dyn Dial>,
        address: &str,
        protocol: Protocol,
        kind: SetKind,
        connections: u32,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        let limit = ConnectionLimit::new(connections);
        let context = Context { dial, limit: limit.clone(), waiting: Arc::default(), changed: changed.clone() };
        let (addresses, label) = ([address.parse().unwrap()].into(), address.into());
        let target = PoolTarget { addresses, protocol, kind, label, authority: None };
        let pool = context.pool(target);
        Self { network, limit, context, changed, pool }
    }

    fn listen(&self) -> MemoryListener {
        self.network.listen("server").unwrap()
    }

    async fn until(&self, readiness: Readiness) {
        self.wait(|| self.pool.readiness() == readiness).await;
    }

    async fn wait(&self, mut done: impl FnMut() -> bool) {
        self.context.waiting.fetch_add(1, Relaxed);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done() {
                break;
            }
            changed.await;
        }
        self.context.waiting.fetch_sub(1, Relaxed);
    }

    async fn ready(&self) {
        self.pool.connect();
        self.until(Readiness::Ready).await;
    }

    /// Waits as a cluster does.
    async fn slot(&self, want: Want) -> Slot {
        let mut slot = None;
        self.wait(|| {
            if self.pool.readiness() == Readiness::Idle {
                self.pool.connect();
            }
            slot = taken(self.pool.acquire(want));
            slot.is_some()
        })
        .await;
        slot.unwrap()
    }

    async fn call(&self, request: Request<Body>) -> Result<Response<SlotBody>, Error> {
        self.slot(Want::Any).await.send(request).await
    }

    fn streams(&self) -> u32 {
        self.pool.streams()
    }

    fn connections(&self) -> u32 {
        self.pool.connections()
    }
}

fn taken(acquired: Acquire) -> Option<Slot> {
    match acquired {
        Acquire::Slot(slot) => Some(slot),
        Acquire::Full | Acquire::Refused(_) => None,
    }
}

fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://service{path}")).body(Body::empty()).unwrap()
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("http://service/").body(body.into()).unwrap()
}

async fn text(response: Response<SlotBody>) -> Bytes {
    Box::pin(response.into_body()).collect().await.unwrap().to_bytes()
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

/// A connection to a scripted server with this stream limit.
async fn scripted(max_streams: Option<u32>) -> (Bench, MemoryListener, Raw) {
    let bench = Bench::new(Protocol::Http2);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    server.settings(max_streams).await;
    bench.until(Readiness::Ready).await;
    (bench, listener, server)
}

/// Serves every connection with the h2 crate.
fn serve<F, Fut>(mut listener: MemoryListener, builder: ::h2::server::Builder, handler: F)
where
    F: Fn(Request<::h2::RecvStream>, ::h2::server::SendResponse<Bytes>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(io) = listener.accept().await {
            tokio::spawn(connection(io, builder.clone(), handler.clone()));
        }
    });
}

async fn connection<F, Fut>(io: DuplexStream, builder: ::h2::server::Builder, handler: F)
where
    F: Fn(Request<::h2::RecvStream>, ::h2::server::SendResponse<Bytes>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(handler(request, respond));
    }
}

fn ok() -> Response<()> {
    Response::new(())
}

fn streaming<S>(frames: S) -> Body
where
    S: futures_core::Stream<Item = Result<Frame<Bytes>, Error>> + Send + 'static,
{
    Body::erase(StreamBody::new(frames))
}

async fn echo(request: Request<::h2::RecvStream>, mut respond: ::h2::server::SendResponse<Bytes>) {
    let mut body = request.into_body();
    let mut send = respond.send_response(ok(), false).unwrap();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        let mut data = data;
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            send.send_data(data.split_to(room.min(data.len())), false).unwrap();
        }
    }
    match body.trailers().await {
        Ok(Some(trailers)) => send.send_trailers(trailers).unwrap(),
        _ => send.send_data(Bytes::new(), true).unwrap(),
    }
}
