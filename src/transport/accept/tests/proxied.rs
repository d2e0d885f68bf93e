use super::*;

fn behind(trusted: &str) -> (Server, SocketAddr) {
    let server = Server::new(Limits { max_per_source: 2, ..Limits::default() });
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.socket_addr().unwrap();
    let proxies = Proxies { trusted: Arc::new([trusted.parse().unwrap()]), header: true };
    server.acceptor.serve(listener.behind(proxies), InboundTls::default, app);
    (server, address)
}

const WHO: &[u8] = b"GET /peer HTTP/1.1\r\nhost: a\r\n\r\n";

async fn begin(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut io = tcp(address).await;
    io.write_all(&[header, WHO].concat()).await.unwrap();
    io
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.255 4000 443\r\n").into_bytes()
}

#[tokio::test]
async fn the_peer_is_whom_the_header_names() {
    let (server, address) = behind("127.0.0.0/8");
    let mut io = begin(address, &v1("198.51.100.7")).await;
    assert!(read_response(&mut io).await.ends_with("198.51.100.7:4000"));
    // One that the balancer makes for itself, to see whether we live.
    let mut local = tcp(address).await;
    local.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await.unwrap();
    local.write_all(WHO).await.unwrap();
    assert!(read_response(&mut local).await.ends_with(&local.local_addr().unwrap().to_string()));
    assert_eq!(server.acceptor.open(), 2);
}

#[tokio::test]
async fn whom_the_header_names_counts_against_its_cap() {
    let (server, address) = behind("127.0.0.1/32");
    let mut held = Vec::new();
    for client in ["198.51.100.7", "198.51.100.7", "198.51.100.8"] {
        let mut io = begin(address, &v1(client)).await;
        assert!(read_response(&mut io).await.contains(client));
        held.push(io);
    }
    let mut io = begin(address, &v1("198.51.100.7")).await;
    assert_eq!(read_response(&mut io).await, "");
    // It was accepted to read its header: what ends it counts once, as its end.
    assert_eq!((server.refused("max_per_source"), server.closed("max_per_source")), (0, 1));
}

#[tokio::test]
async fn rules_on_addresses_are_asked_about_whom_the_header_names() {
    let server = Server::new(Limits::default());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.socket_addr().unwrap();
    let proxies = Proxies { trusted: Arc::new(["127.0.0.1/32".parse().unwrap()]), header: true };
    let admits = |remote: &PeerAddr, _: &PeerAddr| remote.to_string().starts_with("198.51.100.7:");
    server.acceptor.serve_admitted(listener.behind(proxies), InboundTls::default, admits, |peer, _| app(peer));
    let mut io = begin(address, &v1("198.51.100.7")).await;
    assert!(read_response(&mut io).await.contains("198.51.100.7"));
    let mut io = begin(address, &v1("198.51.100.8")).await;
    assert_eq!(read_response(&mut io).await, "");
    // The balancer by itself is not among those either.
    let mut io = begin(address, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await;
    assert_eq!(read_response(&mut io).await, "");
    assert_eq!((server.refused("denied"), server.closed("denied")), (0, 2));
}

#[tokio::test]
async fn nobody_but_the_balancer_connects() {
    let (server, address) = behind("192.0.2.1/32");
    let mut io = tcp(address).await;
    let _ = io.write_all(&v1("198.51.100.7")).await;
    assert!(is_closed(&mut io).await);
    assert_eq!(server.refused("not_a_proxy"), 1);
}

#[tokio::test]
async fn a_request_without_a_header_is_not_served() {
    let (server, address) = behind("127.0.0.1/32");
    for bytes in [&b""[..], b"PROXY TCP4 1 2 3 4\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x01\0"] {
        let mut io = begin(address, bytes).await;
        assert_eq!(read_response(&mut io).await, "");
    }
    assert_eq!(server.closed("proxy_header"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_header_that_drips_in_is_not_waited_for() {
    let server = Server::new(Limits::default());
    let listener = Listener::memory(server.network.listen("b").unwrap());
    let proxies = Proxies { trusted: Arc::new([]), header: true };
    server.acceptor.serve(listener.behind(proxies), InboundTls::default, app);
    let (mut read, mut write) = tokio::io::split(server.network.connect("b").unwrap());
    tokio::spawn(async move {
        for byte in v1("198.51.100.7") {
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
            rt::sleep(Duration::from_millis(100)).await;
        }
    });
    assert_eq!(until_closed(&mut read).await.as_secs(), 2);
    assert_eq!(server.closed("proxy_header"), 1);
}
