//! `limits` of a listener: what is allowed, if not the default.

use std::{path::Path, time::Duration};

use axum::{Router, body::Bytes, routing::post};
use http::StatusCode;
use sinew::{Client, Code, Mesh, ResponseExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn write(file: &Path, limits: &str) {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("listeners: {{ mesh: {{ limits: {{ {limits} }} }} }}")).unwrap();
    std::fs::rename(next, file).unwrap();
}

fn app() -> Router {
    Router::new().route("/", post(|body: Bytes| async move { body.len().to_string() }))
}

/// A mesh with these limits in a file, and where it listens.
async fn served(directory: &Path, limits: &str) -> (Mesh, String) {
    let file = directory.join("sinew.yaml");
    write(&file, limits);
    let mesh = Mesh::builder("s").config_file(&file).build().await.unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.addr().to_string();
    tokio::spawn(listener.serve(app()).with_graceful_shutdown(std::future::pending()).into_future());
    (mesh, addr)
}

async fn client(addr: &str, protocol: &str) -> (Mesh, Client) {
    let yaml = format!("services: {{ s: {{ endpoints: {{ static: [\"{addr}\"] }}, protocol: {protocol} }} }}");
    let mesh = Mesh::builder("c").config_str(&yaml).build().await.unwrap();
    let client = mesh.client("s");
    (mesh, client)
}

/// A body of so many bytes that does not say so beforehand.
fn unsized_body(bytes: usize) -> sinew::Body {
    let parts = (0..bytes.div_ceil(1000)).map(move |part| 1000.min(bytes - part * 1000));
    let frames = parts.map(|size| Ok::<_, sinew::Error>(http_body::Frame::data(Bytes::from(vec![0; size]))));
    sinew::Body::new(http_body_util::StreamBody::new(tokio_stream::iter(frames)))
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let (server, addr) = served(directory.path(), "max_request_bytes: 5000").await;
    for protocol in ["http1", "http2"] {
        let (_mesh, client) = client(&addr, protocol).await;
        for (bytes, status) in [(0, 200), (5000, 200), (5001, 413), (1_000_000, 413)] {
            let said = client.post("/").body(vec![0; bytes]).send().await.unwrap();
            assert_eq!(said.status(), status, "{protocol}, {bytes} bytes");
            if status == 413 {
                let text = said.text().await.unwrap();
                assert!(text.starts_with("SINEW-E056"), "{text}");
            }
            let unsaid = client.post("/").body(unsized_body(bytes)).send().await.unwrap();
            assert_eq!(unsaid.status(), status, "{protocol}, {bytes} bytes in parts");
        }
        let generation = server.snapshot().generation;
        let (more, back) = if protocol == "http1" { (20_000, 5000) } else { (30_000, 5000) };
        write(&directory.path().join("sinew.yaml"), &format!("max_request_bytes: {more}"));
        server.changed(generation).await;
        assert_eq!(client.post("/").body(vec![0; more]).send().await.unwrap().status(), 200, "on the same connection");
        assert_eq!(client.post("/").body(vec![0; more + 1]).send().await.unwrap().status(), 413);
        let generation = server.snapshot().generation;
        write(&directory.path().join("sinew.yaml"), &format!("max_request_bytes: {back}"));
        server.changed(generation).await;
    }
}

/// Sends a request with so many header fields, and tells the status.
async fn with_headers(io: &mut TcpStream, fields: usize) -> u16 {
    let fields: String = (0..fields - 2).map(|number| format!("x-{number}: 1\r\n")).collect();
    let request = format!("POST / HTTP/1.1\r\nhost: s\r\ncontent-length: 0\r\n{fields}\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    io.read_exact(&mut answer).await.unwrap();
    let rest = async {
        let mut rest = Vec::new();
        while !rest.ends_with(b"\r\n\r\n0") && io.read_buf(&mut rest).await.unwrap() > 0 {}
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), rest).await;
    std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
}

#[tokio::test]
async fn connections_keep_the_limits_they_came_under_and_new_ones_have_the_new() {
    let directory = tempfile::tempdir().unwrap();
    let (server, addr) = served(directory.path(), "max_headers_count: 20, max_connections_per_source: 2").await;
    let mut before = TcpStream::connect(&addr).await.unwrap();
    assert_eq!(with_headers(&mut before, 20).await, 200);
    let mut second = TcpStream::connect(&addr).await.unwrap();
    assert_eq!(with_headers(&mut second, 21).await, 431, "and it is closed");
    let second = TcpStream::connect(&addr).await.unwrap();
    let mut third = TcpStream::connect(&addr).await.unwrap();
    assert_eq!(third.read(&mut [0]).await.unwrap_or(0), 0, "one too many of its source");
    let generation = server.snapshot().generation;
    write(&directory.path().join("sinew.yaml"), "max_headers_count: 60, max_connections_per_source: 4");
    server.changed(generation).await;
    let mut after = TcpStream::connect(&addr).await.unwrap();
    assert_eq!(with_headers(&mut after, 60).await, 200);
    assert_eq!(with_headers(&mut before, 21).await, 431, "it came under 20");
    drop(second);
}

#[tokio::test]
async fn each_audience_has_limits_of_its_own() {
    // A port that is free a moment before.
    let edge = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let yaml = format!(
        "listeners: {{ mesh: {{ limits: {{ max_request_bytes: 10 }} }}, \
         edge: {{ listen: \"{edge}\", limits: {{ max_request_bytes: 2000 }} }} }}"
    );
    let mesh = Mesh::builder("s").config_str(&yaml).build().await.unwrap();
    let listener = mesh.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.addr().to_string();
    tokio::spawn(listener.serve(app()).with_graceful_shutdown(std::future::pending()).into_future());
    for (addr, most) in [(addr, 10), (edge.to_string(), 2000)] {
        let (_mesh, client) = client(&addr, "http1").await;
        client.wait_ready(Duration::from_secs(5)).await.unwrap();
        assert_eq!(client.post("/").body(vec![0; most]).send().await.unwrap().status(), StatusCode::OK);
        let refused = client.post("/").body(vec![0; most + 1]).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE, "{most}");
    }
}

#[tokio::test]
async fn limits_of_the_builder_are_held_to_their_bounds() {
    let limits = |set: fn(&mut sinew::model::ListenerLimits)| {
        let mut limits = sinew::model::ListenerLimits::default();
        set(&mut limits);
        Mesh::builder("s").listener_limits(limits).build()
    };
    assert!(limits(|limits| limits.max_connections = Some(5)).await.is_ok());
    let wrong = limits(|limits| limits.max_handshakes = Some(0)).await.unwrap_err().to_string();
    assert!(wrong.contains("listeners.mesh.limits.max_handshakes"), "{wrong}");
    let wrong = limits(|limits| limits.initial_stream_window_size = Some(1)).await.unwrap_err().to_string();
    assert!(wrong.contains("16384"), "{wrong}");
    assert_eq!(Code::TooLarge.to_string(), "SINEW-E056");
}
