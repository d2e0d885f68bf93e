//! What a call allocates, both ends together, beside the same call over hyper or tonic bare.
//!
//! A current_thread runtime on this test's own thread does all the work and the allocator counts by thread, so the other
//! tests of the process do not show.

use std::time::Duration;

use bytes::Bytes;
use sinew::{
    model::Protocol,
    retry::{HedgePolicy, RetryPolicy, RetrySpec},
};
use tokio::runtime::{Builder, Runtime};

use super::{
    alloc::{self, Counts},
    echo::{self, BoxError, Echo},
};

const CALLS: usize = 2000;

#[test]
fn grpc_calls_allocate_no_more_than_with_bare_tonic() {
    for bytes in [0, 1024] {
        let bare = per_call(bytes, echo::bare_grpc(1, false));
        let sinew = per_call(bytes, echo::mesh_grpc(1, false));
        judge("tonic", bytes, bare, sinew, 0.0);
    }
}

#[test]
fn http2_calls_allocate_at_most_four_times_more_than_over_a_bare_connection() {
    for bytes in [0, 1024] {
        let bare = per_call(bytes, echo::bare_http2(1, false));
        let sinew = per_call(bytes, echo::mesh_http(Protocol::Http2, 1, false));
        judge("a hyper HTTP/2 connection", bytes, bare, sinew, 4.0);
    }
}

#[test]
fn http1_calls_allocate_at_most_seven_times_more_than_over_a_bare_connection() {
    for bytes in [0, 1024] {
        let bare = per_call(bytes, echo::bare_http1(1, false));
        let sinew = per_call(bytes, echo::mesh_http(Protocol::Http1, 1, false));
        judge("a hyper HTTP/1.1 connection", bytes, bare, sinew, 7.0);
    }
}

/// What a retry or a hedge would need is kept, and nothing of it is needed.
#[test]
fn calls_that_could_be_retried_and_hedged_allocate_no_more() {
    let retries = || {
        let mut policy = RetryPolicy::idempotent();
        policy.require_idempotent = false;
        let mut hedge = HedgePolicy::after(Duration::from_secs(10));
        hedge.require_idempotent = false;
        RetrySpec::new(policy).hedge(hedge)
    };
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for bytes in [0, 1024] {
            let plain = per_call(bytes, echo::mesh_http(protocol, 1, false));
            let ready = per_call(bytes, echo::http_with(protocol, |service| service.retries(retries())));
            judge("the same without retries", bytes, plain, ready, 0.0);
        }
    }
}

/// The first flush of the metrics keeps what it told, a kilobyte for each histogram; HPACK's tables remember a new date
/// every second until they are full. Both are over some time, and what stays behind each call is not.
#[test]
fn calls_leave_nothing_behind() {
    const TURN: usize = 3_000;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let runtime = runtime();
        let mut caller = connect(&runtime, echo::mesh_http(protocol, 1, false));
        alloc::count(true);
        run(&runtime, &mut caller, 1024, CALLS);
        // Longer than an HTTP/1.1 connection idles: what waits for that must not cost the calls anything.
        let began = tokio::time::Instant::now();
        let mut turns = Vec::new();
        let mut left = Vec::new();
        // A slow machine needs more of them, since its tables are full after as many seconds, not calls.
        let over = |left: &[i64]| left.iter().any(|bytes| *bytes < TURN as i64 / 2);
        while turns.len() < 4 || began.elapsed() < Duration::from_secs(5) || (!over(&left) && turns.len() < 100) {
            let before = alloc::thread();
            run(&runtime, &mut caller, 1024, TURN);
            let turn = alloc::thread() - before;
            left.push(turn.live());
            turns.push(turn);
        }
        println!("{protocol:?}: {left:?} bytes are left by {TURN} calls each");
        assert!(over(&left), "{protocol:?}: {TURN} calls leave {left:?} bytes behind");
        let [first, .., last] = &turns[..] else { unreachable!("four turns") };
        let (first, last) = (first.allocations / TURN as u64, last.allocations / TURN as u64);
        assert!(last <= first, "{protocol:?}: {last} allocations a call after {:?}, {first} before", began.elapsed());
    }
}

/// A thousand rules, all of which could be asked for, decide in the same number of allocations as none, and an audit log adds
/// none to what is allowed.
#[test]
fn rules_decide_without_allocating() {
    use sinew::{
        Mesh,
        authz::{
            Operation, PathText, Policy, Rule, Source, Text, When, WhenKey,
            audit::{AuditLog, AuditSink},
        },
    };
    /// What is allowed is not written, so nothing comes here but the log's own lines.
    struct Nowhere;
    impl AuditSink for Nowhere {
        fn last(&self) -> std::io::Result<Option<String>> {
            Ok(None)
        }

        fn write(&self, _lines: &str) -> std::io::Result<()> {
            Ok(())
        }
    }
    let rule = |n: u32| {
        let mut source = Source::default();
        source.ip_blocks = vec!["127.0.0.0/8".parse().unwrap()];
        let mut operation = Operation::default();
        operation.methods = vec![http::Method::POST];
        operation.paths = vec![PathText::new(&format!("/echo{n}")).unwrap(), PathText::new("/{*}").unwrap()];
        let mut when = When::new(WhenKey::Header(http::HeaderName::from_static("x-tenant")), []);
        when.not_values = vec![Text::exact("guest")];
        Rule::allow(format!("rule {n}")).from(source).to(operation).when(when)
    };
    let deny = |n: u32| {
        let mut operation = Operation::default();
        operation.paths = vec![PathText::new(&format!("/tenant{n}/*")).unwrap()];
        Rule::deny(format!("deny {n}")).to(operation)
    };
    let policy = Policy::new((0..500).map(rule).chain((0..500).map(deny)));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let without = per_call(0, echo::mesh_http(protocol, 1, false));
        let policy = policy.clone();
        let builder = Mesh::builder("echo").authz(policy).audit_log(AuditLog::sink(Nowhere));
        let with = per_call(0, async move { echo::http_of(builder.build().await?, protocol).await });
        judge("the same without rules and audit log", 0, without, with, 0.0);
    }
}

fn judge(bare_name: &str, bytes: usize, bare: f64, sinew: f64, most: f64) {
    let added = sinew - bare;
    println!("{bytes} bytes: {sinew:.2} allocations a call, {added:+.2} over {bare:.2} of {bare_name}");
    // A timer wheel or a queue may grow once in thousands of calls.
    assert!(
        added <= most + 0.05,
        "{bytes} bytes: {sinew:.2} allocations a call are {added:+.2} over {bare:.2} of {bare_name}; at most {most:+}"
    );
}

/// Allocations per call after a warm-up.
fn per_call<E: Echo>(bytes: usize, callers: impl Future<Output = Result<Vec<E>, BoxError>>) -> f64 {
    let runtime = runtime();
    let mut caller = connect(&runtime, callers);
    // Counting stays on: the other tests of the process count too.
    alloc::count(true);
    run(&runtime, &mut caller, bytes, CALLS / 4);
    let before = alloc::thread();
    run(&runtime, &mut caller, bytes, CALLS);
    let Counts { allocations, .. } = alloc::thread() - before;
    allocations as f64 / CALLS as f64
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn connect<E>(runtime: &Runtime, callers: impl Future<Output = Result<Vec<E>, BoxError>>) -> E {
    runtime.block_on(callers).expect("both ends on loopback").pop().expect("one caller")
}

fn run<E: Echo>(runtime: &Runtime, caller: &mut E, bytes: usize, calls: usize) {
    let payload = Bytes::from(vec![b'x'; bytes]);
    runtime.block_on(async {
        for _ in 0..calls {
            assert_eq!(caller.echo(&payload).await.expect("the call succeeds"), bytes);
        }
    });
}
