//! Outages as a whole: what callers see of a service that is not there yet, not there any more, and back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use http::Request;
use sinew::{
    Body, Client, Code, Context, Mesh, Network, ResponseExt,
    discover::{Discover, DiscoverError, Discovery},
    model::{EndpointUpdate, IdentityFiles, IdentitySource, SetKind},
    testing::{Fault, World},
};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

use crate::{
    signer::{Root, pem},
    world::status_of,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

async fn three(seed: u64, yaml: &'static str) -> World {
    World::seeded(seed)
        .service("s", 3, |_| Router::new().route("/", get(|| async { "served" })))
        .configure(move |builder| builder.config_str(yaml))
        .start()
        .await
        .unwrap()
}

/// How a call ended, and how long that took.
async fn call(client: &Client) -> (Result<StatusCode, Code>, Duration) {
    let begun = Instant::now();
    let outcome = client.get("/").send().await.map(|response| response.status()).map_err(|error| error.code());
    (outcome, begun.elapsed())
}

/// Calls each second for ten minutes, of which none is served, and then until one is: how long that took.
async fn outage(client: &Client, back: impl AsyncFnOnce()) -> Duration {
    for _ in 0..600 {
        let begun = Instant::now();
        let (outcome, _) = call(client).await;
        assert!(!matches!(outcome, Ok(StatusCode::OK)), "{outcome:?}");
        tokio::time::sleep_until(begun + SECOND).await;
    }
    back().await;
    let begun = Instant::now();
    while call(client).await.0 != Ok(StatusCode::OK) {
        sleep(20 * MS).await;
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_after_all_endpoints_died_calls_are_served_within_one_and_a_half_seconds_of_their_return() {
    let world = three(11, "version: 1").await;
    let client = world.client("s");
    assert_eq!(call(&client).await.0, Ok(StatusCode::OK));
    for instance in world.instances("s") {
        instance.kill().await;
    }
    // Found out by the first call.
    assert_eq!(call(&client).await.0, Err(Code::ConnectFailed));
    for _ in 0..10 {
        let (outcome, took) = call(&client).await;
        assert_eq!((outcome, took), (Err(Code::ConnectFailed), Duration::ZERO), "nobody waits for what has failed");
        sleep(SECOND).await;
    }
    let took = outage(&client, async || {
        for instance in world.instances("s") {
            instance.start().await.unwrap();
        }
    })
    .await;
    assert!(took <= 1500 * MS, "{took:?}");
    // And from then on by all of them.
    sleep(2 * SECOND).await;
    let before = world.served("s");
    for _ in 0..30 {
        assert_eq!(call(&client).await.0, Ok(StatusCode::OK));
    }
    let served: Vec<_> = world.served("s").iter().zip(before).map(|(now, before)| now - before).collect();
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_of_failing_or_silence_end_within_one_and_a_half_seconds_as_well() {
    for fault in [Fault::Abort(StatusCode::SERVICE_UNAVAILABLE), Fault::Hang, Fault::Silent] {
        let world = three(12, "services: { s: { timeouts: { request: 900ms } } }").await;
        let client = world.client("s");
        assert_eq!(call(&client).await.0, Ok(StatusCode::OK));
        for instance in world.instances("s") {
            instance.fault(fault);
        }
        let took = outage(&client, async || {
            for instance in world.instances("s") {
                instance.heal();
            }
        })
        .await;
        assert!(took <= 1500 * MS, "{fault:?}: {took:?}");
    }
}

/// Says one thing, or nothing, and then nothing more.
struct Says(Option<EndpointUpdate>);

impl Discover for Says {
    fn subscribe(&self) -> Discovery {
        let said = tokio_stream::iter(self.0.clone().map(Ok::<_, DiscoverError>));
        Discovery::new(tokio_stream::StreamExt::chain(said, tokio_stream::pending()))
    }
}

async fn told(said: Option<EndpointUpdate>) -> Mesh {
    let mesh = Mesh::builder("c").source("told", Says(said)).service("s", |service| service.custom("told"));
    mesh.build().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_three_seconds_for_endpoints_that_nobody_has_named_and_not_at_all_for_none() {
    let mesh = told(None).await;
    let client = mesh.client("s");
    assert_eq!(call(&client).await, (Err(Code::ConfigNotReady), 3 * SECOND));
    // Its own time is shorter.
    let begun = Instant::now();
    let error = client.get("/").timeout(SECOND).send().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(begun.elapsed(), SECOND);
    let mesh = told(Some(EndpointUpdate::Reset { endpoints: Vec::new(), kind: SetKind::Replicas })).await;
    let client = mesh.client("s");
    while !status_of(&mesh, "s").known {
        sleep(MS).await;
    }
    assert_eq!(call(&client).await, (Err(Code::NoHealthyEndpoint), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_three_seconds_for_a_connection_and_goes_as_soon_as_there_is_one() {
    let world = three(13, "services: { s: { protocol: http2 } }").await;
    for instance in world.instances("s") {
        instance.fault(Fault::Silent);
    }
    let client = world.client("s");
    assert_eq!(call(&client).await, (Err(Code::ConnectTimeout), 3 * SECOND));
    let world = three(14, "services: { s: { protocol: http2 } }").await;
    for instance in world.instances("s") {
        instance.fault(Fault::Silent);
    }
    let client = world.client("s");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { call(&client).await }
    });
    sleep(800 * MS).await;
    assert_eq!(status_of(world.mesh(), "s").pending.0, 1);
    world.instance("s-1").heal();
    let (outcome, took) = waiting.await.unwrap();
    assert_eq!(outcome, Ok(StatusCode::OK));
    assert!((800 * MS..900 * MS).contains(&took), "{took:?}");
    assert_eq!(status_of(world.mesh(), "s").pending.0, 0);
}

#[tokio::test(start_paused = true)]
async fn two_services_that_need_each_other_are_both_ready_without_the_other() {
    let network = Network::new();
    let start = async |own: &str, other: &str| {
        let mesh = Mesh::builder(own)
            .network(&network)
            .service(other, |service| service.endpoints([format!("memory:{other}")]))
            .build()
            .await
            .unwrap();
        let client = mesh.client(other);
        let app = Router::new().route("/", get(|| async { "own" })).route(
            "/other",
            get(
                move || async move { client.get("/").send().await.map_or(StatusCode::BAD_GATEWAY, |_| StatusCode::OK) },
            ),
        );
        let listener = mesh.listen(format!("memory:{own}").as_str()).await.unwrap();
        tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
        sleep(MS).await;
        mesh
    };
    let a = start("a", "b").await;
    assert!(a.status().ready, "{:?}", a.status());
    let b = start("b", "a").await;
    assert!(b.status().ready, "{:?}", b.status());
    sleep(1100 * MS).await;
    for (mesh, other) in [(&a, "b"), (&b, "a")] {
        assert_eq!(mesh.client(other).get("/other").send().await.unwrap().status(), 200);
    }
}

/// A chain of three hops, each of which works for a while and then calls the next; what the last one saw of the time.
struct Chain {
    meshes: Vec<Mesh>,
    client: Client,
    /// Requests that each hop began, the last one first.
    begun: Vec<Arc<AtomicUsize>>,
    /// Milliseconds that were left at the last one.
    left: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

impl Chain {
    async fn new(works: [Duration; 3]) -> Self {
        let network = Network::new();
        let (left, finished) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (mut meshes, mut begun, mut next) = (Vec::new(), Vec::new(), None::<Client>);
        for (at, works) in works.into_iter().rev().enumerate() {
            let count = Arc::<AtomicUsize>::default();
            begun.push(Arc::clone(&count));
            let (left, finished, calls) = (Arc::clone(&left), Arc::clone(&finished), next.take());
            let app = Router::new().route(
                "/",
                get(move |context: Context| {
                    count.fetch_add(1, Relaxed);
                    if at == 0 {
                        let remaining = context.remaining().expect("it inherits the deadline");
                        left.store(remaining.as_millis() as usize, Relaxed);
                    }
                    async move {
                        sleep(works).await;
                        finished.fetch_add(1, Relaxed);
                        match calls {
                            None => StatusCode::OK,
                            Some(next) => {
                                next.get("/").send().await.map_or(StatusCode::GATEWAY_TIMEOUT, |answer| answer.status())
                            }
                        }
                    }
                }),
            );
            let name = format!("memory:hop{at}");
            let mesh = Mesh::builder("hop").network(&network).build().await.unwrap();
            let listener = mesh.listen(name.as_str()).await.unwrap();
            tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
            meshes.push(mesh);
            let caller = Mesh::builder("c")
                .network(&network)
                .service("next", |service| service.endpoints([&name]))
                .build()
                .await
                .unwrap();
            let client = caller.client("next");
            client.wait_ready(SECOND).await.unwrap();
            meshes.push(caller);
            next = Some(client);
        }
        Self { meshes, client: next.unwrap(), begun, left, finished }
    }

    async fn call(&self) -> (Result<StatusCode, Code>, Duration) {
        let begun = Instant::now();
        let outcome = self.client.get("/").timeout(250 * MS).send().await;
        let took = begun.elapsed();
        sleep(SECOND).await;
        (outcome.map(|response| response.status()).map_err(|error| error.code()), took)
    }

    fn begun(&self) -> Vec<usize> {
        self.begun.iter().map(|count| count.load(Relaxed)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shrinks_over_three_hops_and_what_nobody_waits_for_is_ended() {
    let chain = Chain::new([100 * MS; 3]).await;
    let (outcome, took) = chain.call().await;
    // The hop before the last one still says so in time.
    assert_eq!(outcome, Ok(StatusCode::GATEWAY_TIMEOUT));
    assert!((200 * MS..250 * MS).contains(&took), "{took:?}");
    assert_eq!(chain.begun(), [1, 1, 1]);
    let left = chain.left.load(Relaxed);
    // Of 250 ms two hops took 200, and each kept a margin of at least 5.
    assert!((20..=40).contains(&left), "{left} ms");
    assert_eq!(chain.finished.load(Relaxed), 2, "the last hop's work is not finished");
    for mesh in &chain.meshes {
        for (name, service) in mesh.status().services {
            let cluster = service.cluster.unwrap();
            assert_eq!((cluster.requests.0, cluster.endpoints[0].in_flight), (0, 0), "{name}");
        }
    }
    // Nothing is left for the third.
    let chain = Chain::new([100 * MS, 149 * MS, 100 * MS]).await;
    assert!(!matches!(chain.call().await.0, Ok(StatusCode::OK)));
    assert_eq!(chain.begun(), [0, 1, 1], "what would come too late is not sent");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_arrives_after_its_deadline_never_reaches_the_application() {
    let mesh = Mesh::builder("s").build().await.unwrap();
    let begun = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&begun);
    let app = tower::service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Relaxed);
        async { Ok::<_, sinew::BoxError>(http::Response::new(Body::empty())) }
    });
    for (header, value, status) in [
        ("sinew-ctx", "d=0", StatusCode::GATEWAY_TIMEOUT),
        ("sinew-ctx", "d=1000", StatusCode::OK),
        ("grpc-timeout", "0n", StatusCode::OK),
        ("grpc-timeout", "1S", StatusCode::OK),
    ] {
        let before = begun.load(Relaxed);
        let grpc = header == "grpc-timeout";
        let mut request = Request::post("/a.B/C").header("host", "s").header(header, value);
        if grpc {
            request = request.header("content-type", "application/grpc");
        }
        let service = mesh.server_layer().layer(app.clone());
        let response = service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{header}: {value}");
        let expired = value.contains("=0") || value == "0n";
        if grpc && expired {
            assert_eq!(response.headers()["grpc-status"], "4");
        }
        if expired {
            assert!(response.headers()["sinew-error"].to_str().unwrap().starts_with("SINEW-E021"));
        }
        assert_eq!(begun.load(Relaxed) - before, usize::from(!expired), "{header}: {value}");
    }
}

/// Members, each with a certificate of its own from files.
struct Members {
    directory: tempfile::TempDir,
    root: Root,
}

impl Members {
    /// Who trusts what this root and `signed_by` sign.
    fn files(&self, name: &str, signed_by: &Root) -> IdentityFiles {
        let leaf = signed_by.leaf(&format!("spiffe://shop.example/ns/default/sa/{name}"), &[], 3_600 * SECOND);
        let write = |name: String, text: String| {
            let path = self.directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let own = write(format!("{name}.pem"), pem("CERTIFICATE", &leaf.cert) + &pem("PRIVATE KEY", &leaf.key));
        let roots = pem("CERTIFICATE", &self.root.cert) + &pem("CERTIFICATE", &signed_by.cert);
        IdentityFiles::new(&own, &own, write(format!("{name}-roots.pem"), roots))
    }

    fn builder(&self, name: &str, signed_by: &Root) -> sinew::Builder {
        Mesh::builder(name).identity(IdentitySource::Files(self.files(name, signed_by)), "shop.example")
    }
}

/// All that this process asks refuse it, at every endpoint of every service: whose fault that is, is plain.
#[tokio::test]
async fn a_certificate_of_our_own_that_everybody_refuses_ejects_nobody() {
    let members = Members { directory: tempfile::tempdir().unwrap(), root: Root::new("root") };
    let stranger = Root::new("stranger");
    let (mut servers, mut client) = (Vec::new(), members.builder("web", &stranger));
    for (name, count) in [("reviews", 3), ("ratings", 2)] {
        let mut endpoints = Vec::new();
        for _ in 0..count {
            let mesh = members.builder(name, &members.root).build().await.unwrap();
            let listener = mesh.listen("127.0.0.1:0").await.unwrap();
            endpoints.push(listener.addr().to_string());
            let app = Router::new().route("/", get(|| async { "served" }));
            tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
            servers.push(mesh);
        }
        client = client.service(name, |service| service.endpoints(endpoints));
    }
    let client = client.build().await.unwrap();
    for name in ["reviews", "ratings"] {
        let service = client.client(name);
        for _ in 0..60 {
            let error = service.get("/").timeout(5 * SECOND).send().await.unwrap_err();
            assert_eq!(error.code(), Code::TlsFailed, "{error:?}");
            assert!(error.never_processed(), "{error:?}");
        }
    }
    let healthy = |what: &str| {
        for name in ["reviews", "ratings"] {
            for endpoint in status_of(&client, name).endpoints {
                assert!(endpoint.health.is_empty(), "{what}: {name}: {endpoint:?}");
                assert_eq!(endpoint.success_rate, 1.0, "{what}: {name}: {endpoint:?}");
            }
        }
    };
    healthy("while it is refused");
    // With one that they know it is served, and by all of them.
    members.files("web", &members.root);
    for name in ["reviews", "ratings"] {
        let service = client.client(name);
        let served = async {
            while service.get("/").timeout(5 * SECOND).send().await.is_err() {
                sleep(10 * MS).await;
            }
        };
        tokio::time::timeout(60 * SECOND, served).await.expect("the new certificate is used");
        assert_eq!(service.get("/").send().await.unwrap().text().await.unwrap(), "served");
    }
    healthy("once it is served");
}
