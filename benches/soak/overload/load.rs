//! Calls at random times, whatever comes back.

use std::{
    cell::RefCell,
    fmt,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::LocalSet};

use super::{
    cpu::{self, Account},
    server::{HOLD, SPIN, Server},
};

/// Later than this after it was to be sent an answer is of no use.
const GOOD: Duration = Duration::from_millis(100);
/// When a caller gives up.
const PATIENCE: Duration = Duration::from_secs(1);
/// A call that is sent later than this was not sent when it was to be.
const IN_TIME: Duration = Duration::from_millis(20);
const CONNECTIONS: usize = 8;
/// Over HTTP/1.1, one for each call in flight.
const MOST_CONNECTIONS: usize = 512;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Wire {
    Grpc,
    Http1,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Grpc => "h2",
            Self::Http1 => "h1",
        })
    }
}

pub(crate) struct Plan {
    /// Calls a second.
    pub(crate) rate: f64,
    pub(crate) warm: Duration,
    pub(crate) length: Duration,
    pub(crate) seed: u64,
}

/// What came of it, after the warm-up.
pub(crate) struct Round {
    pub(crate) calls: u64,
    pub(crate) good: u64,
    pub(crate) late: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    /// A second.
    pub(crate) asked: f64,
    pub(crate) goodput: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The server's, in seconds.
    pub(crate) cpu_per_call: f64,
    /// The share of its core that was the server's to use.
    pub(crate) ours: f64,
    /// The share of its core that the generator used, and of the calls that it sent in time.
    pub(crate) busy: f64,
    pub(crate) in_time: f64,
}

impl Round {
    /// Why it says nothing.
    pub(crate) fn void(&self) -> Option<String> {
        if self.busy > 0.9 {
            return Some(format!("the generator was busy for {:.0} % of the time", self.busy * 100.0));
        }
        (self.in_time < 0.99).then(|| format!("{:.1} % of the calls were sent in time", self.in_time * 100.0))
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum End {
    Served,
    Refused,
    Failed,
}

/// A seeded sequence of even numbers in 0..1.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn even(&mut self) -> f64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How long to the next of so many a second.
    pub(crate) fn pause(&mut self, rate: f64) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.even()).ln() / rate)
    }
}

/// One connection or several.
#[derive(Clone)]
enum Client {
    Grpc { connections: Rc<Vec<http2::SendRequest<Full<Bytes>>>>, turn: Rc<RefCell<usize>> },
    Http1 { addr: SocketAddr, idle: Rc<RefCell<Vec<http1::SendRequest<Full<Bytes>>>>>, open: Rc<RefCell<usize>> },
}

impl Client {
    async fn new(addr: SocketAddr, wire: Wire) -> Self {
        match wire {
            Wire::Grpc => {
                let mut connections = Vec::new();
                for _ in 0..CONNECTIONS {
                    let stream = connect(addr).await.expect("a connection");
                    let (send, connection) =
                        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
                    tokio::spawn(connection);
                    connections.push(send);
                }
                Self::Grpc { connections: Rc::new(connections), turn: Rc::default() }
            }
            Wire::Http1 => Self::Http1 { addr, idle: Rc::default(), open: Rc::default() },
        }
    }

    async fn call(&self, path: &'static str) -> End {
        match tokio::time::timeout(PATIENCE, self.try_call(path)).await {
            Ok(Some(end)) => end,
            Ok(None) | Err(_) => End::Failed,
        }
    }

    async fn try_call(&self, path: &'static str) -> Option<End> {
        match self {
            Self::Grpc { connections, turn } => {
                let at = turn.replace_with(|turn| *turn + 1) % connections.len();
                let mut send = connections[at].clone();
                send.ready().await.ok()?;
                // One empty message.
                let body = Full::new(Bytes::from_static(&[0; 5]));
                let request = Request::post(format!("http://spin{path}"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers");
                let response = send.send_request(request.body(body).ok()?).await.ok()?;
                let status = response.headers().get("grpc-status").cloned();
                let trailers = response.into_body().collect().await.ok()?.trailers().cloned().unwrap_or_default();
                let status = status.as_ref().or_else(|| trailers.get("grpc-status"))?;
                Some(end(status.as_bytes() == b"0", status.as_bytes() == b"14"))
            }
            Self::Http1 { addr, idle, open } => {
                let send = idle.borrow_mut().pop();
                let mut send = match send {
                    Some(send) => send,
                    None if *open.borrow() >= MOST_CONNECTIONS => return None,
                    None => {
                        *open.borrow_mut() += 1;
                        let _closed = Opened(Rc::clone(open));
                        let (send, connection) =
                            http1::handshake(TokioIo::new(connect(*addr).await.ok()?)).await.ok()?;
                        tokio::task::spawn_local(async move {
                            let _closed = _closed;
                            let _ = connection.await;
                        });
                        send
                    }
                };
                send.ready().await.ok()?;
                let request = Request::get(path).header(HOST, "spin").body(Full::default()).ok()?;
                let response = send.send_request(request).await.ok()?;
                let status = response.status().as_u16();
                read(response.into_body()).await?;
                idle.borrow_mut().push(send);
                Some(end(status == 200, status == 503))
            }
        }
    }
}

struct Opened(Rc<RefCell<usize>>);

impl Drop for Opened {
    fn drop(&mut self) {
        *self.0.borrow_mut() -= 1;
    }
}

fn end(served: bool, refused: bool) -> End {
    match (served, refused) {
        (true, _) => End::Served,
        (_, true) => End::Refused,
        _ => End::Failed,
    }
}

async fn read(body: Incoming) -> Option<()> {
    body.collect().await.ok().map(drop)
}

async fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, future)
}

/// The server's CPU for a call, by two callers in a closed loop.
pub(crate) fn closed(server: &Server, wire: Wire, length: Duration) -> f64 {
    block_on(async {
        let client = Client::new(server.addr, wire).await;
        client.call(SPIN).await;
        let (before, until) = (Account::of(server.thread), Instant::now() + length);
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let client = client.clone();
                tokio::task::spawn_local(async move {
                    let mut calls = 0u64;
                    while Instant::now() < until {
                        calls += u64::from(client.call(SPIN).await == End::Served);
                    }
                    calls
                })
            })
            .collect();
        let mut calls = 0;
        for caller in callers {
            calls += caller.await.expect("it calls");
        }
        Account::of(server.thread).ran_since(before) / calls.max(1) as f64
    })
}

#[derive(Default)]
struct Seen {
    calls: u64,
    in_time: u64,
    good: Vec<u32>,
    late: u64,
    refused: u64,
    failed: u64,
}

/// An open loop.
pub(crate) fn open(server: &Server, wire: Wire, plan: &Plan) -> Round {
    block_on(async {
        let client = Client::new(server.addr, wire).await;
        if server.full {
            let holder = client.clone();
            // Without patience: in between its place would be free.
            tokio::task::spawn_local(async move { while holder.try_call(HOLD).await != Some(End::Served) {} });
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let seen = Rc::new(RefCell::new(Seen::default()));
        let mut dice = Dice::new(plan.seed);
        let begun = Instant::now();
        let (warm, end) = (begun + plan.warm, begun + plan.warm + plan.length);
        let mut next = begun;
        let mut at_warm = None;
        loop {
            let now = Instant::now();
            if now >= warm && at_warm.is_none() {
                at_warm = Some((now, Account::of(server.thread), cpu::of_this_thread()));
            }
            while next <= now.min(end) {
                let intended = next;
                next += dice.pause(plan.rate);
                let (client, seen) = (client.clone(), Rc::clone(&seen));
                let counts = intended >= warm;
                if counts {
                    let mut seen = seen.borrow_mut();
                    seen.calls += 1;
                    seen.in_time += u64::from(now - intended < IN_TIME);
                }
                tokio::task::spawn_local(async move {
                    let ended = client.call(SPIN).await;
                    let took = intended.elapsed();
                    if !counts {
                        return;
                    }
                    let mut seen = seen.borrow_mut();
                    match ended {
                        End::Served if took <= GOOD => seen.good.push(took.as_micros() as u32),
                        End::Served => seen.late += 1,
                        End::Refused => seen.refused += 1,
                        End::Failed => seen.failed += 1,
                    }
                });
            }
            if now >= end {
                break;
            }
            // A timer has milliseconds: what is due in between is sent with the next.
            tokio::time::sleep(Duration::from_millis(1).min(end - now)).await;
        }
        let (since, account, own) = at_warm.unwrap_or((begun, Account::of(server.thread), cpu::of_this_thread()));
        let passed = since.elapsed().as_secs_f64();
        let after = Account::of(server.thread);
        let busy = (cpu::of_this_thread() - own).as_secs_f64() / passed;
        // What is still on its way, as long as a caller waits.
        tokio::time::sleep(PATIENCE + GOOD).await;
        let mut seen = seen.take();
        seen.good.sort_unstable();
        let at = |quantile: f64| {
            let index = (seen.good.len().saturating_sub(1) as f64 * quantile) as usize;
            seen.good.get(index).map_or(0.0, |micros| f64::from(*micros) / 1e3)
        };
        Round {
            calls: seen.calls,
            good: seen.good.len() as u64,
            late: seen.late,
            refused: seen.refused,
            failed: seen.failed,
            asked: seen.calls as f64 / passed,
            goodput: seen.good.len() as f64 / passed,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            cpu_per_call: after.ran_since(account) / seen.calls.max(1) as f64,
            ours: after.share_since(account, passed),
            busy,
            in_time: seen.in_time as f64 / seen.calls.max(1) as f64,
        }
    })
}
