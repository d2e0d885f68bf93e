//! Connections to a virtual IP: one address, many behind it.

use super::{raw::HEADERS, *};
use crate::{
    health::{Ages, Buckets},
    rt,
};

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
async fn a_connection_that_does_not_answer_is_replaced_while_the_other_does() {
    let (bench, mut listener, mut servers) = virtual_ip().await;
    let (ages, mut buckets, age) = (Ages::default(), Buckets::default(), Duration::from_secs(1));
    ages.pass(&mut buckets, rt::now(), age);
    let send = |slot: Slot, at| {
        let line = slot.line().unwrap();
        line.sent(at);
        (line, tokio::spawn(slot.send(get("/"))))
    };
    // One goes over each; the second's server answers.
    let (silent, talking) =
        (taken(bench.pool.acquire(Want::Any)).unwrap(), taken(bench.pool.acquire(Want::Any)).unwrap());
    let (silent_id, talking_id) = (connection(&silent), connection(&talking));
    let sent = ages.now();
    let (_hung, hung_call) = send(silent, sent);
    let (line, answered) = send(talking, sent);
    let [first, second] = &mut servers;
    let stream = tokio::select! {
        frame = second.expect(HEADERS) => frame.stream,
        () = rt::sleep(Duration::from_millis(100)) => panic!("the second connection is the second server's"),
    };
    second.respond(stream, true).await;
    answered.await.unwrap().unwrap();
    line.answered(sent, ages.now());
    first.expect(HEADERS).await;

    let mut replaced = false;
    for _ in 0..30 {
        rt::sleep(Duration::from_millis(100)).await;
        let old = ages.pass(&mut buckets, rt::now(), age);
        bench.pool.judge_lines(&old);
        let taken: Vec<_> = (0..4).filter_map(|_| taken(bench.pool.acquire(Want::Any))).collect();
        replaced = taken.iter().all(|slot| connection(slot) != silent_id);
        if replaced && !old.is_empty() {
            break;
        }
    }
    assert!(replaced);
    let mut third = Raw::accept(within(listener.accept()).await.unwrap()).await;
    third.settings(None).await;
    bench.wait(|| bench.pool.has_other(&[silent_id, talking_id])).await;
    assert!(!hung_call.is_finished(), "its own call is left to go on");
}

#[tokio::test(start_paused = true)]
async fn where_none_answers_one_is_replaced_at_a_time_and_offered_until_then() {
    let (bench, mut listener, _servers) = virtual_ip().await;
    let (ages, mut buckets, age) = (Ages::default(), Buckets::default(), Duration::from_secs(1));
    ages.pass(&mut buckets, rt::now(), age);
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let slot = taken(bench.pool.acquire(Want::Any)).unwrap();
            slot.line().unwrap().sent(ages.now());
            slot
        })
        .collect();
    let ids: Vec<_> = calls.iter().map(connection).collect();
    for _ in 0..13 {
        rt::sleep(Duration::from_millis(100)).await;
        bench.pool.judge_lines(&ages.pass(&mut buckets, rt::now(), age));
        assert!(taken(bench.pool.acquire(Want::Any)).is_some(), "it is offered");
    }
    let mut third = Raw::accept(within(listener.accept()).await.unwrap()).await;
    third.settings(None).await;
    bench.wait(|| bench.pool.has_other(&ids)).await;
    settle().await;
    // One of the two is left, besides the new one.
    let offered: Vec<_> = (0..6).filter_map(|_| taken(bench.pool.acquire(Want::Any))).collect();
    assert_eq!(ids.iter().filter(|id| offered.iter().any(|slot| connection(slot) == **id)).count(), 1);
    drop(calls);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_in_use_is_made_again() {
    let (bench, mut listener, servers) = virtual_ip().await;
    let [first, _second] = servers;
    drop(first);
    let mut third = Raw::accept(within(listener.accept()).await.unwrap()).await;
    third.settings(None).await;
    bench.wait(|| bench.connections() == 2).await;
}
