//! The client that must not suffer: another address, a new connection every ten requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use super::{BoxError, tls::Trust};

const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Where and how to reach the service.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    pub(crate) tls: Option<Trust>,
    pub(crate) grpc: bool,
    /// Sent before anything else.
    pub(crate) prelude: &'static [u8],
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Target {
    /// A connection from an address of this machine, after the handshake.
    pub(crate) async fn connect(&self, from: [u8; 4], alpn: &'static [u8]) -> Result<Box<dyn Io>, BoxError> {
        let mut io = self.tcp(from).await?;
        tokio::io::AsyncWriteExt::write_all(&mut io, self.prelude).await?;
        Ok(match &self.tls {
            None => Box::new(io),
            Some(trust) => Box::new(trust.connect(io, alpn).await?),
        })
    }

    pub(crate) async fn tcp(&self, from: [u8; 4]) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let io = socket.connect(self.addr).await?;
        io.set_nodelay(true)?;
        Ok(io)
    }

    /// Ten requests on one connection.
    async fn ten(&self, record: &Record) -> Result<(), BoxError> {
        let alpn: &[u8] = if self.grpc { b"h2" } else { b"http/1.1" };
        let begun = Instant::now();
        let io = TokioIo::new(self.connect([127, 0, 0, 2], alpn).await?);
        let connected = begun.elapsed();
        if self.grpc {
            let (mut send, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            for n in 0..10 {
                let begun = Instant::now();
                let body = Full::new(Bytes::from_static(b"\0\0\0\0\x07\x0a\x05hello"));
                let request = Request::post("http://attacked/bench.Echo/Unary")
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(body)?;
                let body = send.send_request(request).await?.into_body().collect().await?;
                let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
                let fine = status.is_some_and(|status| status == "0");
                record.add(fine, begun.elapsed() + if n == 0 { connected } else { Duration::ZERO });
                tokio::time::sleep(PAUSE).await;
            }
        } else {
            let (mut send, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            for n in 0..10 {
                let begun = Instant::now();
                let request = Request::get("/").header("host", "attacked").body(Full::<Bytes>::default())?;
                let response = send.send_request(request).await?;
                let fine = response.status().is_success() && response.into_body().collect().await?.to_bytes() == "ok";
                record.add(fine, begun.elapsed() + if n == 0 { connected } else { Duration::ZERO });
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }
}

/// What the good client saw.
#[derive(Default)]
pub(crate) struct Record {
    good: AtomicU64,
    bad: AtomicU64,
    took: Mutex<Vec<Duration>>,
}

impl Record {
    fn add(&self, fine: bool, took: Duration) {
        if fine { &self.good } else { &self.bad }.fetch_add(1, Relaxed);
        self.took.lock().unwrap().push(took);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.good.load(Relaxed) + self.bad.load(Relaxed)
    }

    pub(crate) fn success(&self) -> f64 {
        self.good.load(Relaxed) as f64 / self.calls().max(1) as f64
    }

    pub(crate) fn p99(&self) -> Duration {
        let mut took = self.took.lock().unwrap();
        took.sort();
        took.get(took.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// Calls until told to stop.
pub(crate) async fn client(target: Target, stop: Arc<AtomicBool>, record: Arc<Record>) {
    while !stop.load(Relaxed) {
        match tokio::time::timeout(PATIENCE, target.ten(&record)).await {
            Ok(Ok(())) => {}
            // Whatever was still to be asked on this connection is one failure.
            Ok(Err(_)) | Err(_) => record.add(false, PATIENCE),
        }
    }
}
