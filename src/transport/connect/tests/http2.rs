//! Exchanges over HTTP/2: stream limits, GOAWAY, resets and cancellation.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};

use super::{
    raw::{DATA, HEADERS, RST_STREAM, Raw},
    *,
};
use crate::error::{Code, Delivery, Origin};

#[tokio::test(start_paused = true)]
async fn the_peers_stream_limit_is_never_exceeded_and_more_connections_open_up_to_four() {
    let bench = Arc::new(Bench::new(Protocol::Http2));
    let connections = Arc::new(AtomicU32::new(0));
    let worst = Arc::new(AtomicUsize::new(0));
    let mut listener = bench.listen();
    let (opened, seen) = (connections.clone(), worst.clone());
    tokio::spawn(async move {
        while let Some(io) = listener.accept().await {
            opened.fetch_add(1, SeqCst);
            let open = Arc::new(AtomicUsize::new(0));
            let seen = seen.clone();
            let mut builder = ::h2::server::Builder::new();
            // The server announces 8 but would take more, so that it can see an excess.
            builder.max_concurrent_streams(8);
            tokio::spawn(connection(io, builder, move |_request, mut respond| {
                let (open, seen) = (open.clone(), seen.clone());
                async move {
                    seen.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    open.fetch_sub(1, SeqCst);
                    let _ = respond.send_response(ok(), true);
                }
            }));
        }
    });
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let bench = bench.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    text(bench.call(get("/")).await.unwrap()).await;
                }
            })
        })
        .collect();
    for call in calls {
        within(call).await.unwrap();
    }
    assert!(worst.load(SeqCst) <= 8, "{}", worst.load(SeqCst));
    assert_eq!(connections.load(SeqCst), 4);
    assert_eq!(bench.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_limit_lowered_in_flight_holds_new_streams_and_fails_none() {
    let (bench, mut listener, mut server) = scripted(Some(4)).await;
    let calls: Vec<_> =
        (0..3).map(|_| tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")))).collect();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(server.expect(HEADERS).await.stream);
    }
    server.settings(Some(1)).await;
    settle().await;
    // It would take another connection, which the server does not accept yet.
    assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
    for id in ids {
        server.respond(id, true).await;
    }
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
    let slot = bench.slot(Want::Any).await;
    assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
    drop(slot);
    server.settings(Some(0)).await;
    settle().await;
    assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
    let _second = listener.accept().await;
}

#[tokio::test]
async fn goaway_under_load_fails_nothing() {
    let bench = Arc::new(Bench::new(Protocol::Http2));
    let mut listener = bench.listen();
    let connections = Arc::new(AtomicU32::new(0));
    let opened = connections.clone();
    tokio::spawn(async move {
        while let Some(io) = listener.accept().await {
            opened.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut builder = ::h2::server::Builder::new();
                builder.max_concurrent_streams(8);
                let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
                let mut served = 0;
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    served += 1;
                    if served == 50 {
                        connection.graceful_shutdown();
                    }
                    tokio::spawn(async move {
                        tokio::task::yield_now().await;
                        let mut send = respond.send_response(ok(), false).unwrap();
                        tokio::task::yield_now().await;
                        let _ = send.send_data(Bytes::from_static(b"whole"), true);
                    });
                }
            });
        }
    });
    let unprocessed = Arc::new(AtomicU32::new(0));
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let (bench, unprocessed) = (bench.clone(), unprocessed.clone());
            tokio::spawn(async move {
                for _ in 0..200 {
                    loop {
                        match bench.call(get("/")).await {
                            Ok(response) => break assert_eq!(text(response).await, "whole"),
                            // What a cluster retries for free.
                            Err(error) if error.never_processed() => unprocessed.fetch_add(1, SeqCst),
                            Err(error) => panic!("{error:?}"),
                        };
                    }
                }
            })
        })
        .collect();
    for call in calls {
        within(call).await.unwrap();
    }
    assert!(connections.load(SeqCst) > 16, "{}", connections.load(SeqCst));
    assert_eq!(bench.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_goaway_did_not_take_is_unprocessed_and_the_rest_runs_on() {
    let (bench, mut listener, mut server) = scripted(None).await;
    let first = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/1")));
    let one = server.expect(HEADERS).await.stream;
    let second = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/2")));
    server.expect(HEADERS).await;
    server.goaway(one, 0).await;
    let error = second.await.unwrap().err().unwrap();
    assert_eq!((error.code(), error.delivery()), (Code::ConnectionClosed, Delivery::GoawayUnprocessed));
    // In use, so a new connection is made before anyone asks.
    let mut new = Raw::accept(listener.accept().await.unwrap()).await;
    assert_eq!(bench.pool.readiness(), Readiness::Connecting);
    new.settings(None).await;
    bench.until(Readiness::Ready).await;
    server.respond(one, true).await;
    assert!(first.await.unwrap().is_ok());
    let third = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/3")));
    let head = new.expect(HEADERS).await;
    new.respond(head.stream, true).await;
    assert!(third.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn resets_are_told_apart() {
    let (bench, _listener, mut server) = scripted(None).await;
    for (code, expected, delivery) in [
        (7, Code::PeerReset, Delivery::RefusedStream),
        (8, Code::PeerReset, Delivery::Maybe),
        (2, Code::PeerReset, Delivery::Maybe),
    ] {
        let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
        let id = server.expect(HEADERS).await.stream;
        server.reset(id, code).await;
        let error = call.await.unwrap().err().unwrap();
        assert_eq!((error.code(), error.delivery(), error.origin()), (expected, delivery, Origin::Peer));
    }
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    let id = server.expect(HEADERS).await.stream;
    server.goaway(id - 2, 11).await;
    let error = call.await.unwrap().err().unwrap();
    assert_eq!((error.code(), error.delivery()), (Code::PeerCalmed, Delivery::GoawayUnprocessed));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_the_protocol_is_e017() {
    let (bench, _listener, mut server) = scripted(None).await;
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    let id = server.expect(HEADERS).await.stream;
    server.write(DATA, 0, id, b"before headers").await;
    let error = call.await.unwrap().err().unwrap();
    assert_eq!((error.code(), error.delivery()), (Code::ProtocolError, Delivery::Maybe));
}

#[tokio::test(start_paused = true)]
async fn a_future_that_was_never_polled_sent_nothing() {
    let (bench, _listener, mut server) = scripted(Some(1)).await;
    drop(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/never")));
    assert_eq!(bench.streams(), 0);
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    assert_eq!(server.expect(HEADERS).await.stream, 1);
    server.respond(1, true).await;
    assert!(call.await.unwrap().is_ok());
    assert_eq!(bench.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn cancelling_resets_the_stream_and_frees_the_slot() {
    let (bench, _listener, mut server) = scripted(Some(1)).await;
    // Before headers.
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    server.expect(HEADERS).await;
    assert_eq!(bench.streams(), 1);
    call.abort();
    let reset = server.expect(RST_STREAM).await;
    assert_eq!((reset.stream, &reset.payload[..]), (1, &[0, 0, 0, 8][..]));
    bench.wait(|| bench.streams() == 0).await;
    // Within the body.
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    let id = server.expect(HEADERS).await.stream;
    server.respond(id, false).await;
    let response = call.await.unwrap().unwrap();
    server.write(DATA, 0, id, b"part").await;
    settle().await;
    assert_eq!(bench.streams(), 1);
    drop(response);
    let reset = server.expect(RST_STREAM).await;
    assert_eq!((reset.stream, &reset.payload[..]), (id, &[0, 0, 0, 8][..]));
    bench.wait(|| bench.streams() == 0).await;
    // And the slot can be used.
    let call = tokio::spawn(bench.slot(Want::Any).await.send(get("/")));
    let id = server.expect(HEADERS).await.stream;
    server.respond(id, true).await;
    assert!(call.await.unwrap().is_ok());
}
