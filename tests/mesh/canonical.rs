//! A request has one meaning, and the application sees the same bytes as the rules.

use std::net::SocketAddr;

use axum::{Router, extract::Request};
use sinew::{Mesh, PathNormalization};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn serve(level: Option<PathNormalization>) -> SocketAddr {
    let mut builder = Mesh::builder("s");
    if let Some(level) = level {
        builder = builder.path_normalization(level);
    }
    let listener = builder.build().await.unwrap().listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr();
    let app = Router::new().fallback(|request: Request| async move { request.uri().to_string() });
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    addr
}

/// Status, `sinew-error` and body of the answer to these bytes.
async fn send(addr: SocketAddr, head: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let error = head.lines().find_map(|line| line.strip_prefix("sinew-error: ")).unwrap_or_default();
    (status, error.to_owned(), body.to_owned())
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn what_has_two_meanings_is_refused_with_a_reason() {
    let addr = serve(None).await;
    let close = "connection: close\r\n\r\n";
    let rows = [
        (get("/a%2fb"), "path"),
        (get("/w/%2e%2e/x"), "path"),
        (get("/files/%73ecret"), "path"),
        (get("//a"), "path"),
        (get("/a\\b"), "path"),
        (get("evil:80"), "host"),
        (format!("GET / HTTP/1.1\r\n{close}"), "host"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n{close}"), "host"),
        (format!("GET http://evil/ HTTP/1.1\r\nhost: good\r\n{close}"), "host"),
        (format!("GET * HTTP/1.1\r\nhost: a\r\n{close}"), "target"),
        (format!("POST /S-x/M HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{close}"), ""),
    ];
    for (head, reason) in rows {
        let (status, error, body) = send(addr, &head).await;
        if reason.is_empty() {
            assert_eq!(status, 200, "{head}");
            continue;
        }
        assert_eq!((status, error), (400, format!("SINEW-E055; bad_request; {reason}")), "{head}");
        assert!(body.starts_with(&format!("SINEW-E055 bad_request; {reason}: ")), "{body}");
    }
}

#[tokio::test]
async fn grpc_callers_hear_of_it_as_grpc() {
    let addr = serve(None).await;
    let head = "POST /no-service HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\nconnection: close\r\n\r\n";
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("grpc-status: 3\r\n") && answer.contains("SINEW-E055"), "{answer}");
}

#[tokio::test]
async fn the_application_gets_the_bytes_that_were_checked() {
    let addr = serve(None).await;
    for target in ["/", "/a/b?c=/../d", "/a%20b", "/caf%C3%A9", "/a;b=c", "/...", "/a%3Fb?c%2fd"] {
        assert_eq!(send(addr, &get(target)).await.2, target);
    }
}

#[tokio::test]
async fn a_level_rewrites_what_the_application_sees() {
    let addr = serve(Some(PathNormalization::DecodeAndMergeSlashes)).await;
    for (target, seen) in [("/a/../b%2fc//d?q=%2e", "/b/c/d?q=%2e"), ("/%61\\b", "/a/b"), ("/a%20b", "/a%20b")] {
        assert_eq!(send(addr, &get(target)).await.2, seen, "{target}");
    }
    assert_eq!(send(addr, &get("/admin%00")).await.0, 400);
}

#[tokio::test]
async fn http2_is_held_to_the_same() {
    let addr = serve(None).await;
    let socket = TcpStream::connect(addr).await.unwrap();
    let (mut send, connection) = hyper::client::conn::http2::handshake::<_, _, sinew::Body>(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(socket),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    for (uri, host, expected) in [
        ("http://a/x", None, 200),
        ("http://a/x", Some("A"), 200),
        ("http://a/x", Some("b"), 400),
        ("http://a/x/../y", None, 400),
        ("http://u@a/x", None, 400),
    ] {
        let mut request = http::Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let response = send.send_request(request.body(sinew::Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), expected, "{uri} {host:?}");
    }
}
