//! Sizes that every caller pays for.

use std::{
    future::{IntoFuture, pending},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use sinew::{Body, Mesh, model::Protocol};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tower::Service;

use super::{alloc, echo};

/// Callers hold calls in futures of their own, often many at a time: ours is a pointer and its table.
#[tokio::test]
async fn the_future_of_a_call_is_two_words() {
    let mut client = echo::raw_client(Protocol::Http2).await.expect("both ends on loopback");
    let call = client.call(http::Request::new(Empty::<Bytes>::new()));
    assert_eq!(size_of_val(&call), 2 * size_of::<usize>());
}

#[test]
fn handles_are_at_most_two_words() {
    assert_eq!(size_of::<sinew::Client>(), 2 * size_of::<usize>());
    assert_eq!(size_of::<Mesh>(), size_of::<usize>());
}

const MANY: usize = 100;

/// Bytes that each of so many connections holds, once `arrived` says that all are there, or once each had an answer.
fn held(runtime: &Runtime, addr: SocketAddr, arrived: Option<&dyn Fn() -> usize>) -> i64 {
    let mut sockets = Vec::with_capacity(2 * MANY);
    let mut open = || {
        let before = alloc::thread();
        for _ in 0..MANY {
            let mut socket = TcpStream::connect(addr).expect("a connection");
            if arrived.is_none() {
                socket.write_all(b"GET / HTTP/1.1\r\nhost: s\r\n\r\n").expect("it is taken");
            }
            socket.set_nonblocking(true).expect("a socket");
            sockets.push(socket);
        }
        runtime.block_on(async {
            match arrived {
                Some(arrived) => {
                    while arrived() < sockets.len() {
                        tokio::task::yield_now().await;
                    }
                }
                None => {
                    let last = sockets.len() - MANY;
                    for socket in &mut sockets[last..] {
                        while socket.read(&mut [0; 512]).is_err() {
                            tokio::task::yield_now().await;
                        }
                    }
                }
            }
        });
        (alloc::thread() - before).live() / MANY as i64
    };
    // The first grow what all share.
    let _ = open();
    open()
}

async fn empty<B>(_: http::Request<B>) -> Result<http::Response<Body>, sinew::Error> {
    Ok(http::Response::new(Body::empty()))
}

/// An idle connection of ours holds hardly more than one that is served by hyper alone, and one that says nothing little.
#[test]
fn an_idle_connection_holds_little() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bare = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let addr = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let service = hyper::service::service_fn(empty);
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(io), service));
            }
        });
        addr
    });
    let (mesh, addr) = runtime.block_on(async {
        let mesh = Mesh::builder("s").build().await.expect("no mistakes");
        let listener = mesh.listen("127.0.0.1:0").await.expect("loopback");
        let addr = listener.local_addr();
        let serve = listener.serve(tower::service_fn(empty)).with_graceful_shutdown(pending());
        tokio::spawn(serve.into_future());
        (mesh, addr)
    });
    alloc::count(true);
    let silent = held(&runtime, addr, Some(&|| mesh.status().connections));
    let (idle, bare) = (held(&runtime, addr, None), held(&runtime, bare, None));
    println!("bytes held by a connection: {silent} silent; after a request {idle}, by hyper alone {bare}");
    assert!(silent <= 6 * 1024, "{silent} silent");
    assert!(idle <= bare + 6 * 1024, "{idle}, by hyper alone {bare}");
}
