//! Real loopback sockets: options, happy eyeballs, and hyper as the peer.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Mutex, atomic::AtomicU32, atomic::Ordering::SeqCst},
};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::net::TcpListener;

use super::*;
use crate::{
    error::{Code, Delivery},
    model::Address,
    rt,
    transport::{Dialed, Offer},
};

async fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    (listener, address)
}

fn bench(address: &Address, protocol: Protocol) -> Bench {
    let network = MemoryNetwork::new();
    let dial = Dialer::new(network.clone());
    Bench::on(network, dial, &address.to_string(), protocol, SetKind::Replicas, 1024)
}

async fn echo(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    Ok(Response::new(request.into_body()))
}

#[tokio::test]
async fn every_socket_has_nodelay_keepalive_and_a_user_timeout() {
    let (listener, _) = listener().await;
    let stream = dial::connect_tcp(&listener.local_addr().unwrap()).await.unwrap();
    let socket = SockRef::from(&stream);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
    #[cfg(target_os = "linux")]
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(20)));
}

#[tokio::test]
async fn a_refused_connection_names_the_address_and_was_not_sent() {
    let (listener, address) = listener().await;
    drop(listener);
    let error = Dialer::new(MemoryNetwork::new()).dial(&address, Offer::Both).await.err().unwrap();
    assert_eq!((error.code(), error.delivery()), (Code::ConnectFailed, Delivery::Unsent));
    assert!(error.message().contains(&format!("no connection to {address}")), "{error}");
}

#[tokio::test]
async fn calls_pass_over_both_versions_of_hyper() {
    for (protocol, http2) in [(Protocol::Auto, true), (Protocol::Auto, false), (Protocol::Http1, false)] {
        let (listener, address) = listener().await;
        let accepted = Arc::new(AtomicU32::new(0));
        let count = accepted.clone();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                io.set_nodelay(true).unwrap();
                tokio::spawn(async move {
                    let io = TokioIo::new(io);
                    let echo = service_fn(echo);
                    let _ = match http2 {
                        true => {
                            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            server.serve_connection(io, echo).await
                        }
                        false => hyper::server::conn::http1::Builder::new().serve_connection(io, echo).await,
                    };
                });
            }
        });
        let bench = bench(&address, protocol);
        for size in [0, 1, 1024, 1 << 20] {
            let response = within(bench.call(post(vec![1u8; size]))).await.unwrap();
            let version = if http2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
            assert_eq!(response.version(), version);
            assert_eq!(text(response).await.len(), size);
        }
        let probes = u32::from(protocol == Protocol::Auto && !http2);
        // A release races with the next call at most once.
        assert!(accepted.load(SeqCst) <= 2 + probes, "{}", accepted.load(SeqCst));
        within(bench.wait(|| bench.streams() == 0)).await;
    }
}

#[tokio::test]
async fn a_large_body_passes_both_ways_over_sockets() {
    const SIZE: usize = 64 << 20;
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(io), service_fn(echo)).await;
    });
    let bench = bench(&address, Protocol::Http2);
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let frames = (0..SIZE / chunk.len()).map(move |_| Ok::<_, Error>(Frame::data(chunk.clone())));
    let body = Body::erase(StreamBody::new(tokio_stream::iter(frames)));
    let response = within(bench.call(Request::post("http://service/").body(body).unwrap())).await.unwrap();
    let mut body = Box::pin(response.into_body());
    let mut received = 0;
    while let Some(frame) = tokio::time::timeout(Duration::from_secs(60), body.frame()).await.unwrap() {
        received += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    assert_eq!(received, SIZE);
}

/// Answers by address: after a delay, by an error, or never.
#[derive(Default)]
struct Script {
    order: Mutex<Vec<(Address, Duration)>>,
    started: Option<rt::Instant>,
    answers: Vec<(Address, Option<Duration>, bool)>,
}

impl Dial for Script {
    fn dial<'a>(
        &'a self,
        address: &'a Address,
        _offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        Box::pin(async move {
            let elapsed = rt::now() - self.started.unwrap();
            self.order.lock().unwrap().push((address.clone(), elapsed));
            let (_, delay, ok) = self.answers.iter().find(|(known, ..)| known == address).unwrap();
            match delay {
                Some(delay) => rt::sleep(*delay).await,
                None => std::future::pending().await,
            }
            if *ok {
                Ok(Dialed::plain(tokio::io::duplex(1).0))
            } else {
                Err(crate::transport::error::connect(address, std::io::ErrorKind::ConnectionRefused.into()))
            }
        })
    }
}

fn address(text: &str) -> Address {
    text.parse::<SocketAddr>().unwrap().into()
}

async fn raced(answers: Vec<(&str, Option<u64>, bool)>) -> (Result<Dialed, Error>, Vec<(String, u64)>, u64) {
    let answers: Vec<_> =
        answers.into_iter().map(|(text, delay, ok)| (address(text), delay.map(Duration::from_millis), ok)).collect();
    let addresses: Vec<_> = answers.iter().map(|(address, ..)| address.clone()).collect();
    let script = Script { started: Some(rt::now()), answers, ..Script::default() };
    let result = dial::race(&script, &addresses, Offer::Both).await;
    let took = (rt::now() - script.started.unwrap()).as_millis() as u64;
    let order = script.order.into_inner().unwrap();
    (result, order.into_iter().map(|(address, at)| (address.to_string(), at.as_millis() as u64)).collect(), took)
}

#[tokio::test(start_paused = true)]
async fn a_race_alternates_families_with_a_head_start() {
    let (result, order, took) = raced(vec![
        ("[::1]:1", None, false),
        ("[::2]:1", None, false),
        ("127.0.0.1:1", None, false),
        ("127.0.0.2:1", Some(10), true),
    ])
    .await;
    assert!(result.is_ok());
    let order: Vec<_> = order.iter().map(|(address, at)| (address.as_str(), *at)).collect();
    assert_eq!(order, [("[::1]:1", 0), ("127.0.0.1:1", 250), ("[::2]:1", 500), ("127.0.0.2:1", 750)]);
    assert_eq!(took, 760);
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_hands_over_at_once_and_a_late_one_may_still_win() {
    let (result, order, took) = raced(vec![("[::1]:1", Some(5), false), ("127.0.0.1:1", Some(5), true)]).await;
    assert!(result.is_ok());
    assert_eq!((order[1].1, took), (5, 10));
    let (result, _, took) = raced(vec![("[::1]:1", Some(300), true), ("127.0.0.1:1", Some(500), true)]).await;
    assert!(result.is_ok());
    assert_eq!(took, 300);
}
