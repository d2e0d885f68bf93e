//! Connections that fall silent.

use super::{
    raw::{ACK, HEADERS, PING, Raw},
    *,
};
use crate::{
    error::{Code, Delivery},
    rt,
};

#[tokio::test(start_paused = true)]
async fn a_silent_connection_gets_one_ping_and_no_new_stream_until_it_answers() {
    let (bench, mut listener, mut server) = scripted(None).await;
    let sent = rt::now();
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    let first = server.expect(HEADERS).await.stream;
    let ping = server.expect(PING).await;
    let silence = (rt::now() - sent).as_millis();
    assert!((1_000..=1_600).contains(&silence), "{silence} ms");
    assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
    assert_eq!(bench.pool.readiness(), Readiness::Ready);
    // Another one is made if the answer takes long.
    let _other = Raw::accept(listener.accept().await.unwrap()).await;
    assert!((rt::now() - sent).as_millis() >= silence + 500);
    assert_eq!(bench.pool.readiness(), Readiness::Connecting);
    server.write(PING, ACK, 0, &ping.payload).await;
    bench.until(Readiness::Ready).await;
    let next = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    let second = server.expect(HEADERS).await.stream;
    server.respond(second, true).await;
    server.respond(first, true).await;
    assert!(call.await.unwrap().is_ok() && next.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_costs_the_calls_on_it_and_none_after_them() {
    let (bench, mut listener, mut dead) = scripted(None).await;
    let sent = rt::now();
    let lost = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    dead.expect(PING).await;
    let mut other = Raw::accept(listener.accept().await.unwrap()).await;
    other.settings(None).await;
    bench.until(Readiness::Ready).await;
    for _ in 0..3 {
        let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
        let stream = other.expect(HEADERS).await.stream;
        other.respond(stream, true).await;
        assert!(call.await.unwrap().is_ok());
    }
    let error = lost.await.unwrap().err().unwrap();
    let took = (rt::now() - sent).as_secs();
    assert_eq!((error.code(), error.delivery()), (Code::ConnectionClosed, Delivery::Maybe));
    assert!((20..=22).contains(&took), "{took} s");
    assert_eq!((bench.connections(), bench.pool.readiness()), (1, Readiness::Ready));
}

/// The seconds at which a peer was asked while nothing but answers to that came from it.
async fn pings(trusted: bool) -> Vec<u64> {
    let bench = Bench::new(Protocol::Http2);
    let target = PoolTarget {
        addresses: ["memory:server".parse().unwrap()].into(),
        protocol: Protocol::Http2,
        kind: SetKind::Replicas,
        label: "server".into(),
        authority: None,
    };
    let pool = bench.context.pool_with(target, PoolPolicy { trusted, ..PoolPolicy::default() });
    let mut listener = bench.listen();
    pool.connect();
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    server.settings(None).await;
    bench.wait(|| pool.readiness() == Readiness::Ready).await;
    let started = rt::now();
    let call = tokio::spawn(taken(pool.acquire(Want::Any)).unwrap().send(get("/watch")));
    let mut asked = Vec::new();
    while let Some(Some(frame)) = rt::timeout(Duration::from_secs(180), server.read()).await {
        if frame.kind == PING {
            asked.push((rt::now() - started).as_secs());
            server.write(PING, ACK, 0, &frame.payload).await;
        }
        if rt::now() - started > Duration::from_secs(300) {
            break;
        }
    }
    assert!(!call.is_finished());
    asked
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_only_answers_pings_is_asked_twice_or_every_thirty_seconds_if_it_is_ours() {
    let stranger = pings(false).await;
    assert_eq!(stranger.len(), 2, "{stranger:?}");
    assert!(stranger[0] == 1 && (31..=42).contains(&stranger[1]), "{stranger:?}");
    let ours = pings(true).await;
    assert!(ours.len() >= 8 && ours.windows(2).all(|pair| (30..=41).contains(&(pair[1] - pair[0]))), "{ours:?}");
}
