//! Peers that are slower than they may be. Exchanges are judged every five seconds, so each time has as much of play.

use tokio::io::split;

use super::*;

fn paced() -> Limits {
    Limits { paced: Paced::All, ..Limits::default() }
}

impl Server {
    fn slow(&self, reason: &str) -> u64 {
        self.registry.counter("sinew_slow_exchanges_total", &[("listener", "mesh"), ("reason", reason)]).get()
    }
}

/// An HTTP/2 client of the barest kind: what it does not do is the point.
struct Raw {
    io: DuplexStream,
    last_stream: u32,
    answers_goaway: bool,
}

impl Raw {
    async fn connect(mut io: DuplexStream, window: u32) -> Self {
        let settings = [&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4][..], &window.to_be_bytes()].concat();
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        io.write_all(&settings).await.unwrap();
        Self { io, last_stream: 0, answers_goaway: true }
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = (payload.len() as u32).to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        // Whether it is gone is seen when reading.
        let _ = self.io.write_all(&[&head[..], payload].concat()).await;
    }

    /// Sends the head of a request whose body follows, or not. The path may have no more than 127 bytes.
    async fn request(&mut self, path: &str, ends: bool, more: &[(&str, &str)]) -> u32 {
        self.last_stream = if self.last_stream == 0 { 1 } else { self.last_stream + 2 };
        // HPACK: indexed GET and http, literals without indexing for path, authority and the rest.
        let mut block = vec![0x82, 0x86];
        let mut literal = |name: &[u8], value: &str| {
            block.extend_from_slice(name);
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
        };
        literal(&[0x04], path);
        literal(&[0x01], "a");
        for (name, value) in more {
            literal(&[&[0, name.len() as u8], name.as_bytes()].concat(), value);
        }
        self.frame(1, 4 | u8::from(ends), self.last_stream, &block).await;
        self.last_stream
    }

    /// Reads until the stream is reset, answering PINGs, and says how long it took; `None` if the connection ends.
    async fn until_reset(&mut self, stream: u32) -> Option<Duration> {
        let began = rt::now();
        loop {
            let mut head = [0; 9];
            self.io.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.io.read_exact(&mut payload).await.ok()?;
            match (head[3], head[4]) {
                (3, _) if head[5..] == stream.to_be_bytes() => return Some(began.elapsed()),
                (6, 0) if payload == SHUTDOWN_PING && !self.answers_goaway => {}
                (6, 0) => self.frame(6, 1, 0, &payload).await,
                _ => {}
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_below_its_rate_ends_the_connection() {
    let server = Server::new(paced());
    let (mut read, mut write) = split(server.connect());
    write.write_all(b"PUT /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
    tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            rt::sleep(SECOND).await;
        }
    });
    let took = until_closed(&mut read).await.as_secs();
    assert!((10..=20).contains(&took), "{took} s");
    assert_eq!((server.slow("body_rate"), server.closed("too_slow")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_body_at_its_rate_may_take_its_time() {
    let server = Server::new(paced());
    let (mut read, mut write) = split(server.connect());
    write.write_all(b"PUT /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 122880\r\n\r\n").await.unwrap();
    tokio::spawn(async move {
        for _ in 0..60 {
            rt::sleep(SECOND).await;
            write.write_all(&[b'x'; 2048]).await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    assert!(read_response(&mut read).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_below_its_rate_is_reset_and_its_neighbours_are_not() {
    let server = Server::new(paced());
    let mut raw = Raw::connect(server.connect(), 65_535).await;
    raw.request("/stream", true, &[]).await;
    let slow = raw.request("/echo", false, &[]).await;
    let took = raw.until_reset(slow).await.unwrap().as_secs();
    assert!((10..=20).contains(&took), "{took} s");
    assert_eq!((server.slow("body_rate"), server.acceptor.open()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_taken_ends_the_stream() {
    for window in [0, 1] {
        let server = Server::new(paced());
        let mut raw = Raw::connect(server.connect(), window).await;
        let slow = raw.request("/large", true, &[]).await;
        let took = raw.until_reset(slow).await.unwrap().as_secs();
        assert!((30..=40).contains(&took), "{took} s");
        assert_eq!(server.slow("send_stall"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_read_ends_the_connection() {
    let server = Server::new(paced());
    let mut io = server.connect();
    io.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let began = rt::now();
    while server.closed("too_slow") == 0 {
        rt::sleep(SECOND).await;
        assert!(began.elapsed() < 60 * SECOND, "it is still open");
    }
    assert!((30..=42).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_exchange_in_which_nothing_moves_ends_unless_its_caller_says_that_it_waits() {
    let server = Server::new(paced());
    let mut raw = Raw::connect(server.connect(), 65_535).await;
    let waits = raw.request("/slow/1000000", true, &[("prefer", "respond-async, wait=1000")]).await;
    let idle = raw.request("/slow/1000000", true, &[]).await;
    let took = raw.until_reset(idle).await.unwrap().as_secs();
    assert!((300..=310).contains(&took), "{took} s");
    assert_eq!(server.slow("stream_idle"), 1);
    assert!(rt::timeout(600 * SECOND, raw.until_reset(waits)).await.is_none());

    let mut io = server.connect();
    io.write_all(b"GET /slow/1000000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let took = until_closed(&mut io).await.as_secs();
    assert!((300..=310).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn grpc_and_upgrades_may_be_slow() {
    let server = Server::new(paced());
    let mut raw = Raw::connect(server.connect(), 0).await;
    let grpc = [("content-type", "application/grpc+proto")];
    let calls = [raw.request("/large", true, &grpc).await, raw.request("/echo", false, &grpc).await];
    let mut upgraded = server.connect();
    upgraded
        .write_all(b"GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    read_response(&mut upgraded).await;
    for call in calls {
        assert!(rt::timeout(400 * SECOND, raw.until_reset(call)).await.is_none());
    }
    upgraded.write_all(b"x").await.unwrap();
    assert_eq!(upgraded.read_u8().await.unwrap(), b'x');
    assert_eq!(["body_rate", "send_stall", "stream_idle"].map(|reason| server.slow(reason)), [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn peers_in_this_process_may_be_slow() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    io.write_all(b"PUT /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n").await.unwrap();
    rt::sleep(1_000 * SECOND).await;
    io.write_all(b"x").await.unwrap();
    assert!(read_response(&mut io).await.ends_with('x'));
}

/// The PING by which h2 learns that its GOAWAY was read.
const SHUTDOWN_PING: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_no_more_requests_ends_whatever_its_peer_answers() {
    for answers in [true, false] {
        let server = Server::new(paced());
        let mut raw = Raw { answers_goaway: answers, ..Raw::connect(server.connect(), 1).await };
        let stuck = raw.request("/", true, &[]).await;
        let began = rt::now();
        assert_eq!(raw.until_reset(stuck).await, None);
        let took = began.elapsed().as_secs();
        assert!((330..=340).contains(&took), "{took} s");
        assert_eq!(server.closed("too_slow"), 1);
    }
}
