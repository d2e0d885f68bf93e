//! A reader that stops stops the producer, wherever both are, and nothing in between collects what is not read.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body as AxumBody,
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use sinew::{Body, Mesh, Network};
use tokio::sync::Notify;
use tokio_stream::StreamExt;

const CHUNK: usize = 16 * 1024;
const TOTAL: usize = 64 * 1024 * 1024;

/// The body, and how many bytes of it were asked for.
fn counted(
    produced: &Arc<AtomicUsize>,
) -> impl tokio_stream::Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let (chunk, produced) = (Bytes::from(vec![7; CHUNK]), produced.clone());
    tokio_stream::iter(0..TOTAL / CHUNK).map(move |_| {
        produced.fetch_add(CHUNK, Relaxed);
        Ok(chunk.clone())
    })
}

struct World {
    mesh: Mesh,
    _server: Mesh,
    down: Arc<AtomicUsize>,
    read: Arc<Notify>,
}

/// `/up` reads once it is told to.
async fn world(protocol: &str) -> World {
    let network = Network::new();
    let (down, read) = (Arc::<AtomicUsize>::default(), Arc::new(Notify::new()));
    let (produced, begin) = (down.clone(), read.clone());
    let app =
        Router::new().route("/down", get(move || async move { AxumBody::from_stream(counted(&produced)) })).route(
            "/up",
            post(move |body: AxumBody| async move {
                begin.notified().await;
                let mut data = body.into_data_stream();
                let mut total = 0;
                while let Some(chunk) = data.next().await {
                    total += chunk.unwrap().len();
                }
                total.to_string()
            }),
        );
    let server = Mesh::builder("s").network(&network).build().await.unwrap();
    let listener = server.listen("memory:s").await.unwrap();
    tokio::spawn(listener.serve(app).with_graceful_shutdown(std::future::pending()).into_future());
    let yaml = format!(
        "services: {{ s: {{ protocol: {protocol}, endpoints: {{ static: [\"memory:s\"] }}, \
         timeouts: {{ request: 1h }} }} }}"
    );
    let mesh = Mesh::builder("c").network(&network).config_str(&yaml).build().await.unwrap();
    mesh.client("s").wait_ready(Duration::from_secs(1)).await.unwrap();
    World { mesh, _server: server, down, read }
}

/// What was produced when nothing moves any more.
async fn settled(produced: &AtomicUsize) -> usize {
    loop {
        let before = produced.load(Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        if produced.load(Relaxed) == before {
            return before;
        }
    }
}

/// `most` is what the windows and buffers between the two ends hold.
async fn download(protocol: &str, most: usize) {
    let world = world(protocol).await;
    let mut body = world.mesh.client("s").get("/down").send().await.unwrap().into_body();
    let stopped = settled(&world.down).await;
    assert!(stopped <= most, "{protocol}: {stopped} bytes were produced for a reader that reads nothing");
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame.unwrap().into_data().map_or(0, |data| data.len());
        let ahead = world.down.load(Relaxed) - total;
        assert!(ahead <= most, "{protocol}: the producer is {ahead} bytes ahead");
    }
    assert_eq!(total, TOTAL);
}

async fn upload(protocol: &str, most: usize) {
    let world = world(protocol).await;
    let produced = Arc::<AtomicUsize>::default();
    let body = Body::new(StreamBody::new(counted(&produced).map(|chunk| chunk.map(http_body::Frame::data))));
    let call = tokio::spawn(world.mesh.client("s").post("/up").body(body).send());
    while produced.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let stopped = settled(&produced).await;
    assert!(stopped <= most, "{protocol}: {stopped} bytes were produced for a handler that reads nothing");
    world.read.notify_one();
    let text = sinew::ResponseExt::text(call.await.unwrap().unwrap()).await.unwrap();
    assert_eq!(text, TOTAL.to_string());
}

/// The client's stream window of 1 MiB, the server's send buffer of 64 KiB, the pipe of 64 KiB, a chunk at each end.
#[tokio::test(start_paused = true)]
async fn a_download_over_http2() {
    download("http2", 1024 * 1024 + 4 * 64 * 1024).await;
}

/// The pipe and the buffers of both ends.
#[tokio::test(start_paused = true)]
async fn a_download_over_http1() {
    download("http1", 10 * 64 * 1024).await;
}

/// The server's stream window of 64 KiB, the pipe, a chunk at each end.
#[tokio::test(start_paused = true)]
async fn an_upload_over_http2() {
    upload("http2", 4 * 64 * 1024).await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_over_http1() {
    upload("http1", 10 * 64 * 1024).await;
}
