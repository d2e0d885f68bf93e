//! Ten minutes of everything that goes wrong, on real sockets: endpoints that are killed, stall, swallow, drip, are half
//! open or reset in the middle of a body; names that flap; configurations that change faster than anybody reads them.
//!
//! ```text
//! cargo bench --bench soak_chaos                       # 10 minutes
//! cargo bench --bench soak_chaos -- --test             # 6 seconds
//! cargo bench --bench soak_chaos -- --seed 7 --seconds 60
//! ```
//!
//! Four instances stand behind relays that do the harm, all under one name. What happens when is drawn from a seed, which is
//! printed; what the machine makes of it is its own.
//!
//! Holds: every response is right, byte by byte, or is an error with its code; every call that was answered is counted as
//! one; and in the end no permit, task or file descriptor is held.

mod calls;
mod names;
mod relay;
#[path = "../support.rs"]
mod support;

#[path = "../../../tests/support/echo.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod echo;

use std::{
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use sinew::{Mesh, ResponseExt, discover::DnsSettings};
use tokio::time::{Instant, sleep};

use self::{
    calls::{Load, Seen},
    names::{Answer, Names},
    relay::{Harm, Relay},
    support::{Checks, Instance, Options, any, within},
};

const INSTANCES: usize = 4;
const NAME: &str = "back.test.";

/// A seeded sequence.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, which: u64) -> Self {
        Self((seed ^ which.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// How often each thing was done.
#[derive(Default)]
struct Done(Mutex<std::collections::BTreeMap<String, u32>>);

impl Done {
    fn count(&self, what: &str) {
        *self.0.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    fn told(&self) -> String {
        let done = self.0.lock().unwrap();
        done.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
    }
}

fn document(dice: &mut Dice, port: u16) -> String {
    let one_of = |dice: &mut Dice, of: &[&str]| of[dice.below(of.len() as u64) as usize].to_owned();
    let balancer = one_of(dice, &["least_request", "round_robin", "random"]);
    let retry = one_of(
        dice,
        &[
            "{ num_retries: 2 }",
            "{ retry_on: [gateway-error, reset, connect-failure], num_retries: 3 }",
            "{ num_retries: 0 }",
        ],
    );
    let outliers =
        one_of(dice, &["enforce", "shadow", "off", "{ consecutive_gateway_failure: 3, base_ejection_time: 1s }"]);
    let hedge = one_of(dice, &["off", "{ delay: 50ms }", "{ percentile: 95 }"]);
    let limit = one_of(dice, &["1024", "64", "16"]);
    format!(
        "services:\n  back:\n    endpoints: {{ dns: \"back.test.:{port}\" }}\n    protocol: auto\n    \
         load_balancer: {balancer}\n    retry: {retry}\n    hedge: {hedge}\n    outlier_detection: {outliers}\n    \
         circuit_breakers: {{ max_requests: {limit} }}\n    timeouts: {{ request: 3s, connect: 500ms, connect_wait: 1s }}\n"
    )
}

fn write(path: &Path, yaml: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, yaml).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// Does something to one instance after the other.
async fn harm(relays: Arc<Vec<Relay>>, mut dice: Dice, done: Arc<Done>) {
    loop {
        sleep(dice.millis(100, 1_500)).await;
        let relay = &relays[dice.below(INSTANCES as u64) as usize];
        // As often as not one is well again, so that there is somebody to answer.
        let harm = match dice.below(2) {
            0 => Harm::None,
            _ => Harm::ALL[dice.below(Harm::ALL.len() as u64) as usize],
        };
        done.count(harm.as_str());
        relay.set(harm).await;
    }
}

/// Changes who the name stands for.
async fn flap(names: Arc<Names>, all: Vec<SocketAddr>, mut dice: Dice, done: Arc<Done>) {
    loop {
        sleep(dice.millis(200, 4_000)).await;
        let answer = match dice.below(8) {
            0 => Answer::NoSuchName,
            1 => Answer::Failure,
            2 => Answer::Silence,
            _ => {
                let some: Vec<_> = all.iter().map(SocketAddr::ip).filter(|_| dice.below(4) > 0).collect();
                if some.is_empty() { Answer::Nobody } else { Answer::Addresses(some) }
            }
        };
        done.count(answer.as_str());
        names.say(answer);
    }
}

/// Configurations come in storms.
async fn storm(path: std::path::PathBuf, port: u16, mut dice: Dice, done: Arc<Done>) {
    loop {
        sleep(dice.millis(500, 3_000)).await;
        for _ in 0..1 + dice.below(30) {
            write(&path, &document(&mut dice, port));
            done.count("configuration");
            sleep(dice.millis(5, 60)).await;
        }
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse(600.0, 6.0);
    let args: Vec<_> = std::env::args().collect();
    let seed = args.iter().position(|arg| arg == "--seed").and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(1);
    support::allow_sockets();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("the only recorder");
    // What is made once and stays, before anything is counted.
    drop(Mesh::builder("first").build().await.unwrap());
    tokio::task::spawn_blocking(|| {}).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    let before = (open_files(), tasks());
    println!("seed {seed}, {} s; {} files open, {} tasks", options.seconds, before.0, before.1);

    let mut checks = Checks::default();
    let seen = Arc::<Seen>::default();
    run(&options, seed, &seen, &mut checks).await;

    let gone = within(Duration::from_secs(30), || open_files() <= before.0 && tasks() <= before.1).await;
    println!("in the end {} files open, {} tasks", open_files(), tasks());
    checks.hold(gone, || {
        format!(
            "{} files and {} tasks more than before",
            open_files() as i64 - before.0 as i64,
            tasks() as i64 - before.1 as i64
        )
    });

    let answered: u64 = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .filter(|(key, ..)| {
            let labels: Vec<_> = key.key().labels().map(|label| (label.key(), label.value())).collect();
            let has = |name, values: &[&str]| labels.iter().any(|(key, value)| *key == name && values.contains(value));
            key.key().name() == "sinew_requests_total"
                && has("direction", &["outbound"])
                && has("service", &["back"])
                && has("code", &["200"])
                && has("grpc_status", &["", "0"])
                && has("flag", &["-"])
        })
        .map(|(.., value)| if let DebugValue::Counter(count) = value { count } else { 0 })
        .sum();
    seen.print(answered, &mut checks);
    checks.finish()
}

async fn run(options: &Options, seed: u64, seen: &Arc<Seen>, checks: &mut Checks) {
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        let mesh = Mesh::builder("back").build().await.unwrap();
        instances.push(Instance::start(mesh, any(), calls::app(Arc::clone(seen))).await);
    }
    let behind: Vec<_> = instances.iter().map(|instance| instance.addr).collect();
    let relays = Arc::new(Relay::all(&behind).await);
    let addrs: Vec<_> = relays.iter().map(Relay::addr).collect();
    let port = addrs[0].port();
    let names = Names::start(NAME).await;
    names.say(Answer::Addresses(addrs.iter().map(SocketAddr::ip).collect()));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sinew.yaml");
    write(&path, &document(&mut Dice::new(seed, 0), port));
    let mesh = Mesh::builder("front").dns(DnsSettings::new([names.addr()])).config_file(&path).build().await.unwrap();
    mesh.client("back").wait_ready(Duration::from_secs(5)).await.unwrap();

    let (done, load) = (Arc::<Done>::default(), Load::start(&mesh, seen));
    let chaos = [
        tokio::spawn(harm(Arc::clone(&relays), Dice::new(seed, 1), Arc::clone(&done))),
        tokio::spawn(flap(Arc::clone(&names), addrs.clone(), Dice::new(seed, 2), Arc::clone(&done))),
        tokio::spawn(storm(path.clone(), port, Dice::new(seed, 3), Arc::clone(&done))),
    ];
    let end = Instant::now() + options.duration();
    while Instant::now() < end {
        sleep(Duration::from_secs(30).min(end - Instant::now())).await;
        println!("{}", seen.line());
    }
    for task in chaos {
        task.abort();
        let _ = task.await;
    }
    // All is well again, also for those who asked meanwhile.
    for relay in relays.iter() {
        relay.set(Harm::None).await;
    }
    names.say(Answer::Addresses(addrs.iter().map(SocketAddr::ip).collect()));
    load.stop().await;
    println!("done to it: {}", done.told());

    let recovers = async {
        let client = mesh.client("back");
        loop {
            if let Ok(response) = client.get("/number/7").send().await
                && response.text().await.is_ok_and(|text| text == "7")
            {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    // Not counted as one of those that were checked.
    checks.hold(tokio::time::timeout(Duration::from_secs(40), recovers).await.is_ok(), || "it does not recover".into());
    seen.extra(1);
    let held = || {
        let cluster = mesh.status().services["back"].cluster.clone().unwrap();
        let in_flight: u32 = cluster.endpoints.iter().map(|endpoint| endpoint.in_flight).sum();
        (cluster.requests.0, cluster.pending.0, cluster.streams.0, in_flight)
    };
    let free = within(Duration::from_secs(10), || held() == (0, 0, 0, 0)).await;
    checks.hold(free, || format!("calls, waiting, streams and load still held: {:?}", held()));

    mesh.shutdown(Duration::from_secs(10)).await;
    drop(mesh);
    for relay in relays.iter() {
        relay.end().await;
    }
    names.end();
    for instance in instances {
        instance.stop().await;
    }
}
