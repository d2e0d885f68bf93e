//! Readiness, back-off, limits, age and closing.

use super::{
    raw::{HEADERS, PING, RST_STREAM, Raw},
    *,
};
use std::{
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use crate::{
    error::Code,
    model::Address,
    rt,
    transport::{Dialed, Offer},
};

/// Counts attempts.
struct Counted(Arc<Dialer>, AtomicU32);

impl Dial for Counted {
    fn dial<'a>(
        &'a self,
        address: &'a Address,
        offer: Offer,
    ) -> Pin<Box<dyn Future<Output = Result<Dialed, Error>> + Send + 'a>> {
        self.1.fetch_add(1, SeqCst);
        self.0.dial(address, offer)
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_offered_only_after_the_peers_settings() {
    let bench = Bench::new(Protocol::Http2);
    let mut listener = bench.listen();
    assert_eq!(bench.pool.readiness(), Readiness::Idle);
    assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
    bench.pool.connect();
    assert_eq!(bench.pool.readiness(), Readiness::Connecting);
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    settle().await;
    assert_eq!(bench.pool.readiness(), Readiness::Connecting);
    server.settings(None).await;
    bench.until(Readiness::Ready).await;
    assert!(taken(bench.pool.acquire(Want::Any)).is_some());
    assert_eq!(bench.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_sends_settings_is_a_connect_timeout() {
    let bench = Bench::new(Protocol::Http2);
    let mut listener = bench.listen();
    bench.pool.connect();
    let _server = Raw::accept(listener.accept().await.unwrap()).await;
    bench.until(Readiness::TransientFailure).await;
    let (text, _) = bench.pool.last_error().unwrap();
    assert!(text.contains("memory:server") && text.contains("timeouts.connect"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_tried_at_a_bounded_rate_and_recovers_within_a_second() {
    let network = MemoryNetwork::new();
    let counted = Arc::new(Counted(Dialer::new(network.clone()), AtomicU32::new(0)));
    let bench = Bench::on(network, counted.clone(), "memory:server", Protocol::Http2, SetKind::Replicas, 9);
    bench.pool.connect();
    bench.until(Readiness::TransientFailure).await;
    let (text, since) = bench.pool.last_error().unwrap();
    assert!(text.starts_with("connection refused by memory:server"), "{text}");
    let before = counted.1.load(SeqCst);
    let started = rt::now();
    while rt::now() - started < Duration::from_secs(60) {
        // Load does not add attempts.
        for _ in 0..10 {
            bench.pool.connect();
            assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
        }
        rt::sleep(Duration::from_millis(20)).await;
        assert_ne!(bench.pool.readiness(), Readiness::Ready);
    }
    let attempts = counted.1.load(SeqCst) - before;
    assert!((55..=85).contains(&attempts), "{attempts} attempts in 60 s");
    assert_eq!(bench.pool.last_error().unwrap().1, since);

    let mut listener = bench.listen();
    let recovering = rt::now();
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    server.settings(None).await;
    bench.until(Readiness::Ready).await;
    assert!(rt::now() - recovering <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_accepts_and_closes_is_not_called_in_a_loop() {
    let bench = Bench::new(Protocol::Http2);
    let mut listener = bench.listen();
    bench.pool.connect();
    let accepted = async {
        let mut accepted = 0;
        loop {
            let mut server = Raw::accept(listener.accept().await.unwrap()).await;
            server.settings(None).await;
            settle().await;
            accepted += 1;
            if accepted == 20 {
                return;
            }
            drop(server);
        }
    };
    let kick = async {
        loop {
            bench.pool.connect();
            rt::sleep(Duration::from_millis(1)).await;
        }
    };
    let started = rt::now();
    tokio::select! { () = accepted => {}, () = kick => {} }
    assert!(rt::now() - started > Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_peer_is_pinged_and_a_dead_one_found_within_a_minute() {
    let bench = Bench::new(Protocol::Http2);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    server.settings(None).await;
    bench.until(Readiness::Ready).await;
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    let ping = server.expect(PING).await;
    server.write(PING, 1, 0, &ping.payload).await;
    let second = server.expect(PING).await;
    assert_ne!(second.flags, 1);
    let asked = rt::now();
    let error = call.await.unwrap().err().unwrap();
    assert!(rt::now() - asked <= Duration::from_secs(31), "{:?}", rt::now() - asked);
    assert_eq!(error.code(), Code::ConnectionClosed);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_after_four_minutes() {
    let bench = Bench::new(Protocol::Http2);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    server.settings(None).await;
    bench.until(Readiness::Ready).await;
    let since = rt::now();
    bench.until(Readiness::Idle).await;
    let lived = rt::now() - since;
    assert!((235..=245).contains(&lived.as_secs()), "{lived:?}");
    while server.read().await.is_some() {}
    settle().await;
    assert_eq!(bench.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_replaced_before_it_is_retired_and_its_streams_run_on() {
    let bench = Bench::new(Protocol::Http2);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut old = Raw::accept(listener.accept().await.unwrap()).await;
    old.settings(None).await;
    bench.until(Readiness::Ready).await;
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/long")));
    let born = rt::now();
    let new = loop {
        tokio::select! {
            biased;
            frame = old.read() => {
                let frame = frame.expect("the old connection lives");
                if frame.kind == PING {
                    // Data too, so that the peer counts as alive.
                    old.write(PING, 1, 0, &frame.payload).await;
                    old.settings(None).await;
                }
            }
            new = listener.accept() => break new.unwrap(),
        }
    };
    let age = rt::now() - born;
    assert!((1350..=1661).contains(&age.as_secs()), "{age:?}");
    assert_eq!(bench.pool.readiness(), Readiness::Ready);
    let mut new = Raw::accept(new).await;
    new.settings(None).await;
    settle().await;
    let second = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/new")));
    let head = new.expect(HEADERS).await;
    new.respond(head.stream, true).await;
    assert!(second.await.unwrap().is_ok());
    old.respond(1, true).await;
    assert!(call.await.unwrap().is_ok());
    while old.read().await.is_some() {}
    settle().await;
    assert_eq!(bench.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn closing_refuses_new_slots_and_lets_streams_end() {
    let bench = Bench::new(Protocol::Http2);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut server = Raw::accept(listener.accept().await.unwrap()).await;
    server.settings(None).await;
    bench.until(Readiness::Ready).await;
    let call = tokio::spawn(taken(bench.pool.acquire(Want::Any)).unwrap().send(get("/")));
    server.expect(HEADERS).await;
    bench.pool.close();
    assert_eq!(bench.pool.readiness(), Readiness::Idle);
    assert!(matches!(bench.pool.acquire(Want::Any), Acquire::Full));
    bench.pool.connect();
    assert_eq!(bench.pool.readiness(), Readiness::Idle);
    server.respond(1, true).await;
    assert!(call.await.unwrap().is_ok());
    while server.read().await.is_some() {}
    settle().await;
    assert_eq!((bench.connections(), bench.limit.open()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn closing_ends_the_attempts_of_a_failing_pool() {
    let bench = Bench::new(Protocol::Http2);
    bench.pool.connect();
    bench.until(Readiness::TransientFailure).await;
    bench.pool.close();
    settle().await;
    let mut listener = bench.listen();
    assert!(tokio::time::timeout(Duration::from_secs(10), listener.accept()).await.is_err());
    assert_eq!(bench.limit.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_virtual_ip_gets_a_second_connection_at_once() {
    let bench = Bench::with(Protocol::Http2, SetKind::Vip, 1024);
    let mut listener = bench.listen();
    bench.pool.connect();
    let mut first = Raw::accept(listener.accept().await.unwrap()).await;
    first.settings(None).await;
    let mut second = Raw::accept(listener.accept().await.unwrap()).await;
    second.settings(None).await;
    settle().await;
    assert_eq!(bench.connections(), 2);
    let one = taken(bench.pool.acquire(Want::Any)).unwrap();
    let two = taken(bench.pool.acquire(Want::Any)).unwrap();
    let calls = [tokio::spawn(one.send(get("/"))), tokio::spawn(two.send(get("/")))];
    first.expect(HEADERS).await;
    second.expect(HEADERS).await;
    for call in calls {
        call.abort();
    }
    first.expect(RST_STREAM).await;
    second.expect(RST_STREAM).await;
    bench.wait(|| bench.streams() == 0).await;
}

#[test]
fn an_idle_endpoint_costs_little() {
    let size = size_of::<Pool>() + 4 * size_of::<usize>();
    assert!(size <= 512, "{size}");
}
