//! Certificates that live for ten seconds, roots that change, and no call that fails; then a revocation, and a thousand
//! connections that end.
//!
//! ```text
//! cargo bench --bench soak_rotation              # 10 minutes: certificates of 10 s, replaced every 5 s, 3 roots after the first
//! cargo bench --bench soak_rotation -- --test    # seconds: certificates of 4 s, 1 root after the first
//! ```

#[path = "../../../tests/support/echo.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod echo;
mod revocation;
#[path = "../../../tests/support/authority.rs"]
mod signer;
#[path = "../support.rs"]
mod support;

use std::{process::ExitCode, sync::Arc, time::Duration};

use axum::{
    Router,
    routing::{get, post},
};
use sinew::{
    Client, Mesh, Peer, ResponseExt,
    model::{AuthorityKind, AuthoritySpec, IdentitySource, Protocol},
};
use tokio::time::Instant;
use tokio_stream::StreamExt;

use self::{
    echo::{Echo, EchoClient},
    signer::{Root, TestAuthority},
    support::{Checks, Instance, Load, Options, Tally, any, within},
};

const CALLER: &str = "spiffe://soak.example/ns/default/sa/c";

async fn who(request: axum::extract::Request) -> String {
    let peer = Peer::of(request.extensions()).and_then(|peer| peer.id().map(ToString::to_string));
    peer.unwrap_or_else(|| "nobody".into())
}

fn app() -> Router {
    Router::new()
        .route("/", get(who))
        .route("/", post(|body: String| async move { body }))
        .merge(Echo::new("echo").routes().into_axum_router())
}

fn member(name: &str, authority: &TestAuthority) -> sinew::Builder {
    let source = IdentitySource::Ca(Arc::new(AuthoritySpec::new(AuthorityKind::Custom("soak".into()))));
    Mesh::builder(name).identity(source, "soak.example").certificate_authority("soak", authority.clone())
}

async fn ask(client: Client, caller: usize) -> Result<(), String> {
    let (result, wanted) = match caller % 2 {
        0 => (client.get("/").send().await, CALLER),
        _ => (client.post("/").body("ok").send().await, "ok"),
    };
    let text = result.map_err(|error| format!("{error:?}"))?.text().await.map_err(|error| format!("{error:?}"))?;
    if text == wanted { Ok(()) } else { Err(format!("{text:?}")) }
}

async fn say(client: Client) -> Result<(), String> {
    EchoClient::new(client).say("x").await.map(|_| ()).map_err(|status| format!("{status:?}"))
}

/// A stream, shorter than the fifth of a certificate that a connection leaves it.
async fn feed(client: Client, every_ms: u32) -> Result<(), String> {
    let mut feed = EchoClient::new(client).feed(10, every_ms).await.map_err(|status| format!("{status:?}"))?;
    let mut seen = 0;
    while let Some(message) = feed.next().await {
        message.map_err(|status| format!("after {seen} messages: {status:?}"))?;
        seen += 1;
    }
    if seen == 10 { Ok(()) } else { Err(format!("ended after {seen} messages")) }
}

/// Names the next root, has it sign once everybody knows it, and drops the one before once nobody has a certificate of it.
async fn roll_over(authority: &TestAuthority, number: u32, life: Duration) {
    let renewed = life * 7 / 10;
    let (old, new) = (authority.roots(), Arc::new(Root::new(&format!("root {number}"))));
    authority.name([vec![Arc::clone(&new)], old.clone()].concat());
    tokio::time::sleep(renewed).await;
    authority.name([old, vec![Arc::clone(&new)]].concat());
    tokio::time::sleep(renewed).await;
    authority.name(vec![new]);
    tokio::time::sleep(renewed).await;
}

async fn rotation(options: &Options, checks: &mut Checks) {
    let (life, roots) = if options.short { (Duration::from_secs(4), 1) } else { (Duration::from_secs(10), 3) };
    let authority = TestAuthority::new(life);
    let mut instances = Vec::new();
    for _ in 0..2 {
        instances.push(Instance::start(member("s", &authority).build().await.unwrap(), any(), app()).await);
    }
    let addrs: Vec<_> = instances.iter().map(|instance| instance.addr.to_string()).collect();
    let mut meshes = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mesh = member("c", &authority).service("s", |service| service.endpoints(&addrs).protocol(protocol));
        meshes.push(mesh.build().await.unwrap());
    }
    let ready = || meshes.iter().all(|mesh| mesh.status().identity.is_some_and(|identity| identity.id.is_some()));
    checks.hold(within(Duration::from_secs(10), ready).await, || "no certificate after 10 s".into());
    for mesh in &meshes {
        mesh.client("s").wait_ready(Duration::from_secs(10)).await.unwrap();
    }
    let tallies = ["HTTP/1.1", "HTTP/2", "gRPC", "gRPC streams"].map(|name| (name, Arc::<Tally>::default()));
    let mut load = Load::new();
    for (index, mesh) in meshes.iter().enumerate() {
        load.add(8, &tallies[index].1, |caller| {
            let client = mesh.client("s");
            move || ask(client.clone(), caller)
        });
    }
    load.add(4, &tallies[2].1, |_| {
        let client = meshes[1].client("s");
        move || say(client.clone())
    });
    let longest = if options.short { 30 } else { 150 };
    load.add(8, &tallies[3].1, |caller| {
        let client = meshes[1].client("s");
        move || feed(client.clone(), if caller % 2 == 0 { longest } else { 20 })
    });
    let begun = Instant::now();
    let (signed, pause) = (authority.signed(), options.duration() / (roots + 1));
    for number in 1..=roots {
        tokio::time::sleep_until(begun + pause * number).await;
        roll_over(&authority, number, life).await;
    }
    tokio::time::sleep_until(begun + options.duration()).await;
    load.stop().await;
    let (lasted, signed) = (begun.elapsed(), authority.signed() - signed);
    println!("{lasted:.0?} with certificates of {life:?}: {signed} signed, {roots} roots after the first");
    for (name, tally) in &tallies {
        tally.print(name, checks);
    }
    // Four members, each at half of its certificate's life and 10 % later at most.
    let least = 4.0 * (lasted.as_secs_f64() / (life.as_secs_f64() * 0.55) - 1.0);
    checks.hold(signed as f64 >= least, || format!("only {signed} certificates were signed, less than {least:.0}"));
    for mesh in &meshes {
        let identity = mesh.status().identity.unwrap();
        checks.hold(identity.error.is_none(), || format!("a member's authority is said to fail: {:?}", identity.error));
    }
    for instance in instances {
        instance.stop().await;
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    support::allow_sockets();
    let options = Options::parse(600.0, 8.0);
    let mut checks = Checks::default();
    rotation(&options, &mut checks).await;
    revocation::run(if options.short { 200 } else { 1_000 }, &mut checks).await;
    checks.finish()
}
