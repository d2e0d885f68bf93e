//! Connections to a virtual IP: one address, many behind it.

use super::*;

/// A virtual IP with its two connections.
async fn virtual_ip() -> (Bench, MemoryListener, [Raw; 2]) {
    let bench = Bench::with(Protocol::Http2, SetKind::Vip, 1024);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut servers = Vec::new();
    for _ in 0..2 {
        let mut server = Raw::accept(listener.accept().await.unwrap()).await;
        server.settings(None).await;
        servers.push(server);
    }
    bench.wait(|| bench.connections() == 2 && bench.pool.readiness() == Readiness::Ready).await;
    settle().await;
    (bench, listener, servers.try_into().ok().unwrap())
}

fn connection(slot: &Slot) -> ConnectionId {
    slot.connection()
}

#[tokio::test(start_paused = true)]
async fn another_connection_than_the_tried_one_is_taken_however_busy_it_is() {
    let (bench, _listener, _servers) = virtual_ip().await;
    let first = taken(bench.pool.acquire(Want::Any)).unwrap();
    let tried = [connection(&first)];
    let others: Vec<_> = (0..10).map(|_| taken(bench.pool.acquire_other(Want::Any, &tried)).unwrap()).collect();
    assert!(others.iter().all(|slot| connection(slot) != tried[0]));
    assert!(bench.pool.has_other(&tried));
    let both = [tried[0], connection(&others[0])];
    assert!(!bench.pool.has_other(&both));
}

#[tokio::test(start_paused = true)]
async fn when_all_were_tried_one_of_them_is_taken_and_another_made() {
    let (bench, mut listener, _servers) = virtual_ip().await;
    let slots: Vec<_> = (0..2).map(|_| taken(bench.pool.acquire(Want::Any)).unwrap()).collect();
    let tried: Vec<_> = slots.iter().map(connection).collect();
    assert_ne!(tried[0], tried[1]);
    let again = taken(bench.pool.acquire_other(Want::Any, &tried)).unwrap();
    assert!(tried.contains(&connection(&again)));
    let mut third = Raw::accept(within(listener.accept()).await.unwrap()).await;
    third.settings(None).await;
    bench.wait(|| bench.pool.has_other(&tried)).await;
}

#[tokio::test(start_paused = true)]
async fn over_http1_another_connection_is_made_where_only_the_tried_one_is_idle() {
    let bench = Bench::with(Protocol::Http1, SetKind::Vip, 1024);
    let listener = bench.listen();
    tokio::spawn(async move {
        let mut listener = listener;
        while let Some(io) = listener.accept().await {
            let service = hyper::service::service_fn(|_| async { Ok::<_, hyper::Error>(Response::new(String::new())) });
            let io = hyper_util::rt::TokioIo::new(io);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    bench.ready().await;
    let first = taken(bench.pool.acquire(Want::Any)).unwrap();
    let tried = [connection(&first)];
    text(first.send(get("/")).await.unwrap()).await;
    settle().await;
    let other = taken(bench.pool.acquire_other(Want::Any, &tried)).unwrap();
    assert_ne!(connection(&other), tried[0]);
    let other_id = connection(&other);
    text(other.send(get("/")).await.unwrap()).await;
    settle().await;
    // Both are idle now: the last one is not taken if it was tried, and without a wish it is.
    assert_eq!(connection(&taken(bench.pool.acquire_other(Want::Any, &[other_id])).unwrap()), tried[0]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_replaced_and_its_call_goes_on() {
    let (bench, mut listener, _servers) = virtual_ip().await;
    let slots: Vec<_> = (0..2).map(|_| taken(bench.pool.acquire(Want::Any)).unwrap()).collect();
    let [silent, other] = [connection(&slots[0]), connection(&slots[1])];
    let calls: Vec<_> = slots.into_iter().map(|slot| tokio::spawn(slot.send(get("/")))).collect();
    settle().await;
    bench.pool.replace(&[silent]);
    for _ in 0..10 {
        assert_eq!(connection(&taken(bench.pool.acquire(Want::Any)).unwrap()), other);
    }
    let mut third = Raw::accept(within(listener.accept()).await.unwrap()).await;
    third.settings(None).await;
    bench.wait(|| bench.pool.has_other(&[silent, other])).await;
    assert!(!bench.pool.has(silent) && calls.iter().all(|call| !call.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn where_all_are_silent_one_is_replaced_and_offered_until_then() {
    let (bench, mut listener, _servers) = virtual_ip().await;
    let slots: Vec<_> = (0..2).map(|_| taken(bench.pool.acquire(Want::Any)).unwrap()).collect();
    let ids: Vec<_> = slots.iter().map(connection).collect();
    bench.pool.replace(&ids);
    let offered = |count| {
        let offered: Vec<_> = (0..count).filter_map(|_| taken(bench.pool.acquire(Want::Any))).collect();
        ids.iter().filter(|id| offered.iter().any(|slot| connection(slot) == **id)).count()
    };
    settle().await;
    assert_eq!(offered(4), 2);
    let mut third = Raw::accept(within(listener.accept()).await.unwrap()).await;
    third.settings(None).await;
    bench.wait(|| bench.pool.has_other(&ids)).await;
    settle().await;
    assert_eq!(offered(8), 1);
}

#[tokio::test(start_paused = true)]
async fn connections_to_one_process_are_not_replaced_for_their_silence() {
    let (bench, _listener, _server) = scripted(None).await;
    let slot = taken(bench.pool.acquire(Want::Any)).unwrap();
    bench.pool.replace(&[connection(&slot)]);
    assert_eq!(connection(&taken(bench.pool.acquire(Want::Any)).unwrap()), connection(&slot));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_in_use_is_made_again() {
    let (bench, mut listener, servers) = virtual_ip().await;
    let [mut first, _second] = servers;
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    first.expect(raw::HEADERS).await;
    drop(first);
    assert!(call.await.unwrap().is_err());
    let mut third = Raw::accept(within(listener.accept()).await.unwrap()).await;
    third.settings(None).await;
    bench.wait(|| bench.connections() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_keeps_one_connection_and_closes_the_others_is_not_called_in_a_loop() {
    let (bench, mut listener, servers) = virtual_ip().await;
    let [first, _second] = servers;
    drop(first);
    let another = tokio::time::timeout(Duration::from_secs(60), listener.accept()).await;
    assert!(another.is_err(), "it was closed unused");
    assert_eq!((bench.connections(), bench.pool.readiness()), (1, Readiness::Ready));
}
