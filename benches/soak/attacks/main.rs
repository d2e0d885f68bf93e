//! What a listener withstands: each attack against a service of axum and one of tonic, beside a good client.
//!
//! ```text
//! cargo bench --bench soak_attacks                         # 60 s each
//! cargo bench --bench soak_attacks -- --test               # a second each: that all of it runs
//! cargo bench --bench soak_attacks -- --seconds 20 slow    # those whose name has the word
//! ```
//!
//! The attacker comes from 127.0.0.1, the good client from 127.0.0.2 with a new connection every ten requests. Its control is
//! the same client beside valid requests of as many bytes a second as the attack sent. Held: in full runs memory grows by at
//! most 64 MiB and 32 KiB for each connection that the attacker holds, and the good client succeeds in 99 %. The p99s are
//! told, not judged, since attacker, good client and service share the machine.

mod attack;
mod besides;
#[path = "../../support/echo/grpc.rs"]
#[allow(dead_code, reason = "the callers are others here")]
mod echo;
mod good;
mod server;
#[path = "../support.rs"]
mod support;
mod tls;

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::{
    attack::{Attack, Over, Seen},
    besides::Besides,
    good::{Record, Target},
    server::Attacked,
    support::{Checks, Options, allow_sockets, mib},
    tls::Trust,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A caller of the echo.
#[allow(dead_code, reason = "the callers are others here")]
trait Echo: Send + 'static {
    fn echo(&mut self, payload: &bytes::Bytes) -> impl Future<Output = Result<usize, BoxError>> + Send;
}

const MOST: u64 = 64 << 20;
const MOST_EACH: u64 = 32 << 10;

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    allow_sockets();
    if let Some(at) = args.iter().position(|arg| arg == "--serve") {
        runtime.block_on(server::run(&args[at + 1], &args[at + 2]));
        return ExitCode::SUCCESS;
    }
    let words: Vec<_> =
        args.iter().skip(1).filter(|arg| !arg.starts_with('-') && arg.parse::<f64>().is_err()).collect();
    let options = Options::parse(60.0, 1.0);
    let mut checks = Checks::default();
    println!(
        "{:<38} {:>9} {:>9} {:>8} {:>9} {:>9} {:>10}  closed after",
        "attack", "held", "sent", "growth", "success", "p99", "control"
    );
    for kind in ["axum", "tonic"] {
        for attack in attack::all() {
            let name = format!("{kind}: {}", attack.name);
            if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
                runtime.block_on(one(kind, &name, &attack, &options, &mut checks));
            }
        }
    }
    checks.finish()
}

async fn one(kind: &str, name: &str, attack: &Attack, options: &Options, checks: &mut Checks) {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let trust = Trust::make(&cert, &key);
    let edge = free_port();
    let proxied =
        if attack.over == Over::Proxy { ", trusted_proxies: 127.0.0.0/8, proxy_protocol: required" } else { "" };
    let mut config = format!(
        "listeners: {{edge: {{listen: \"{edge}\", tls: {{cert: {}, key: {}}}{proxied}}}}}\n",
        cert.display(),
        key.display()
    );
    let (file, roots) = (dir.path().join("sinew.yaml"), dir.path().join("roots.pem"));
    let served = config.clone();
    if attack.besides == Besides::Issuer {
        config += &besides::issuer(&roots).await;
    }
    std::fs::write(&file, config).unwrap();
    let attacked = Attacked::start(kind, &file, roots.exists().then_some(&roots));
    let plain = Target { addr: attacked.plain, tls: None, grpc: kind == "tonic", prelude: b"" };
    let target = match attack.over {
        Over::Plain => plain,
        Over::Tls => Target { addr: edge, tls: Some(trust), ..plain },
        Over::Proxy => Target { addr: edge, tls: Some(trust), prelude: b"PROXY UNKNOWN\r\n", ..plain },
    };
    // What a service has once it has served somebody is not growth.
    beside(&target, Duration::from_millis(500).min(options.duration()), std::future::pending()).await;
    let before = attacked.resident();

    let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
    let attacks = async {
        let changes = async {
            if attack.besides == Besides::Rules {
                besides::rules(&file, &served).await;
            }
        };
        let attack = async { tokio::join!(attack.run(&target, &stop, &seen), changes).0 };
        let record = beside(&target, options.duration(), attack).await;
        stop.store(true, Relaxed);
        record
    };
    let memory = async {
        let mut most = 0;
        while !stop.load(Relaxed) {
            most = most.max(attacked.resident());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        most
    };
    let (record, most) = tokio::join!(attacks, memory);
    let grown = most.saturating_sub(before);
    let rate = seen.sent.load(Relaxed) as f64 / options.seconds.max(0.1);
    let control = beside(&target, options.duration().min(Duration::from_secs(10)), valid(target.clone(), rate)).await;

    let held = seen.most_held.load(Relaxed);
    let mut closed = std::mem::take(&mut *seen.closed_after.lock().unwrap());
    closed.sort();
    let after = match closed[..] {
        [] => "never".to_owned(),
        [first, ..] => format!("{first:.1?} to {:.1?}, {} times", closed[closed.len() - 1], closed.len()),
    };
    println!(
        "{name:<38} {held:>9} {:>5.1} MB {:>4.1} MiB {:>8.2} % {:>6.1} ms {:>7.1} ms  {after}",
        seen.sent.load(Relaxed) as f64 / 1e6,
        mib(grown),
        record.success() * 100.0,
        record.p99().as_secs_f64() * 1e3,
        control.p99().as_secs_f64() * 1e3,
    );
    checks.hold(record.calls() > 0, || format!("{name}: the good client made no call"));
    checks.hold(seen.opened.load(Relaxed) > 0, || format!("{name}: no connection was made"));
    if !options.short {
        let allowed = MOST + MOST_EACH * held as u64;
        checks
            .hold(grown <= allowed, || format!("{name}: memory grew by {:.1} MiB of {:.1}", mib(grown), mib(allowed)));
        checks.hold(record.success() >= 0.99, || format!("{name}: {:.2} % succeeded", record.success() * 100.0));
    }
}

/// The good client for so long, beside something else.
async fn beside(target: &Target, duration: Duration, other: impl Future<Output = ()>) -> Arc<Record> {
    let (stop, record) = (Arc::<AtomicBool>::default(), Arc::<Record>::default());
    let good = tokio::spawn(good::client(target.clone(), Arc::clone(&stop), Arc::clone(&record)));
    let ends = tokio::time::sleep(duration);
    tokio::select! {
        () = async { tokio::join!(other, std::future::pending::<()>()); } => {}
        () = ends => {}
    }
    stop.store(true, Relaxed);
    good.await.unwrap();
    record
}

/// Valid requests of so many bytes a second, over one connection.
async fn valid(target: Target, rate: f64) {
    let bytes = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(970)).into_bytes();
    let every = Duration::from_secs_f64((bytes.len() as f64 / rate.max(1.0)).clamp(0.000_2, 3_600.0));
    loop {
        let Ok(mut io) = target.connect([127, 0, 0, 3], b"http/1.1").await else { return };
        let mut tick = tokio::time::interval(every);
        let mut answer = [0; 4096];
        loop {
            tick.tick().await;
            if io.write_all(&bytes).await.is_err() || !matches!(io.read(&mut answer).await, Ok(n) if n > 0) {
                break;
            }
        }
    }
}
