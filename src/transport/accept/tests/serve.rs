use super::*;
use crate::error::{Code, Kind};

#[tokio::test]
async fn http1_http2_and_upgrades_share_a_port() {
    let server = Server::new(Limits::default());
    let address = server.bind();
    let mut http1 = tcp(address).await;
    for _ in 0..3 {
        http1.write_all(GET).await.unwrap();
        assert!(read_response(&mut http1).await.ends_with("ok"));
    }
    let mut http2 = H2::connect(tcp(address).await).await;
    assert_eq!(http2.get("/").await.unwrap(), "ok");
    let mut upgraded = tcp(address).await;
    upgraded
        .write_all(b"GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    assert!(read_response(&mut upgraded).await.starts_with("HTTP/1.1 101"));
    upgraded.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    upgraded.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
    assert_eq!(server.acceptor.open(), 3);
    drop((http1, http2, upgraded));
    while server.acceptor.open() > 0 {
        rt::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_shorter_than_the_preface_is_answered_at_once() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    let began = rt::now();
    io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(read_response(&mut io).await.starts_with("HTTP/1.1 "));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let server = Server::new(Limits::default());
    let address = server.bind();
    let mut io = tcp(address).await;
    io.set_nodelay(true).unwrap();
    for byte in b"PUT /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi" {
        io.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read_response(&mut io).await.ends_with("hi"));
}

#[tokio::test]
async fn the_service_is_made_for_the_peer() {
    let server = Server::new(Limits::default());
    let address = server.bind();
    let io = tcp(address).await;
    let local = io.local_addr().unwrap();
    assert_eq!(H2::connect(io).await.get("/peer").await.unwrap(), local.to_string());
    assert_eq!(H2::connect(server.connect()).await.get("/peer").await.unwrap(), "memory:a");
}

#[tokio::test]
async fn a_panic_ends_one_stream_or_one_connection() {
    let server = Server::new(Limits::default());
    let mut http2 = H2::connect(server.connect()).await;
    assert!(http2.get("/panic").await.is_err());
    assert_eq!(http2.get("/").await.unwrap(), "ok");
    let mut http1 = server.connect();
    http1.write_all(b"GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut http1).await);
    drop(http2);
    let mut again = server.connect();
    again.write_all(GET).await.unwrap();
    assert!(read_response(&mut again).await.ends_with("ok"));
}

#[tokio::test]
async fn accepted_sockets_have_our_options() {
    let limits = Limits::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = tcp(listener.local_addr().unwrap()).await;
    let (stream, _) = listener.accept().await.unwrap();
    crate::transport::accept::socket::prepare(&stream, &limits);
    let socket = socket2::SockRef::from(&stream);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), limits.tcp_keepalive);
    #[cfg(target_os = "linux")]
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(limits.tcp_user_timeout));
}

#[tokio::test]
async fn a_socket_from_outside_and_a_restart_on_the_same_port_work() {
    let std = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = std.local_addr().unwrap();
    let server = Server::new(Limits::default());
    server.acceptor.serve(Listener::from_std(std).unwrap(), InboundTls::default, app);
    let mut io = tcp(address).await;
    io.write_all(GET).await.unwrap();
    assert!(read_response(&mut io).await.ends_with("ok"));
    let taken = Listener::bind(address).unwrap_err();
    assert_eq!((taken.code(), taken.kind()), (Code::BindFailed, Kind::Listen));
    assert!(taken.message().contains("take port 0 for a free one"), "{taken}");
    // TEST-NET-1 is nobody's (RFC 5737).
    let foreign = Listener::bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
    assert!(foreign.message().contains("no interface of this host has the address"), "{foreign}");
    // The server closes first, so its side waits in TIME_WAIT.
    server.tasks.shutdown(SECOND).await;
    assert!(is_closed(&mut io).await);
    Listener::bind(address).unwrap();
}

#[tokio::test]
async fn the_end_of_the_tasks_ends_upgraded_connections_too() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    io.write_all(b"GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await.unwrap();
    assert!(read_response(&mut io).await.starts_with("HTTP/1.1 101"));
    io.write_all(b"x").await.unwrap();
    io.read_exact(&mut [0]).await.unwrap();
    assert!(server.tasks.shutdown(SECOND).await);
    assert!(is_closed(&mut io).await);
}
