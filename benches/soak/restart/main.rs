//! Rolling restarts under load, and nobody notices: from sinew clients, also where a peer allows eight streams a
//! connection; from plain HTTP/1.1 and tonic clients behind a TCP balancer whose address list lags.
//!
//! ```text
//! cargo bench --bench soak_restart                  # 60 s for each scenario, lag 3 s, lame duck 5 s
//! cargo bench --bench soak_restart -- --test        # 4 s each, lag 300 ms, lame duck 600 ms
//! ```

#[path = "../../../tests/support/echo.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod echo;
mod member;
mod peer;
mod plain;
mod relay;
#[path = "../support.rs"]
mod support;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use axum::{
    Router,
    routing::{get, post},
};
use sinew::{Client, Mesh, ResponseExt};
use tokio::time::Instant;
use tokio_stream::StreamExt;

use self::{
    echo::{Echo, EchoClient},
    member::{Arrivals, Member},
    relay::Relay,
    support::{Checks, Instance, Load, Options, Tally, any, within},
};

fn app() -> Router {
    Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/", post(|body: String| async move { body }))
        .route(
            "/late",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                "ok"
            }),
        )
        .merge(Echo::new("echo").routes().into_axum_router())
}

/// How long the balancer's list lags, and how long a stopping instance still accepts.
#[derive(Clone, Copy)]
struct Times {
    lag: Duration,
    lame_duck: Duration,
}

fn server(times: Option<Times>) -> impl Future<Output = Mesh> {
    let lame_duck = times.map_or(Duration::ZERO, |times| times.lame_duck);
    async move { Mesh::builder("s").drain(lame_duck, lame_duck + Duration::from_secs(25)).build().await.unwrap() }
}

async fn client(protocol: &str, addrs: &[SocketAddr]) -> Mesh {
    let addrs: Vec<_> = addrs.iter().map(|addr| format!("\"{addr}\"")).collect();
    let yaml =
        format!("services: {{ s: {{ protocol: {protocol}, endpoints: {{ static: [{}] }} }} }}", addrs.join(", "));
    Mesh::builder("c").config_str(&yaml).build().await.unwrap()
}

async fn ask(client: Client, caller: usize) -> Result<(), String> {
    let result = match caller % 3 {
        0 => client.post("/").body("ok").send().await,
        1 => client.get("/").send().await,
        _ => client.get("/late").send().await,
    };
    let response = result.map_err(|error| format!("{error:?}"))?;
    let status = response.status();
    let text = response.text().await.map_err(|error| format!("{error:?}"))?;
    if status == 200 && text == "ok" { Ok(()) } else { Err(format!("{status}: {text}")) }
}

async fn say<T>(channel: T) -> Result<(), String>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    EchoClient::new(channel).say("x").await.map(|_| ()).map_err(|status| format!("{status:?}"))
}

async fn feed(client: Client) -> Result<(), String> {
    let mut feed = EchoClient::new(client).feed(10, 20).await.map_err(|status| format!("{status:?}"))?;
    let mut seen = 0;
    while let Some(message) = feed.next().await {
        message.map_err(|status| format!("after {seen} messages: {status:?}"))?;
        seen += 1;
    }
    if seen == 10 { Ok(()) } else { Err(format!("ended after {seen} messages")) }
}

/// Three sinew servers restart in turn, each at its own address, as soon as the one before is used again.
async fn sinew_clients(protocol: &str, time: Duration, checks: &mut Checks) {
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(Instance::start(server(None).await, any(), app()).await);
    }
    let addrs: Vec<_> = instances.iter().map(|instance| instance.addr).collect();
    let mesh = client(protocol, &addrs).await;
    let tally = Arc::<Tally>::default();
    let mut load = Load::new();
    load.add(12, &tally, |caller| {
        let client = mesh.client("s");
        move || ask(client.clone(), caller)
    });
    if protocol != "http1" {
        load.add(4, &tally, |_| {
            let client = mesh.client("s");
            move || say(client.clone())
        });
        load.add(4, &tally, |_| {
            let client = mesh.client("s");
            move || feed(client.clone())
        });
    }
    let (end, mut restarts) = (Instant::now() + time, 0);
    while Instant::now() < end {
        let index = restarts % 3;
        let stopped = instances.remove(index);
        stopped.stop().await;
        instances.insert(index, Instance::start(server(None).await, addrs[index], app()).await);
        used_again(&mesh, addrs[index], checks).await;
        restarts += 1;
    }
    load.stop().await;
    tally.print(&format!("{restarts} restarts, sinew clients over {protocol}"), checks);
    for instance in instances {
        instance.stop().await;
    }
}

/// The next one goes only when this one is connected, as a deployment waits for readiness.
async fn used_again(mesh: &Mesh, addr: SocketAddr, checks: &mut Checks) {
    let id = addr.to_string();
    let ready = || {
        let cluster = mesh.status().services["s"].cluster.clone().unwrap();
        cluster.endpoints.iter().any(|endpoint| endpoint.id == id && endpoint.state == "ready")
    };
    checks.hold(within(Duration::from_secs(10), ready).await, || format!("{addr} is not used again"));
}

/// Three plain hyper servers that allow eight streams a connection, with 64 calls in flight.
async fn few_streams(time: Duration, checks: &mut Checks) {
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(peer::Peer::start(any(), 8).await);
    }
    let addrs: Vec<_> = peers.iter().map(|peer| peer.addr).collect();
    let mesh = client("http2", &addrs).await;
    mesh.client("s").wait_ready(Duration::from_secs(5)).await.unwrap();
    let tally = Arc::<Tally>::default();
    let mut load = Load::new();
    load.add(64, &tally, |caller| {
        let client = mesh.client("s");
        move || ask(client.clone(), caller)
    });
    let (end, mut restarts) = (Instant::now() + time, 0);
    while Instant::now() < end {
        let index = restarts % 3;
        let stopped = peers.remove(index);
        stopped.stop().await;
        peers.insert(index, peer::Peer::start(addrs[index], 8).await);
        used_again(&mesh, addrs[index], checks).await;
        restarts += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    load.stop().await;
    tally.print(&format!("{restarts} restarts, sinew clients of peers with 8 streams"), checks);
    for peer in peers {
        peer.stop().await;
    }
}

/// Clients that know nothing of sinew, behind a balancer that hears of changes late. Each new instance has an address of
/// its own.
///
/// A tonic channel hands a call to its connection's task by a queue; calls in that queue when the GOAWAY is read are
/// failed by the channel itself, unsent, whoever the server is. Those are told apart by asking the servers: no call that
/// arrived may fail. `bare` puts tonic's own server in sinew's place, for comparison.
async fn foreign_clients(bare: bool, times: Times, time: Duration, checks: &mut Checks) {
    let relay = Relay::start(times.lag).await;
    let arrivals = Arrivals::default();
    let mut members = Vec::new();
    for _ in 0..3 {
        let member = Member::start(bare, times, &arrivals).await;
        relay.add(member.addr());
        members.push(member);
    }
    tokio::time::sleep(times.lag * 2).await;
    let (http, grpc, lost) = (Arc::<Tally>::default(), Arc::<Tally>::default(), Arc::<Tally>::default());
    let mut load = Load::new();
    if !bare {
        load.add(16, &http, |_| {
            let kept = plain::Kept::new(relay.addr);
            move || kept.clone().call()
        });
    }
    for _ in 0..2 {
        let endpoint = tonic::transport::Endpoint::new(format!("http://{}", relay.addr)).unwrap();
        let channel = endpoint.connect_lazy();
        load.add(4, &grpc, |_| {
            let (channel, arrivals, lost) = (channel.clone(), arrivals.clone(), Arc::clone(&lost));
            move || {
                let (channel, arrivals, lost) = (channel.clone(), arrivals.clone(), Arc::clone(&lost));
                async move {
                    let (id, request) = arrivals.request();
                    let result = EchoClient::new(channel).unary(request).await;
                    let arrived = arrivals.take(id);
                    match result {
                        Err(status) if !arrived => {
                            lost.count(Err(format!("{status:?}")));
                            Ok(())
                        }
                        result => result.map(|_| ()).map_err(|status| format!("{status:?}")),
                    }
                }
            }
        });
    }
    let (end, mut restarts) = (Instant::now() + time, 0);
    while Instant::now() < end {
        let stopped = members.remove(0);
        // Both hear of it at the same moment; the balancer acts on it late.
        relay.remove(stopped.addr());
        stopped.stop().await;
        let member = Member::start(bare, times, &arrivals).await;
        relay.add(member.addr());
        members.push(member);
        tokio::time::sleep(times.lag + Duration::from_millis(200)).await;
        restarts += 1;
    }
    load.stop().await;
    let who = if bare { "tonic" } else { "sinew" };
    println!("{} connections through the balancer, {} could not be made", relay.made(), relay.refused());
    checks.hold(relay.refused() == 0, || "the balancer could not connect".into());
    if !bare {
        http.print(&format!("{restarts} restarts of {who} servers, kept HTTP/1.1 connections"), checks);
    }
    grpc.print(&format!("{restarts} restarts of {who} servers, a tonic channel"), checks);
    println!("    besides, {} calls were failed by the channel and reached no server", lost.failed());
    for member in members {
        member.stop().await;
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    support::allow_sockets();
    let options = Options::parse(60.0, 4.0);
    let times = match options.short {
        true => Times { lag: Duration::from_millis(300), lame_duck: Duration::from_millis(600) },
        false => Times { lag: Duration::from_secs(3), lame_duck: Duration::from_secs(5) },
    };
    let mut checks = Checks::default();
    for protocol in ["http1", "http2", "auto"] {
        sinew_clients(protocol, options.duration() / 3, &mut checks).await;
    }
    few_streams(options.duration(), &mut checks).await;
    foreign_clients(false, times, options.duration(), &mut checks).await;
    foreign_clients(true, times, options.duration(), &mut checks).await;
    checks.finish()
}
