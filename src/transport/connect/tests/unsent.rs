//! What is known of requests on a connection that breaks.

use std::{
    io,
    pin::Pin,
    sync::{Mutex, atomic::AtomicBool},
    task::{Context as TaskContext, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    raw::{HEADERS, Raw},
    *,
};
use crate::{
    error::{Code, Delivery},
    model::Address,
    transport::{Dialed, Offer},
};

/// A socket that takes no more bytes, and one that is gone.
#[derive(Default)]
struct Socket {
    full: AtomicBool,
    gone: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

impl Socket {
    fn fill(&self) {
        self.full.store(true, Relaxed);
    }

    /// Whoever writes may do so again: it is too late.
    fn end(&self) {
        self.gone.store(true, Relaxed);
        self.full.store(false, Relaxed);
        if let Some(waker) = self.reader.lock().unwrap().take() {
            waker.wake();
        }
    }
}

struct Through {
    io: DuplexStream,
    socket: Arc<Socket>,
}

impl AsyncRead for Through {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        *self.socket.reader.lock().unwrap() = Some(cx.waker().clone());
        if self.socket.gone.load(Relaxed) {
            return std::task::Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Through {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        if self.socket.full.load(Relaxed) {
            return std::task::Poll::Pending;
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

struct Dialled(MemoryNetwork, Arc<Socket>);

impl Dial for Dialled {
    fn dial<'a>(
        &'a self,
        _address: &'a Address,
        _offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        let (network, socket) = (self.0.clone(), self.1.clone());
        Box::pin(async move { Ok(Dialed::plain(Through { io: network.connect("server")?, socket })) })
    }
}

fn bench(protocol: Protocol) -> (Bench, Arc<Socket>) {
    let network = MemoryNetwork::new();
    let socket = Arc::<Socket>::default();
    let dial = Arc::new(Dialled(network.clone(), socket.clone()));
    (Bench::on(network, dial, "memory:server", protocol, SetKind::Replicas, 9), socket)
}

#[tokio::test(start_paused = true)]
async fn over_http2_what_was_still_to_be_written_was_not_sent_and_never_is() {
    let (bench, socket) = bench(Protocol::Http2);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    server.settings(None).await;
    bench.until(Readiness::Ready).await;
    let slots: Vec<_> = (0..4).map(|_| taken(bench.pool.acquire(Want::Any)).unwrap()).collect();
    let mut slots = slots.into_iter();
    let mut send = |request| tokio::spawn(slots.next().unwrap().send(request));
    let sent = send(get("/sent"));
    server.expect(HEADERS).await;
    socket.fill();
    let full = send(post("whole"));
    let streamed = send(post(streaming(tokio_stream::iter([Ok(Frame::data(Bytes::from_static(b"part")))]))));
    settle().await;
    // Its HEADERS are not even encoded when the end comes.
    let late = send(get("/late"));
    socket.end();
    let error = sent.await.unwrap().err().unwrap();
    assert_eq!((error.code(), error.delivery()), (Code::ConnectionClosed, Delivery::Maybe));
    for (call, returned) in [(full, true), (streamed, true), (late, true)] {
        let mut error = call.await.unwrap().err().unwrap();
        assert_eq!((error.code(), error.delivery()), (Code::ConnectionClosed, Delivery::Unsent));
        assert_eq!(error.take_returned().is_some(), returned);
    }
    while let Some(frame) = server.read().await {
        assert_ne!(frame.kind, HEADERS, "a request that was said to be unsent arrived");
    }
}

#[tokio::test(start_paused = true)]
async fn over_http1_a_request_that_the_socket_did_not_take_was_not_sent_and_never_is() {
    let (bench, socket) = bench(Protocol::Http1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut server = listener.accept().await.unwrap();
    bench.until(Readiness::Ready).await;
    socket.fill();
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(post("x")));
    settle().await;
    socket.end();
    let error = call.await.unwrap().err().unwrap();
    assert_eq!((error.code(), error.delivery()), (Code::ConnectionClosed, Delivery::Unsent));
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut server, &mut bytes).await.unwrap();
    assert_eq!(bytes, b"");
}

#[tokio::test(start_paused = true)]
async fn over_http1_a_request_that_was_taken_may_have_been_processed() {
    let (bench, socket) = bench(Protocol::Http1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let _server = listener.accept().await.unwrap();
    bench.until(Readiness::Ready).await;
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(post("x")));
    settle().await;
    socket.end();
    let error = call.await.unwrap().err().unwrap();
    assert_eq!((error.code(), error.delivery()), (Code::ConnectionClosed, Delivery::Maybe));
}
