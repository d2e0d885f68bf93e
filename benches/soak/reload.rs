//! 200 configurations in a minute under load: routes, weights, endpoints and subsets change while calls and streams run
//! over HTTP/1.1, HTTP/2 and gRPC.
//!
//! ```text
//! cargo bench --bench soak_reload                  # 60 s, 200 reloads
//! cargo bench --bench soak_reload -- --test        # 3 s, 10 reloads
//! ```
//!
//! Holds: no call fails, every call ends on the configuration it began with, memory and tasks do not grow. Each
//! configuration sets a header of its own on requests and on responses, so a call that changed its configuration shows two
//! different ones.

#[path = "../../tests/support/echo.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod echo;
mod support;

use std::{
    path::Path,
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::Request, middleware::Next, routing::get};
use http::HeaderMap;
use sinew::{Body, Client, Mesh, ResponseExt};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tower::Service;

use self::{
    echo::{Echo, EchoClient, Message},
    support::{Checks, Instance, Load, Options, Tally, any, mib, resident, within},
};

const SERVICES: [(&str, &str); 3] = [("one", "http1"), ("two", "http2"), ("grpc", "http2")];
const MOST_GROWTH: u64 = 24 * 1024 * 1024;

/// Answers fast at `/`, late at `/late`, and tells which configuration the request was sent under.
fn app() -> Router {
    Router::new()
        .route("/", get(|| async { "fast" }))
        .route(
            "/late",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(700)).await;
                "late"
            }),
        )
        .merge(Echo::new("echo").routes().into_axum_router())
        .layer(axum::middleware::from_fn(|request: Request, next: Next| async move {
            let seen = request.headers().get("x-config").cloned();
            let mut response = next.run(request).await;
            response.headers_mut().extend(seen.map(|seen| (http::HeaderName::from_static("x-seen"), seen)));
            response
        }))
}

/// The `n`th configuration: four endpoints of two versions, of which one may be away, and changing rules over them.
fn document(n: usize, addrs: &[std::net::SocketAddr]) -> String {
    let endpoints: String = addrs
        .iter()
        .enumerate()
        .filter(|(index, _)| n % 8 < 4 || *index != n % 4)
        .map(|(index, addr)| {
            format!(
                "{{address: \"{addr}\", labels: {{version: v{}}}, weight: {}}}, ",
                index % 2 + 1,
                1 + (n + index) % 3
            )
        })
        .collect();
    let headers =
        format!("request_headers: {{set: {{x-config: \"{n}\"}}}}, response_headers: {{set: {{x-config: \"{n}\"}}}}");
    let renamed = if n.is_multiple_of(3) { "fresh" } else { "v2" };
    let weight = n * 7 % 101;
    let split = format!("{{name: all, {headers}, split: {{v1: {weight}, {renamed}: {}}}}}", 100 - weight);
    let canary = format!("{{name: canary, match: {{headers: {{x-canary: \"1\"}}}}, {headers}, to: {renamed}}}");
    let routes = if n.is_multiple_of(2) { format!("{canary}, {split}") } else { split };
    let mut yaml = String::from("services:\n");
    for (name, protocol) in SERVICES {
        yaml.push_str(&format!(
            "  {name}:\n    protocol: {protocol}\n    endpoints: {{static: [{endpoints}]}}\n    subsets: {{v1: {{version: v1}}, {renamed}: {{version: v2}}}}\n    routes: [{routes}]\n"
        ));
    }
    yaml
}

fn write(path: &Path, yaml: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, yaml).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// The configuration of the request and that of the response are one.
fn of_one_configuration(headers: &HeaderMap) -> Result<(), String> {
    let (sent, answered) = (headers.get("x-seen"), headers.get("x-config"));
    match sent.is_some() && sent == answered {
        true => Ok(()),
        false => Err(format!("sent under {sent:?}, answered under {answered:?}")),
    }
}

/// The client, with the responses checked: what a gRPC library reads of a response is not the headers.
#[derive(Clone)]
struct Checked {
    client: Client,
    mixed: Arc<AtomicU64>,
}

impl<B> Service<http::Request<B>> for Checked
where
    Client: Service<http::Request<B>, Response = http::Response<Body>, Error = sinew::Error, Future: Send + 'static>,
{
    type Response = http::Response<Body>;
    type Error = sinew::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, sinew::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), sinew::Error>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (call, mixed) = (self.client.call(request), Arc::clone(&self.mixed));
        Box::pin(async move {
            let response = call.await?;
            if of_one_configuration(response.headers()).is_err() {
                mixed.fetch_add(1, Relaxed);
            }
            Ok(response)
        })
    }
}

async fn plain(client: Client, path: &'static str, expected: &'static str) -> Result<(), String> {
    let response = client.get(path).header("x-canary", "1").send().await.map_err(|error| format!("{error:?}"))?;
    of_one_configuration(response.headers())?;
    let text = response.text().await.map_err(|error| format!("{error:?}"))?;
    if text == expected { Ok(()) } else { Err(text) }
}

async fn unary(client: Checked, every_ms: u32) -> Result<(), String> {
    let message = Message { text: "x".into(), count: 0, every_ms };
    let answer = EchoClient::new(client).unary(tonic::Request::new(message)).await;
    answer.map(|_| ()).map_err(|status| status.to_string())
}

/// Longer than several configurations are in use.
async fn stream(client: Checked) -> Result<(), String> {
    let mut feed = EchoClient::new(client).feed(20, 50).await.map_err(|status| status.to_string())?;
    let mut seen = 0;
    while let Some(message) = feed.next().await {
        message.map_err(|status| format!("after {seen} messages: {status}"))?;
        seen += 1;
    }
    if seen == 20 { Ok(()) } else { Err(format!("ended after {seen} messages")) }
}

fn load(mesh: &Mesh, tallies: &[(&str, Arc<Tally>)], mixed: &Arc<AtomicU64>) -> Load {
    let mut load = Load::new();
    for ((_, tally), name) in tallies.iter().zip(["one", "two"]) {
        let client = mesh.client(name);
        load.add(8, tally, |caller| {
            let (client, late) = (client.clone(), caller % 4 == 0);
            move || plain(client.clone(), if late { "/late" } else { "/" }, if late { "late" } else { "fast" })
        });
    }
    let client = Checked { client: mesh.client("grpc"), mixed: Arc::clone(mixed) };
    load.add(8, &tallies[2].1, |caller| {
        let (client, every_ms) = (client.clone(), if caller % 4 == 0 { 700 } else { 0 });
        move || unary(client.clone(), every_ms)
    });
    load.add(8, &tallies[3].1, |_| {
        let client = client.clone();
        move || stream(client.clone())
    });
    load
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse(60.0, 3.0);
    let every = Duration::from_millis(300);
    let reloads = (options.seconds / every.as_secs_f64()).round().max(1.0) as usize;
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(Instance::start(Mesh::builder("s").build().await.unwrap(), any(), app()).await);
    }
    let addrs: Vec<_> = instances.iter().map(|instance| instance.addr).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sinew.yaml");
    write(&path, &document(0, &addrs));
    let mesh = Mesh::builder("c").config_file(&path).build().await.unwrap();
    let tallies = ["HTTP/1.1", "HTTP/2", "gRPC unary", "gRPC streams"].map(|name| (name, Arc::<Tally>::default()));
    let mixed = Arc::<AtomicU64>::default();
    let mut checks = Checks::default();

    // A first round warms up: connections, buffers and series are there before anything is measured.
    let warm = 8.min(reloads);
    let mut figures = Vec::new();
    let mut applied = 0;
    let mut slowest = Duration::ZERO;
    for (begin, end) in [(0, warm), (warm, reloads + warm)] {
        let running = load(&mesh, &tallies, &mixed);
        let started = Instant::now();
        for n in begin..end {
            let generation = mesh.snapshot().generation;
            let written = Instant::now();
            write(&path, &document(n + 1, &addrs));
            let used = within(Duration::from_secs(10), || mesh.snapshot().generation > generation).await;
            slowest = slowest.max(written.elapsed());
            checks.hold(used, || format!("configuration {n} was not used: {:?}", mesh.status().sources));
            applied += u32::from(used && begin > 0);
            let due = started + every * u32::try_from(n - begin + 1).unwrap();
            tokio::time::sleep_until(due).await;
        }
        running.stop().await;
        // The same configuration each time before counting, so that the same endpoints are connected.
        write(&path, &document(0, &addrs));
        within(Duration::from_secs(10), || mesh.snapshot().services["one"].routes.len() == 2).await;
        let mut settled = Load::new();
        settled.add(4, &tallies[1].1, |_| {
            let client = mesh.client("two");
            move || plain(client.clone(), "/", "fast")
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        settled.stop().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        figures.push((resident(), mesh.status().tasks, tokio::runtime::Handle::current().metrics().num_alive_tasks()));
    }

    println!("{applied} reloads in {:.0} s, the slowest in use {slowest:.1?} after it was written", options.seconds);
    for (name, tally) in &tallies {
        tally.print(name, &mut checks);
    }
    let [before, after] = [figures[0], figures[1]];
    println!("memory {:.1} MiB before, {:.1} MiB after", mib(before.0), mib(after.0));
    println!(
        "tasks of the client's mesh {} before, {} after; of the runtime {} and {}",
        before.1, after.1, before.2, after.2
    );
    let mixed = mixed.load(Relaxed);
    println!("{mixed} gRPC calls of two configurations");
    checks.hold(mixed == 0, || format!("{mixed} gRPC calls ended on another configuration"));
    checks.hold(after.0.saturating_sub(before.0) < MOST_GROWTH, || "memory grew".into());
    // Connections come and go by ones; what leaks grows with the reloads.
    checks.hold(after.1 <= before.1 + 8, || "tasks grew".into());
    checks.hold(after.2 <= before.2 + 16, || "tasks of the runtime grew".into());
    let cluster = |name: &str| mesh.status().services[name].cluster.clone().unwrap();
    for (name, _) in SERVICES {
        checks.hold(cluster(name).requests.0 == 0, || format!("`{name}` still counts calls"));
    }
    for instance in instances {
        instance.stop().await;
    }
    checks.finish()
}
