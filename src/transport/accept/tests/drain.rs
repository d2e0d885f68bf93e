use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use super::*;
use crate::transport::accept::Phase;

#[tokio::test(start_paused = true)]
async fn an_idle_http1_connection_is_asked_before_it_is_closed() {
    let server = Server::new(Limits::default());
    let mut asked = server.connect();
    let mut idle = server.connect();
    for io in [&mut asked, &mut idle] {
        io.write_all(GET).await.unwrap();
        assert!(!read_response(io).await.contains("connection: close"));
    }
    let drain = server.drain.clone();
    let draining = tokio::spawn(async move { drain.start(5 * SECOND, 25 * SECOND).await });
    rt::sleep(2 * SECOND).await;
    asked.write_all(GET).await.unwrap();
    let response = read_response(&mut asked).await;
    assert!(response.contains("connection: close") && response.ends_with("ok"));
    assert!(is_closed(&mut asked).await);
    let idle = until_closed(&mut idle).await;
    assert!((SECOND * 3..SECOND * 4).contains(&idle), "{idle:?}");
    let report = draining.await.unwrap();
    assert_eq!((report.forced, report.took.as_secs()), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_races_with_the_end_of_accepting_is_answered() {
    let server = Server::new(Limits::default());
    let mut idle = server.connect();
    idle.write_all(GET).await.unwrap();
    read_response(&mut idle).await;
    let drain = server.drain.clone();
    let draining = tokio::spawn(async move { drain.start(Duration::ZERO, 25 * SECOND).await });
    rt::sleep(Duration::from_millis(200)).await;
    idle.write_all(GET).await.unwrap();
    let response = read_response(&mut idle).await;
    assert!(response.contains("connection: close") && response.ends_with("ok"));
    assert_eq!(draining.await.unwrap().forced, 0);
}

#[tokio::test(start_paused = true)]
async fn lame_duck_accepts_and_serves_normally_until_accepting_stops() {
    let server = Server::new(Limits::default());
    let mut old = H2::connect(server.connect()).await;
    old.get("/").await.unwrap();
    let drain = server.drain.clone();
    let draining = tokio::spawn(async move { drain.start(5 * SECOND, 25 * SECOND).await });
    let began = rt::now();
    old.done.await.unwrap().unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "GOAWAY comes at the start of the lame duck");
    assert_eq!(server.drain.phase(), Phase::LameDuck);
    let mut new = H2::connect(server.connect()).await;
    let mut http1 = server.connect();
    for _ in 0..3 {
        assert_eq!(new.get("/").await.unwrap(), "ok");
        http1.write_all(GET).await.unwrap();
        assert!(!read_response(&mut http1).await.contains("connection: close"));
        rt::sleep(SECOND).await;
    }
    new.done.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 5);
    assert!(is_closed(&mut http1).await);
    assert_eq!(draining.await.unwrap().forced, 0);
    assert!(server.network.connect("a").is_err());
}

#[tokio::test(start_paused = true)]
async fn open_streams_and_upgrades_run_on_until_the_deadline_forces_them() {
    let server = Server::new(Limits::default());
    let mut http2 = H2::connect(server.connect()).await;
    let mut streaming = server.connect();
    streaming.write_all(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut upgraded = server.connect();
    upgraded
        .write_all(b"GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    read_response(&mut upgraded).await;
    let mut stuck = H2::connect(server.connect()).await;
    let stuck = tokio::spawn(async move { stuck.get("/slow/100000000").await });
    rt::sleep(SECOND / 2).await;
    let drain = server.drain.clone();
    let draining = tokio::spawn(async move { drain.start(Duration::ZERO, 25 * SECOND).await });
    assert_eq!(http2.get("/slow/0").await.ok(), None);
    let mut body = Vec::new();
    streaming.read_to_end(&mut body).await.unwrap();
    assert!(body.ends_with(b"1\r\nx\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&body));
    rt::sleep(SECOND).await;
    upgraded.write_all(b"x").await.unwrap();
    upgraded.read_exact(&mut [0]).await.unwrap();
    let report = draining.await.unwrap();
    assert_eq!((report.forced, report.took.as_secs()), (2, 25));
    assert!(stuck.await.unwrap().is_err());
    assert!(is_closed(&mut upgraded).await);
    assert_eq!(server.acceptor.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_forces() {
    let server = Server::new(Limits::default());
    let mut stuck = H2::connect(server.connect()).await;
    let stuck = tokio::spawn(async move { stuck.get("/slow/100000000").await });
    rt::sleep(SECOND).await;
    let drain = server.drain.clone();
    let first = tokio::spawn(async move { drain.start(5 * SECOND, 25 * SECOND).await });
    rt::sleep(7 * SECOND).await;
    let second = server.drain.start(5 * SECOND, 25 * SECOND).await;
    assert_eq!((second.forced, second.took), (1, Duration::ZERO));
    assert_eq!(first.await.unwrap().took.as_secs(), 7);
    assert!(stuck.await.unwrap().is_err());
}

#[tokio::test(flavor = "current_thread")]
async fn what_waits_in_the_backlog_is_served() {
    let server = Server::new(Limits::default());
    let address = server.bind();
    // On one thread the accept task does not run while these connect and send.
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut client, GET).unwrap();
        client.set_nonblocking(true).unwrap();
        clients.push(TcpStream::from_std(client).unwrap());
    }
    let drain = server.drain.clone();
    let draining = tokio::spawn(async move { drain.start(Duration::ZERO, 25 * SECOND).await });
    for client in &mut clients {
        let response = read_response(client).await;
        assert!(response.contains("connection: close") && response.ends_with("ok"), "{response:?}");
    }
    assert_eq!(draining.await.unwrap().forced, 0);
    assert!(TcpStream::connect(address).await.is_err());
}

/// Clients that reconnect when told to, and count a failure only where HTTP says the request was the server's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_draining_under_load() {
    for round in 0..5 {
        let server = Server::new(Limits { closing_grace: SECOND / 10, ..Limits::default() });
        let address = server.bind();
        let (lost, served, stop) =
            (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let mut clients = Vec::new();
        for client in 0..16 {
            let (lost, served, stop) = (lost.clone(), served.clone(), stop.clone());
            clients.push(tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let Ok(io) = TcpStream::connect(address).await else { return };
                    if client % 2 == 0 {
                        http1_load(io, &lost, &served).await
                    } else {
                        http2_load(io, &lost, &served).await
                    }
                }
            }));
        }
        rt::sleep(Duration::from_millis(50)).await;
        let report = server.drain.start(Duration::from_millis(100 + 7 * round), 10 * SECOND).await;
        stop.store(true, Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        assert_eq!(report.forced, 0);
        assert_eq!(lost.load(Relaxed), 0, "of {}", served.load(Relaxed));
        assert!(served.load(Relaxed) > 100);
    }
}

async fn http1_load(mut io: TcpStream, lost: &AtomicU32, served: &AtomicU32) {
    for request in 0.. {
        if io.write_all(GET).await.is_err() {
            return;
        }
        let response = read_response(&mut io).await;
        if !response.ends_with("ok") {
            // A connection that the kernel completed after the listener was closed never reached us.
            lost.fetch_add(u32::from(request > 0), Relaxed);
            return;
        }
        served.fetch_add(1, Relaxed);
        if response.contains("connection: close") {
            return;
        }
    }
}

async fn http2_load(io: TcpStream, lost: &AtomicU32, served: &AtomicU32) {
    let Ok((mut send, connection)) = h2::client::handshake(io).await else { return };
    let connection = tokio::spawn(connection);
    let mut streams = Vec::new();
    let mut answered = false;
    loop {
        for _ in 0..4 {
            let Ok(ready) = send.clone().ready().await else { break };
            send = ready;
            let request = Request::get("http://a/slow/1").body(()).unwrap();
            if let Ok((response, _)) = send.send_request(request, true) {
                streams.push(response);
            }
        }
        if streams.is_empty() {
            break;
        }
        for response in streams.drain(..) {
            match response.await {
                Ok(response) => {
                    answered = true;
                    let mut body = response.into_body();
                    let mut read = Vec::new();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        read.extend_from_slice(&data);
                    }
                    let counter = if read == b"ok" { served } else { lost };
                    counter.fetch_add(1, Relaxed);
                }
                // Above the last id of the final GOAWAY: provably not processed, free to send again.
                Err(error) if error.is_go_away() && error.is_remote() => {}
                // A connection that the kernel completed after the listener was closed never reached us.
                Err(error) if !answered && error.is_io() => {}
                Err(_) => {
                    lost.fetch_add(1, Relaxed);
                }
            }
        }
    }
    drop(send);
    connection.abort();
}
