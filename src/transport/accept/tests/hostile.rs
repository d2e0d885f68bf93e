use super::*;

#[tokio::test(start_paused = true)]
async fn silence_is_closed_after_the_first_byte_timeout() {
    let server = Server::new(Limits::default());
    let mut silent = server.connect();
    assert_eq!(until_closed(&mut silent).await.as_secs(), 5);
    // So is a peer that stops within the preface.
    let mut dribble = server.connect();
    dribble.write_all(b"PRI * HT").await.unwrap();
    assert_eq!(until_closed(&mut dribble).await.as_secs(), 5);
    assert_eq!(server.closed("first_byte_timeout"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_header_is_closed_ten_seconds_after_its_first_byte() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    rt::sleep(3 * SECOND).await;
    io.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    let began = rt::now();
    while io.write_all(b"y").await.is_ok() && began.elapsed() < 30 * SECOND {
        rt::sleep(SECOND).await;
    }
    assert!((10..12).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(server.closed("header_timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_header_timeout_of_a_later_request_starts_with_its_first_byte() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    io.write_all(GET).await.unwrap();
    read_response(&mut io).await;
    rt::sleep(55 * SECOND).await;
    io.write_all(b"GET / HT").await.unwrap();
    rt::sleep(9 * SECOND).await;
    io.write_all(b"TP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_response(&mut io).await.ends_with("ok"));
    io.write_all(b"GET / HT").await.unwrap();
    assert_eq!(until_closed(&mut io).await.as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_idle_http1_connection_is_closed_after_sixty_seconds() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    for _ in 0..3 {
        io.write_all(GET).await.unwrap();
        read_response(&mut io).await;
        rt::sleep(50 * SECOND).await;
    }
    assert_eq!(until_closed(&mut io).await.as_secs(), 10);
    assert_eq!(server.closed("closed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_not_idle() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    io.write_all(b"GET /slow/600000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_response(&mut io).await.ends_with("ok"));
}

#[tokio::test(start_paused = true)]
async fn an_upload_may_outlive_its_response_and_a_dribble_after_it_may_not_stay() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    io.write_all(b"PUT /hold HTTP/1.1\r\nhost: a\r\ncontent-length: 30\r\n\r\n").await.unwrap();
    assert!(read_response(&mut io).await.ends_with("ok"));
    for _ in 0..30 {
        rt::sleep(2 * SECOND).await;
        io.write_all(b"x").await.unwrap();
    }
    io.write_all(GET).await.unwrap();
    assert!(read_response(&mut io).await.ends_with("ok"));
    io.write_all(b"PUT /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
    assert!(read_response(&mut io).await.ends_with("x"));
    io.write_all(b"G").await.unwrap();
    assert_eq!(until_closed(&mut io).await.as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_without_streams_goes_away_after_five_minutes() {
    let server = Server::new(Limits::default());
    let mut http2 = H2::connect(server.connect()).await;
    http2.get("/").await.unwrap();
    let began = rt::now();
    http2.done.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_takes_no_new_requests_and_finishes_the_open_ones() {
    let server = Server::new(Limits { max_age: 100 * SECOND, ..Limits::default() });
    let mut http1 = server.connect();
    let mut http2 = H2::connect(server.connect()).await;
    let mut send = http2.send.clone();
    let open = tokio::spawn(async move {
        let request = Request::get("http://a/slow/300000").body(Empty::new()).unwrap();
        send.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes()
    });
    for second in (0..).step_by(20) {
        http1.write_all(GET).await.unwrap();
        let response = read_response(&mut http1).await;
        assert!(response.ends_with("ok"));
        if response.contains("connection: close") {
            assert!((90..=120).contains(&second), "closed after {second} s");
            break;
        }
        rt::sleep(20 * SECOND).await;
    }
    assert!(is_closed(&mut http1).await);
    rt::sleep(20 * SECOND).await;
    assert!(http2.get("/").await.is_err());
    assert_eq!(open.await.unwrap(), "ok");
    http2.done.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_is_closed() {
    let server = Server::new(Limits::default());
    let (mut read, mut write) = tokio::io::split(server.connect());
    tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat().repeat(20);
    let began = rt::now();
    while write.write_all(&ping).await.is_ok() && began.elapsed() < 30 * SECOND {
        rt::sleep(Duration::from_millis(10)).await;
    }
    assert!((3..=4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(server.closed("flood"), 1);
}

/// Both stacks are served by it, so neither's own defaults show: some of them are no limit at all.
#[tokio::test]
async fn an_http2_peer_is_told_every_limit() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    io.write_all(PREFACE).await.unwrap();
    let (mut settings, mut window) = (Vec::new(), None);
    while settings.is_empty() || window.is_none() {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        io.read_exact(&mut payload).await.unwrap();
        match (head[3], head[4] & 1) {
            (4, 0) => settings.extend(payload.chunks(6).map(|setting| {
                let (name, value) = setting.split_at(2);
                (u16::from_be_bytes(name.try_into().unwrap()), u32::from_be_bytes(value.try_into().unwrap()))
            })),
            (8, _) => window = Some(u32::from_be_bytes(payload.try_into().unwrap())),
            _ => {}
        }
    }
    settings.sort();
    // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, ENABLE_CONNECT_PROTOCOL.
    assert_eq!(settings, [(3, 100), (4, 64 * 1024), (5, 16 * 1024), (6, 16 * 1024), (8, 1)]);
    // On top of the 65,535 that a connection begins with.
    assert_eq!(window, Some(1024 * 1024 - 65_535));
}

/// Rapid reset, CVE-2023-44487.
#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // GET / http a, from the static table; then CANCEL.
    let headers = [0x82, 0x84, 0x86, 0x01, 0x01, b'a'];
    for stream in (1u32..201).step_by(2) {
        bytes.extend([0, 0, 6, 1, 5]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(headers);
        bytes.extend([0, 0, 4, 3, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(8u32.to_be_bytes());
    }
    // It may have had enough before the end.
    let _ = io.write_all(&bytes).await;
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    // GOAWAY with ENHANCE_YOUR_CALM.
    let goaway =
        answer.windows(17).any(|frame| frame[3] == 7 && frame[..3] != [0; 3] && frame[13..17] == [0, 0, 0, 0x0b]);
    assert!(goaway, "{answer:?}");
}

/// Streams that their peer's errors make us reset, which no other limit counts.
#[tokio::test]
async fn streams_that_have_to_be_reset_end_the_connection_at_their_limit_and_not_before() {
    let server = Server::new(Limits::default());
    let mut io = server.connect();
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // GET / http a; then the same with a `content-length: 5` and no body.
    let good = [0x82, 0x84, 0x86, 1, 1, b'a'];
    let bad = [&good[..], &[0x0f, 0x0d, 1, b'5']].concat();
    for number in 0..=1_025u32 {
        // What is good just before the end is answered.
        let block = if number == 1_024 { &good[..] } else { &bad };
        let stream = (2 * number + 1).to_be_bytes();
        io.write_all(&[&[0, 0, block.len() as u8, 1, 5][..], &stream, block].concat()).await.unwrap();
        let (kind, payload) = loop {
            let mut head = [0; 9];
            io.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            io.read_exact(&mut payload).await.unwrap();
            if head[3] == 7 || head[5..] == stream {
                break (head[3], payload);
            }
        };
        match number {
            0..1_024 => assert_eq!((kind, &*payload), (3, &[0, 0, 0, 1][..]), "{number}: PROTOCOL_ERROR"),
            1_024 => assert_eq!(kind, 1),
            _ => assert_eq!((kind, &payload[4..8]), (7, &[0, 0, 0, 0x0b][..]), "ENHANCE_YOUR_CALM"),
        }
    }
}

/// Nothing bounds a body but what the application reads of it; what it does not read is not taken from the peer.
#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_is_taken_up_to_its_limit() {
    let limits = Limits::default();
    let most = limits.h1_max_buffer + BUFFER;
    let server = Server::new(limits);
    let mut http1 = server.connect();
    let head = "POST /slow/5000 HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n";
    http1.write_all(head.as_bytes()).await.unwrap();
    let mut taken = 0;
    let piece = [b'x'; 1_024];
    while let Ok(Ok(n)) = tokio::time::timeout(SECOND, http1.write(&piece)).await {
        taken += n;
    }
    // The pipe between them holds some too.
    assert!(taken <= most, "{taken}");
    let (mut read, mut write) = tokio::io::split(server.connect());
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // POST http a /slow/5000, without an end; then a byte more than its window.
    let block = b"\x83\x86\x01\x01a\x04\x0a/slow/5000";
    bytes.extend([0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1]);
    bytes.extend(block);
    for size in [16_384u32, 16_384, 16_384, 16_384, 1] {
        bytes.extend(&size.to_be_bytes()[1..]);
        bytes.extend([0, 0, 0, 0, 0, 1]);
        bytes.extend(vec![b'x'; size as usize]);
    }
    tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
        std::future::pending::<()>().await;
        drop(write);
    });
    loop {
        let mut head = [0; 9];
        read.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        read.read_exact(&mut payload).await.unwrap();
        // FLOW_CONTROL_ERROR, of the stream or of all.
        match head[3] {
            1 => panic!("answered"),
            3 => break assert_eq!(payload, [0, 0, 0, 3]),
            7 => break assert_eq!(payload[4..8], [0, 0, 0, 3]),
            _ => {}
        }
    }
}

#[tokio::test]
async fn caps_close_at_once_and_count() {
    let server = Server::new(Limits { max_connections: 3, max_per_source: 2, ..Limits::default() });
    let address = server.bind();
    let mut first = H2::connect(tcp(address).await).await;
    first.get("/").await.unwrap();
    let mut second = H2::connect(tcp(address).await).await;
    second.get("/").await.unwrap();
    assert!(is_closed(&mut tcp(address).await).await);
    assert_eq!(server.refused("max_per_source"), 1);
    let mut third = H2::connect(server.connect()).await;
    third.get("/").await.unwrap();
    assert!(is_closed(&mut server.connect()).await);
    assert_eq!(server.refused("max_connections"), 1);
    drop(first);
    while server.acceptor.open() > 2 {
        rt::sleep(Duration::from_millis(1)).await;
    }
    let mut fourth = H2::connect(tcp(address).await).await;
    fourth.get("/").await.unwrap();
}

#[tokio::test]
async fn too_large_a_header_is_answered_with_431() {
    let server = Server::new(Limits::default());
    for header in [format!("x: {}\r\n", "y".repeat(17_000)), "x: y\r\n".repeat(101)] {
        let mut io = server.connect();
        io.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n{header}\r\n").as_bytes()).await.unwrap();
        assert!(read_response(&mut io).await.starts_with("HTTP/1.1 431"));
    }
}

#[test]
fn running_out_of_descriptors_is_told_from_a_lost_connection() {
    use crate::transport::accept::socket::{is_exhausted, is_per_connection};
    let emfile = std::io::Error::from_raw_os_error(24);
    assert!(is_exhausted(&emfile) && !is_per_connection(&emfile));
    let aborted = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
    assert!(is_per_connection(&aborted) && !is_exhausted(&aborted));
}
