//! Exchanges over HTTP/1.1: detection, reuse, stale connections, upgrades.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use http::StatusCode;
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{raw::Raw, *};
use crate::{
    error::{Code, Delivery},
    rt,
    transport::Alpn,
};

async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.version(), http::Version::HTTP_11);
    assert_eq!(request.headers()["host"], "service");
    let path = request.uri().to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::new(Full::from([path.as_bytes(), &body].concat())))
}

/// An HTTP/1.1-only server; counts connections.
fn serve(mut listener: MemoryListener) -> Arc<AtomicU32> {
    let accepted = Arc::new(AtomicU32::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        while let Some(io) = listener.accept().await {
            count.fetch_add(1, SeqCst);
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service_fn(hello)),
            );
        }
    });
    accepted
}

/// Reads one request head and says how much came.
async fn head(io: &mut DuplexStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(io.read_u8().await.ok()?);
    }
    Some(String::from_utf8(text).unwrap())
}

#[tokio::test(start_paused = true)]
async fn auto_falls_back_to_http1_where_the_server_answers_in_it() {
    let bench = Bench::new(Protocol::Auto);
    let accepted = serve(bench.listen());
    let started = rt::now();
    bench.ready().await;
    assert!(rt::now() - started < Duration::from_millis(900));
    assert_eq!(text(bench.call(get("/a?b")).await.unwrap()).await, "/a?b");
    assert_eq!(text(bench.call(post("data")).await.unwrap()).await, "/data");
    // One for the preface, one for both calls.
    assert_eq!(accepted.load(SeqCst), 2);
    let Acquire::Refused(error) = bench.pool.acquire(Want::Http2) else { panic!("HTTP/2 on an HTTP/1.1 server") };
    assert_eq!((error.code(), error.delivery()), (Code::ProtocolError, Delivery::Unsent));
}

#[tokio::test(start_paused = true)]
async fn auto_takes_http2_where_the_server_speaks_it() {
    let bench = Bench::new(Protocol::Auto);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    server.settings(None).await;
    assert_eq!(bench.slot(Want::Any).await.version(), Alpn::Http2);
    // Upgrades get a connection of their own.
    let slot = bench.slot(Want::Http1).await;
    assert_eq!(slot.version(), Alpn::Http1);
    let call = tokio::spawn(slot.send(get("/up")));
    let mut io = listener.accept().await.unwrap();
    assert!(head(&mut io).await.unwrap().starts_with("GET /up HTTP/1.1\r\n"));
    io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert!(call.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn auto_asks_again_where_http2_is_needed_and_silence_was_taken_for_http1() {
    let bench = Bench::new(Protocol::Auto);
    let mut listener = bench.listen();
    bench.pool.connect();
    let _busy = listener.accept().await.unwrap();
    let _http1 = listener.accept().await.unwrap();
    bench.ready().await;
    for _ in 0..3 {
        assert!(matches!(bench.pool.acquire(Want::Http2), Acquire::Refused(_)));
    }
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    server.settings(None).await;
    rt::sleep(Duration::from_millis(10)).await;
    assert_eq!(bench.slot(Want::Http2).await.version(), Alpn::Http2);
    assert_eq!(bench.slot(Want::Any).await.version(), Alpn::Http2);
    assert_eq!(bench.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn auto_asks_a_peer_of_http1_again_at_most_once_a_second() {
    let bench = Bench::new(Protocol::Auto);
    let accepted = serve(bench.listen());
    bench.ready().await;
    let before = accepted.load(SeqCst);
    for _ in 0..50 {
        assert!(matches!(bench.pool.acquire(Want::Http2), Acquire::Refused(_)));
        rt::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(accepted.load(SeqCst) - before, 5);
    assert_eq!(text(bench.call(get("/a")).await.unwrap()).await, "/a");
}

#[tokio::test(start_paused = true)]
async fn parallel_calls_dial_up_to_the_connection_limit_and_go_idle() {
    let bench = Bench::with(Protocol::Http1, SetKind::Replicas, 3);
    let mut listener = bench.listen();
    let accepting = tokio::spawn(async move {
        let mut accepted = Vec::new();
        while accepted.len() < 3 {
            let mut io = listener.accept().await.unwrap();
            head(&mut io).await.unwrap();
            accepted.push(io);
        }
        for io in &mut accepted {
            io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
        (listener, accepted)
    });
    bench.ready().await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(tokio::spawn(bench.slot(Want::Any).await.send(get("/"))));
    }
    assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
    for call in calls {
        text(call.await.unwrap().unwrap()).await;
    }
    let _accepted = accepting.await.unwrap();
    assert_eq!((bench.connections(), bench.streams()), (3, 0));
    let slots: Vec<_> = (0..3).map(|_| taken(bench.pool.acquire(Want::Any)).unwrap()).collect();
    assert_eq!((slots.len(), bench.connections()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_stale_connection_is_replaced_once_for_requests_that_may_be_repeated() {
    for (request, repeated) in [
        (get("/"), true),
        (Request::head("http://service/").body(Body::empty()).unwrap(), true),
        (Request::post("http://service/").header("idempotency-key", "1").body(Body::from("x")).unwrap(), true),
        (post("x"), false),
        (Request::delete("http://service/").body(Body::empty()).unwrap(), false),
    ] {
        let bench = Bench::new(Protocol::Http1);
        let mut listener = bench.listen();
        bench.pool.connect();
        let mut io = listener.accept().await.unwrap();
        let call = tokio::spawn(bench.slot(Want::Any).await.send(get("/")));
        head(&mut io).await.unwrap();
        io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        text(call.await.unwrap().unwrap()).await;
        // The server reads the next request and closes without a byte.
        let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(request));
        head(&mut io).await.unwrap();
        drop(io);
        if repeated {
            // The eager reconnect stays silent, whichever comes first.
            tokio::spawn(async move {
                while let Some(mut io) = listener.accept().await {
                    tokio::spawn(async move {
                        if head(&mut io).await.is_some_and(|text| text.contains("host: service")) {
                            io.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                        }
                    });
                }
            });
            assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::NO_CONTENT);
        } else {
            let error = call.await.unwrap().err().unwrap();
            assert_eq!((error.code(), error.delivery()), (Code::ConnectionClosed, Delivery::Maybe));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn something_that_is_not_http_is_e017() {
    let bench = Bench::new(Protocol::Http1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut io = listener.accept().await.unwrap();
    let call = tokio::spawn(bench.slot(Want::Any).await.send(get("/")));
    head(&mut io).await.unwrap();
    io.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await.unwrap();
    let error = call.await.unwrap().err().unwrap();
    assert_eq!((error.code(), error.delivery()), (Code::ProtocolError, Delivery::Maybe));
}

#[tokio::test(start_paused = true)]
async fn trailers_pass_both_ways() {
    let bench = Bench::new(Protocol::Http1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut io = listener.accept().await.unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("checksum", http::HeaderValue::from_static("1"));
    let frames = vec![Ok::<_, Error>(Frame::data(Bytes::from_static(b"a"))), Ok(Frame::trailers(trailers))];
    let body = Body::erase(StreamBody::new(tokio_stream::iter(frames)));
    let request = Request::post("http://service/").header("trailer", "checksum").header("te", "trailers");
    let call = tokio::spawn(bench.slot(Want::Any).await.send(request.body(body).unwrap()));
    head(&mut io).await.unwrap();
    let mut sent = Vec::new();
    while !sent.ends_with(b"checksum: 1\r\n\r\n") {
        sent.push(io.read_u8().await.unwrap());
    }
    io.write_all(b"HTTP/1.1 200 OK\r\ntrailer: sum\r\ntransfer-encoding: chunked\r\n\r\n1\r\nb\r\n0\r\nsum: 2\r\n\r\n")
        .await
        .unwrap();
    let collected = Box::pin(call.await.unwrap().unwrap().into_body()).collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["sum"], "2");
    bench.wait(|| bench.streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_after_each_answer_is_served_all_the_same() {
    let bench = Bench::new(Protocol::Http1);
    let mut listener = bench.listen();
    tokio::spawn(async move {
        while let Some(mut io) = listener.accept().await {
            tokio::spawn(async move {
                if head(&mut io).await.is_some() {
                    let _ = io.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    for _ in 0..20 {
        assert_eq!(text(bench.call(get("/")).await.unwrap()).await, "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn connect_opens_a_tunnel_that_holds_its_connection_until_it_ends() {
    let bench = Bench::with(Protocol::Http1, SetKind::Replicas, 1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut io = listener.accept().await.unwrap();
    let request = Request::connect("backend.example:443").body(Body::empty()).unwrap();
    let call = tokio::spawn(bench.slot(Want::Http1).await.send(request));
    let sent = head(&mut io).await.unwrap();
    assert!(sent.starts_with("CONNECT backend.example:443 HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("host: backend.example:443\r\n"), "{sent}");
    io.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.unwrap();
    let mut response = call.await.unwrap().unwrap();
    assert!(response.extensions().get::<Upgraded>().is_some());
    let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    drop(response);
    tunnel.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 5];
    io.read_exact(&mut bytes[..4]).await.unwrap();
    assert_eq!(&bytes[..4], b"ping");
    tunnel.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello");
    assert_eq!(bench.connections(), 1, "the tunnel is the connection");
    assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
    drop(tunnel);
    bench.wait(|| bench.connections() == 0).await;
    assert!(taken(bench.pool.acquire(Want::Any)).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_refused_connect_leaves_an_ordinary_connection() {
    let bench = Bench::new(Protocol::Http1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut io = listener.accept().await.unwrap();
    let request = Request::connect("backend.example:443").body(Body::empty()).unwrap();
    let call = tokio::spawn(bench.slot(Want::Http1).await.send(request));
    head(&mut io).await.unwrap();
    io.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(response.extensions().get::<Upgraded>().is_none());
    assert_eq!(text(response).await, "no");
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/next")));
    assert!(head(&mut io).await.unwrap().starts_with("GET /next "), "on the same connection");
    io.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert!(call.await.unwrap().is_ok());
    assert_eq!(bench.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_body_that_is_dropped_half_read_ends_its_connection_and_no_other() {
    let bench = Bench::new(Protocol::Http1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut io = listener.accept().await.unwrap();
    let call = tokio::spawn(bench.slot(Want::Any).await.send(get("/")));
    head(&mut io).await.unwrap();
    io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await.unwrap();
    let mut body = Box::pin(call.await.unwrap().unwrap().into_body());
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    assert_eq!(bench.connections(), 1);
    drop(body);
    // What the peer goes on sending belongs to nobody: the next request must not find it.
    assert_eq!(io.read(&mut [0; 1]).await.unwrap(), 0);
    bench.wait(|| bench.connections() == 0).await;
    let call = tokio::spawn(bench.slot(Want::Any).await.send(get("/next")));
    let mut io = listener.accept().await.unwrap();
    assert!(head(&mut io).await.unwrap().starts_with("GET /next "));
    io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(text(call.await.unwrap().unwrap()).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_response_body_that_is_dropped_when_it_has_arrived_whole_may_keep_its_connection() {
    let bench = Bench::new(Protocol::Http1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut io = listener.accept().await.unwrap();
    let call = tokio::spawn(bench.slot(Want::Any).await.send(get("/")));
    head(&mut io).await.unwrap();
    io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    let mut body = Box::pin(call.await.unwrap().unwrap().into_body());
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "done");
    drop(body);
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/next")));
    assert!(head(&mut io).await.unwrap().starts_with("GET /next "), "on the same connection");
    io.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert!(call.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_its_response_ends_its_connection() {
    let bench = Bench::new(Protocol::Http1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut io = listener.accept().await.unwrap();
    let call = tokio::spawn(bench.slot(Want::Any).await.send(post("x")));
    head(&mut io).await.unwrap();
    call.abort();
    bench.wait(|| bench.connections() == 0).await;
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"x");
}
