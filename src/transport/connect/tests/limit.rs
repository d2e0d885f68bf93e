//! What pools do for each other at the limit of connections.

use super::{
    raw::{HEADERS, PING, Raw},
    *,
};
use crate::rt;

/// A second endpoint of the same cluster.
fn other(bench: &Bench, protocol: Protocol, name: &str) -> (Arc<Pool>, MemoryListener) {
    let target = PoolTarget {
        addresses: [format!("memory:{name}").parse().unwrap()].into(),
        protocol,
        kind: SetKind::Replicas,
        label: name.into(),
        authority: None,
    };
    (bench.context.pool(target), bench.network.listen(name).unwrap())
}

/// Takes connections and answers nothing.
fn swallow(mut listener: MemoryListener) {
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(io) = listener.accept().await {
            held.push(io);
        }
    });
}

/// Answers every request with 200.
fn answer(mut listener: MemoryListener) {
    tokio::spawn(async move {
        while let Some(io) = listener.accept().await {
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                hyper_util::rt::TokioIo::new(io),
                hyper::service::service_fn(|_| async {
                    Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Empty::<Bytes>::new()))
                }),
            ));
        }
    });
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_an_idle_http1_connection_elsewhere_makes_room_but_never_the_only_one() {
    let bench = Bench::with(Protocol::Http1, SetKind::Replicas, 4);
    answer(bench.listen());
    bench.ready().await;
    let both = [bench.slot(Want::Any).await, bench.slot(Want::Any).await, bench.slot(Want::Any).await];
    for slot in both {
        text(slot.send(get("/")).await.unwrap()).await;
    }
    assert_eq!((bench.connections(), bench.limit.open()), (3, 3));
    let (second, listener) = other(&bench, Protocol::Http1, "second");
    swallow(listener);
    let mut busy = Vec::new();
    for (here, there) in [(1, 3), (2, 2), (3, 1)] {
        busy.push(tokio::spawn(taken(second.acquire(Want::Any)).expect("room").send(get("/"))));
        settle().await;
        assert_eq!((second.connections(), bench.connections(), bench.limit.open()), (here, there, 4));
    }
    assert!(matches!(second.acquire(Want::Any), Acquire::Full));
    let _own = taken(bench.pool.acquire(Want::Any)).expect("each endpoint keeps one");
    // A third one has none yet: one is its right.
    let (third, _listener) = other(&bench, Protocol::Http1, "third");
    let first = taken(third.acquire(Want::Any)).expect("the first of its endpoint");
    assert!(matches!(third.acquire(Want::Any), Acquire::Full));
    assert_eq!(bench.limit.open(), 5);
    drop(first);
    for call in &busy {
        call.abort();
    }
    settle().await;
    assert_eq!((second.connections(), bench.limit.open()), (0, 1));
    assert!(taken(third.acquire(Want::Any)).is_some());
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_a_quiet_http2_connection_elsewhere_makes_room_and_one_in_use_does_not() {
    let bench = Bench::with(Protocol::Http2, SetKind::Replicas, 2);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut first = Raw::accept(listener.accept().await.unwrap()).await;
    first.settings(Some(1)).await;
    bench.until(Readiness::Ready).await;
    let watch = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
    let mut spare = Raw::accept(listener.accept().await.unwrap()).await;
    spare.settings(Some(1)).await;
    settle().await;
    first.expect(HEADERS).await;
    let serve = tokio::spawn(async move {
        while let Some(frame) = first.read().await {
            if frame.kind == PING && frame.flags == 0 {
                first.write(PING, 1, 0, &frame.payload).await;
            }
        }
    });
    let (second, listener) = other(&bench, Protocol::Http1, "second");
    swallow(listener);
    let held = taken(second.acquire(Want::Any)).expect("the first of its endpoint");
    assert!(matches!(second.acquire(Want::Any), Acquire::Full), "it was opened a moment ago");
    rt::sleep(Duration::from_secs(41)).await;
    // One for the limit that the first one went beyond, one for the second.
    bench.context.limit.set_max(3);
    assert!(taken(second.acquire(Want::Any)).is_some());
    while spare.read().await.is_some() {}
    assert_eq!(bench.connections(), 1);
    assert!(!watch.is_finished() && bench.pool.readiness() == Readiness::Ready);
    drop(held);
    serve.abort();
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_replaced_at_the_limit_too() {
    let bench = Bench::with(Protocol::Http2, SetKind::Replicas, 1);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut old = Raw::accept(listener.accept().await.unwrap()).await;
    old.settings(None).await;
    bench.until(Readiness::Ready).await;
    bench.pool.renew_all();
    let mut new = Raw::accept(listener.accept().await.unwrap()).await;
    new.settings(None).await;
    while old.read().await.is_some() {}
    settle().await;
    assert_eq!((bench.connections(), bench.limit.open(), bench.pool.readiness()), (1, 1, Readiness::Ready));
}
