//! The listener, seen from the wire.

mod drain;
mod exhausted;
mod hostile;
mod proxied;
mod serve;
mod slow;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
};

use super::{Acceptor, Drain, InboundTls, Limits, Listener, Paced, Proxies};
use crate::{
    body::Body,
    instrument::Registry,
    peer::{Peer, PeerAddr},
    rt,
    rt::TaskSet,
    transport::memory::{BUFFER, MemoryNetwork},
};

const SECOND: Duration = Duration::from_secs(1);

/// A listener in memory and, if asked for, on a socket.
struct Server {
    acceptor: Acceptor,
    drain: Drain,
    tasks: TaskSet,
    registry: Registry,
    network: MemoryNetwork,
}

impl Server {
    fn new(limits: Limits) -> Self {
        let (drain, tasks, registry) = (Drain::new(), TaskSet::new(), Registry::default());
        let acceptor = Acceptor::new("mesh", limits, drain.clone(), tasks.clone(), &registry);
        let network = MemoryNetwork::new();
        acceptor.serve(Listener::memory(network.listen("a").unwrap()), InboundTls::default, app);
        Self { acceptor, drain, tasks, registry, network }
    }

    fn bind(&self) -> SocketAddr {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.socket_addr().unwrap();
        self.acceptor.serve(listener, InboundTls::default, app);
        address
    }

    fn connect(&self) -> DuplexStream {
        self.network.connect("a").unwrap()
    }

    fn closed(&self, reason: &str) -> u64 {
        let labels = [("direction", "inbound"), ("listener", "mesh"), ("reason", reason)];
        self.registry.counter("sinew_connections_closed_total", &labels).get()
    }

    fn refused(&self, reason: &str) -> u64 {
        self.registry.counter("sinew_connections_refused_total", &[("listener", "mesh"), ("reason", reason)]).get()
    }
}

type App = tower::util::BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// Answers by path: `/slow/<ms>` waits, `/stream` sends a byte a second for ten, `/echo` the body, `/upgrade` switches
/// to an echo, `/large` sends 8 MiB.
fn app(peer: Peer) -> App {
    App::new(tower::service_fn(move |request: Request<Body>| {
        let peer = peer.clone();
        async move {
            let path = request.uri().path().to_owned();
            let mut response = Response::new(Body::from("ok"));
            if let Some(ms) = path.strip_prefix("/slow/") {
                rt::sleep(Duration::from_millis(ms.parse().unwrap())).await;
            } else if path == "/peer" {
                *response.body_mut() = Body::from(peer.remote_addr().to_string());
            } else if path == "/large" {
                *response.body_mut() = Body::from(vec![b'x'; 8 << 20]);
            } else if path == "/panic" {
                panic!("a handler panicked");
            } else if path == "/echo" {
                *response.body_mut() = Body::from(request.into_body().collect().await.unwrap().to_bytes());
            } else if path == "/hold" {
                // Keeps the request body for longer than the response.
                let body = request.into_body();
                tokio::spawn(async move { body.collect().await.map(|body| body.to_bytes().len()) });
            } else if path == "/stream" {
                *response.body_mut() = Body::new(http_body_util::StreamBody::new(stream()));
            } else if path == "/upgrade" {
                tokio::spawn(async move {
                    let mut io = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                    let mut byte = [0];
                    while io.read_exact(&mut byte).await.is_ok() {
                        io.write_all(&byte).await.unwrap();
                    }
                });
                *response.body_mut() = Body::empty();
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert("connection", "upgrade".parse().unwrap());
                response.headers_mut().insert("upgrade", "echo".parse().unwrap());
            }
            Ok(response)
        }
    }))
}

fn stream() -> impl futures_core::Stream<Item = Result<http_body::Frame<Bytes>, Infallible>> + Send + 'static {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for _ in 0..10 {
            rt::sleep(SECOND).await;
            if sender.send(Ok(http_body::Frame::data(Bytes::from_static(b"x")))).await.is_err() {
                return;
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Reads one HTTP/1 response head and as much body as `content-length` says; empty at the end of the stream.
async fn read_response(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\r\n\r\n") {
        match io.read(&mut byte).await {
            Ok(1) => text.push(byte[0] as char),
            _ => return text,
        }
    }
    let length = text.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    io.read_exact(&mut body).await.unwrap();
    text + std::str::from_utf8(&body).unwrap()
}

/// True if the server closed the connection without another byte.
async fn is_closed(io: &mut (impl AsyncRead + Unpin)) -> bool {
    matches!(io.read(&mut [0]).await, Ok(0) | Err(_))
}

/// Waits for the server to close, and says how long it took.
async fn until_closed(io: &mut (impl AsyncRead + Unpin)) -> Duration {
    let began = rt::now();
    while !is_closed(io).await {}
    began.elapsed()
}

struct H2 {
    send: http2::SendRequest<Empty<Bytes>>,
    done: tokio::task::JoinHandle<Result<(), hyper::Error>>,
}

impl H2 {
    async fn connect(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        Self { send, done: tokio::spawn(connection) }
    }

    async fn get(&mut self, path: &str) -> Result<String, hyper::Error> {
        let request = Request::get(format!("http://a{path}")).body(Empty::new()).unwrap();
        let body = self.send.send_request(request).await?.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}

async fn tcp(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}
